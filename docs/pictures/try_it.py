#!/usr/bin/env python3
"""Film try_it.gif beside this file, on the page of accurate_feedback.

A digit is drawn, another is picked, then feedback goes off.
`python docs/pictures/try_it.py`; it takes Chromium with its driver (apt-get install
chromium-driver).
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wfeedback.export.page_file import page

NETWORK = Path(__file__).resolve().parents[2] / "trained_models/snn/accurate_feedback.pth"
SIZE = (960, 809)  # of the window, in pixels

# The stroke of a seven, in pixels of 28: its turns, and the points that are drawn
TURNS = [(8, 8), (12, 6.5), (17, 6), (19, 7), (18, 11), (15, 16), (13, 21), (12, 23)]
POINTS_PER_TURN = 3
LOADED = """
return new Promise((done) =>
  setInterval(() => document.getElementById("checked").textContent && done(), 50));
"""
BEGIN = """
document.querySelectorAll("header, .about, .controls, .note, main > p")
  .forEach((part) => (part.hidden = true));
document.head.insertAdjacentHTML("beforeend",
  "<style>[hidden] { display: none !important } #play { transition: none }</style>");
document.getElementById("play").click();
document.getElementById("clear").click();
"""
STROKE = """
const canvas = document.getElementById("draw"), box = canvas.getBoundingClientRect();
canvas.dispatchEvent(new PointerEvent("pointer%s", {bubbles: true,
  clientX: box.left + (%s / 28) * box.width, clientY: box.top + (%s / 28) * box.height}));
"""


def main() -> None:
    """Film the page, and write the GIF."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        path.write_bytes(page(NETWORK, None)[0])
        with browsing(path, *SIZE) as browser:
            screenshots = list(film(browser))
    frames = [Image.open(io.BytesIO(shot)).convert("RGB") for shot in screenshots]
    # One palette for all frames, so that what stands still does not flicker.
    sample = np.concatenate([np.asarray(frame) for frame in frames[::8]])
    palette = Image.fromarray(sample).quantize(96, Image.Quantize.MAXCOVERAGE)
    quantised = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    quantised[0].save(
        Path(__file__).with_suffix(".gif"),
        save_all=True,
        append_images=quantised[1:],
        duration=[140] * (len(quantised) - 1) + [2500],
        loop=0,
    )


def stroke() -> list[tuple[float, float]]:
    """Return the points of the stroke, from turn to turn, without the last."""
    points = []
    for (x, y), (next_x, next_y) in pairwise(TURNS):
        for number in range(POINTS_PER_TURN):
            point_x = x + (next_x - x) * number / POINTS_PER_TURN
            point_y = y + (next_y - y) * number / POINTS_PER_TURN
            points.append((point_x, point_y))
    return points


class Browser:
    """A page in Chromium, by its driver.

    Parameters
    ----------
    port : int
        Of the driver.
    """

    def __init__(self, port: int):
        self.address = f"http://localhost:{port}"
        self.session = ""

    def call(self, method: str, path: str, body: dict | None = None) -> object:
        """Send the driver a command of WebDriver, and return its value."""
        data = None
        if body is not None:
            data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}, method=method
        )
        return json.load(urllib.request.urlopen(request, timeout=120))["value"]

    def wait_for_driver(self) -> None:
        """Wait until the driver answers, ten seconds at the most."""
        for _ in range(100):
            with suppress(OSError):
                self.call("GET", "/status")
                return
            time.sleep(0.1)

    def open(self, path: Path, width: int, height: int) -> None:
        """Open a page in a window of this size in pixels."""
        size = f"--window-size={width},{height}"
        options = {"args": ["--headless=new", "--no-sandbox", "--hide-scrollbars", size]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{made['sessionId']}"
        self.call("POST", f"{self.session}/url", {"url": path.resolve().as_uri()})

    def do(self, script: str) -> object:
        """Run a script in the page, and return what it returns."""
        return self.call("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def picture(self) -> bytes:
        """Return what is seen of the page, as PNG."""
        return base64.b64decode(self.call("GET", f"{self.session}/screenshot"))

    def close(self) -> None:
        """Close the page."""
        self.call("DELETE", self.session)


@contextmanager
def browsing(path: Path, width: int, height: int) -> Iterator[Browser]:
    """Open an HTML file in a window of this size in pixels, meanwhile."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = ["chromedriver", f"--port={port}", "--silent"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        browser = Browser(port)
        browser.wait_for_driver()
        browser.open(path, width, height)
        yield browser
        browser.close()
    finally:
        driver.terminate()
        driver.wait()


def film(browser: Browser) -> Iterator[bytes]:
    """Yield a screenshot after each timestep, while the page is used."""
    browser.do(LOADED)
    browser.do(BEGIN)
    for number, (x, y) in enumerate(stroke()):
        browser.do(STROKE % ("move" if number else "down", x, y))
        yield from film_timesteps(browser, 1)
    browser.do(STROKE % ("up", 0, 0))
    yield from film_timesteps(browser, 18)
    browser.do("document.getElementById('digits').children[2].click()")
    yield from film_timesteps(browser, 18)
    browser.do("document.getElementById('feedback').click()")
    yield from film_timesteps(browser, 14)


def film_timesteps(browser: Browser, count: int) -> Iterator[bytes]:
    """Run single timesteps, and yield a screenshot after each."""
    for _ in range(count):
        browser.do("document.getElementById('one').click()")
        yield browser.picture()


if __name__ == "__main__":
    main()
