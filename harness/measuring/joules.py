"""Joules that this machine's processor takes, by its own counters (RAPL, Linux)."""

import time
from pathlib import Path

FOLDER = Path("/sys/class/powercap")
WHY_NOT = f"no energy is measured: {FOLDER} has no counter that can be read here (Linux, Intel or AMD, often the superuser alone)"


def counters():
    """Paths of the counters of whole processor packages that can be read, in µJ."""
    found = []
    for path in sorted(FOLDER.glob("*-rapl:?/energy_uj")):
        try:
            int(path.read_text())
        except (OSError, ValueError):
            continue
        found.append(path)
    return found


def joules_of(work, least=1.0):
    """Joules that one call of work() takes, the mean over as many as take `least` seconds; None without counters. All that the
    machine does meanwhile counts."""
    paths, calls, began = counters(), 0, time.perf_counter()
    if not paths:
        return None
    before = [int(path.read_text()) for path in paths]
    while time.perf_counter() - began < least:
        work()
        calls += 1
    taken = [int(path.read_text()) - start for path, start in zip(paths, before, strict=True)]
    ranges = [int((path.parent / "max_energy_range_uj").read_text()) for path in paths]
    return sum(each % limit for each, limit in zip(taken, ranges, strict=True)) * 1e-6 / calls
