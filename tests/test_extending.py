"""The parts that docs/how_to/extend.md writes, a gate, a rule and a read-out, go through every script as those that are here do;
and what --model refuses."""

import contextlib
import importlib
import io
import re
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ANN, DATA, OBJ1, OBJ2, OBJ3, REPOSITORY, SNN, SPIKING, STREAM, TINY, digests, records, refused, run_here

import snn_wFeedback
from harness.building.models import new_snn
from harness.building.own import imported, lines_on_own, named
from harness.data.facts import with_facts
from self_models import load
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import NOT_NEGATIVE, Choice, objective_setting
from self_models.objectives.gates import GATES, Blocking
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES, Rule
from self_models.running.steps import RunState, View
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

PAGE = (REPOSITORY / "docs/how_to/extend.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
OWN = "--readout membrane_scaled --readout_gain 3 --gate relative --slack 0.05 --epsilon 0.2 --rule settled --lead 0.4"
pytestmark = pytest.mark.usefixtures("forgotten")


def test_parts_of_ones_own_go_through_all_scripts(trained, tmp_path):
    """As a gate does in test_examples, where it stays in evaluation; here it does not."""
    assert "stays_in_evaluation = True" in BLOCKS[1]
    (tmp_path / "parts.py").write_text("\n\n".join(BLOCKS[1:]).replace("stays_in_evaluation = True", ""))
    here, path = f"--model {tmp_path / 'parts.py'} {DATA} --output_dir {tmp_path}", tmp_path / "trained_models/snn/own.pth"
    started = f"--pretrained_ann {trained.ann} --timesteps 3 --update immediate --balance_images 8 --balance_timesteps 6"
    parts = "gate relative, rule settled, readout membrane_scaled; not in use: neurons HardReset (in no layer)"
    assert f"in use of parts.py: {parts}" in run_here(SNN, f"{started} --epochs 1 {OWN} {here} --run_name own")[1]
    later = f"--pretrained_snn {path} {here}"
    found, said = run_here(OBJ2, f"{later} --rules settled --leads 0.1 0.9")
    assert found[0]["bounds"] == {"lead": 0.1} and "in use of parts.py: rule settled, readout membrane_scaled; not in u" in said
    assert "note: this SNN was trained with gate relative, and runs with gate block here; --gate relative runs it as" in said
    run_here(OBJ3, later)
    said = run_here("compare", trained.snn, path, f"--evaluate {here}")[1]  # each as it was trained
    assert "T = 3, ε = 0.2, gate = relative, rule = settled, lead = 0.4" in said and "the SNN was trained with gate" not in said
    one, again = (records(tmp_path / f"logs/snn/{name}.jsonl", "evaluation")[0] for name in ("own", "own_compared"))
    assert one["spikes"] == again["spikes"] and one["bounds"] == again["bounds"] == {"lead": 0.4}
    run_here("energy", path, here)
    assert records(tmp_path / "logs/snn/own_energy.jsonl", "run")[0]["parameters"]["gate"] == "relative"
    assert "gate open has no epsilon, which is varied here: --gate block, or snn_" in refused(OBJ1, later, "--gate open")
    kept = {"readout": "membrane_scaled", "readout_gain": 3.0, "gate": "relative", "slack": 0.3, "rule": "settled", "lead": 0.4}
    assert kept.items() <= load(path, slack=0.3).settings.items()
    with contextlib.redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        importlib.import_module(SNN).main(["--model", str(tmp_path / "parts.py"), "--help_all"])
    assert all(word in shown.getvalue() for word in ("--slack", "--readout_gain", "relative"))


def test_a_rule_is_known_to_the_first_script_that_reads_it(tmp_path):
    """As in a process of its own, in which nothing else has imported the file."""
    (tmp_path / "rule.py").write_text(BLOCKS[2])
    words = ["--model", str(tmp_path / "rule.py")]
    parsed = importlib.import_module(OBJ2).build_parser(words).parse_args([*words, "--rules", "settled", "--leads", "0.1", "0.9"])
    assert (parsed.rules, parsed.leads) == (["settled"], [0.1, 0.9])
    imported.cache_clear()
    RULES.pop("settled")
    assert all("--lead" not in action.option_strings for action in importlib.import_module(STREAM).build_parser(words)._actions)


LOSS = """
from dataclasses import dataclass
from harness.training.losses import LOSSES, Loss

@LOSSES.register("mine")
@dataclass
class Mine(Loss):
    def value(self, output, images, labels):
        return 0 * output.logits.sum()
"""


@pytest.mark.parametrize(
    ("blocks", "cls", "flags", "gate", "said"),
    [
        ((1,), "", {}, "open", "note: nothing of x.py is in use: gate relative (not chosen), loss mine (weight 0)"),
        (
            (1, 2),
            "",
            {"mine_weight": 1},
            "open",
            "in use of x.py: loss mine; not in use: gate relative (not chosen), rule settled",
        ),
        ((1,), "", {"mine_weight": 1, "test_only": True}, "relative", "gate relative; not in use: loss mine (of training)"),
        ((2,), "", {"rules": ["settled"]}, "open", "in use of x.py: rule settled; not in use: loss mine (weight 0)"),
        (
            (4,),
            "HardClassifier",
            {},
            "open",
            "class HardClassifier, neurons HardReset (in classifier.1, classifier.4); not in use:",
        ),
        ((4,), "HardFirst", {}, "open", "in use of x.py: class HardFirst, neurons HardReset (in features.1); not in use: loss"),
        ((4,), "WrongStage", {}, "open", "class WrongStage; not in use: loss mine (weight 0), neurons HardReset (in no layer)"),
        ((), "", {}, "open", "note: nothing of x.py is in use: it registers nothing"),
    ],
)
def test_what_is_in_use_of_a_file_is_said(blocks, cls, flags, gate, said, tmp_path):
    """Of the page's parts; a stage that there is not is seen by its neurons, which no layer has."""
    text = "\n".join([*(BLOCKS[number] for number in blocks), LOSS * bool(blocks)])
    if cls == "WrongStage":
        text = text.replace('"classifier"', '"encoder"').replace("HardClassifier", cls)
    (tmp_path / "x.py").write_text(text)
    args = SimpleNamespace(model=f"{tmp_path / 'x.py'}:{cls}".rstrip(":"), test_only=False, mine_weight=0)
    vars(args).update(flags)
    model = (named(args.model) or VGG_SNN_STDB_wFeedback)("VGG5_wFeedback_small", fc_width=8, gate=gate)
    (line,) = lines_on_own(args, model)
    assert said in line


def test_an_edited_file_is_noticed(trained, tmp_path):
    """By its digest in the checkpoint: in an evaluation and where a run goes on; under another name, too."""
    file, other, here = tmp_path / "x.py", tmp_path / "y.py", f"--run_name x --output_dir {tmp_path}"
    file.write_text(NETWORK)
    run_here(SNN, f"--pretrained_ann {trained.ann} {SPIKING} --model {file}:MySNN {here}")
    assert "model_file" not in load_checkpoint(trained.snn)
    path = tmp_path / "trained_models/snn/x.pth"

    def noted(name, flags, model):
        imported.cache_clear()
        return re.findall(f"note: .*{path.stem}.*", run_here(name, f"--model {model}:MySNN {here} {DATA} {flags}")[1])

    evaluate = f"--pretrained_snn {path} --test_only --overwrite"
    other.write_text(NETWORK)
    assert noted(SNN, evaluate, file) == noted(SNN, evaluate, other) == []  # the same file is the same, whatever it is called
    for each in (file, other):
        each.write_text(NETWORK + "# changed")
    last = path.with_stem("x_last")
    tail = ": its own parts may compute something else now"
    assert noted(SNN, evaluate, file) == [f"note: {path} was trained with another version of x.py{tail}"]
    assert noted(SNN, evaluate, other) == [f"note: {path} was trained with x.py, not with y.py{tail}"]
    assert noted(SNN, "--resume --epochs 2", file) == [f"note: {last} was trained with another version of x.py{tail}"]
    assert noted(SNN, evaluate.replace(str(path), str(last)), file) == []  # what went on with the new file has its digest


def rule(name, field):
    """A rule with this field."""
    return dataclass(type("Own", (Rule,), {"__annotations__": {name: float}, name: field, "holds": id}))


LEAD = objective_setting(1.0, NOT_NEGATIVE, "")


@pytest.mark.parametrize(
    ("registry", "name", "part", "words"),
    [
        (RULES, "x", type("Own", (SimpleNamespace,), {}), "rule 'x': derive Own from Rule of self_models.objectives.stopping"),
        (GATES, "x", type("Own", (SimpleNamespace,), {}), "gate 'x': derive Own from Gate"),
        (READOUTS, "x", type("Own", (Rule,), {}), "readout 'x': derive Own from Readout"),
        (RULES, "x", type("Own", (Rule,), {}), r"Own lacks holds\(\)"),
        (RULES, "x", type("Own", (Rule,), {"holds": id, "lead": LEAD}), "write @dataclass under its registration"),
        (RULES, "x", rule("lead", 0.5), r"rule 'x': declare lead of Own by setting\(\) or objective_setting\(\)"),
        (RULES, "x", rule("gap_bound", LEAD), "rule 'x': confidence has a setting gap_bound, too: inherit it, or take another"),
        (RULES, "confidence", type("Own", (Rule,), {"holds": id}), "rule 'confidence' is there already"),
    ],
)
def test_what_a_part_lacks_is_said_at_once(registry, name, part, words):
    """A setting is declared once: another rule's name would change that rule's default."""
    before = dict(registry)
    with pytest.raises(ModelError, match=words):
        registry.register(name)(part)
    assert registry == before


@pytest.mark.parametrize(("script", "name", "flag"), [(SNN, "shift", "--shift"), (OBJ2, "timestep", "--timesteps")])
def test_a_part_does_not_take_a_flag_of_a_script(script, name, flag, monkeypatch):
    """--augment would shift by what a gate's setting says; --timesteps is not free for the bounds that objective 2 tries."""
    monkeypatch.setitem(RULES, "x", rule(name, LEAD))
    assert f"--model: {flag} is a flag of this script already: give" in refused(script, "--epsilon 0.1")


@pytest.mark.parametrize("names", [(0, 4), {"none": 1, None: 2}])
def test_a_choice_is_of_texts(names):
    """Else its setting would register, and --help_all end in a traceback."""
    with pytest.raises(ModelError, match=r"a Choice is one of several texts, and (0|None) is none: write '(0|None)', or a"):
        objective_setting(0, Choice(names), "")


def test_a_part_does_not_take_a_setting_of_the_network(monkeypatch):
    monkeypatch.setitem(RULES, "x", rule("timesteps", LEAD))
    with pytest.raises(ModelError, match="a rule declares a setting timesteps, which InputBlockingSNN has already"):
        InputBlockingSNN.declared()


def test_a_rule_that_looks_at_the_input_must_say_so():
    """Else it fails with a gate that blocks nothing: in one line, where another fault of its own keeps its traceback."""
    view = View(torch.ones(2, 1, 1, 1), is_open=torch.tensor([True, False]).view(2, 1, 1, 1))
    run = RunState(view.image, view, Blocking, torch.zeros(2, 3), steps=1)
    blind = replace(run, view=view._replace(is_open=None))

    def reading(field):
        return type("Own", (Rule,), {"holds": lambda self, run: getattr(run.view, field).flatten() > 0})()

    assert reading("is_open").may_stop(run, 1).tolist() == [True, False]
    assert reading("image").may_stop(blind, 1).all()
    with pytest.raises(ModelError, match=r"rule Own, with .* does not block: .*'flatten'; .* must say looks_at_input = True"):
        reading("is_open").may_stop(blind, 1)
    with pytest.raises(AttributeError, match="'nothing'"):
        reading("nothing").may_stop(run, 1)


NETWORK = """
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

class MyANN(VGG_wFeedback):
    pass

class MySNN(VGG_SNN_STDB_wFeedback):
    pass
"""


@pytest.mark.parametrize(
    ("word", "text", "said"),
    [
        ("none.py:MySNN", "", "none.py: there is no such file"),
        ("my_idea", "", "--model my_idea: give FILE.py:CLASS, or FILE.py alone for what it registers"),
        ("x.py:Mine", NETWORK, "there is no class Mine; it has MyANN, MySNN"),
        ("x.py:MyANN", NETWORK, "MyANN is not derived from VGG_SNN_STDB_wFeedback, as this script wants"),
        ("x.py:Other", "class Other:\n    pass", "Other is not derived from VGG_wFeedback or VGG_SNN_STDB_wFeedback"),
        ("x.py:InputBlockingSNN", NETWORK.replace("MySNN", "InputBlockingSNN"), "is the name of a network that came with the"),
        ("x.py", "import torch\n\nkaboom = torch.nope", "x.py:3: AttributeError: module 'torch' has no attribute 'nope'"),
        ("x.py", "def f(:", "x.py:1: SyntaxError: invalid syntax"),
        ("x.py", BLOCKS[1].replace('"relative"', '"block"'), "x.py:7: ModelError: gate 'block' is there already"),
        ("x.py", "exit()", "x.py:1: SystemExit"),
    ],
)
def test_what_model_cannot_take_is_one_line(word, text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text(text)
    before = digests(tmp_path)
    imported.cache_clear()
    assert said in refused(SNN, f"--model {word} {DATA} --output_dir {tmp_path}")
    assert digests(tmp_path) == before or list(tmp_path.iterdir()) == [tmp_path / "x.py", tmp_path / "__pycache__"]


def test_a_class_of_ones_own_keeps_its_name(trained, tmp_path):
    """ANN and SNN of one file: trained, converted, taught, loaded; refused as anything else, with what to type."""
    file, here = tmp_path / "x.py", f"--output_dir {tmp_path}"
    ann, snn = tmp_path / "trained_models/ann/x.pth", tmp_path / "trained_models/snn/x.pth"
    file.write_text(NETWORK)
    imported.cache_clear()
    run_here(ANN, TINY, f"--model {file}:MyANN --teacher_ann {trained.ann} --run_name x {here}")
    convert = f"--pretrained_ann {ann} {SPIKING} --run_name x {here}"
    assert f"{ann} holds 'MyANN', a network of somebody's own: --model FILE.py:MyANN, or load(path, m" in refused(SNN, convert)
    run_here(SNN, convert, f"--model {file}:MySNN --teacher_ann {ann}")
    assert "holds 'MySNN', a network of somebody's own" in refused("export", snn, "--to torch")
    assert "wrote" in run_here("export", snn, f"--to torch --model {file}:MySNN")[1]
    for wrong in (f"--pretrained_snn {snn} --test_only", "--run_name x --resume --epochs 2"):
        assert "--model FILE.py:MySNN, or load(path, model=MySNN)" in refused(SNN, wrong, here)
        assert f"{file} registers nothing, and a network is named: --model {file}:" in refused(
            SNN, wrong, here, f"--model {file}"
        )
    assert "holds 'MySNN'" in refused(SNN, "--run_name x --resume", here, f"--model {other(tmp_path)}:Other")

    own = named(f"{file}:MySNN")
    assert type(load(snn, model=own)) is type(load(trained.snn, model=own)) is own
    blocking = load(REPOSITORY / "trained_models/snn/accurate_feedback.pth", model=own)  # its file leaves the gate to its class
    assert type(blocking) is own and blocking.settings["gate"] == "block"
    for path, cls, words in (
        (snn, None, r"x.pth holds 'MySNN', a network of somebody's own: --model FILE.py:MySNN, or load\(path, model=MySNN\)"),
        (snn, named(f"{other(tmp_path)}:Other"), "holds 'MySNN', a network of somebody's own"),
        (ann, own, "holds 'MyANN', a network of somebody's own"),
        (trained.ann, own, "holds 'VGG_wFeedback', and MySNN is derived from VGG_SNN_STDB_wFeedback"),
        (snn, "MySNN", "model='MySNN': give the class itself"),
        (snn, dict, "dict is not derived from VGG_wFeedback or VGG_SNN_STDB_wFeedback"),
    ):
        with pytest.raises(ModelError, match=words):
            load(path, model=cls)


def other(folder):
    """A file with the class Other."""
    (folder / "other.py").write_text(NETWORK.replace("MySNN", "Other"))
    return folder / "other.py"


def test_a_recipe_names_a_model_and_a_setting_of_its_class_is_a_flag(trained, tmp_path):
    (tmp_path / "x.py").write_text(SETTING)
    recipe = (
        (REPOSITORY / "recipes/own.toml").read_text().replace("[snn]", f'[snn]\nmodel = "{tmp_path / "x.py"}:Gained"\ngain = 2.5')
    )
    (tmp_path / "gained.toml").write_text(f'dataset = "MNIST"\n{recipe}')
    imported.cache_clear()
    args = snn_wFeedback.build_parser(words := ["--preset", str(tmp_path / "gained.toml")]).parse_args(words)
    assert args.gain == 2.5 and new_snn(with_facts(args)).settings["gain"] == 2.5


SETTING = """
from dataclasses import dataclass
from self_models.basics.settings import POSITIVE, setting
from self_models.network.declared import SpikingSettings
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

@dataclass
class Gaining(SpikingSettings):
    gain: float = setting(1.0, POSITIVE, "of the input", group="spiking")

class Gained(VGG_SNN_STDB_wFeedback):
    Settings = Gaining
"""


def test_the_reference_may_be_asked_for(trained, tmp_path):
    """The same figures, step by step, in training, too; the log and the records say so."""
    rows = []
    for engine in ("dense", "reference"):
        flags = f"--pretrained_snn {trained.snn} --engine {engine} {DATA} --output_dir {tmp_path} --run_name {engine}"
        said = run_here(SNN, flags, "--epochs 1 --select test")[1]
        assert f"engine: {engine}\n" in said
        (epoch,) = records(tmp_path / f"logs/snn/{engine}.jsonl", "epoch")
        rows.append((epoch["evaluated"]["accuracy"], epoch["evaluated"]["spikes"]))
    assert rows[0][0] == rows[1][0] and rows[0][1] == pytest.approx(rows[1][1], rel=1e-2)
