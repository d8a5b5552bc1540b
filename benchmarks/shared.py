"""What several programs share: resident memory, watched neurons, equal contents of checkpoints."""

import resource
import sys
from pathlib import Path

import torch


def resident_gb(which):
    """VmRSS: resident memory now; VmHWM: its peak. Without Linux: the peak of all processes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which)) / 1e9
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def watch(neurons, total):
    """A dict that collects the spikes of neurons, name -> module, while the network runs; total: output -> spikes to add."""
    counts = dict.fromkeys(neurons, 0)
    for name, neuron in neurons.items():

        def note(module, args, output, name=name):
            counts[name] = counts[name] + total(output)

        neuron.register_forward_hook(note)
    return counts


def same(a, b, aside=()):
    """Whether two checkpoints' contents are equal bit by bit, except for the entries of these names."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key], aside) for key in a if key not in aside)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(*pair, aside) for pair in zip(a, b, strict=True))
    return a == b
