"""Large blocks that are freed and taken again cost page faults once."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from pgd_lightning.runs.allocator import keep_memory
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
