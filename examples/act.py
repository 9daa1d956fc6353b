"""Act with an exported policy, without torch: python examples/act.py policy.onnx Hopper-v5

pip install onnxruntime 'gymnasium[mujoco]'
"""

import sys

import gymnasium
import numpy
import onnxruntime

policy = onnxruntime.InferenceSession(sys.argv[1])
env = gymnasium.make(sys.argv[2])
(obs, _), total, done = env.reset(seed=0), 0.0, False
while not done:
    (action,) = policy.run(None, {"observation": obs[None].astype(numpy.float32)})
    obs, reward, terminated, truncated, _ = env.step(action[0])
    total, done = total + float(reward), terminated or truncated
print(f"return {total:.1f}")
