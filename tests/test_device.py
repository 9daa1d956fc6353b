"""Every tensor lives on the device of its module, and between two logs no training step makes the host wait.

Run on the strict device (``strict_device.py``), which computes on the CPU and raises where a GPU would.
python -m pytest tests/test_device.py
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import small_runs
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from small_runs import ROWS, agent, model, recorded
from strict_device import DEVICE, strategy, strict_device, waits

from pgd_lightning.commands import generate, polygrad
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data.environments import environment
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.randomness import stream

QUIET = (1, 3, 4)  # of six steps, those that do not log


@pytest.fixture
def device() -> Iterator[torch.device]:
    with strict_device() as there:
        yield there


class Watch(Callback):
    """Collects what makes the host wait, step by step, each from the end of the one before."""

    def __init__(self) -> None:
        self.steps: dict[int, list[str]] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.inside = waits()
        self.list = self.inside.__enter__()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        self.steps[trainer.global_step - 1] = list(self.list)
        self.list.clear()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.inside.__exit__(None, None, None)


def fitted(
    module: LightningModule, data: LightningDataModule, steps: int, here: str, checkpoint: Path | None = None
) -> tuple[Trainer, dict[int, list[str]]]:
    """Train ``module`` on the ``device`` or the ``cpu``; and what made the host wait in each step."""
    watch, place = Watch(), {"strategy": strategy()} if here == "device" else {}
    return small_runs.fitted(module, data, steps, here, checkpoint, [watch], **place), watch.steps


def assert_near(left: torch.nn.Module, right: torch.nn.Module, **tolerance: float) -> None:
    """Both have the same weights but for rounding: the device splits some operations in other ways."""
    torch.testing.assert_close(right.state_dict(), left.state_dict(), **tolerance)


# --- the device itself ---


def test_the_device_raises_where_a_gpu_does_and_notes_what_waits(device):
    here, there = torch.ones(3, device=device), torch.ones(3)
    for mixed in (lambda: here + there, lambda: torch.cat([here, there]), lambda: torch.ones(()).add_(here.sum())):
        with pytest.raises(RuntimeError, match="device|on the CPU"):
            mixed()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=device, generator=stream(0))
    with pytest.raises((RuntimeError, TypeError)):
        here.numpy()
    with waits() as none:
        _ = here * torch.tensor(2.0) + 1, here[1:], here.new_zeros(2), there.to(device, non_blocking=True)
    assert none == []
    asked = (
        lambda: float(here[0]), lambda: bool((here > 0).all()), lambda: here.tolist(), lambda: here[here > 0],
        lambda: torch.tensor(1.0, device=device), lambda: there.to(device), lambda: here.cpu(), lambda: here.nonzero(),
    )  # fmt: skip
    for ask in asked:
        with waits() as noted:
            ask()
        assert len(noted) == 1 and "test_device.py" in noted[0], noted


# --- training ---

MODELS = {
    "residual network, Muon": ("prior",),
    "U-Net, Muon": ("prior", "network=temporal_unet", "network.features=32"),
    "U-Net, Adam": ("prior", "network=temporal_unet", "network.features=32", "prior.muon=false"),
    **{
        name: (name,)
        for name in ("ensemble", "synther", "vae", "autoregressive", "world", "step_world", "transformer", "rssm")
    },
}


@pytest.mark.parametrize("case", MODELS)
def test_a_step_of_a_model_waits_for_nothing(case, device):
    _, noted = fitted(*model(*MODELS[case]), 6, "device")
    assert all(noted[step] == [] for step in QUIET), noted


@pytest.mark.parametrize("case", ["residual network, Muon", "U-Net, Muon"])
def test_a_model_learns_the_same_there(case):
    here, _ = model(*MODELS[case])
    fitted(here, model(*MODELS[case])[1], 3, "cpu")
    with strict_device():
        there, data = model(*MODELS[case])
        fitted(there, data, 3, "device")
    assert_near(here, there, rtol=1e-3, atol=1e-5)


AGENTS = {
    "iql": ("generator=none",),
    "iql, one seed": ("generator=none", "seeds=1"),
    "td3_bc": ("agent=td3_bc", "generator=none"),
    "rebrac": ("agent=rebrac", "generator=none"),
    "rebrac on both kinds of data": ("agent=rebrac",),
    "bc": ("agent=bc", "generator=none"),
    "diffusion_dice": ("agent=diffusion_dice", "generator=none"),
    "diffusion_dice, contrastive": (
        "agent=diffusion_dice", "generator=none", "agent.learner.guidance_rule=contrastive"
    ),
    "iql on both kinds of data": (),
}  # fmt: skip


@pytest.mark.parametrize("case", AGENTS)
def test_an_update_of_an_agent_waits_for_nothing(case):
    with strict_device():
        there, data = agent(*AGENTS[case])
        _, noted = fitted(there, data, 6, "device")
    quiet = (1, 3) if data.generator else QUIET  # step 4 generates
    assert all(noted[step] == [] for step in quiet), noted
    here, data = agent(*AGENTS[case])
    fitted(here, data, 6, "cpu")
    assert_near(here, there, rtol=1e-3, atol=1e-3 if "contrastive" in case else 1e-5)


def test_a_training_there_resumes_to_the_same_bits(device, tmp_path):
    whole, data = agent()
    fitted(whole, data, 6, "device")
    first, data = agent()
    trainer, _ = fitted(first, data, 3, "device")
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, data = agent()
    fitted(second, data, 6, "device", tmp_path / "half.ckpt")
    assert_near(whole, second, rtol=0, atol=0)


@pytest.mark.parametrize("learner", ["a2c", "ppo"])
def test_policies_improve_in_imagination_there(learner):
    """The search of A2C's step, PPO's choice of live steps and the strength of guidance read numbers at every turn."""
    asked = ["env=hopper", "scale=smoke", f"learner={learner}", "world.batch_size=8", "world.sampling.num_steps=4"]
    turns = ["online.turn=4", "online.steps=16", "online.prefill=40", "online.patience=0", "online.imagined=8"]
    config = compose_config("polygrad", [*asked, *turns])

    def improved(here: str) -> Any:
        learning = polygrad.build_learner(config)
        fitted(learning, polygrad.data_module(config, build(config.env), learning), 4, here)
        return learning

    here = improved("cpu")
    with strict_device():
        there = improved("device")
    assert_near(here.agent, there.agent, rtol=1e-3, atol=1e-4)


# --- sampling and evaluation ---

SAMPLERS = ("euler", "heun", "heun_churn", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde")
GENERATORS = {
    f"{name}, {rule}": (f"sampler={name}", f"guidance={rule}") for name in SAMPLERS for rule in ("literal", "score")
}
GENERATORS |= {
    "after the step": ("sampler=euler_ancestral", "guidance=on_policy"),
    "unguided": ("generator=unguided",),
    "of td3_bc": ("agent=td3_bc",),
    "of diffusion_dice": ("agent=diffusion_dice", "guidance=score"),
    "in bfloat16": ("sampler.precision=bfloat16",),
    **{name: (f"generator={name}",) for name in ("synther", "pets", "mopo", "transformer", "rssm", "vae")},
}  # fmt: skip
TRIES = "generator.build.tries=2"
READING = {  # and how many times at most
    "calibrated": (("guidance=calibrated",), 40),  # a search
    "calibrated_score": (("guidance=calibrated_score",), 40),
    "pgd_matched": (("generator=pgd_matched", TRIES), 40),
    "polygrad_prior": (("generator=polygrad_prior", TRIES), 40),
    "polygrad": (("generator=polygrad", TRIES), 40),
    "autoregressive": (("generator=autoregressive",), ROWS),  # torch.multinomial checks its weights in each row
    "autoregressive_diffusion": (("generator=autoregressive_diffusion",), ROWS),  # a check of each row's chain
}


def generated(*extra: str, here: torch.device) -> tuple[Any, list[str]]:
    """Windows that follow an untrained policy, and what made the host wait for them."""
    module, data = agent(*extra)
    module.to(here)
    assert data.generator is not None
    starts = recorded().obs[:4].expand(2, -1, -1).to(here)
    data.generator.generate(module.policy, starts, 1)  # tables are copied to the device once
    with waits() as noted:
        windows = data.generator.generate(module.policy, starts, 1)
    return windows, noted


@pytest.mark.parametrize("case", [*GENERATORS, *READING])
def test_windows_are_generated_there(case):
    extra, most = READING.get(case, (GENERATORS.get(case), 0))
    here, _ = generated(*extra, here=torch.device("cpu"))
    with strict_device():
        there, noted = generated(*extra, here=DEVICE)
        assert there.obs.device == DEVICE
        there = there.cpu()
    assert len(noted) <= most, noted
    if case != "in bfloat16":  # which the device leaves out
        torch.testing.assert_close(there.obs, here.obs, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(there.action, here.action, rtol=1e-3, atol=1e-4)


def test_a_finished_agent_generates_there_and_its_windows_come_back(device):
    module, data = agent()
    assert data.generator is not None
    module.to(device)
    parts = generate.generated(data.generator, module.policy, recorded().obs, 2, 3, 0)
    (first, _) = generate.chunks(parts, environment("hopper-medium", physics="today"))
    assert first["observations"].shape == (3 * ROWS, 11)


@pytest.mark.parametrize("name", ["iql", "diffusion_dice"])
def test_policies_are_evaluated_there(name):
    env = replace(environment("hopper-medium", physics="today"), max_episode_steps=250)  # it falls long before
    evaluated = partial(rollout, env, num_seeds=2, num_episodes=1, seed=0)
    module = agent(f"agent={name}", "generator=none")[0]
    here = evaluated(policy=module.policy, critic=module.critic)
    with strict_device():
        there = evaluated(policy=module.to(DEVICE).policy, critic=module.critic)
    assert here.expected == pytest.approx(there.expected, rel=1e-4)
    assert here.returns == pytest.approx(there.returns, rel=1e-4)
