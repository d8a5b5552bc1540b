"""Freed memory is kept for what comes next."""

import subprocess
import sys

import pytest

TURNS = """
import resource, torch
from harness.command_line.scripts import keep_freed_memory

def faults():
    counted = []
    for _ in range(4):
        torch.ones(16_000_000)  # 64 MB, above what glibc keeps by itself
        counted.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counted[-1] - counted[0]

print(faults(), int(keep_freed_memory()), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages that Linux hands out")
def test_a_large_block_that_was_freed_is_not_cleared_anew():
    done = subprocess.run([sys.executable, "-c", TURNS], capture_output=True, text=True, check=True)
    returned, has_it, kept = [int(word) for word in done.stdout.split()]
    if not has_it:
        pytest.skip("not glibc")
    assert kept < returned / 10
