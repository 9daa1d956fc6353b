"""The process of a command: its memory and how its threads wait."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from pgd_lightning.runs.operating_system import keep_memory
assert keep_memory()
torch.ones(10)
for turn in range(8):
    if turn == 4:
        began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**18) for _ in range(200)]  # of 1 MiB, as activations and gradients of an update
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_blocks_that_were_freed_are_not_faulted_in_again():
    """By default a process that frees 200 MiB faults in 50,000 pages in the next turn, unless it freed more before."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5_000  # of 200,000 in four turns


WAITING = "from pgd_lightning.runs.operating_system import yield_cores; yield_cores(); import torch"


@pytest.mark.skipif(platform.system() != "Linux", reason="another OpenMP")
@pytest.mark.parametrize(
    ("of_the_user", "turns"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "30000000000")],
)
def test_waiting_threads_give_up_their_core_unless_the_user_decided(of_the_user: dict[str, str], turns: str):
    surroundings = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    surroundings |= {"OMP_DISPLAY_ENV": "verbose"} | of_the_user  # OpenMP says what it took when it is loaded
    command = [sys.executable, "-c", WAITING]
    said = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stderr
    assert f"GOMP_SPINCOUNT = '{turns}'" in said
