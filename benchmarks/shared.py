"""What the programs of several rooms share: an optimiser, memory, a profile, watched neurons, equal contents."""

import argparse
import re
import resource
import sys
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

# of training steps
OPTIMIZER = argparse.Namespace(optimizer="Adam", learning_rate=1e-5, weight_decay=5e-4, amsgrad=True, bias_lr_factor=1.0)
PRODUCTS = r"^aten::(.*conv.*|(add|b|)mm|im2col|col2im)$"  # convolutions and matrix products, operators by their names


def products_share(step):
    """The share of step()'s time that convolutions and matrix products take, forward and backward; of three steps."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        for _ in range(3):
            step()
        microseconds = 1e6 * (time.perf_counter() - began)
    of_products = [event.self_cpu_time_total for event in profiled.key_averages() if re.search(PRODUCTS, event.key)]
    return sum(of_products) / microseconds


def resident_gb(which):
    """VmRSS, resident memory now, or VmHWM, its peak; the peak of all, a parent's too, where Linux does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(which)) / 1e9
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def watch(neurons, total):
    """A dict that collects what these neurons, name -> module, send while the network runs; total: output -> spikes to add."""
    counts = dict.fromkeys(neurons, 0)

    def noting(name):
        def note(module, args, output):
            counts[name] = counts[name] + total(output)

        return note

    for name, neuron in neurons.items():
        neuron.register_forward_hook(noting(name))
    return counts


def same(a, b, aside=()):
    """Whether two contents of checkpoints are equal bit by bit, but for the entries of these names."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key], aside) for key in a if key not in aside)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(*pair, aside) for pair in zip(a, b, strict=True))
    return a == b
