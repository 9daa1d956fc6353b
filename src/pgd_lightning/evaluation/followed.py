"""Do windows tell what a policy earns? Their rewards beside the policy's own, from the same first states.

Windows can be right step by step and still lead where the policy does not: a prior that knows the data alone keeps them
there, by errors that no single step shows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from pgd_lightning.evaluation.fidelity import Array, finite
from pgd_lightning.randomness import stream
from pgd_lightning.simulators import Simulator, one_step
from pgd_lightning.trajectory import Policy, Trajectory


@dataclass(frozen=True)
class Followed:
    """Mean rewards by step of a window."""

    windows: Array  # [T - 1] as the windows have them
    policy: Array  # [T - 1] as the simulator pays them to the policy; 0 after the end of its episode

    def late(self) -> tuple[float, float]:
        """Means over the last quarter of the steps: of the windows, and of the policy."""
        last = -max(len(self.windows) // 4, 1)
        return float(self.windows[last:].mean()), float(self.policy[last:].mean())


@torch.no_grad()
def followed(simulator: Simulator, windows: Trajectory, policy: Policy, max_rows: int, seed: int) -> Followed | None:
    """Rewards of ``windows [S, N, T]`` and of the S policies of ``policy``, which begin in the windows' first states.

    Of each learner's windows the first are followed, ``max_rows`` steps in all, of these the ones whose observation
    tells the state that they begin in; a velocity that is clipped later on counts as seen. None where there is none.
    """
    num_seeds, _, rows = windows.batch_size
    some = max(max_rows // (num_seeds * (rows - 1)), 1)
    kept = windows[:, finite(windows).all(0)][:, :some]
    obs = kept.obs[:, :, 0].cpu().double().numpy()
    if simulator.unresettable or not obs.size:
        return None
    random, going, counted = stream(seed, "followed"), np.ones(obs.shape[:2], dtype=bool), np.empty(0)
    paid = np.zeros((rows - 1, *obs.shape[:2]))
    for step in range(rows - 1):
        seen = torch.as_tensor(obs, dtype=torch.float32, device=policy.device)
        noise = torch.randn(*kept.action.shape[:2], kept.action.shape[-1], generator=random).to(policy.device)
        action = policy.draw(seen, noise).clamp(-1, 1).cpu().double().numpy()
        found, reward, terminated, exact, _ = one_step(simulator, obs[going], action[going])
        if step == 0:
            counted = exact.reshape(going.shape)
            found, reward, terminated, going = found[exact], reward[exact], terminated[exact], counted.copy()
        obs[going], paid[step][going] = found, reward
        going[going] = ~terminated
        if not going.any():
            break
    generated = kept.reward[..., :-1].cpu().double().numpy()[counted]
    return Followed(generated.mean(0), paid[:, counted].mean(1)) if counted.any() else None
