"""The 2-D bandit of Diffusion-DICE: where guidance sends candidates, and what a fooled critic then selects.

    python experiments/diffusion_dice/bandit.py experiments/diffusion_dice/bandit.yaml OUT

Actions fill a ring with an empty centre at which the learned reward is wrongly high. Compared are the behaviour model
alone with selection (IDQL's way), QGPO's contrastive guidance, which asks the critic about generated actions, and
in-sample guidance, each learned and, where it is known, exact. Writes ``bandit.png`` and ``bandit.json`` to OUT.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import matplotlib
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from pgd_lightning.agents.divergence import weight
from pgd_lightning.diffusion.denoiser import ConditionalDenoiser, Denoise
from pgd_lightning.diffusion.energy import Energy, contrastive_loss, energy_guided, excess, in_sample_loss
from pgd_lightning.diffusion.process import VP
from pgd_lightning.diffusion.samplers import Sampler, dpmpp_2m, dpmpp_2s
from pgd_lightning.networks.residual_mlp import EnergyMLP, VectorUNet

matplotlib.use("agg")
import matplotlib.pyplot as plt

INNER, OUTER = 0.25, 1.5
PUBLISHED = VP(0.1, 20.0, 0.001, 1.0, label="time", noise_law="time", spacing="time", to_zero=False)
SMOOTH = VP(0.1, 20.0, 0.001, 0.77, label="log_sigma", noise_law="log_sigma", spacing="log_sigma", to_zero=True)
NOWHERE = torch.zeros(1, 1)  # a bandit has one state


def true_reward(action: Tensor) -> Tensor:
    """Crests of 0.8 at |a| = 0.25 and 1 at |a| = 1, a trough between them, -1 outside the ring."""
    r = action.norm(dim=-1)
    inside = torch.where(r < 0.5, 0.8 - 7.2 * (r - INNER).abs(), 1 - 4 * (r - 1).abs())
    return torch.where((r < INNER) | (r > OUTER), -1.0, inside)


def in_arc(action: Tensor, arc: float) -> Tensor:
    """Whether the direction of ``action [..., 2]`` lies in the first ``arc`` of the circle, ``[...]``."""
    return (torch.atan2(action[..., 1], action[..., 0]) % (2 * math.pi)) < 2 * math.pi * arc


def ring(num: int, arc: float) -> Tensor:
    """N(0, I) restricted to the ring and to an arc of it, ``[num, 2]``."""
    draws = torch.randn(int(4 * num / arc), 2)
    r = draws.norm(dim=-1)
    return draws[(r >= INNER) & (r <= OUTER) & in_arc(draws, arc)][:num]


def train(parameters: list[nn.Parameter], loss: Callable[[], Tensor], updates: int, rate: float) -> None:
    optimizer = torch.optim.Adam(parameters, rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(updates):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()


def relu_mlp(sizes: list[int]) -> nn.Sequential:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Exact:
    """Closed forms of the empirical ring: its denoiser, and log E[w | x]."""

    def __init__(self, data: Tensor, w: Tensor) -> None:
        self.data, self.w = data, w

    def logits(self, x: Tensor, sigma: Tensor) -> Tensor:
        return -((x.unsqueeze(-2) - self.data) ** 2).sum(-1) / (2 * sigma.unsqueeze(-1) ** 2)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.logits(x, sigma).softmax(-1) @ self.data

    def log_ratio(self, x: Tensor, sigma: Tensor) -> Tensor:
        logits = self.logits(x, sigma)
        return torch.logsumexp(logits + self.w.log(), -1) - torch.logsumexp(logits, -1)


def solve_value(q: Tensor, alpha: float) -> Tensor:
    """V at which the weights of ``q [n]`` average to 1, by bisection."""
    low, high = q.min(), q.max()
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if weight((q - middle) / alpha).mean() > 1 else (low, middle)
    return low


def learn_guidance(
    settings: DictConfig, process: VP, features: str, start: str, loss: Callable[[Energy], Tensor]
) -> Energy:
    g = Energy(EnergyMLP(2, 1, settings.hidden, 32, features, start), process)
    train(list(g.parameters()), lambda: loss(g), settings.updates.guidance, settings.learning_rate)
    return g.requires_grad_(False)


def in_sample(settings: DictConfig, data: Tensor, w: Tensor, g: Energy) -> Tensor:
    rows = torch.randint(len(data), (settings.batch_size,))
    sigma = g.process.sample_sigma(len(rows), "cpu").unsqueeze(-1)
    noise = torch.randn(len(rows), settings.noise_copies, 2)
    return in_sample_loss(g(data[rows].unsqueeze(1) + sigma.unsqueeze(-1) * noise, sigma, NOWHERE), w[rows, None])


def contrastive(settings: DictConfig, fake: Tensor, q: Tensor, g: Energy) -> Tensor:
    rows = torch.randint(len(fake), (settings.batch_size // settings.fake_actions * 2, settings.fake_actions))
    sigma = g.process.sample_sigma(len(rows), "cpu").unsqueeze(-1)
    noised = fake[rows] + sigma.unsqueeze(-1) * torch.randn(*rows.shape, 2)
    return contrastive_loss(g(noised, sigma, NOWHERE), settings.contrastive_weight * q[rows])


def sample(denoise: Denoise, sampler: Sampler, process: VP, steps: int, num: int) -> Tensor:
    sigmas = process.schedule(steps)
    x = sampler(denoise, process.start_scale(sigmas[0]) * torch.randn(num, 2), sigmas)
    return process.scalings(sigmas[-1])[2] * x


def measure(candidates: Tensor, reward_model: nn.Module, chosen: int, arc: float) -> dict[str, float]:
    """True reward of candidates and of the best by the learned reward; shares in the hole and beyond the data's arc."""
    best = candidates[reward_model(candidates).squeeze(-1).topk(chosen).indices]
    return {
        "candidates_reward": true_reward(candidates).mean().item(),
        "chosen_reward": true_reward(best).mean().item(),
        "chosen_in_hole": (best.norm(dim=-1) < INNER).float().mean().item(),
        "candidates_in_hole": (candidates.norm(dim=-1) < INNER).float().mean().item(),
        "candidates_beyond_arc": (~in_arc(candidates, arc)).float().mean().item(),
        "chosen_beyond_arc": (~in_arc(best, arc)).float().mean().item(),
    }


def main(path: str, out: str) -> None:
    began = time.monotonic()
    settings = OmegaConf.load(path)
    assert isinstance(settings, DictConfig)
    torch.manual_seed(settings.seed)
    data = ring(settings.samples, settings.arc)
    reward = true_reward(data)

    reward_model = relu_mlp([2, 256, 256, 1])

    def reward_loss() -> Tensor:
        rows = torch.randint(len(data), (settings.batch_size,))
        return ((reward_model(data[rows]).squeeze(-1) - reward[rows]) ** 2).mean()

    train(list(reward_model.parameters()), reward_loss, settings.updates.reward, 1e-3)
    reward_model.requires_grad_(False)
    q = reward_model(data).squeeze(-1)
    w = weight((q - solve_value(q, settings.temperature)) / settings.temperature)
    exact = Exact(data, w)

    behaviour = ConditionalDenoiser(VectorUNet(2, 1, settings.behaviour_width, 16, "smooth"), SMOOTH)
    train(
        list(behaviour.parameters()),
        lambda: behaviour.loss(data[torch.randint(len(data), (settings.batch_size,))], NOWHERE),
        settings.updates.behaviour, settings.learning_rate,
    )  # fmt: skip
    behaviour.requires_grad_(False)
    denoise = partial(behaviour, condition=NOWHERE)
    num, steps = settings.candidates, settings.steps

    with torch.no_grad():
        fake = sample(denoise, dpmpp_2m, SMOOTH, steps.fine, 4 * settings.samples)
        fake_q = reward_model(fake).squeeze(-1)
    dice = partial(in_sample, settings, data, w)
    uniform = replace(SMOOTH, noise_law="time")
    learned = {
        "in-sample, ours": learn_guidance(settings, SMOOTH, "smooth", "he", dice),
        "in-sample, noise law uniform in t": learn_guidance(settings, uniform, "smooth", "he", dice),
        "in-sample, torch's first weights": learn_guidance(settings, SMOOTH, "smooth", "torch", dice),
        "in-sample, published": learn_guidance(settings, PUBLISHED, "fourier30", "torch", dice),
        "contrastive (QGPO)": learn_guidance(
            settings, SMOOTH, "smooth", "he", partial(contrastive, settings, fake, fake_q)
        ),
    }
    with torch.no_grad():
        sigma = PUBLISHED.sample_sigma(2000, "cpu")
        rows = torch.randint(len(data), (2000,))
        x = data[rows] + sigma[:, None] * torch.randn(2000, 2)
        truth = exact.log_ratio(x, sigma)
        fit = {"zero": excess(torch.zeros_like(truth), truth).item()}
        fit |= {name: excess(g(x, sigma, NOWHERE), truth).item() for name, g in learned.items() if "QGPO" not in name}

        def guided(g: Denoise, scale: float) -> Denoise:
            return energy_guided(denoise, g, scale)

        energies: dict[str, Denoise] = {name: partial(g, condition=NOWHERE) for name, g in learned.items()}
        draw_ours = partial(sample, sampler=dpmpp_2m, process=SMOOTH, steps=steps.ours, num=num)
        draw_published = partial(sample, sampler=dpmpp_2s, process=PUBLISHED, steps=steps.published, num=num)
        draw_fine = partial(sample, sampler=dpmpp_2m, process=SMOOTH, steps=steps.fine, num=num)
        smooth, _, _, published, qgpo = energies.values()
        sets = {
            "data": data[:num],
            "closed form (exact score and g)": draw_fine(energy_guided(exact.denoise, exact.log_ratio, 1.0)),
            "select only (IDQL)": draw_ours(denoise),
            "QGPO, s = 1": draw_ours(guided(qgpo, 1.0)),
            "QGPO, s = 4": draw_ours(guided(qgpo, 4.0)),
            "D-DICE, s = 1": draw_ours(guided(smooth, 1.0)),
            "D-DICE, s = 4": draw_ours(guided(smooth, 4.0)),
            "D-DICE, s = 1, fine steps": draw_fine(guided(smooth, 1.0)),
            "D-DICE, s = 4, fine steps": draw_fine(guided(smooth, 4.0)),
            "published g and solver, s = 1": draw_published(guided(published, 1.0)),
            "published g and solver, s = 4": draw_published(guided(published, 4.0)),
        }
        table = {name: measure(actions, reward_model, settings.chosen, settings.arc) for name, actions in sets.items()}
        centre = reward_model(torch.zeros(1, 2)).item()
    facts = {
        "reward_model_at_the_centre": centre,
        "closed_form_reward": (w * reward).mean().item(),
        "excess_in_sample_loss": fit,
        "seconds": time.monotonic() - began,
        "settings": OmegaConf.to_container(settings),
    }
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bandit.json").write_text(json.dumps({"table": table, **facts}, indent=1) + "\n")
    draw(sets, table, reward_model, settings.chosen, folder / "bandit.png")
    for name, row in table.items():
        print(f"{name:<34}" + "".join(f"{value:>9.3f}" for value in row.values()))
    print(
        json.dumps(fit), f"centre {centre:.2f}, closed form {facts['closed_form_reward']:.3f}, {facts['seconds']:.0f} s"
    )


def draw(
    sets: dict[str, Tensor], table: dict[str, dict[str, float]], model: nn.Module, chosen: int, path: Path
) -> None:
    """Every set of candidates over the true reward, the chosen ones marked."""
    axis = torch.linspace(-1.8, 1.8, 241)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    columns = 4
    panels = math.ceil((len(sets) + 1) / columns)
    figure, axes = plt.subplots(panels, columns, figsize=(3.1 * columns, 3.3 * panels), layout="constrained")
    fields = [("learned reward", model(grid).squeeze(-1))] + [(name, true_reward(grid)) for name in sets]
    for ax, (name, field) in zip(axes.flat, fields, strict=False):
        ax.imshow(field.numpy(), extent=(-1.8, 1.8, -1.8, 1.8), origin="lower", vmin=-1, vmax=1.9, cmap="Greys_r")
        ax.set(xticks=[], yticks=[])
        if name not in sets:
            ax.set_title(f"{name}\nhigh in the empty centre", fontsize=9)
            continue
        actions = sets[name]
        best = actions[model(actions).squeeze(-1).topk(chosen).indices]
        ax.scatter(*actions.T.numpy(), s=3, color="tab:blue")
        ax.scatter(*best.T.numpy(), s=7, color="tab:orange")
        ax.set(xlim=(-1.8, 1.8), ylim=(-1.8, 1.8))
        row = table[name]
        ax.set_title(
            f"{name}\nmean {row['candidates_reward']:.2f}, best {chosen}: {row['chosen_reward']:.2f}", fontsize=9
        )
    for ax in axes.flat[len(fields) :]:
        ax.axis("off")
    figure.suptitle(f"2-D bandit: candidates (blue) and the {chosen} best by the learned reward (orange)")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
