"""What only a GPU can show. Every test here is marked ``gpu`` and skipped without one; ``benchmarks/gpu.py`` runs them.

python -m pytest -m gpu tests/test_gpu.py
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from small_runs import LOG_EVERY, agent, composed, fitted, model, recorded

from pgd_lightning.networks.compiling import compile_networks
from pgd_lightning.randomness import stream
from pgd_lightning.training.fit import accelerator

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
GPU = torch.device("cuda:0")
GRAPHS = "reduce-overhead"


class NoWaiting(Callback):
    """CUDA itself raises where the host waits for it, from the end of a step to the end of the next that logs nothing."""

    def __init__(self) -> None:
        self.watched = 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        following = trainer.global_step  # number of the step to come
        if following > LOG_EVERY and (following + 1) % LOG_EVERY and following < trainer.max_steps:
            torch.cuda.set_sync_debug_mode("error")
            self.watched += 1

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def afterwards() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", [(), ("prior.muon=false",), ("network=temporal_unet", "network.features=32")])
def test_a_step_of_the_prior_does_not_wait(case):
    watch = NoWaiting()
    fitted(*model("prior", *case), 7, "gpu", callbacks=[watch])
    assert watch.watched


@pytest.mark.parametrize("section", ["ensemble", "synther", "vae", "autoregressive", "world", "transformer", "rssm"])
def test_models_are_trained(section):
    trained, data = model(section)
    fitted(trained, data, 3, "gpu")
    assert all(p.isfinite().all() for p in trained.parameters())


@pytest.mark.parametrize("name", ["iql", "td3_bc", "rebrac", "bc", "diffusion_dice"])
def test_an_update_of_an_agent_does_not_wait(name):
    watch = NoWaiting()
    fitted(*agent(f"agent={name}", "generator=none"), 7, "gpu", callbacks=[watch])
    assert watch.watched


@pytest.mark.parametrize("sampler", ["euler", "heun", "heun_churn", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize("rule", ["literal", "score"])
def test_guided_sampling_does_not_wait(sampler, rule):
    module, data = agent(f"sampler={sampler}", f"guidance={rule}")
    module.to(GPU)
    starts = recorded().obs[:4].expand(2, -1, -1).to(GPU)
    data.generator.generate(module.policy, starts, 1)
    torch.cuda.set_sync_debug_mode("error")
    windows = data.generator.generate(module.policy, starts, 1)
    torch.cuda.set_sync_debug_mode("default")
    assert windows.obs.device == GPU and windows.obs.isfinite().all()


def test_a_denoiser_and_the_losses_are_those_of_the_cpu():
    prior, _ = model("prior", "network=temporal_unet", "network.features=32")
    x, sigma = torch.randn(8, 12, 16, generator=stream(0)), torch.tensor(0.7)
    with torch.no_grad():
        here = prior.ema(x, sigma)
        there = prior.to(GPU).ema(x.to(GPU), sigma.to(GPU))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-2, atol=1e-2)  # convolutions may use TF32


def test_a_training_resumes_to_the_same_bits(tmp_path):
    whole, data = agent("generator=none")
    fitted(whole, data, 6, "gpu")
    first, data = agent("generator=none")
    trainer = fitted(first, data, 3, "gpu")
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, data = agent("generator=none")
    fitted(second, data, 6, "gpu", tmp_path / "half.ckpt")
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [("seeds=1",), (), ("agent=bc",)])
def test_updates_as_cuda_graphs_are_the_plain_ones(case):
    plain, data = agent("generator=none", *case)
    fitted(plain, data, 6, "gpu")
    graphs, data = agent("generator=none", *case)
    graphs.compiling = GRAPHS
    fitted(graphs, data, 6, "gpu")
    torch.testing.assert_close(graphs.state_dict(), plain.state_dict(), rtol=1e-2, atol=1e-3)


def test_sampling_by_cuda_graphs_is_the_plain_one():
    def windows(how: str | None) -> torch.Tensor:
        module, data = agent("sampler=dpmpp_2m", "guidance=score")
        compile_networks(data.generator.prior, how)
        starts = recorded().obs[:4].expand(2, -1, -1).to(GPU)
        return data.generator.generate(module.to(GPU).policy, starts, 1).obs

    torch.testing.assert_close(windows(GRAPHS), windows(None), rtol=1e-2, atol=1e-2)


def test_models_compute_there_outside_of_training():
    assert accelerator(composed().trainer.accelerator).type == "cuda"
