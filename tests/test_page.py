"""export.py --to page: in a browser the network is Python's, spike for spike, falls silent, and hears a stroke."""

import re
import shutil
import subprocess

import pytest
from conftest import CHROMIUM, REPOSITORY, browsed, refused, run_here

from harness.exporting import page_file
from harness.runs.checkpoints import save_checkpoint
from self_models import load

NETWORKS = REPOSITORY / "trained_models/snn"
BUILD = REPOSITORY / "harness/exporting/page"
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs chromium: apt-get install chromium")

USE = """
const get = (id) => document.getElementById(id), number = (id) => Number(get(id).textContent.replaceAll(",", ""));
const waits = setInterval(() => {
  if (!get("checked")?.textContent) return;
  clearInterval(waits);
  const seen = {checked: get("checked").textContent};
  const note = (name) => seen[name] = {answer: get("answer").textContent, state: get("is").textContent,
    now: number("now"), steps: number("steps"), spikes: number("spikes"), energy: get("energy").textContent};
  const steps = (count) => { for (; count > 0; count--) get("one").click(); };
  const event = (kind, [x, y]) => {
    const box = get("draw").getBoundingClientRect(), at = (pixel, size) => (pixel / 28) * size;
    get("draw").dispatchEvent(new PointerEvent(`pointer${kind}`,
      {clientX: box.left + at(x, box.width), clientY: box.top + at(y, box.height), bubbles: true}));
  };
  const line = (from, to) => { event("down", from); event("move", to); event("up", to); };
  get("play").click();
  get("digits").children[0].click(); steps(60); note("picked");
  get("clear").click(); steps(20); note("cleared");
  line([16, 5], [13, 23]); steps(1); note("drawn"); steps(60); note("silent");
  line([16, 5], [6, 6]); steps(1); note("stroke"); steps(60); note("again");
  get("exit").click(); get("digits").children[4].click(); steps(60); note("early");
  get("exit").click(); get("feedback").click(); steps(60); note("baseline");
  found(seen);
}, 20);
"""


SHOWN = [f"{name}_feedback {weights}" for name in ("quick", "accurate") for weights in page_file.TRAVELS]


@pytest.fixture(scope="module", params=SHOWN)
def exported(request, tmp_path_factory):
    """The page of a network, as HTML."""
    (name, weights), path = request.param.split(), tmp_path_factory.mktemp("page") / "page.html"
    _, said = run_here("export", NETWORKS / f"{name}.pth", "--to page --weights", weights, "--output", path)
    assert f"wrote {path}: " in said and path.stat().st_size < page_file.MOST
    return path.read_text(encoding="utf-8")


@needs_browser
def test_one_draws_and_the_network_falls_silent(exported, tmp_path):
    """Each time after spikes; only the baseline goes on. The page has found its spikes to be Python's."""
    found = browsed(exported, tmp_path, USE)
    assert found["checked"].startswith("Checked") and not re.search(r"(?:src|href)=(?!\"data:)|https?:", exported)
    picked, cleared, drawn, silent, stroke, again, early, baseline = (
        found[name] for name in ("picked", "cleared", "drawn", "silent", "stroke", "again", "early", "baseline")
    )
    assert (picked["answer"], silent["answer"], again["answer"], early["answer"]) == ("0", "1", "7", "4")
    assert cleared["answer"] == "\N{EN DASH}" and cleared["now"] == 0
    for moved, quiet in ((drawn, silent), (stroke, again)):
        assert moved["now"] > 0 and moved["state"] == "spiking" and quiet["now"] == 0 and quiet["state"] == "silent"
        assert moved["steps"] == 1 and quiet["steps"] == 61 and quiet["spikes"] > moved["spikes"]
    assert early["state"] == "early exit" and early["steps"] < 10 and early["now"] > 0
    assert baseline["state"] == "spiking" and baseline["spikes"] > 10 * picked["spikes"] > 0


@needs_browser
def test_a_page_that_was_changed_says_so(exported, tmp_path):
    count = re.search(r'"golden": \[\[\[(\d+),', exported)
    wrong = exported.replace(count[0], count[0].replace(count[1], "5"))
    found_by = "found({checked: get('checked').textContent})"
    found = browsed(wrong, tmp_path, re.sub(r"const seen.*found\(seen\)", lambda _: found_by, USE, flags=re.S))
    right = f"image 0, step 1, input: {count[1]} spikes, in Python 5."
    assert found["checked"] == f"It is not the network that was exported: {right}"


@pytest.mark.skipif(not (shutil.which("clang") and shutil.which("wasm-ld")), reason="needs clang, lld: apt-get install clang lld")
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_runtime_is_network_c(weights, tmp_path):
    """Built anew it has the same bytes, or, by another clang, finds the same spikes."""
    subprocess.run(["make", "-s", "-C", BUILD, f"OUT={tmp_path}"], check=True)
    built, ours = (tmp_path / f"{weights}.wasm").read_bytes(), (BUILD / f"{weights}.wasm").read_bytes()
    if built != ours:
        content, _ = page_file.page(NETWORKS / "quick_feedback.pth", None, weights)
        page = content.decode().replace(page_file.text_of(ours), page_file.text_of(built))
        assert browsed(page, tmp_path, USE)["checked"].startswith("Checked")


def test_what_no_page_shows_is_refused(tmp_path):
    path = tmp_path / "page.html"
    model = load(NETWORKS / "quick_feedback.pth", gate="open", update="phased")
    save_checkpoint(tmp_path / "phased.pth", model)
    assert "which update phased does not" in refused("export", tmp_path / "phased.pth", "--to page --output", path)
    assert "an SNN with a decoder" in refused("export", NETWORKS.parent / "ann/ann_feedback.pth", "--to page --output", path)
    for name, words in {"quick_baseline": "an SNN with a decoder", "cifar10_feedback": "28 x 28 grey"}.items():
        assert words in refused("export", NETWORKS / f"{name}.pth", "--to page --output", path)
    assert not path.exists()
