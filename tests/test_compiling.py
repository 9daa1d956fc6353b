"""``trainer.compile``: the compiled form equals the plain one, and an unknown name is refused.

Only tracing is tested here: ``eager`` and ``aot_eager`` run what was traced by the plain kernels, so results are equal
to the bit. What the compiled kernels and CUDA graphs do is for ``tests/test_gpu.py``.
"""

import copy

import pytest
import torch
from small_runs import LOG_EVERY, agent, fitted, model

from pgd_lightning.networks.compiling import compile_networks


@pytest.mark.parametrize("how", ["eager", "aot_eager"])
@pytest.mark.parametrize("case", [("generator=none", "seeds=1"), ("agent=td3_bc", "generator=none")])
def test_compiled_losses_are_the_plain_ones(case, how):
    plain, data = agent(*case)
    fitted(plain, data, LOG_EVERY, "cpu")
    traced, data = agent(*case)
    traced.compiling = how
    fitted(traced, data, LOG_EVERY, "cpu")
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(traced.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_compiled_network_trains_and_samples_as_the_plain_one():
    (plain, data), (traced, same) = model("prior"), model("prior")
    compile_networks(traced, "aot_eager")
    fitted(plain, data, 2, "cpu")
    fitted(traced, same, 2, "cpu")
    assert traced.state_dict().keys() == plain.state_dict().keys()
    x, sigma = torch.randn(3, 12, 16), torch.tensor(0.5)
    with torch.no_grad():
        torch.testing.assert_close(traced.ema(x, sigma), plain.ema(x, sigma), rtol=1e-4, atol=1e-5)
    copy.deepcopy(traced).ema(x, sigma)
