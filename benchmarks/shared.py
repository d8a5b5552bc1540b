"""What the programs of several rooms share: an optimiser, memory, watched neurons, equal contents, a page in a browser."""

import argparse
import base64
import json
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import torch

# of training steps
OPTIMIZER = argparse.Namespace(optimizer="Adam", learning_rate=1e-5, weight_decay=5e-4, amsgrad=True, bias_lr_factor=1.0)


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
    for name, neuron in neurons.items():

        def note(module, args, output, name=name):
            counts[name] = counts[name] + total(output)

        neuron.register_forward_hook(note)
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


@contextmanager
def browsing(page, width, height):
    """do(script): what a script returns in a page, a path of an HTML file, of this size in pixels; picture(): what is seen
    of it, as PNG. By Chromium and its driver."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)

    def call(method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        address, kind = f"http://localhost:{port}{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(address, data, kind, method=method)
        return json.load(urllib.request.urlopen(request, timeout=120))["value"]

    try:
        for _ in range(100):
            with suppress(OSError):
                call("GET", "/status")
                break
            time.sleep(0.1)
        options = {"args": ["--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        session = f"/session/{call('POST', '/session', wanted)['sessionId']}"
        call("POST", f"{session}/url", {"url": Path(page).resolve().as_uri()})
        yield SimpleNamespace(
            do=lambda script: call("POST", f"{session}/execute/sync", {"script": script, "args": []}),
            picture=lambda: base64.b64decode(call("GET", f"{session}/screenshot")),
        )
        call("DELETE", session)
    finally:
        driver.terminate()
        driver.wait()
