"""Do windows tell what a policy earns? Their rewards beside the policy's own, from the same first states.

Windows can be right step by step and still lead where the policy does not: a prior knows the data alone, and small
errors and actions that are nearly the policy's are enough to keep windows there.
"""

import numpy as np
import torch

from pgd_lightning.evaluation.fidelity import finite
from pgd_lightning.randomness import seeded, stream
from pgd_lightning.simulators import Simulator, one_step
from pgd_lightning.trajectory import Policy, Trajectory

FEWEST = 4  # steps of a window that leads somewhere


@torch.no_grad()
def late_rewards(
    simulator: Simulator, windows: Trajectory, policy: Policy, max_rows: int, seed: int
) -> tuple[float, float] | None:
    """Mean reward in the last quarter of ``windows [S, N, T]``, and of the S policies of ``policy`` at the same steps.

    The policies act in the simulator from the windows' first states on; after its end neither side earns. Followed are
    some windows of each learner, drawn by ``seed``, ``max_rows`` steps in all, whose first observation tells the state;
    a velocity that is clipped later on counts as seen, and what MuJoCo gives up on is left out. None where nothing is
    left, and of windows that are too short to lead anywhere.
    """
    num_seeds, _, rows = windows.batch_size
    good = (finite(windows) & windows.reward.isfinite().all(-1)).all(0).nonzero().squeeze(-1).cpu()
    if simulator.unresettable or rows <= FEWEST or not len(good):
        return None
    random = stream(seed, "followed")
    some = max(max_rows // (num_seeds * (rows - 1)), 1)
    kept = windows[:, good[torch.randperm(len(good), generator=random)[:some]].to(windows.obs.device)].cpu()
    obs = kept.obs[:, :, 0].double().numpy()
    going, counted = np.ones(obs.shape[:2], dtype=bool), np.ones(obs.shape[:2], dtype=bool)
    paid = np.zeros((rows - 1, *obs.shape[:2]))
    with seeded(seed, "followed"):  # some policies draw from torch's global generator
        for step in range(rows - 1):
            seen = torch.as_tensor(obs, dtype=torch.float32, device=policy.device)
            noise = torch.randn(kept.action[:, :, 0].shape, generator=random).to(policy.device)
            action = policy.draw(seen, noise).clamp(-1, 1).cpu().double().numpy()
            found, reward, terminated, exact, _ = one_step(simulator, obs[going], action[going])
            lost = ~(np.isfinite(reward) & np.isfinite(found).all(-1)) | (~exact if step == 0 else False)
            counted[going] = ~lost
            obs[going], paid[step][going] = np.where(lost[:, None], obs[going], found), np.where(lost, 0, reward)
            going[going] = ~(terminated | lost)
            if not going.any():
                break
    if not counted.any():
        return None
    running = kept.terminated.int().cumsum(-1) - kept.terminated.int() == 0
    generated = (kept.reward * running)[..., :-1].double().numpy()[counted]
    last = -((rows - 1) // 4)
    return float(generated[:, last:].mean()), float(paid[last:, counted].mean())
