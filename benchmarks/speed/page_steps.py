"""How many steps a second does the page that export.py writes take, in Chromium with its driver? A line of JSON each network.

    taskset -c 0 python benchmarks/speed/page_steps.py quick_feedback accurate_feedback --weights float32

network: network.c alone, on the page's ten test images one after the other, 25 steps each; baseline: the same without feedback,
so that it never falls silent; page: all of it while it plays and draws, without feedback, at the highest speed there is.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.shared import browsing
from harness.command_line.parser import Parser
from harness.command_line.scripts import run_script
from harness.exporting.page_file import TRAVELS, page

SNNS = Path(__file__).resolve().parents[2] / "trained_models/snn"
SECONDS = 5  # for which the page plays
OPENED = "return new Promise((done) => setInterval(() => document.getElementById('checked').textContent && done(), 50))"
NETWORK = """
const began = performance.now();
network.network_set_feedback(%d);
network.network_reset(1, 2, 0);
for (const image of data.images.map(bytesOf)) {
  network.show(image);
  for (let step = 0; step < 25; step++) network.network_step();
}
return 250000 / (performance.now() - began);
"""
PAGE = """
const get = (id) => document.getElementById(id), taken = () => Number(get("steps").textContent.replaceAll(",", ""));
get("rate").value = get("rate").max;
get("rate").oninput();
if (get("feedback").checked) get("feedback").click();
get("play").click();
const first = taken(), began = performance.now();
return new Promise((done) => setTimeout(() => done((1000 * (taken() - first)) / (performance.now() - began)), 1000 * %g));
"""


def measured(path):
    with browsing(path, 1240, 900) as browser:
        browser.do(OPENED)
        browser.do("document.getElementById('play').click()")
        scripts = {"network": NETWORK % 1, "baseline": NETWORK % 0, "page": PAGE % SECONDS}
        return {name: round(browser.do(script)) for name, script in scripts.items()}


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="in trained_models/snn")
    parser.add_argument("--weights", choices=list(TRAVELS), default="float32")
    args = parser.parse_args(argv)
    for name in args.networks:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            path.write_bytes(page(SNNS / f"{name}.pth", None, args.weights)[0])
            found = {"cores": len(os.sched_getaffinity(0)), "steps_per_second": measured(path)}
            print(json.dumps({"network": name, "weights": args.weights, **found}))


if __name__ == "__main__":
    run_script(main)
