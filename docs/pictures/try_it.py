#!/usr/bin/env python3
"""Writes try_it.gif beside itself: on the page of accurate_feedback a digit is drawn, another is picked, then feedback goes off.

`python docs/pictures/try_it.py`; it takes Chromium with its driver (apt-get install chromium-driver).
"""

import base64
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.exporting.page_file import page

NETWORK = Path(__file__).resolve().parents[2] / "trained_models/snn/accurate_feedback.pth"
SIZE = 960, 809  # of the window
TURNS = [
    (8, 8),
    (12, 6.5),
    (17, 6),
    (19, 7),
    (18, 11),
    (15, 16),
    (13, 21),
    (12, 23),
]  # of a seven, in pixels of 28
DRAWN = [
    tuple(a + (b - a) * way / 3 for a, b in zip(*pair, strict=True))
    for pair in pairwise(TURNS)
    for way in range(3)
]
BEGIN = """
document.querySelectorAll("header, .about, .controls, .note, main > p").forEach((part) => (part.hidden = true));
document.head.insertAdjacentHTML("beforeend", "<style>[hidden] { display: none !important } #play { transition: none }</style>");
document.getElementById("play").click();
document.getElementById("clear").click();
"""
STROKE = """
const canvas = document.getElementById("draw"), box = canvas.getBoundingClientRect();
canvas.dispatchEvent(new PointerEvent("pointer%s", {bubbles: true,
  clientX: box.left + (%s / 28) * box.width, clientY: box.top + (%s / 28) * box.height}));
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_bytes(page(NETWORK, None)[0])
        with browsing(path, *SIZE) as browser:
            frames = list(pictures(browser))
    some = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]
    look = np.concatenate([np.asarray(frame) for frame in some[::8]])
    palette = Image.fromarray(look).quantize(
        96, Image.Quantize.MAXCOVERAGE
    )  # one for all frames, so that what stands still does not flicker
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in some)
    pauses = [140] * len(others) + [2500]
    first.save(
        Path(__file__).with_suffix(".gif"),
        save_all=True,
        append_images=others,
        duration=pauses,
        loop=0,
    )


def pictures(browser):
    browser.do(
        "return new Promise((done) => setInterval(() => document.getElementById('checked').textContent && done(), 50))"
    )
    browser.do(BEGIN)

    def steps(count):
        for _ in range(count):
            browser.do("document.getElementById('one').click()")
            yield browser.picture()

    for number, (x, y) in enumerate(DRAWN):
        browser.do(STROKE % ("move" if number else "down", x, y))
        yield from steps(1)
    browser.do(STROKE % ("up", 0, 0))
    yield from steps(18)
    browser.do("document.getElementById('digits').children[2].click()")
    yield from steps(18)
    browser.do("document.getElementById('feedback').click()")
    yield from steps(14)


@contextmanager
def browsing(page, width, height):
    """do(script): what a script returns in a page, a path of an HTML file, of this size in pixels; picture(): what is seen
    of it, as PNG. By Chromium and its driver."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}", "--silent"], stdout=subprocess.DEVNULL
    )

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
        options = {
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--hide-scrollbars",
                f"--window-size={width},{height}",
            ]
        }
        wanted = {
            "capabilities": {
                "alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}
            }
        }
        session = f"/session/{call('POST', '/session', wanted)['sessionId']}"
        call("POST", f"{session}/url", {"url": Path(page).resolve().as_uri()})
        yield SimpleNamespace(
            do=lambda script: call(
                "POST", f"{session}/execute/sync", {"script": script, "args": []}
            ),
            picture=lambda: base64.b64decode(call("GET", f"{session}/screenshot")),
        )
        call("DELETE", session)
    finally:
        driver.terminate()
        driver.wait()


if __name__ == "__main__":
    main()
