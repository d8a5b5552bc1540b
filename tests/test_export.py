"""A trained network in other programs, spike for spike; and on a page, in a browser or under Node, where it is Python's."""

import hashlib
import json
import re
import shutil
import subprocess
from functools import partial

import nir
import pytest
import torch
from conftest import (
    BIAS,
    FORK,
    PLAN,
    POOLED,
    REPOSITORY,
    build,
    commands_in,
    digests,
    images,
    refused,
    run_here,
)

from benchmarks.speed.peers import watch
from harness import UserError
from harness.exporting import formats, page_file
from harness.runs.saving import save_checkpoint
from self_models import load
from self_models.engines.event.build import FOLDER, KERNEL
from self_models.runtime.draws import draws_for
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

FEEDBACK, PAGE = REPOSITORY / "trained_models/snn/snn_feedback.pth", "docs/how_to/export.md"
OPEN = {"cls": VGG_SNN_STDB_wFeedback}  # sees its input, whatever is predicted
ODD = (1, 9, 14)


@pytest.fixture
def exported(tmp_path):
    """export(to, **settings) of a network on a grid: the model with its gate open, and the path of the file."""

    def export(to, **settings):
        model = build(**settings)
        save_checkpoint(tmp_path / "net.pth", model)
        run_here("export", tmp_path / "net.pth", "--overwrite --to", to)
        return load(tmp_path / "net.pth", engine="dense"), tmp_path / (
            "net.nir" if to == "nir" else "net_torch.pt"
        )

    return export


@torch.no_grad()
def here(model):
    """layer -> spikes of each neuron over all steps (B, ...), logits, and what the input sends (T, B, C, H, W). Gate open."""
    x = images(3, model.image_shape)
    draws = draws_for(x, seed=5)
    neurons = {
        name: module for name, module in model.neurons().items() if not name.startswith("generate")
    }
    counts = watch(neurons, lambda output: output[0].unflatten(0, (-1, len(x))).sum(0))
    logits = model(x, draws=draws).logits
    return (
        counts,
        logits,
        model.encoding.send(x, draws.uniforms(model.timesteps, model.image_shape)),
    )


def block(title):
    """The lines of the page that begin with this title."""
    (code,) = re.findall(
        rf"^```python\n(# {title}\n.*?)^```$",
        (REPOSITORY / PAGE).read_text(encoding="utf-8"),
        re.M | re.S,
    )
    return code


@torch.no_grad()
def on_the_page(title, path, signals, names):
    """The same of a file that is read by the lines of the page that begin with this title. names: layer -> module there."""
    before, after = re.sub('"trained_models.*?"', repr(str(path)), block(title)).split("logits = ")
    space = {"input_spikes": signals}
    exec(before, space)
    by_step = (
        signals.shape[1::-1] if title == "sinabs" else (1, signals.shape[1])
    )  # time runs fastest there
    neurons = {name: space["network"].get_submodule(module) for name, module in names.items()}
    counts = watch(
        neurons, lambda spikes: spikes.unflatten(0, by_step).sum(int(title == "sinabs"))
    )
    exec("logits = " + after, space)
    return counts, space["logits"]


def same(found, ours, logits):
    """Every neuron's spikes and all logits are the same, and no layer was silent."""
    counts, output = found
    assert list(ours) == sorted(counts, key=list(ours).index)
    for name, count in ours.items():
        assert count.sum() > 0 and torch.equal(counts[name].view_as(count), count), name
    assert torch.equal(output, logits)


BASELINE = {"plan": [[4, "D", 6, 6, "D"], []]}
BIASED = BASELINE | {"bias": True}
PLANS = [
    {},
    BASELINE,
    {"plan": FORK},
    BIASED,
    {"image_shape": ODD},
    {"image_shape": (3, 12, 10), "kernel_size": 5},
]
READERS = {"sinabs": PLANS, "snntorch": [*PLANS, POOLED]}  # one knows AvgPool2d


@pytest.mark.others
@pytest.mark.parametrize(
    ("package", "settings"),
    [(name, plan) for name, plans in READERS.items() for plan in plans],
    ids=str,
)
def test_a_simulator_that_reads_the_nir_file_sends_the_same_spikes(exported, package, settings):
    """Its neurons set to ours; strided layers between spiking layers, a decoder left out, the input's sizes odd."""
    pytest.importorskip(package, reason=f"{package} is not installed, see docs/how_to/export.md")
    model, path = exported("nir", **OPEN, **settings)
    ours, logits, signals = here(model)
    same(on_the_page(package, path, signals, in_nir(ours)), ours, logits)


READ_BACK = [
    *PLANS,
    POOLED,
    {"update": "delayed"},
    {"leak": 0.75},
    {**BIASED, "initial_potential": 0.5},
]


@pytest.mark.parametrize("engine", ["dense", "event"])
@pytest.mark.parametrize("settings", READ_BACK, ids=str)
def test_the_nir_file_is_read_back_to_the_same_spikes(exported, settings, engine):
    """Step by step, with the reset, the update, and the potential at the beginning, that its metadata have."""
    model, path = exported("nir", **OPEN, **settings)
    ours, logits, signals = here(model)
    graph = load(path, engine=engine)
    output = graph(signals.transpose(0, 1), record=dict.fromkeys(graph.layers[1:], "spikes"))
    counts = {name: output.recorded[node]["spikes"].sum(0) for name, node in in_nir(ours).items()}
    same((counts, output.logits), ours, logits)


def in_nir(names):
    return {name: name.replace(".", "_") for name in names}


def test_the_nir_file_says_what_it_lacks(exported):
    """And has a leak as a time constant, in steps of 0.1 ms, which snnTorch takes."""
    _, path = exported("nir", timesteps=7)  # one that blocks
    said = nir.read(path).metadata
    assert (
        "decoder" in said["left_out"]
        and "gate block" in said["left_out"]
        and said["timesteps"] == 7
    )
    _, path = exported("nir", **OPEN, **BIASED, initial_potential=0.5, leak=0.75)
    graph = nir.read(path)
    leaky = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    assert graph.metadata["initial_potential"] == 0.5 and len(leaky) == 5
    assert all(node.tau == pytest.approx(4e-4) and node.r == pytest.approx(4) for node in leaky)


POOLS = {"plan": [[4, "M", 6, "M"], []]}
COUNTS = {**POOLS, "max_pool": "count"}


@pytest.mark.parametrize(
    "settings",
    [
        {"leak": 0.5},
        {**POOLS, **BIAS, "fc_layers": 1},
        COUNTS,
        {**COUNTS, **BIAS, "update": "phased"},
    ],
    ids=str,
)
def test_the_pages_pytorch_runs_as_it_stands_and_sends_the_same_spikes(exported, settings):
    """Loaded without executing code, rebuilt by examples/plain_pytorch.py."""
    model, path = exported("torch", **OPEN, **settings)
    ours, logits, signals = here(model)
    names = torch.load(path, weights_only=True)["names"]
    same(
        on_the_page("rebuild", path, signals, {name: str(names.index(name)) for name in ours}),
        ours,
        logits,
    )


@pytest.mark.others
@torch.no_grad()
def test_the_pages_blocks_run_in_turn_and_give_its_logits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trained_models/snn").mkdir(parents=True)
    shutil.copy(FEEDBACK, "trained_models/snn")
    for script, words in commands_in(PAGE):
        if "mine.pth" not in words:
            run_here(script, *words)
    for title in ("sinabs", "snntorch", "rebuild"):
        if title != "rebuild":
            pytest.importorskip(title)
        exec(block("reference") + block(title), space := {})
        assert (space["logits"] - space["output"].logits).abs().max() < 1e-5, title


def test_export_tells_and_replaces_nothing_unasked(tmp_path):
    path, flags = tmp_path / "net.nir", f"--to nir --output {tmp_path}/net.nir"
    assert "left out: the decoder" in run_here("export", FEEDBACK, flags)[1]
    before = digests(tmp_path)
    assert "--overwrite" in refused("export", FEEDBACK, flags) and digests(tmp_path) == before
    path.write_bytes(b"old")
    run_here("export", FEEDBACK, flags, "--overwrite")
    assert digests(tmp_path) == before


ANN = partial(VGG_wFeedback, plan=PLAN, fc_width=8)
REFUSED = [  # what makes a network, flags, words
    (
        partial(VGG_SNN_STDB_wFeedback, plan=[[4, "M"], []], fc_width=8),
        "--to nir",
        "no maximum pool, which features.2 is",
    ),
    (ANN, "--to torch", "holds an ANN"),
    (ANN, "--to torch --overwrite --output {net}", "checkpoint itself"),
    (build, "--to torch --output no/such/folder.pt", "cannot write"),
    (ANN, "--to page", "an SNN with a decoder"),
    (partial(build, **OPEN, update="phased"), "--to page", "which update phased does not"),
    (partial(build, image_shape=(3, 12, 12)), "--to page", "28 x 28 grey"),
    (partial(build, gate="contrast"), "--to c", "has no form of the gate contrast"),
    (
        partial(build, recorded_frames=9, blocking="dynamic"),
        "--to c",
        "takes recordings of 9 frames",
    ),
]


@pytest.mark.parametrize(("made", "flags", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_export_refuses_what_it_cannot_do(tmp_path, made, flags, words):
    save_checkpoint(path := tmp_path / "net.pth", made())
    before = digests(tmp_path)
    assert words in refused("export", path, flags.format(net=path)) and digests(tmp_path) == before


def test_a_page_computes_with_weights_of_sixteen_bits():
    """0.1 is no number of 16 bits, and 65,520 is beyond the largest; biases are not rounded."""
    model = build(bias=True)
    for value in model.parameters():
        value.data.fill_(0.1)
    page_file.round_to_16_bits(model, "net.pth")
    for value in model.parameters():
        expected = 0.0999755859375 if value.dim() > 1 else torch.tensor(0.1).item()
        assert value.unique().tolist() == [expected]
    model.features[0].weight.data.fill_(65_520.0)
    with pytest.raises(UserError, match="has weights beyond 65,504, which do not travel"):
        page_file.round_to_16_bits(model, "net.pth")


NETWORKS = REPOSITORY / "trained_models/snn"
BUILD = REPOSITORY / "harness/exporting/page"
needs_node = pytest.mark.skipif(
    not shutil.which("node"), reason="needs node: apt-get install nodejs"
)
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
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
  get("exit").click(); get("digits").children[4].click(); steps(60); note("early");
  get("exit").click(); get("feedback").click(); steps(60); note("baseline");
  found(seen);
}, 20);
"""


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of a network, as HTML."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    _, said = run_here("export", NETWORKS / "accurate_feedback.pth", "--to page --output", path)
    assert f"wrote {path}: " in said and path.stat().st_size < 1_500_000
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
    network, script = re.search(
        r"<script [^>]*id=data>(.*?)</script>\s*<script>(.*?)// --- what is shown", page, re.S
    ).groups()
    document = (
        f"const document = {{ getElementById: () => ({{ textContent: {json.dumps(network)} }}) }};"
    )
    (folder / "network.js").write_text(f"{document}\n{script}\n{ASKED}", encoding="utf-8")
    done = subprocess.run(
        ["node", folder / "network.js"], capture_output=True, text=True, check=True, timeout=120
    )
    return json.loads(done.stdout)


@needs_node
def test_the_network_under_node_is_pythons(html, tmp_path):
    """Also once it has seen images, and not where a count was changed."""
    found = under_node(html, tmp_path)
    assert found["first"] == found["again"] == ""
    count = re.search(r'"golden": \[\[\[(\d+),', html)
    changed = under_node(html.replace(count[0], count[0].replace(count[1], "5")), tmp_path)
    assert changed["first"] == f"image 0, timestep 1, input: {count[1]} spikes, in Python 5"


@needs_node
def test_layers_and_the_energy_of_a_spike_by_hand(html, tmp_path):
    """16 D 32 32 D on 28x28 pixels, 256 256 10, and U U in. Of 3x3 weights a spike meets (3 n - 2)^2 / n^2 in the mean of n x n
    places, behind a D as well; through the decoder it reaches 4x4 pixels and one more on each side, as far as there are."""
    found = under_node(html, tmp_path)
    names = ["input", "encoder 1", "encoder 2", "encoder 3", "classifier 1", "classifier 2"]
    assert [(one["name"], one["number"]) for one in found["layers"]] == list(
        zip(names, [0, 0, 1, 2, 0, 1], strict=True)
    )
    forward = [16 * 82**2 / 28**2, 32 * 40**2 / 14**2, 32 * 40**2 / 14**2, 256, 256, 10]
    assert found["energies"][0] == pytest.approx([0.9 * reached for reached in forward])
    forward[3] += (2 * 5 + 5 * 6) ** 2 / 7**2
    assert found["energies"][1] == pytest.approx([0.9 * reached for reached in forward])


@needs_browser
def test_one_draws_and_the_network_falls_silent(html, tmp_path):
    """Each time after spikes; only the baseline goes on. The page, 500 pixels wide, has found its spikes to be Python's."""
    report = """<script>const errors = []; window.onerror = (message) => errors.push(message);
    const found = (more) => { const report = {errors, wide: document.documentElement.scrollWidth, inner: innerWidth, ...more};
    document.body.insertAdjacentHTML("beforeend", `<pre id=found>${JSON.stringify(report)}</pre>`); };</script>"""
    (tmp_path / "page.html").write_text(
        html.replace("</head>", f"{report}<script>{USE}</script></head>"), encoding="utf-8"
    )
    flags = "--headless=new --no-sandbox --disable-gpu --enable-logging=stderr --window-size=500,900 --virtual-time-budget=20000"
    command = [
        CHROMIUM,
        *flags.split(),
        f"--user-data-dir={tmp_path}/profile",
        "--dump-dom",
        f"file://{tmp_path}/page.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    found = json.loads(re.search(r"<pre id=\"found\">(.*?)</pre>", done.stdout, re.DOTALL)[1])
    assert (
        found["errors"] == [] and "CONSOLE" not in done.stderr and found["wide"] <= found["inner"]
    )
    assert found["checked"].startswith("Checked") and not re.search(
        r"(?:src|href)=(?!\"data:)|https?:", html
    )
    names = ("picked", "cleared", "drawn", "silent", "early", "baseline")
    picked, cleared, drawn, silent, early, baseline = (found[name] for name in names)
    assert (picked["answer"], silent["answer"], early["answer"]) == ("0", "1", "4")
    assert cleared["answer"] == "\N{EN DASH}" and cleared["now"] == 0
    assert (
        drawn["now"] > 0
        and drawn["state"] == "spiking"
        and silent["now"] == 0
        and silent["state"] == "silent"
    )
    assert drawn["steps"] == 1 and silent["steps"] == 61 and silent["spikes"] > drawn["spikes"]
    assert early["state"] == "early exit" and early["steps"] < 10 and early["now"] > 0
    assert baseline["state"] == "spiking" and baseline["spikes"] > 10 * picked["spikes"] > 0


def test_the_runtime_is_of_this_source():
    """Else `make` in that folder builds it anew."""
    sources = (
        b"".join((FOLDER / name).read_bytes() for name in KERNEL) + (BUILD / "math.h").read_bytes()
    )
    assert hashlib.sha256(sources).hexdigest() == (BUILD / "kernel.sha256").read_text().strip()


@needs_node
@pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")),
    reason="needs clang, lld: apt-get install clang lld",
)
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_runtime_is_network_c(weights, tmp_path):
    """Built anew it has the same bytes, or, by another clang, finds the same spikes."""
    subprocess.run(
        ["make", "-s", "-C", BUILD, f"OUT={tmp_path}", "CC=clang --target=wasm32"], check=True
    )
    built, ours = (
        (tmp_path / f"{weights}.wasm").read_bytes(),
        (BUILD / f"{weights}.wasm").read_bytes(),
    )
    if built != ours:
        content, _ = page_file.page(NETWORKS / "quick_feedback.pth", None, weights)
        assert (
            under_node(
                content.decode().replace(
                    page_file.base64_text(ours), page_file.base64_text(built)
                ),
                tmp_path,
            )["first"]
            == ""
        )


def test_export_replaces_nothing_unless_it_is_told_to(tmp_path):
    path = tmp_path / "net_torch.pt"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists: --overwrite replaces it"):
        formats.export(FEEDBACK, "torch", path)
    assert path.read_text() == "mine"
    formats.export(FEEDBACK, "torch", path, overwrite=True)
    assert path.stat().st_size > 10_000
