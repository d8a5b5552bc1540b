"""How long idle threads wait for work before they sleep: import this before torch.

torch computes with the threads of libgomp, which reads GOMP_SPINCOUNT from the
environment when torch is imported, and never again. So a script imports this module
first. It changes the whole process, and for that reason importing the package
`wfeedback` does not do it by the way.
"""

import os
import time


def others_running() -> int:
    """Count the threads of other programs that want a core right now.

    Returns
    -------
    int
        The least of three looks on Linux. Elsewhere 0, as if the machine were idle.
    """
    counts = []
    try:
        for _ in range(3):
            with open("/proc/loadavg") as file:
                running = file.read().split()[3].split("/")[0]
            counts.append(int(running) - 1)  # without this program
            time.sleep(0.002)
    except (OSError, ValueError, IndexError):
        return 0
    return min(counts)


def choose_spin_count() -> None:
    """Let idle threads sleep at once on a busy machine, and spin for a while on others.

    Whoever has set GOMP_SPINCOUNT or OMP_WAIT_POLICY has chosen already.
    """
    if "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return
    # On an idle machine, threads that sleep at once make a training step 1.7 times
    # slower. Beside programs that keep the cores busy, threads that spin make it up to
    # three times slower: see studies/notebook/training_speed.md.
    is_busy = 2 * others_running() >= os.cpu_count()
    os.environ["GOMP_SPINCOUNT"] = "0" if is_busy else "3000"


choose_spin_count()
