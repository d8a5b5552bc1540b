"""Parts, networks and losses of one's own go through every script as they should."""

import importlib
import re
import shlex
import shutil
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from conftest import (
    DATA,
    REPOSITORY,
    SPIKING,
    TINY,
    build,
    images,
    records,
    refused,
    run_here,
    run_undrawn,
    same_weights,
)

import snn_wFeedback
from self_models import ModelError, load, load_data
from self_models.checkpoints.files import load_checkpoint
from self_models.feedback.gates import GATES
from self_models.feedback.stopping import RULES, Rule
from self_models.running.draws import EVALUATION, Draws
from self_models.settings import NOT_NEGATIVE, objective_setting, setting
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.building.models import imported, named, new_snn
from wfeedback.data.facts import find_facts
from wfeedback.training.losses import LOSSES, Loss

PAGE = (REPOSITORY / "docs/how_to/extend.md").read_text(encoding="utf-8")
IN_PYTHON, *BLOCKS, _LOOP = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OWN_PARTS = (
    "--readout membrane_scaled --readout_gain 3 --gate relative --slack 0.05 --epsilon 0.2"
    " --rule settled --lead 0.4"
)
pytestmark = pytest.mark.usefixtures("forgotten")


def test_the_pages_first_program_prints_an_accuracy_and_spikes(capsys):
    exec(compile(IN_PYTHON, "extend.md", "exec"), {"__name__": "extend"})

    said = re.fullmatch(r"(\S+), (\S+) spikes\n", capsys.readouterr().out)
    accuracy = float(said[1])
    spikes = int(said[2].replace(",", ""))
    assert accuracy > 0.9
    assert spikes > 0


def copy_with_a_gate(path):
    """Copy the training script and change one line of it, as the page says."""
    script = (REPOSITORY / "snn_wFeedback.py").read_text(encoding="utf-8")
    changed_line = re.search(r"^ {4}model = new_snn.*$", PAGE, re.MULTILINE)[0]
    gate = IN_PYTHON[IN_PYTHON.index("@dataclass") : IN_PYTHON.index("snn = load")]
    import_of_gates = IN_PYTHON.splitlines()[3]
    imports = f"from dataclasses import dataclass\n{import_of_gates}\n"

    line = "    model = new_snn(args)\n"
    assert script.count(line) == 1
    script = script.replace(line, f"{changed_line}\n")
    script = script.replace("DESCRIPTION =", f"{gate}\nDESCRIPTION =")
    script = script.replace("import torch\n", f"import torch\n{imports}", 1)
    path.write_text(script)


def test_a_copy_of_the_script_trains_with_a_gate_of_its_own(trained, tmp_path, monkeypatch):
    copy_with_a_gate(tmp_path / "mine.py")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("mine")
    here = f"--output_dir {tmp_path}"
    log = tmp_path / "logs/snn/x.jsonl"
    path = tmp_path / "trained_models/snn/x.pth"

    # Its records name the gate in force, not the one of the flags.
    flags = f"--pretrained_ann {trained.ann} {ON_HELD_OUT} --epochs 1 --run_name x {DATA}"
    mine.main(shlex.split(f"{flags} {here}"))
    evaluation = records(log, "evaluation")[-1]
    assert evaluation["gate"] == "Relative"
    assert evaluation["epsilon"] == 0.2
    opening = records(log, "run")[0]
    assert opening["parameters"]["gate"] == "Relative"
    assert opening["parameters"]["slack"] == 0.1
    assert opening["origins"]["epsilon"] == "found"

    # It resumes and evaluates its own network.
    mine.main(shlex.split(f"--resume --run_name x --epochs 2 {here}"))
    assert len(records(log, "epoch")) == 2
    judge = f"--test_only --pretrained_snn {path} {DATA} {here}"
    mine.main(shlex.split(f"{judge} --run_name judged"))

    # Without the gate neither the script nor load() takes it.
    line = refused("snn", f"{judge} --run_name refused")
    assert "has a gate of somebody's own, Relative, which nobody has registered" in line
    with pytest.raises(ModelError, match=r"load\(path, gate=Relative\(\.\.\.\)\)"):
        load(path)
    assert load(path, gate=mine.Relative(epsilon=0.2)).settings["slack"] == 0.1


def test_parts_of_ones_own_go_through_all_scripts(trained, tmp_path):
    # The page's gate stays in evaluation, as that of examples/ does; this one must not.
    stays = "stays_in_evaluation = True"
    assert stays in BLOCKS[1]
    file = tmp_path / "parts.py"
    file.write_text("\n\n".join(BLOCKS[1:]).replace(stays, ""))
    here = f"--model {file} {DATA} --output_dir {tmp_path}"
    path = tmp_path / "trained_models/snn/own.pth"
    logs = tmp_path / "logs/snn"

    start = f"--pretrained_ann {trained.ann} --timesteps 3 --update immediate"
    balance = "--balance_images 8 --balance_timesteps 6"
    _, said = run_here("snn", f"{start} {balance} --epochs 1 {OWN_PARTS} {here} --run_name own")
    classes = r"^--model: parts\.py, digest [0-9a-f]{16}, classes: .*Settled"
    assert re.search(classes, said, re.MULTILINE)

    # Another script looks for the bound of the rule, and says which gate it left out.
    rows, said = run_undrawn(
        "obj2", f"--pretrained_snn {path} {here} --rules settled --leads 0.1 0.9"
    )
    assert rows[0]["bounds"] == {"lead": 0.1}
    note = "note: this SNN was trained with gate relative, and runs with gate block here;"
    assert f"{note} --gate relative runs it as" in said

    # Each network is compared as it was trained.
    run_undrawn("compare", trained.snn, path, f"--evaluate {here}")
    after_training = records(logs / "own.jsonl", "evaluation")[0]
    compared = records(logs / "own_compared.jsonl", "evaluation")[0]
    assert after_training["spikes"] == compared["spikes"]
    assert after_training["bounds"] == compared["bounds"] == {"lead": 0.4}

    settings = load(path, slack=0.3).settings
    assert settings["readout"] == "membrane_scaled"
    assert settings["readout_gain"] == 3.0
    assert settings["gate"] == "relative"
    assert settings["slack"] == 0.3
    assert settings["rule"] == "settled"
    assert settings["lead"] == 0.4

    parser = snn_wFeedback.build_parser(["--model", str(file)])
    assert "--slack" in parser._option_string_actions
    assert "--readout_gain" in parser._option_string_actions
    assert "relative" in parser.format_help()


def make_rule(setting_name, setting):
    """Make a rule with this setting."""
    attributes = {
        "__annotations__": {setting_name: float},
        setting_name: setting,
        "holds": id,  # is never called
    }
    return dataclass(type("Own", (Rule,), attributes))


LEAD = objective_setting(1.0, NOT_NEGATIVE, "")
UNDERIVED = type("Own", (SimpleNamespace,), {})
WITHOUT_DATACLASS = type("Own", (Rule,), {"holds": id, "lead": LEAD})


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (UNDERIVED, "rule 'x': derive Own from Rule of self_models.feedback.stopping"),
        (WITHOUT_DATACLASS, "write @dataclass under its registration"),
        (
            make_rule("gap_bound", LEAD),
            "rule 'x': confidence has a setting gap_bound, too: inherit it, or take another",
        ),
    ],
    ids=["not derived", "no dataclass", "another rule's setting"],
)
def test_a_part_that_lacks_something_is_not_registered(part, words):
    # Another rule's setting, declared again, would change that rule's default.
    with pytest.raises(ModelError, match=words):
        RULES.register("x")(part)

    assert "x" not in RULES


def test_a_part_whose_setting_is_a_flag_of_the_script_is_refused(monkeypatch):
    monkeypatch.setitem(RULES, "x", make_rule("shift", LEAD))

    line = refused("snn", "--epsilon 0.1")

    assert "--model: --shift is a flag of this script already: give" in line


def test_a_setting_without_a_group_is_a_flag(monkeypatch, tmp_path):
    monkeypatch.setitem(RULES, "x", make_rule("lead", setting(1.0, NOT_NEGATIVE, "")))

    flags = "-a VGG4_wFeedback_tiny --fc_width 8 --timesteps 2 --limit_train 4 --limit_test 4"
    train = f"{flags} --epochs 0 --holdout 0 --lead 3 --run_name y"
    run_here("snn", f"{train} --output_dir {tmp_path}")

    saved = load_checkpoint(tmp_path / "trained_models/snn/y_last.pth")
    assert saved["flags"]["lead"] == saved["settings"]["lead"] == 3


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"group": "gates"}, "the setting lead is of the group 'gates', which --help does not"),
        ({"flags": ("-x",)}, "the setting lead has the flag -x: give it a long one"),
        ({"flags": ("--my-lead",)}, "the setting lead has the flag --my-lead: give it a long"),
    ],
)
def test_a_setting_whose_flag_cannot_be_is_refused(monkeypatch, declared, words):
    lead = setting(1.0, NOT_NEGATIVE, "", **declared)
    monkeypatch.setitem(RULES, "x", make_rule("lead", lead))
    assert words in refused("snn", "--epsilon 0.1")


def test_a_part_whose_setting_is_one_of_the_network_is_refused(monkeypatch):
    monkeypatch.setitem(RULES, "x", make_rule("timesteps", LEAD))

    words = "a rule declares a setting timesteps, which InputBlockingSNN has already"
    with pytest.raises(ModelError, match=words):
        InputBlockingSNN.known_settings()


NETWORK = """
from dataclasses import dataclass
from self_models.settings import POSITIVE, setting
from self_models.config import SNNConfig
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

class MyANN(VGG_wFeedback):
    pass

@dataclass
class MySettings(SNNConfig):
    gain: float = setting(1.0, POSITIVE, "of the input", group="spiking")

class MySNN(VGG_SNN_STDB_wFeedback):
    Settings = MySettings
"""


BROKEN = "import torch\n\nkaboom = torch.nope"
TAKEN_NAME = BLOCKS[1].replace('"relative"', '"block"')


@pytest.mark.parametrize(
    ("word", "text", "said"),
    [
        ("none.py:MySNN", "", "none.py: there is no such file"),
        ("x.py:Mine", NETWORK, "there is no class Mine; it has MyANN, "),
        (
            "x.py:MyANN",
            NETWORK,
            "MyANN is not derived from VGG_SNN_STDB_wFeedback, which this script needs",
        ),
        ("x.py", BROKEN, "x.py:3: AttributeError: module 'torch' has no attribute 'nope'"),
        ("x.py", TAKEN_NAME, "x.py:8: ModelError: gate 'block' is there already"),
    ],
    ids=["no file", "no class", "another class", "broken file", "a name that is taken"],
)
def test_what_model_cannot_take_is_one_line(word, text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text(text)
    imported.cache_clear()

    line = refused("snn", f"--model {word} {DATA} --output_dir {tmp_path}")

    assert said in line
    assert not (tmp_path / "logs").exists()


@pytest.fixture
def network_file(tmp_path):
    """Return the path of a file with an ANN and an SNN of one's own."""
    path = tmp_path / "x.py"
    path.write_text(NETWORK)
    imported.cache_clear()
    return path


def test_a_class_of_ones_own_keeps_its_name(trained, tmp_path, network_file):
    here = f"--output_dir {tmp_path}"
    ann = tmp_path / "trained_models/ann/x.pth"
    snn = tmp_path / "trained_models/snn/x.pth"
    foreign_ann = "holds 'MyANN', a network of somebody's own"
    foreign_snn = "holds 'MySNN', a network of somebody's own"

    # An ANN is trained and converted, each with a teacher; without --model it is not.
    teacher = f"--teacher_ann {trained.ann}"
    run_here("ann", TINY, f"--model {network_file}:MyANN {teacher} --run_name x {here}")
    convert = f"--pretrained_ann {ann} {SPIKING} --run_name x {here}"
    line = refused("snn", convert)
    assert f"{ann} {foreign_ann}: --model FILE.py:MyANN, or load(path, m" in line
    run_here("snn", convert, f"--model {network_file}:MySNN --teacher_ann {ann}")

    assert foreign_snn in refused("export", snn, "--to torch")
    _, said = run_here("export", snn, f"--to torch --model {network_file}:MySNN")
    assert "wrote" in said
    if shutil.which("cc"):
        _, said = run_here("export", snn, f"--to c --model {network_file}:MySNN")
        assert "wrote" in said

    # load() takes the class, also for a checkpoint that leaves the gate to its class.
    own_class = named(f"{network_file}:MySNN")
    assert type(load(snn, model=own_class)) is own_class
    assert type(load(trained.snn, model=own_class)) is own_class
    blocking = load(REPOSITORY / "trained_models/snn/accurate_feedback.pth", model=own_class)
    assert type(blocking) is own_class
    assert blocking.settings["gate"] == "block"
    with pytest.raises(ModelError, match=foreign_ann):
        load(ann, model=own_class)
    no_network = "dict is not derived from VGG_wFeedback or VGG_SNN_STDB_wFeedback$"
    with pytest.raises(ModelError, match=no_network):
        load(snn, model=dict)


def test_a_recipe_names_a_model_and_a_setting_of_its_class_is_a_flag(tmp_path, network_file):
    table = f'[snn]\ndataset = "MNIST"\nmodel = "{network_file}:MySNN"\ngain = 2.5'
    recipe = tmp_path / "gained.toml"
    template = (REPOSITORY / "recipes/own.toml").read_text()
    recipe.write_text(template.replace("[snn]", table))
    words = ["--preset", str(recipe)]

    args = snn_wFeedback.build_parser(words).parse_args(words)
    find_facts(args)

    assert args.gain == 2.5
    assert new_snn(args).settings["gain"] == 2.5


ON_HELD_OUT = SPIKING.replace("--select test", "--holdout 8")


@dataclass
class Idea:
    """An idea that is one file.

    Attributes
    ----------
    name : str
        Name of its file.
    network : str
        Class of its network, "" if it is a gate.
    flags : str
        Flags that choose it.
    not_counted : str
        What a count of operations does not know of it.
    state_key : str
        Entry of a stream's state that its network adds.
    """

    name: str
    network: str = ""
    flags: str = ""
    not_counted: str = ""
    state_key: str = ""

    def word(self, folder):
        """Return its --model; write a file that only the page has into this folder."""
        path = REPOSITORY / f"examples/{self.name}.py"
        if not path.is_file():
            path = folder / path.name
            pattern = rf"^```python\n([^`]*class {self.network}.*?)^```$"
            path.write_text(re.search(pattern, PAGE, re.MULTILINE | re.DOTALL)[1])
        return f"{path}:{self.network}" if self.network else str(path)


NEIGHBOURS = Idea("neighbours", flags="--gate neighbours --around 0")
ADAPTIVE_THRESHOLD = Idea(
    "adaptive_threshold",
    network="AdaptiveSNN",
    not_counted="features.1 (AdaptiveNeuron)",
    state_key="risen.features.1",
)
TWO_DECODERS = Idea(
    "two_decoders",
    network="TwoDecoders",
    flags="--readout spike_count",
    not_counted="the methods of TwoDecoders",
    state_key="memory.generate2",
)
REFRACTORY = Idea("refractory", network="Refractory", state_key="memory.refractory")


def train_with(idea, trained, folder):
    """Train a network with an idea, and resume it; return flags that evaluate it."""
    word = idea.word(folder)
    path = folder / "trained_models/snn/x.pth"
    here = f"--output_dir {folder}"

    _, said = run_here(
        "snn",
        f"--pretrained_ann {trained.ann} {ON_HELD_OUT} --model {word} {idea.flags}",
        f"{here} --run_name x",
    )
    engine = "dense (the event engine has no form"
    if idea.network:
        engine = "reference (it replaces methods, or has parts or hooks of its own)"
    assert f"engine: {engine}" in said
    assert load_checkpoint(path)["model"] == (idea.network or "VGG_SNN_STDB_wFeedback")

    resume = f"--run_name x --resume --epochs 2 {here}"
    if idea.network:
        owner = f"holds '{idea.network}', a network of somebody's own"
        line = refused("snn", resume)
        assert f"{owner}: --model FILE.py:{idea.network}, or load(" in line
    run_here("snn", resume, f"--model {word}")

    return f"--pretrained_snn {path} --model {word} {DATA} {here}"


def check_sweep(idea, evaluate):
    """Sweep the tolerance of a network; operations are counted if they are known."""
    rows, said = run_undrawn("obj1", evaluate, idea.flags, "--epsilon 0 0.9")
    exact, tolerant = rows
    assert tolerant["spikes"]["input"] < exact["spikes"]["input"]
    uncounted = "note: a count of operations does not know "
    if idea.network:
        assert exact["engine"] == "reference"
        assert "operations" not in exact
        assert f"{uncounted}{idea.not_counted}: there are none" in said
    else:
        assert exact["engine"] == "dense"
        assert "operations" in exact
        assert uncounted not in said


def test_a_gate_is_one_file_and_is_trained_swept_and_shown_a_stream(trained, tmp_path):
    evaluate = train_with(NEIGHBOURS, trained, tmp_path)

    check_sweep(NEIGHBOURS, evaluate)

    # A stream runs with the gate of training, without its flags.
    scene = "--scene switch --scene_frames 3 --steps_per_frame 2"
    run_undrawn("stream", evaluate, scene)
    opening = records(tmp_path / "logs/snn/x_posthoc_stream.jsonl", "run")[0]
    assert opening["parameters"]["gate"] == "neighbours"
    assert opening["parameters"]["around"] == 0


def test_a_neuron_is_one_file_and_is_trained_and_swept(trained, tmp_path):
    evaluate = train_with(ADAPTIVE_THRESHOLD, trained, tmp_path)

    check_sweep(ADAPTIVE_THRESHOLD, evaluate)


def test_a_network_with_a_step_of_its_own_is_trained_swept_compared_and_drawn(trained, tmp_path):
    evaluate = train_with(TWO_DECODERS, trained, tmp_path)

    check_sweep(TWO_DECODERS, evaluate)

    path = tmp_path / "trained_models/snn/x.pth"
    word = TWO_DECODERS.word(tmp_path)
    flags = f"--evaluate --model {word} {DATA} --output_dir {tmp_path}"
    _, said = run_undrawn("compare", trained.snn, path, flags)
    assert re.search(r"run with +T = 5, ε = 0.0 +T = 5, ε = 0.0, class = TwoDecoders\n", said)
    run_undrawn("analysis", evaluate, TWO_DECODERS.flags, "--images 2 --raster")


def test_the_pages_surrogate_by_hand(trained, tmp_path):
    # As a file it is a choice of --activation.
    code = re.search(r"```python\n([^`]*SURROGATES.register.*?)```", PAGE, re.DOTALL)[1]
    file = tmp_path / "arc.py"
    file.write_text(code)
    flags = f"--model {file} --activation ATan --output_dir {tmp_path} --run_name x"
    run_here("snn", f"--pretrained_ann {trained.ann}", ON_HELD_OUT, flags)
    neuron = load(tmp_path / "trained_models/snn/x.pth").features[1]
    potential = torch.full((1,), 4 / 3, requires_grad=True)

    neuron.spike(potential, torch.ones(())).backward()

    # The potential is 1/3 above the threshold: 1 / (1 + (pi/3)^2) = 0.477.
    assert potential.grad.item() == pytest.approx(0.477, abs=1e-3)


NETWORKS = [ADAPTIVE_THRESHOLD, TWO_DECODERS, REFRACTORY]


@pytest.mark.parametrize("idea", NETWORKS, ids=[idea.name for idea in NETWORKS])
@torch.no_grad()
def test_a_stream_that_is_saved_and_loaded_in_between_is_the_whole(idea, tmp_path):
    plan = [[4, "D", 6], ["U", "in"]]
    model = build(
        named(idea.word(tmp_path)),
        gate="block",
        epsilon=0.4,
        blocking="dynamic",
        surprise=1.0,  # which must find what it needs in the state, as record= must
        timesteps=6,
        plan=plan,
    )
    record = {"features.1": ("spikes", "membrane")}
    first = images(2)
    shown = [first, first, first.flip(0), first.flip(0)]
    whole = model.stream(seed=3)
    wanted = [whole(frame, 2, record=record) for frame in shown]

    stream = model.stream(seed=3)
    for frame, expected in zip(shown, wanted, strict=True):
        found = stream(frame, 2, record=record)
        state = stream.state_dict()
        assert torch.equal(found.logits_by_step, expected.logits_by_step)
        assert torch.equal(found.predictions, expected.predictions)
        membrane = found.recorded["features.1"]["membrane"]
        assert torch.equal(membrane, expected.recorded["features.1"]["membrane"])
        stream = model.stream(seed=9)
        stream.load_state_dict(state)

    assert len(state[idea.state_key]) == 2
    assert state[idea.state_key].any()
    other = build(VGG_SNN_STDB_wFeedback, plan=plan).stream()
    words = "this state is damaged, or that of another network's stream"
    with pytest.raises(ModelError, match=words):
        other.load_state_dict(state)


def test_around_a_missed_pixel_the_eight_neighbours_stay_open_too(tmp_path):
    named(NEIGHBOURS.word(tmp_path))
    gate = GATES["neighbours"](epsilon=0.1)
    image = torch.zeros(1, 1, 4, 5)
    prediction = image.clone()
    prediction[0, 0, 0, 1] = 0.5

    view = gate.next_view(image, prediction, gate.start(image))

    assert view.is_open[0, 0].int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@torch.no_grad()
def test_an_adaptive_threshold_by_hand(tmp_path):
    model = build(named(ADAPTIVE_THRESHOLD.word(tmp_path)), default_threshold=1.0)
    neuron = model.features[1]
    drive = torch.full((1, 1), 0.6)
    state = None
    spikes = []
    potentials = []
    rises = []

    for _ in range(4):
        sent, state = neuron(drive, state)
        spikes.append(sent.item())
        potentials.append(round(state.v.item(), 4))
        rises.append(round(state.risen.item(), 4))

    # The threshold is 1 and rises by 0.1 at each spike; a tenth of the rise decays a
    # step. step 1: 0.6          < 1 step 2: 0.6 + 0.6    > 1      leaves 1.2 - 1 = 0.2;
    # rise 0.1 step 3: 0.2 + 0.6    < 1.1    rise 0.9 * 0.1 = 0.09 step 4: 0.8 + 0.6
    # > 1.09   leaves 1.4 - 1.09 = 0.31; rise 0.9 * 0.09 + 0.1 = 0.181
    assert spikes == [0, 1, 0, 1]
    assert potentials == [0.6, 0.2, 0.8, 0.31]
    assert rises == [0, 0.1, 0.09, 0.181]


@torch.no_grad()
def test_an_adaptive_threshold_is_not_rounded_where_products_are(tmp_path):
    model = build(named(ADAPTIVE_THRESHOLD.word(tmp_path)), default_threshold=1.0)
    neuron = model.features[1]
    rounded = torch.full((1, 1), 0.6, dtype=torch.bfloat16)
    state = None
    exact_state = None

    for _ in range(6):
        sent, state = neuron(rounded, state)
        exact_sent, exact_state = neuron(rounded.float(), exact_state)

    assert state.v.dtype == state.risen.dtype == torch.float32
    assert torch.equal(state.v, exact_state.v)
    assert torch.equal(sent, exact_sent)


@torch.no_grad()
def test_two_decoders_predict_their_mean(tmp_path):
    settings = {"gate": "open", "readout": "membrane_linear", "timesteps": 5}
    both = build(named(TWO_DECODERS.word(tmp_path)), **settings)
    alone = build(VGG_SNN_STDB_wFeedback, **settings)
    weights = both.state_dict()
    for name in list(weights):
        if "generate2" in name:
            del weights[name]
    alone.load_state_dict(weights)
    shown = images(2)

    found = both(shown, seed=1, record={"features.1": "spikes"})
    first = alone(shown, seed=1)

    # The second decoder is a convolution of all spikes of the first layer so far.
    spikes = found.recorded["features.1"]["spikes"]
    second = torch.stack([both.generate2(sent.float()) for sent in spikes]).cumsum(0)
    torch.testing.assert_close(found.predictions, (first.predictions + second) / 2)
    assert torch.equal(found.logits, first.logits)
    assert second.abs().max() > 0


@torch.no_grad()
def test_a_refractory_input_neuron_sends_no_two_spikes_in_a_row(tmp_path):
    model = build(named(REFRACTORY.word(tmp_path)), gate="open", timesteps=6)
    white = torch.ones(1, *model.image_shape)  # else it would spike at every step

    output = model(white, seed=0, record={"input": "spikes"})

    sent = output.recorded["input"]["spikes"]
    assert sent[::2].all()
    assert not sent[1::2].any()


PLAIN = (
    "-a VGG5_wFeedback_small --fc_width 16 --timesteps 5 --update immediate"
    f" --readout membrane_linear --select test {DATA}"
)
FILE = REPOSITORY / "examples/prediction_variance.py"


@pytest.fixture
def no_losses(forgotten):
    """Forget all losses, and that the file of one was imported."""
    LOSSES.clear()
    imported.cache_clear()


@pytest.fixture
def variance_loss(no_losses):
    """Register the loss of the example, and no other."""
    imported(FILE)


def test_the_example_trains_through_the_script_and_resumes(tmp_path, no_losses):
    weighed = f"{PLAIN} --model {FILE} --variance_weight 0.02 --variance_steps 3"
    here = f"--output_dir {tmp_path}"
    weights = tmp_path / "trained_models/snn"
    run_here("snn", f"{weighed} --epochs 2 --run_name whole {here}")
    run_here("snn", f"{weighed} --epochs 1 --run_name part {here}")

    # The loss by hand: of 5 timesteps the last 3 count, over 16 images.
    evaluated = records(tmp_path / "logs/snn/part.jsonl", "epoch")[0]["evaluated"]
    test = load_data("MNIST", limit_test=16)[2].whole()
    draws = Draws(0, EVALUATION, test.index)
    output = load(weights / "part.pth")(test.images, draws=draws)
    predictions = output.predictions[2:].detach()
    variance = ((predictions - predictions.mean(0)) ** 2).mean(0)
    expected = variance.sum().item() / 16
    assert evaluated["variance_loss"] == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01
    # The weight of the reconstruction, --trade_off, is 1.
    total = evaluated["classification"] + evaluated["reconstruction"] + 0.02 * expected
    assert evaluated["total"] == pytest.approx(total, rel=1e-4)

    resume = f"--resume --epochs 2 --run_name part {here}"
    line = refused("snn", f"{PLAIN} {resume} --variance_steps 2")
    assert "trained with other settings (variance_steps)" in line
    run_here("snn", resume)
    assert same_weights(weights / "part_last.pth", weights / "whole_last.pth")

    LOSSES.clear()
    line = refused("snn", resume)
    assert (
        "part_last.pth was trained with --variance_weight 0.02, a loss that is not registered"
        " here: add its --model FILE.py"
    ) in line


def test_no_prediction_is_kept_for_a_loss_that_looks_at_none(tmp_path, variance_loss):
    outputs = []
    counts = []

    @LOSSES.register("small")
    @dataclass
    class Small(Loss):
        def value(self, output, images, labels):
            outputs.append(output)
            counts.append((len(images), len(labels)))
            return output.logits_by_step.square().mean()

    run_here("snn", f"{PLAIN} --small_weight 1 --epochs 1 --output_dir {tmp_path}")

    # Two batches to learn from, one to judge; images, labels, and the outputs and
    # spikes of each timestep are there in all of them.
    assert counts == [(16, 16), (16, 16), (16, 16)]
    for output in outputs:
        assert output.predictions is None
        assert output.errors is None
        assert output.is_open is None
        assert len(output.logits_by_step) == 5
        assert {len(spikes) for spikes in output.spikes_by_step.values()} == {5}


def test_a_loss_that_looks_at_predictions_teaches_a_decoder(trained, tmp_path, variance_loss):
    here = f"{DATA} --epochs 1 --output_dir {tmp_path}"
    decoder_alone = (
        f"--pretrained_snn {trained.snn} --train decoder --trade_off 0 --select test --run_name x"
    )
    assert "--trade_off above 0" in refused("snn", decoder_alone, here)
    line = refused("snn", f"-a VGG5_small --variance_weight 1 {here}")
    assert "VGG5_small has no decoder" in line

    run_here("snn", decoder_alone, f"--variance_weight 1 {here}")

    before = load_checkpoint(trained.snn)["state_dict"]
    after = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["state_dict"]
    changed_parts = set()
    for name, value in after.items():
        if not torch.equal(value, before[name]):
            changed_parts.add(name.split(".")[0])
    assert changed_parts == {"generate"}


def test_only_thresholds_of_the_stages_are_scaled(trained, tmp_path):
    """A second decoder with neurons, whose thresholds nobody has balanced."""
    own_class = f"--model {TWO_DECODERS.word(tmp_path)} --readout spike_count"
    balance = "--timesteps 5 --balance_images 8 --balance_timesteps 12 --update immediate"
    start = f"--pretrained_ann {trained.ann} --epochs 0 {balance} {DATA} {own_class}"

    thresholds = {}
    for factor in (0.3, 0.6):
        name = f"scaled_{factor}"
        scaling = f"--scaling_factor {factor} --run_name {name} --output_dir {tmp_path}"
        run_here("snn", f"{start} {scaling}")
        saved = load_checkpoint(tmp_path / f"trained_models/snn/{name}.pth")["state_dict"]
        thresholds[factor] = saved

    names = [name for name in thresholds[0.3] if name.endswith(".threshold")]
    of_second_decoder = [name for name in names if name.startswith("generate2")]
    assert of_second_decoder
    for name in names:
        if name in of_second_decoder:
            assert thresholds[0.3][name].item() == 1.0  # as it was made
        else:
            ratio = thresholds[0.6][name].item() / thresholds[0.3][name].item()
            assert ratio == pytest.approx(2.0)
