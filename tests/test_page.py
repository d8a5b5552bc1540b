"""export.py --to page: in a browser, or under Node, the network is Python's, spike for spike, falls silent, hears a stroke."""

import hashlib
import json
import re
import shutil
import subprocess

import pytest
from conftest import CHROMIUM, REPOSITORY, browsed, refused, run_here

from harness.exporting import page_file
from harness.runs.saving import save_checkpoint
from self_models import load
from self_models.kernel.build import FOLDER, SOURCES

NETWORKS = REPOSITORY / "trained_models/snn"
BUILD = REPOSITORY / "harness/exporting/page"
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node: apt-get install nodejs")
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


ASKED = """
started().then((net) => {
  const first = difference(net), again = difference(net), spike = (at) => data.layers.map((_, layer) => Number(layer === at));
  const energies = [false, true].map((fed) => data.layers.map((_, at) => energyOf(spike(at), fed)));
  console.log(JSON.stringify({ first, again, energies, layers: data.layers }));
});
"""


def under_node(page, folder):
    """What ASKED finds out of the network of a page, HTML, of which nothing is shown."""
    network, script = re.search(r"<script [^>]*id=data>(.*?)</script>\s*<script>(.*?)// --- what is shown", page, re.S).groups()
    document = f"const document = {{ getElementById: () => ({{ textContent: {json.dumps(network)} }}) }};"
    (folder / "network.js").write_text(f"{document}\n{script}\n{ASKED}", encoding="utf-8")
    done = subprocess.run(["node", folder / "network.js"], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@needs_node
def test_the_network_under_node_is_pythons(exported, tmp_path):
    """Also once it has seen images, and not where a count was changed."""
    found = under_node(exported, tmp_path)
    assert found["first"] == found["again"] == ""
    count = re.search(r'"golden": \[\[\[(\d+),', exported)
    changed = under_node(exported.replace(count[0], count[0].replace(count[1], "5")), tmp_path)
    assert changed["first"] == f"image 0, step 1, input: {count[1]} spikes, in Python 5"


@needs_node
def test_layers_and_the_energy_of_a_spike_by_hand(exported, tmp_path):
    """16 D 32 32 D on 28x28 pixels, 256 256 10, and U U in. Of 3x3 weights a spike meets (3 n - 2)^2 / n^2 in the mean of n x n
    places, behind a D as well; through the decoder it reaches 4x4 pixels and one more on each side, as far as there are."""
    found = under_node(exported, tmp_path)
    names = ["input", "encoder 1", "encoder 2", "encoder 3", "classifier 1", "classifier 2"]
    assert [(one["name"], one["number"]) for one in found["layers"]] == list(zip(names, [0, 0, 1, 2, 0, 1], strict=True))
    forward = [16 * 82**2 / 28**2, 32 * 40**2 / 14**2, 32 * 40**2 / 14**2, 256, 256, 10]
    assert found["energies"][0] == pytest.approx([0.9 * reached for reached in forward])
    forward[3] += (2 * 5 + 5 * 6) ** 2 / 7**2
    assert found["energies"][1] == pytest.approx([0.9 * reached for reached in forward])


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


def test_the_runtime_is_of_this_source():
    """Else `make` in that folder builds it anew."""
    sources = b"".join((FOLDER / name).read_bytes() for name in SOURCES) + (BUILD / "math.h").read_bytes()
    assert hashlib.sha256(sources).hexdigest() == (BUILD / "kernel.sha256").read_text().strip()


@needs_node
@pytest.mark.skipif(not (shutil.which("clang") and shutil.which("wasm-ld")), reason="needs clang, lld: apt-get install clang lld")
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_runtime_is_network_c(weights, tmp_path):
    """Built anew it has the same bytes, or, by another clang, finds the same spikes."""
    subprocess.run(["make", "-s", "-C", BUILD, f"OUT={tmp_path}", "CC=clang --target=wasm32"], check=True)
    built, ours = (tmp_path / f"{weights}.wasm").read_bytes(), (BUILD / f"{weights}.wasm").read_bytes()
    if built != ours:
        content, _ = page_file.page(NETWORKS / "quick_feedback.pth", None, weights)
        assert under_node(content.decode().replace(page_file.text_of(ours), page_file.text_of(built)), tmp_path)["first"] == ""


def test_what_no_page_shows_is_refused(tmp_path):
    path = tmp_path / "page.html"
    model = load(NETWORKS / "quick_feedback.pth", gate="open", update="phased")
    save_checkpoint(tmp_path / "phased.pth", model)
    assert "which update phased does not" in refused("export", tmp_path / "phased.pth", "--to page --output", path)
    assert "an SNN with a decoder" in refused("export", NETWORKS.parent / "ann/ann_feedback.pth", "--to page --output", path)
    for name, words in {"quick_baseline": "an SNN with a decoder", "cifar10_feedback": "28 x 28 grey"}.items():
        assert words in refused("export", NETWORKS / f"{name}.pth", "--to page --output", path)
    assert not path.exists()
