"""Actions a second of Diffusion-DICE's policy beside the public implementation's structure, ratios of the same run.

    python benchmarks/diffusion_dice.py

The public structure evaluates one seed at a time: its states, each repeated K times, go through 15 evaluations of
DPM-Solver++(2S); every row carries its own time and observation through the networks, and the gradient of the guidance
also builds the graph of the parameters. Ours sends the candidates of all seeds and environments through one call; what
depends on the observation alone is computed once for its K candidates, behaviour once for all seeds. Times are
processor time: wall time where the thread has a core for itself.
"""

import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pgd_lightning.agents.behaviour import action_denoiser
from pgd_lightning.agents.diffusion_dice import DiffusionDICE
from pgd_lightning.agents.policy import StackedPolicy
from pgd_lightning.agents.seeds import stacked_learners
from pgd_lightning.diffusion.process import VP
from pgd_lightning.diffusion.samplers import dpmpp_2m, dpmpp_2s

OBS, ACTION, SEEDS, ENVS, CANDIDATES = 11, 3, 5, 10, 4  # hopper, published sizes and episodes
PUBLISHED = VP(0.1, 20.0, 0.001, 1.0, label="time", noise_law="time", spacing="time", to_zero=False)
OURS = VP(0.1, 20.0, 0.001, 0.77, label="log_sigma", noise_law="time", spacing="log_sigma", to_zero=True)


def learner(process: VP, **solver: object) -> Callable[[], DiffusionDICE]:
    """Makes one learner of the published sizes."""
    features = "fourier30" if process.label == "time" else "smooth"
    behaviour = partial(action_denoiser, OBS, ACTION, process, width=512, features=32, time=features)
    return partial(
        DiffusionDICE, OBS, ACTION, [256, 256], behaviour, discount=0.99, temperature=0.5, max_weight=100.0,
        ensemble=10, guidance_hidden=[256] * 4, time=features, time_features=32, guidance_start="he",
        guidance_rule="in_sample", noise_copies=16, contrastive_weight=3.0, guidance_scale=4.0,
        decision="guide_then_select", candidates=CANDIDATES, selection="max", likelihood_steps=8, **solver,
    )  # fmt: skip


def public_act(agent: DiffusionDICE, obs: Tensor) -> Tensor:
    """``[E, O] -> [E, A]`` in the public structure."""
    rows = obs.repeat_interleave(CANDIDATES, 0)
    process = agent.behaviour.process

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.expand(len(x))
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(agent.guidance(leaf, level, rows).sum(), leaf)
        return agent.behaviour(x, level, rows) + agent.guidance_scale * sigma**2 * slope

    sigmas = process.schedule(15)
    x = dpmpp_2s(guided, process.start_scale(sigmas[0]) * torch.randn(len(rows), ACTION), sigmas)
    actions = x.view(len(obs), CANDIDATES, ACTION)
    assert agent.ensemble is not None
    best = agent.ensemble(rows, actions.flatten(0, 1)).mean(0).view(len(obs), CANDIDATES).argmax(-1)
    return actions[torch.arange(len(obs)), best]


def in_turn(actions: list[Callable[[], object]], rounds: int = 15) -> Tensor:
    """Seconds of processor time ``[rounds, actions]``, the actions taking turns: load meets them alike."""
    times = []
    for _ in range(rounds + 2):
        row = []
        for action in actions:
            began = time.process_time()
            action()
            row.append(time.process_time() - began)
        times.append(row)
    return torch.tensor(times[2:])


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    obs = torch.randn(SEEDS, ENVS, OBS)
    agents = [learner(PUBLISHED, sampler=dpmpp_2s, num_steps=15)() for _ in range(SEEDS)]

    def public() -> None:
        for agent, states in zip(agents, obs, strict=True):
            public_act(agent, states)

    def ours(process: VP, **solver: object) -> Callable[[], object]:
        policy = StackedPolicy(stacked_learners(learner(process, **solver), range(SEEDS)), lambda states: states)
        return lambda: policy.act(obs)

    same = ours(PUBLISHED, sampler=dpmpp_2s, num_steps=15)
    default = ours(OURS, sampler=dpmpp_2m, num_steps=6)
    seconds = in_turn([public, same, default])
    base, like, best = (SEEDS * ENVS / float(seconds[:, k].median()) for k in range(3))
    like_ratio, best_ratio = ((seconds[:, 0] / seconds[:, k]).median().item() for k in (1, 2))
    results = {
        f"actions/s, public structure, 15 evaluations, K={CANDIDATES}": round(base, 1),
        "actions/s, ours, the same 15 evaluations": round(like, 1),
        "  over the public structure": round(like_ratio, 2),
        "actions/s, ours, default: 2M, 6 evaluations": round(best, 1),
        "  over the public structure at equal K": round(best_ratio, 2),
    }
    for name, value in results.items():
        print(f"{name:<60}{value:>10}")
    facts = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    sizes = {"seeds": SEEDS, "environments": ENVS, "date": time.strftime("%Y-%m-%d")}
    path = Path(__file__).with_name("latest_diffusion_dice.json")
    path.write_text(json.dumps(facts | sizes | results, indent=2) + "\n")


if __name__ == "__main__":
    main()
