"""A trained network in other programs, spike for spike, and on a page in a browser."""

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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

from self_models import load, load_data
from self_models.errors import UserError
from self_models.running.draws import draws_for
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from studies.speed.peers import watch
from wfeedback.event.build import FOLDER, KERNEL
from wfeedback.export import formats, page_file
from wfeedback.runs.saving import save_checkpoint

FEEDBACK = REPOSITORY / "trained_models/snn/snn_feedback.pth"
PAGE = "docs/how_to/export.md"
OPEN = {"cls": VGG_SNN_STDB_wFeedback}  # sees its input, whatever is predicted


@dataclass
class Exported:
    """A network and its file.

    Attributes
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, which runs in Python.
    path : Path
        The file of another program.
    """

    model: VGG_SNN_STDB_wFeedback
    path: Path


@pytest.fixture
def export(tmp_path):
    """Return a function that exports a network on a grid: nothing is rounded."""
    checkpoint = tmp_path / "net.pth"
    files = {"nir": tmp_path / "net.nir", "torch": tmp_path / "net_torch.pt"}

    def export_network(to, **settings):
        save_checkpoint(checkpoint, build(**settings))
        run_here("export", checkpoint, f"--overwrite --to {to}")
        return Exported(load(checkpoint, engine="dense"), files[to])

    return export_network


@dataclass
class Activity:
    """What a network does for some images.

    Attributes
    ----------
    spikes : dict of {str: Tensor of shape (B, ...)}
        Spikes of each neuron of each layer, over all timesteps.
    logits : Tensor of shape (B, num_classes)
    """

    spikes: dict
    logits: torch.Tensor


@torch.no_grad()
def run_in_python(model):
    """Run three images, without the layers of a decoder.

    Returns
    -------
    activity : Activity
    signals : Tensor of shape (T, B, C, H, W)
        What the input sends.
    """
    shown = images(3, model.image_shape)
    draws = draws_for(shown, seed=5)
    neurons = {}
    for name, module in model.neurons().items():
        if not name.startswith("generate"):
            neurons[name] = module

    def sum_over_timesteps(output):
        spikes, _ = output
        return spikes.unflatten(0, (-1, len(shown))).sum(0)

    counts = watch(neurons, sum_over_timesteps)
    logits = model(shown, draws=draws).logits
    uniforms = draws.uniforms(model.timesteps, model.image_shape)
    return Activity(counts, logits), model.encoding.send(shown, uniforms)


def block(title):
    """Return the lines of the page that begin with this title."""
    page = (REPOSITORY / PAGE).read_text(encoding="utf-8")
    pattern = rf"^```python\n(# {title}\n.*?)^```$"
    (code,) = re.findall(pattern, page, re.MULTILINE | re.DOTALL)
    return code


@torch.no_grad()
def run_on_the_page(title, path, signals, names):
    """Run a file as the lines of the page do.

    Parameters
    ----------
    title : str
        First line of the block of the page.
    path : Path
        The file that its lines read.
    signals : Tensor of shape (T, B, C, H, W)
        What the input sends.
    names : dict of {str: str}
        Layer -> name of its module in the other program.

    Returns
    -------
    Activity
    """
    code = re.sub('"trained_models.*?"', repr(str(path)), block(title))
    reading, running = code.split("logits = ")
    space = {"input_spikes": signals}
    exec(reading, space)
    neurons = {name: space["network"].get_submodule(module) for name, module in names.items()}

    def sum_over_timesteps(spikes):
        # sinabs has all timesteps of an image, then those of the next one; the others
        # run one timestep of all images at a time.
        num_steps, batch_size = signals.shape[:2]
        if title == "sinabs":
            return spikes.unflatten(0, (batch_size, num_steps)).sum(1)
        return spikes.unflatten(0, (1, batch_size)).sum(0)

    counts = watch(neurons, sum_over_timesteps)
    exec("logits = " + running, space)
    return Activity(counts, space["logits"])


def check_same(found, expected):
    """Check that all layers spike, and that spikes and logits are the same."""
    layers = list(expected.spikes)
    assert sorted(found.spikes, key=layers.index) == layers
    for name, count in expected.spikes.items():
        assert count.sum() > 0, name
        assert torch.equal(found.spikes[name].view_as(count), count), name
    assert torch.equal(found.logits, expected.logits)


BASELINE = {"plan": [[4, "D", 6, 6, "D"], []]}
BIASED = BASELINE | {"bias": True}
PLANS = {
    "feedback": {},  # whose decoder is left out
    "baseline": BASELINE,
    "fork": {"plan": FORK},
    "biases": BIASED,
    "odd sizes": {"image_shape": (1, 9, 14)},
    "colour": {"image_shape": (3, 12, 10), "kernel_size": 5},
}


def simulator_cases():
    """Pair each simulator with the settings of the networks that it can read."""
    cases = []
    for package in ("sinabs", "snntorch"):
        for name, settings in PLANS.items():
            cases.append(pytest.param(package, settings, id=f"{package}-{name}"))
    # Only one of the two knows AvgPool2d.
    cases.append(pytest.param("snntorch", POOLED, id="snntorch-average pool"))
    return cases


@pytest.mark.others
@pytest.mark.parametrize(("package", "settings"), simulator_cases())
def test_a_simulator_that_reads_the_nir_file_sends_the_same_spikes(export, package, settings):
    # Its neurons are set to ours. Some layers between spiking layers have strides.
    pytest.importorskip(package, reason=f"{package} is not installed, see docs/how_to/export.md")
    exported = export("nir", **OPEN, **settings)
    expected, signals = run_in_python(exported.model)

    found = run_on_the_page(package, exported.path, signals, nodes_of(expected.spikes))

    check_same(found, expected)


READ_BACK = {
    **PLANS,
    "average pool": POOLED,
    "delayed": {"update": "delayed"},
    "leak": {"leak": 0.75},
    "initial potential": {**BIASED, "initial_potential": 0.5},
}


@pytest.mark.parametrize("engine", ["dense", "event"])
@pytest.mark.parametrize("settings", READ_BACK.values(), ids=READ_BACK)
def test_the_nir_file_is_read_back_to_the_same_spikes(export, settings, engine):
    # Its metadata have the reset, the update, and the potential at the beginning.
    exported = export("nir", **OPEN, **settings)
    expected, signals = run_in_python(exported.model)
    graph = load(exported.path, engine=engine)

    output = graph(signals.transpose(0, 1), record=dict.fromkeys(graph.layers[1:], "spikes"))

    counts = {}
    for name, node in nodes_of(expected.spikes).items():
        counts[name] = output.recorded[node]["spikes"].sum(0)
    check_same(Activity(counts, output.logits), expected)


def nodes_of(layers):
    """Return the name of each layer's node in a NIR file."""
    return {name: name.replace(".", "_") for name in layers}


def test_the_nir_file_says_what_it_lacks(export):
    exported = export("nir", timesteps=7)  # one that blocks

    metadata = nir.read(exported.path).metadata

    assert "decoder" in metadata["left_out"]
    assert "gate block" in metadata["left_out"]
    assert metadata["timesteps"] == 7


def test_the_nir_file_has_a_leak_as_a_time_constant(export):
    exported = export("nir", **OPEN, **BIASED, initial_potential=0.5, leak=0.75)

    graph = nir.read(exported.path)

    assert graph.metadata["initial_potential"] == 0.5
    leaky = [node for node in graph.nodes.values() if isinstance(node, nir.LIF)]
    assert len(leaky) == 5
    for node in leaky:
        # In steps of 0.1 ms, as snnTorch takes it: 1e-4 s / (1 - 0.75) = 4e-4 s; and
        # what comes in counts 1 / (1 - 0.75) = 4 times.
        assert node.tau == pytest.approx(4e-4)
        assert node.r == pytest.approx(4)


POOLS = {"plan": [[4, "M", 6, "M"], []]}
COUNTING_POOLS = {**POOLS, "max_pool": "count"}


@pytest.mark.parametrize(
    "settings",
    [
        {"leak": 0.5},
        {**POOLS, **BIAS, "fc_layers": 1},
        COUNTING_POOLS,
        {**COUNTING_POOLS, **BIAS, "update": "phased"},
    ],
    ids=["leak", "maximum pool", "counting pool", "phased"],
)
def test_the_pages_pytorch_runs_as_it_stands_and_sends_the_same_spikes(export, settings):
    # It is loaded without executing code, and rebuilt by examples/plain_pytorch.py.
    exported = export("torch", **OPEN, **settings)
    expected, signals = run_in_python(exported.model)
    layers = torch.load(exported.path, weights_only=True)["names"]
    modules = {name: str(layers.index(name)) for name in expected.spikes}

    found = run_on_the_page("rebuild", exported.path, signals, modules)

    check_same(found, expected)


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
        space = {}
        exec(block("reference") + block(title), space)
        difference = space["logits"] - space["output"].logits
        assert difference.abs().max() < 1e-5, title


def test_export_says_what_it_leaves_out_and_replaces_nothing_unasked(tmp_path):
    path = tmp_path / "net.nir"
    flags = f"--to nir --output {path}"

    _, said = run_here("export", FEEDBACK, flags)
    assert "left out: the decoder" in said
    before = digests(tmp_path)

    assert "--overwrite" in refused("export", FEEDBACK, flags)
    assert digests(tmp_path) == before

    path.write_bytes(b"old")
    run_here("export", FEEDBACK, flags, "--overwrite")
    assert digests(tmp_path) == before


ANN = partial(VGG_wFeedback, plan=PLAN, fc_width=8)
WITH_MAXIMUM = partial(VGG_SNN_STDB_wFeedback, plan=[[4, "M"], []], fc_width=8)


@pytest.mark.parametrize(
    ("make_network", "flags", "words"),
    [
        (WITH_MAXIMUM, "--to nir", "no maximum pool, which features.2 is"),
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
    ],
    ids=[
        "maximum pool",
        "ANN",
        "checkpoint",
        "no folder",
        "ANN on a page",
        "phased",
        "colour",
        "contrast",
        "recordings",
    ],
)
def test_export_refuses_what_it_cannot_do(tmp_path, make_network, flags, words):
    path = tmp_path / "net.pth"
    save_checkpoint(path, make_network())
    before = digests(tmp_path)

    assert words in refused("export", path, flags.format(net=path))

    assert digests(tmp_path) == before


def test_a_page_computes_with_weights_of_sixteen_bits():
    model = build(bias=True)
    for parameter in model.parameters():
        parameter.data.fill_(0.1)

    page_file.round_to_16_bits(model, "net.pth")

    # 0.1 is no number of 16 bits. Biases and thresholds are not rounded.
    for parameter in model.parameters():
        is_weight = parameter.dim() > 1
        expected = 0.0999755859375 if is_weight else torch.tensor(0.1).item()
        assert parameter.unique().tolist() == [expected]


def test_a_page_refuses_weights_beyond_the_largest_number_of_sixteen_bits():
    model = build()
    model.features[0].weight.data.fill_(65_520.0)

    words = "has weights beyond 65,504, which do not travel"
    with pytest.raises(UserError, match=words):
        page_file.round_to_16_bits(model, "net.pth")


def test_a_page_is_refused_where_test_images_lack_a_class():
    digits = load_data("MNIST", limit_test=4)[2]  # 7 2 1 0
    assert page_file.first_of_each_class(digits, ["0", "1", "2"]).shape == (3, 1, 28, 28)
    with pytest.raises(UserError, match="MNIST has no test image of class 3, and a page shows"):
        page_file.first_of_each_class(digits, digits.classes)


NETWORKS = REPOSITORY / "trained_models/snn"
BUILD = REPOSITORY / "wfeedback/export/page"
needs_node = pytest.mark.skipif(
    not shutil.which("node"), reason="needs node: apt-get install nodejs"
)
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs chromium: apt-get install chromium")

# What one does on the page, and what it shows each time.
USE = """
const get = (id) => document.getElementById(id);
const number = (id) => Number(get(id).textContent.replaceAll(",", ""));
const steps = (count) => {
  for (; count > 0; count--) get("one").click();
};
const note = (name) => {
  seen[name] = {
    answer: get("answer").textContent,
    state: get("is").textContent,
    now: number("now"),
    steps: number("steps"),
    spikes: number("spikes"),
    energy: get("energy").textContent,
  };
};
const event = (kind, [x, y]) => {
  const box = get("draw").getBoundingClientRect();
  get("draw").dispatchEvent(new PointerEvent(`pointer${kind}`, {
    clientX: box.left + (x / 28) * box.width,
    clientY: box.top + (y / 28) * box.height,
    bubbles: true,
  }));
};
const line = (from, to) => {
  event("down", from);
  event("move", to);
  event("up", to);
};
const use = () => {
  get("play").click();
  get("digits").children[0].click();
  steps(60);
  note("picked");
  get("clear").click();
  steps(20);
  note("cleared");
  line([16, 5], [13, 23]);
  steps(1);
  note("drawn");
  steps(60);
  note("silent");
  get("exit").click();
  get("digits").children[4].click();
  steps(60);
  note("early");
  get("exit").click();
  get("feedback").click();
  steps(60);
  note("baseline");
};
const seen = {};
const waits = setInterval(() => {
  if (!get("checked")?.textContent) return;
  clearInterval(waits);
  seen.checked = get("checked").textContent;
  use();
  found(seen);
}, 20);
"""


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """Export a network as a page; return its HTML."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    _, said = run_here("export", NETWORKS / "accurate_feedback.pth", "--to page --output", path)
    assert f"wrote {path}: " in said
    assert path.stat().st_size < 1_500_000
    return path.read_text(encoding="utf-8")


# Whether the network differs from Python's, twice, and what a spike of each layer
# costs, without and with the way through the decoder.
ASKED = """
started().then((net) => {
  const first = difference(net);
  const again = difference(net);
  const spikeOf = (chosen) => data.layers.map((_, layer) => Number(layer === chosen));
  const energiesOf = (fed) => data.layers.map((_, layer) => energyOf(spikeOf(layer), fed));
  const energies = [energiesOf(false), energiesOf(true)];
  console.log(JSON.stringify({ first, again, energies, layers: data.layers }));
});
"""


def run_under_node(page, folder):
    """Return what ASKED finds out of a page's network, of which nothing is shown."""
    pattern = r"<script [^>]*id=data>(.*?)</script>\s*<script>(.*?)// --- what is shown"
    network, script = re.search(pattern, page, re.DOTALL).groups()
    element = f"{{ textContent: {json.dumps(network)} }}"
    document = f"const document = {{ getElementById: () => ({element}) }};"
    file = folder / "network.js"
    file.write_text(f"{document}\n{script}\n{ASKED}", encoding="utf-8")
    done = subprocess.run(["node", file], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@needs_node
def test_the_network_under_node_is_pythons_also_once_it_has_seen_images(html, tmp_path):
    found = run_under_node(html, tmp_path)

    assert found["first"] == ""
    assert found["again"] == ""


@needs_node
def test_the_network_under_node_is_not_pythons_where_a_count_was_changed(html, tmp_path):
    count = re.search(r'"golden": \[\[\[(\d+),', html)
    changed_count = count[0].replace(count[1], "5")

    found = run_under_node(html.replace(count[0], changed_count), tmp_path)

    assert found["first"] == f"image 0, timestep 1, input: {count[1]} spikes, in Python 5"


@needs_node
def test_layers_and_the_energy_of_a_spike_by_hand(html, tmp_path):
    found = run_under_node(html, tmp_path)

    # The plan is 16 D 32 32 D on 28 x 28 pixels, 256 256 10, and a decoder U U in.
    layers = [(layer["name"], layer["number"]) for layer in found["layers"]]
    assert layers == [
        ("input", 0),
        ("encoder 1", 0),
        ("encoder 2", 1),
        ("encoder 3", 2),
        ("classifier 1", 0),
        ("classifier 2", 1),
    ]
    # Of 3 x 3 weights a spike meets (3 n - 2)^2 / n^2 in the mean of n x n places,
    # behind a D as well: 82 = 3 * 28 - 2, 40 = 3 * 14 - 2. An addition costs 0.9 pJ.
    reached = [16 * 82**2 / 28**2, 32 * 40**2 / 14**2, 32 * 40**2 / 14**2, 256, 256, 10]
    without_decoder, with_decoder = found["energies"]
    assert without_decoder == pytest.approx([0.9 * number for number in reached])
    # Through the decoder a spike of the encoder's last layer reaches 4 x 4 pixels and
    # one more on each side, as far as there are: 6 in a row, of 7 places, and 5 at both
    # ends.
    reached[3] += (2 * 5 + 5 * 6) ** 2 / 7**2
    assert with_decoder == pytest.approx([0.9 * number for number in reached])


REPORT = """<script>
const errors = [];
window.onerror = (message) => errors.push(message);
const found = (more) => {
  const report = {
    errors, wide: document.documentElement.scrollWidth, inner: innerWidth, ...more};
  document.body.insertAdjacentHTML(
    "beforeend", `<pre id=found>${JSON.stringify(report)}</pre>`);
};
</script>"""


@pytest.fixture(scope="module")
def seen(html, tmp_path_factory):
    """Use the page in a browser, 500 pixels wide; return what USE has noted."""
    folder = tmp_path_factory.mktemp("browser")
    scripts = f"{REPORT}<script>{USE}</script></head>"
    page = folder / "page.html"
    page.write_text(html.replace("</head>", scripts), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--window-size=500,900",
        "--virtual-time-budget=20000",
        f"--user-data-dir={folder}/profile",
        "--dump-dom",
        f"file://{page}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert "CONSOLE" not in done.stderr
    return json.loads(re.search(r"<pre id=\"found\">(.*?)</pre>", done.stdout, re.DOTALL)[1])


@needs_browser
def test_a_page_in_a_browser_fits_finds_pythons_spikes_and_loads_nothing(html, seen):
    assert seen["errors"] == []
    assert seen["wide"] <= seen["inner"]
    assert seen["checked"].startswith("Checked")
    assert not re.search(r"(?:src|href)=(?!\"data:)|https?:", html)


@needs_browser
def test_one_draws_and_the_network_falls_silent(seen):
    picked = seen["picked"]
    assert picked["answer"] == "0"

    cleared = seen["cleared"]
    assert cleared["answer"] == "\N{EN DASH}"
    assert cleared["now"] == 0

    drawn = seen["drawn"]
    assert drawn["state"] == "spiking"
    assert drawn["now"] > 0
    assert drawn["steps"] == 1

    # A digit 1 was drawn. It is silent after spikes.
    silent = seen["silent"]
    assert silent["answer"] == "1"
    assert silent["state"] == "silent"
    assert silent["now"] == 0
    assert silent["steps"] == 61
    assert silent["spikes"] > drawn["spikes"]


@needs_browser
def test_with_early_exit_the_network_stops_and_only_the_baseline_goes_on(seen):
    early = seen["early"]
    assert early["answer"] == "4"
    assert early["state"] == "early exit"
    assert early["steps"] < 10
    assert early["now"] > 0

    baseline = seen["baseline"]
    assert baseline["state"] == "spiking"
    assert baseline["spikes"] > 10 * seen["picked"]["spikes"] > 0


def test_the_runtime_is_of_this_source():
    # If not, `make` in that folder builds it anew.
    digest = hashlib.sha256()
    for name in KERNEL:
        digest.update((FOLDER / name).read_bytes())
    digest.update((BUILD / "math.h").read_bytes())

    assert digest.hexdigest() == (BUILD / "kernel.sha256").read_text().strip()


@needs_node
@pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")),
    reason="needs clang, lld: apt-get install clang lld",
)
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_runtime_built_anew_finds_the_same_spikes(weights, tmp_path):
    subprocess.run(
        ["make", "-s", "-C", BUILD, f"OUT={tmp_path}", "CC=clang --target=wasm32"], check=True
    )

    built = (tmp_path / f"{weights}.wasm").read_bytes()
    committed = (BUILD / f"{weights}.wasm").read_bytes()
    if built != committed:  # as by another clang
        content, _ = page_file.page(NETWORKS / "quick_feedback.pth", None, weights)
        page = content.decode().replace(
            page_file.base64_text(committed), page_file.base64_text(built)
        )
        assert run_under_node(page, tmp_path)["first"] == ""


def test_export_replaces_nothing_unless_it_is_told_to(tmp_path):
    path = tmp_path / "net_torch.pt"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists: --overwrite replaces it"):
        formats.export(FEEDBACK, "torch", path)
    assert path.read_text() == "mine"
    formats.export(FEEDBACK, "torch", path, overwrite=True)
    assert path.stat().st_size > 10_000
