"""Freed memory is kept for what comes next."""

import subprocess
import sys

import pytest

TURNS = """
import resource, torch
from harness.processes.memory import keep_freed_memory
keeps = {keeps} and keep_freed_memory()
faults = []
for _ in range(4):
    torch.ones(16_000_000)  # 64 MB, above what glibc keeps by itself
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(int(keeps), faults[-1] - faults[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages that Linux hands out")
def test_a_large_block_that_was_freed_is_not_cleared_anew():
    def faults(keeps):
        done = subprocess.run([sys.executable, "-c", TURNS.format(keeps=keeps)], capture_output=True, text=True, check=True)
        return [int(word) for word in done.stdout.split()]

    (has_it, kept), (_, returned) = faults(True), faults(False)
    if not has_it:
        pytest.skip("not glibc")
    assert kept < returned / 10
