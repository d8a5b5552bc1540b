"""Parts, networks and losses of one's own go through every script as those that are here do, and do what they say."""

import importlib
import re
import shlex
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
from harness.building import models as own
from harness.building.models import imported, named, new_snn
from harness.data.facts import find_facts
from harness.training.losses import LOSSES, Loss
from self_models import ModelError, load, load_data
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import NOT_NEGATIVE, objective_setting
from self_models.objectives.gates import GATES
from self_models.objectives.stopping import RULES, Rule
from self_models.runtime.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

PAGE = (REPOSITORY / "docs/how_to/extend.md").read_text(encoding="utf-8")
IN_PYTHON, *BLOCKS, _LOOP = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CHANGED_LINE = re.search(r"^ {4}model = new_snn.*$", PAGE, re.MULTILINE)[0]
OWN = "--readout membrane_scaled --readout_gain 3 --gate relative --slack 0.05 --epsilon 0.2 --rule settled --lead 0.4"
pytestmark = pytest.mark.usefixtures("forgotten")


def test_a_gate_in_plain_python(capsys):
    """The page's first program runs, and its gate saves more than the gate that it is derived from."""
    exec(compile(IN_PYTHON, "extend.md", "exec"), {"__name__": "extend"})
    accuracy, spikes = re.fullmatch(r"(\S+), (\S+) spikes\n", capsys.readouterr().out).groups()
    assert float(accuracy) > 0.9 and int(spikes.replace(",", "")) > 0


def test_a_copy_of_the_script_trains_with_a_gate_of_its_own(trained, tmp_path, monkeypatch):
    """One line is changed, as the page says. Its records and its checkpoint name the gate."""
    script = (REPOSITORY / "snn_wFeedback.py").read_text(encoding="utf-8")
    made = "    model = new_snn(args)\n"
    assert script.count(made) == 1
    gate = IN_PYTHON[IN_PYTHON.index("@dataclass") : IN_PYTHON.index("snn = load")]
    imports = "from dataclasses import dataclass\n" + IN_PYTHON.split("\n")[3] + "\n"
    script = script.replace(made, f"{CHANGED_LINE}\n").replace(
        "DESCRIPTION =", f"{gate}\nDESCRIPTION ="
    )
    script = script.replace("import torch\n", f"import torch\n{imports}", 1)
    (tmp_path / "mine.py").write_text(script)
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("mine")
    flags = f"--pretrained_ann {trained.ann} {ON_HELD_OUT} --epochs 1 --run_name x {DATA}"
    mine.main(shlex.split(f"{flags} --output_dir {tmp_path}"))
    log = tmp_path / "logs/snn/x.jsonl"
    evaluation = records(log, "evaluation")[-1]
    assert evaluation["gate"] == "Relative" and evaluation["epsilon"] == 0.2
    opening = records(log, "run")[0]  # which tells the gate in force, not the flags
    assert opening["parameters"]["gate"] == "Relative" and opening["parameters"]["slack"] == 0.1
    assert opening["origins"]["epsilon"] == "found"

    # It resumes and evaluates its own network. The script without the gate refuses it.
    mine.main(shlex.split(f"--resume --run_name x --epochs 2 --output_dir {tmp_path}"))
    assert len(records(log, "epoch")) == 2
    path = tmp_path / "trained_models/snn/x.pth"
    judge = f"--test_only --pretrained_snn {path} {DATA} --output_dir {tmp_path} --run_name"
    mine.main(shlex.split(f"{judge} judged"))
    assert "has a gate of somebody's own, Relative, which nobody has registered" in refused(
        "snn", f"{judge} refused"
    )
    with pytest.raises(ModelError, match=r"load\(path, gate=Relative\(\.\.\.\)\)"):
        load(path)
    assert load(path, gate=mine.Relative(epsilon=0.2)).settings["slack"] == 0.1


def test_parts_of_ones_own_go_through_all_scripts(trained, tmp_path):
    """As a gate of examples/ does, which stays in evaluation; here it does not."""
    assert "stays_in_evaluation = True" in BLOCKS[1]
    (tmp_path / "parts.py").write_text(
        "\n\n".join(BLOCKS[1:]).replace("stays_in_evaluation = True", "")
    )
    here, path = (
        f"--model {tmp_path / 'parts.py'} {DATA} --output_dir {tmp_path}",
        tmp_path / "trained_models/snn/own.pth",
    )
    started = f"--pretrained_ann {trained.ann} --timesteps 3 --update immediate --balance_images 8 --balance_timesteps 6"
    said = run_here("snn", f"{started} --epochs 1 {OWN} {here} --run_name own")[1]
    assert re.search(
        r"^--model: parts\.py, digest [0-9a-f]{16}, classes: .*Settled", said, re.MULTILINE
    )
    later = f"--pretrained_snn {path} {here}"
    found, said = run_here("obj2", f"{later} --rules settled --leads 0.1 0.9")
    assert found[0]["bounds"] == {"lead": 0.1}
    assert (
        "note: this SNN was trained with gate relative, and runs with gate block here; --gate relative runs it as"
        in said
    )
    run_here("compare", trained.snn, path, f"--evaluate {here}")  # each as it was trained
    one, again = (
        records(tmp_path / f"logs/snn/{name}.jsonl", "evaluation")[0]
        for name in ("own", "own_compared")
    )
    assert one["spikes"] == again["spikes"] and one["bounds"] == again["bounds"] == {"lead": 0.4}
    kept = {
        "readout": "membrane_scaled",
        "readout_gain": 3.0,
        "gate": "relative",
        "slack": 0.3,
        "rule": "settled",
        "lead": 0.4,
    }
    assert kept.items() <= load(path, slack=0.3).settings.items()
    parser = snn_wFeedback.build_parser(["--model", str(tmp_path / "parts.py")])
    assert {
        "--slack",
        "--readout_gain",
    } <= parser._option_string_actions.keys() and "relative" in parser.format_help()


def rule(name, field):
    """A rule with this field."""
    return dataclass(
        type("Own", (Rule,), {"__annotations__": {name: float}, name: field, "holds": id})
    )


LEAD = objective_setting(1.0, NOT_NEGATIVE, "")


def test_what_a_part_lacks_or_takes_from_others_is_said_at_once(monkeypatch):
    """A setting is declared once: another rule's name would change that rule's default, and --augment mean what a gate says."""
    for part, words in (
        (
            type("Own", (SimpleNamespace,), {}),
            "rule 'x': derive Own from Rule of self_models.objectives.stopping",
        ),
        (
            type("Own", (Rule,), {"holds": id, "lead": LEAD}),
            "write @dataclass under its registration",
        ),
        (
            rule("gap_bound", LEAD),
            "rule 'x': confidence has a setting gap_bound, too: inherit it, or take another",
        ),
    ):
        with pytest.raises(ModelError, match=words):
            RULES.register("x")(part)
        assert "x" not in RULES
    monkeypatch.setitem(RULES, "x", rule("shift", LEAD))
    assert "--model: --shift is a flag of this script already: give" in refused(
        "snn", "--epsilon 0.1"
    )
    monkeypatch.setitem(RULES, "x", rule("timesteps", LEAD))  # nor one of the network
    with pytest.raises(
        ModelError, match="a rule declares a setting timesteps, which InputBlockingSNN has already"
    ):
        InputBlockingSNN.known_settings()


NETWORK = """
from dataclasses import dataclass
from self_models.basics.settings import POSITIVE, setting
from self_models.config import SpikingSettings
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

class MyANN(VGG_wFeedback):
    pass

@dataclass
class MySettings(SpikingSettings):
    gain: float = setting(1.0, POSITIVE, "of the input", group="spiking")

class MySNN(VGG_SNN_STDB_wFeedback):
    Settings = MySettings
"""


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
        (
            "x.py",
            "import torch\n\nkaboom = torch.nope",
            "x.py:3: AttributeError: module 'torch' has no attribute 'nope'",
        ),
        (
            "x.py",
            BLOCKS[1].replace('"relative"', '"block"'),
            "x.py:8: ModelError: gate 'block' is there already",
        ),
    ],
)
def test_what_model_cannot_take_is_one_line(word, text, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text(text)
    imported.cache_clear()
    assert (
        said in refused("snn", f"--model {word} {DATA} --output_dir {tmp_path}")
        and not (tmp_path / "logs").exists()
    )


def test_a_class_of_ones_own_keeps_its_name(trained, tmp_path):
    """ANN and SNN of one file: trained, converted, taught, loaded; refused as anything else, with what to type."""
    file, here = tmp_path / "x.py", f"--output_dir {tmp_path}"
    ann, snn = tmp_path / "trained_models/ann/x.pth", tmp_path / "trained_models/snn/x.pth"
    file.write_text(NETWORK)
    imported.cache_clear()
    run_here("ann", TINY, f"--model {file}:MyANN --teacher_ann {trained.ann} --run_name x {here}")
    convert = f"--pretrained_ann {ann} {SPIKING} --run_name x {here}"
    assert (
        f"{ann} holds 'MyANN', a network of somebody's own: --model FILE.py:MyANN, or load(path, m"
        in refused("snn", convert)
    )
    run_here("snn", convert, f"--model {file}:MySNN --teacher_ann {ann}")
    assert "holds 'MySNN', a network of somebody's own" in refused("export", snn, "--to torch")
    assert "wrote" in run_here("export", snn, f"--to torch --model {file}:MySNN")[1]
    own = named(f"{file}:MySNN")
    assert type(load(snn, model=own)) is type(load(trained.snn, model=own)) is own
    blocking = load(
        REPOSITORY / "trained_models/snn/accurate_feedback.pth", model=own
    )  # its file leaves the gate to its class
    assert type(blocking) is own and blocking.settings["gate"] == "block"
    for path, cls, words in (
        (ann, own, "holds 'MyANN', a network of somebody's own"),
        (snn, dict, "dict is not derived from VGG_wFeedback or VGG_SNN_STDB_wFeedback$"),
    ):
        with pytest.raises(ModelError, match=words):
            load(path, model=cls)


def test_a_recipe_names_a_model_and_a_setting_of_its_class_is_a_flag(trained, tmp_path):
    (tmp_path / "x.py").write_text(NETWORK)
    own = f'[snn]\ndataset = "MNIST"\nmodel = "{tmp_path / "x.py"}:MySNN"\ngain = 2.5'
    (tmp_path / "gained.toml").write_text(
        (REPOSITORY / "recipes/own.toml").read_text().replace("[snn]", own)
    )
    imported.cache_clear()
    args = snn_wFeedback.build_parser(
        words := ["--preset", str(tmp_path / "gained.toml")]
    ).parse_args(words)
    find_facts(args)
    assert args.gain == 2.5 and new_snn(args).settings["gain"] == 2.5


ON_HELD_OUT = SPIKING.replace("--select test", "--holdout 8")
IDEAS = {  # file -> (its class, flags, what a count of operations does not know)
    "neighbours": ("", "--gate neighbours --around 0", ""),
    "adaptive_threshold": ("AdaptiveSNN", "", "features.1 (AdaptiveNeuron)"),
    "two_decoders": ("TwoDecoders", "--readout spike_count", "the methods of TwoDecoders"),
    "refractory": ("Refractory", "", "the methods of Refractory"),
}


def word_for(name, folder=REPOSITORY / "examples"):
    """--model of an idea; that of the page is written into this folder."""
    path = REPOSITORY / f"examples/{name}.py"
    if not path.is_file():
        path = folder / path.name
        path.write_text(
            re.search(
                rf"^```python\n([^`]*class {IDEAS[name][0]}.*?)^```$",
                PAGE,
                re.MULTILINE | re.DOTALL,
            )[1]
        )
    return f"{path}:{IDEAS[name][0]}".rstrip(":")


@pytest.mark.parametrize(
    "name", [name for name in IDEAS if name != "refractory"]
)  # whose commands test_docs runs
def test_an_idea_is_one_file_and_goes_through_all_scripts(name, trained, tmp_path):
    cls, flags, not_counted = IDEAS[name]
    word, path, here = (
        word_for(name, tmp_path),
        tmp_path / "trained_models/snn/x.pth",
        f"--output_dir {tmp_path}",
    )
    said = run_here(
        "snn",
        f"--pretrained_ann {trained.ann}",
        ON_HELD_OUT,
        f"--model {word} {flags} {here} --run_name x",
    )[1]
    why = (
        "reference (it replaces methods, or has parts or hooks of its own)"
        if cls
        else "dense (the event engine has no form"
    )
    assert f"engine: {why}" in said
    assert load_checkpoint(path)["model"] == (cls or "VGG_SNN_STDB_wFeedback")

    resumed = f"--run_name x --resume --epochs 2 {here}"
    if cls:
        assert (
            f"holds '{cls}', a network of somebody's own: --model FILE.py:{cls}, or load("
            in refused("snn", resumed)
        )
    run_here("snn", resumed, f"--model {word}")
    later = f"--pretrained_snn {path} --model {word} {flags} {DATA} {here}"
    rows, said = run_undrawn("obj1", later, "--epsilon 0 0.9")
    assert rows[1]["spikes"]["input"] < rows[0]["spikes"]["input"]
    assert rows[0]["engine"] == ("reference" if cls else "dense") and (
        "operations" in rows[0]
    ) == (not cls)
    assert (
        f"note: a count of operations does not know {not_counted}: there are none" in said
    ) == bool(cls)
    if (
        name == "two_decoders"
    ):  # one with a step of its own is compared and drawn, a gate is shown a stream
        said = run_here("compare", trained.snn, path, f"--evaluate --model {word} {DATA} {here}")[
            1
        ]
        assert re.search(r"run with +T = 5, ε = 0.0 +T = 5, ε = 0.0, class = TwoDecoders\n", said)
        run_undrawn("analysis", later, "--images 2 --raster")
    if name == "neighbours":
        run_here(
            "stream",
            later.replace(flags, ""),
            "--scene switch --scene_frames 3 --steps_per_frame 2",
        )
        kept = records(tmp_path / "logs/snn/x_posthoc_stream.jsonl", "run")[0]["parameters"]
        assert (kept["gate"], kept["around"]) == ("neighbours", 0)  # as trained


def test_the_page_s_surrogate_by_hand(trained, tmp_path):
    """At v = 1/3, its slope is 1 / (1 + (pi/3)^2) = 0.477; as a file it is a choice of --activation."""
    (tmp_path / "arc.py").write_text(
        re.search(r"```python\n([^`]*SURROGATES.register.*?)```", PAGE, re.DOTALL)[1]
    )
    flags = f"--model {tmp_path / 'arc.py'} --activation ATan --output_dir {tmp_path} --run_name x"
    run_here("snn", f"--pretrained_ann {trained.ann}", ON_HELD_OUT, flags)
    neuron = load(tmp_path / "trained_models/snn/x.pth").features[1]
    v = torch.full((1,), 4 / 3, requires_grad=True)
    neuron.spike(v, torch.ones(())).backward()
    assert v.grad.item() == pytest.approx(0.477, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in IDEAS if IDEAS[name][0]])
@torch.no_grad()
def test_a_stream_keeps_all_of_a_state_of_ones_own(name, tmp_path):
    """In pieces, saved and loaded in between, it is the whole; surprise and record= find what they need in it."""
    cls = own.named(word_for(name, tmp_path))
    model = build(
        cls,
        gate="block",
        epsilon=0.4,
        blocking="dynamic",
        surprise=1.0,
        timesteps=6,
        plan=[[4, "D", 6], ["U", "in"]],
    )
    x, record = images(2), {"features.1": ("spikes", "membrane")}
    shown = [x, x, x.flip(0), x.flip(0)]
    whole, stream = model.stream(seed=3), model.stream(seed=3)
    wanted = [whole(one, 2, record=record) for one in shown]
    for number, one in enumerate(shown):
        found, state = stream(one, 2, record=record), stream.state_dict()
        assert torch.equal(found.logits_by_step, wanted[number].logits_by_step)
        assert torch.equal(found.predictions, wanted[number].predictions)
        assert torch.equal(
            found.recorded["features.1"]["membrane"],
            wanted[number].recorded["features.1"]["membrane"],
        )
        stream = model.stream(seed=9)
        stream.load_state_dict(state)
    key = {
        "AdaptiveSNN": "risen.features.1",
        "TwoDecoders": "memory.generate2",
        "Refractory": "memory.refractory",
    }[cls.__name__]
    assert len(state[key]) == 2 and state[key].any()
    with pytest.raises(
        ModelError, match="this state is damaged, or that of another network's stream"
    ):
        build(VGG_SNN_STDB_wFeedback, plan=[[4, "D", 6], ["U", "in"]]).stream().load_state_dict(
            state
        )


def test_neighbours_by_hand():
    """One pixel is missed; the eight around it stay open with it, and no other does."""
    own.named(word_for("neighbours"))
    gate, image = GATES["neighbours"](epsilon=0.1), torch.zeros(1, 1, 4, 5)
    guess = image.clone()
    guess[0, 0, 0, 1] = 0.5
    assert gate.next_view(image, guess, gate.start(image)).is_open[0, 0].int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@torch.no_grad()
def test_adaptive_threshold_by_hand():
    """Threshold 1, drive 0.6: it rises at the second step to 1.1, is 1.09 at the fourth, in which 1.4 - 1.09 = 0.31 are left."""
    model = build(own.named(word_for("adaptive_threshold")), default_threshold=1.0)
    neuron, state, seen = model.features[1], None, []
    for _ in range(4):
        spikes, state = neuron(torch.full((1, 1), 0.6), state)
        seen.append([spikes.item(), round(state.v.item(), 4), round(state.risen.item(), 4)])
    assert seen == [[0, 0.6, 0], [1, 0.2, 0.1], [0, 0.8, 0.09], [1, 0.31, 0.181]]


@torch.no_grad()
def test_two_decoders_predict_their_mean():
    """Of what the first predicts, as it does alone, and the second, a convolution of all spikes of the first layer so far."""
    settings, x = {"gate": "open", "readout": "membrane_linear", "timesteps": 5}, images(2)
    both, alone = (
        build(cls, **settings)
        for cls in (own.named(word_for("two_decoders")), VGG_SNN_STDB_wFeedback)
    )
    alone.load_state_dict(
        {name: value for name, value in both.state_dict().items() if "generate2" not in name}
    )
    found, first = both(x, seed=1, record={"features.1": "spikes"}), alone(x, seed=1)
    second = torch.stack(
        [both.generate2(sent.float()) for sent in found.recorded["features.1"]["spikes"]]
    ).cumsum(0)
    torch.testing.assert_close(found.predictions, (first.predictions + second) / 2)
    assert torch.equal(found.logits, first.logits) and second.abs().max() > 0


@torch.no_grad()
def test_a_refractory_input_neuron_sends_no_two_spikes_in_a_row(tmp_path):
    """Not where a pixel is 1, either."""
    model = build(own.named(word_for("refractory", tmp_path)), gate="open", timesteps=6)
    sent = model(torch.ones(1, *model.image_shape), seed=0, record={"input": "spikes"}).recorded[
        "input"
    ]["spikes"]
    assert sent[::2].all() and not sent[1::2].any()


PLAIN = f"-a VGG5_wFeedback_small --fc_width 16 --timesteps 5 --update immediate --readout membrane_linear --select test {DATA}"
FILE = REPOSITORY / "examples/prediction_variance.py"
LABELS = torch.tensor([0, 1])


@pytest.fixture
def variance(forgotten):
    """The class that the example registers; nobody else's losses are there."""
    LOSSES.clear()
    return own.imported(FILE).PredictionVariance


def test_the_example_trains_through_the_script_and_resumes(tmp_path, variance):
    LOSSES.clear()  # the flag --model is to bring it
    own.imported.cache_clear()
    weighed, here = (
        f"{PLAIN} --model {FILE} --variance_weight 0.02 --variance_steps 3",
        f"--output_dir {tmp_path}",
    )
    run_here("snn", f"{weighed} --epochs 2 --run_name whole {here}")
    run_here("snn", f"{weighed} --epochs 1 --run_name part {here}")
    weights, logs = tmp_path / "trained_models/snn", tmp_path / "logs/snn"
    evaluated = records(logs / "part.jsonl", "epoch")[0]["evaluated"]
    test = load_data("MNIST", limit_test=16)[2].whole()
    p = (
        load(weights / "part.pth")(test.images, draws=Draws(0, EVALUATION, test.index))
        .predictions[2:]
        .detach()
    )
    expected = ((p - p.mean(0)) ** 2).mean(0).sum().item() / 16
    assert evaluated["variance_loss"] == pytest.approx(expected, rel=1e-4) and expected > 0.01
    parts = (
        evaluated["classification"] + evaluated["reconstruction"] + 0.02 * expected
    )  # trade_off is 1
    assert evaluated["total"] == pytest.approx(parts, rel=1e-4)

    again = f"--resume --epochs 2 --run_name part {here}"
    assert "trained with other settings (variance_steps)" in refused(
        "snn", f"{PLAIN} {again} --variance_steps 2"
    )
    run_here("snn", again)
    assert same_weights(weights / "part_last.pth", weights / "whole_last.pth")

    LOSSES.clear()
    words = "part_last.pth was trained with --variance_weight 0.02, a loss that is not registered here: add its --model FILE.py"
    assert words in refused("snn", again)


def test_no_step_is_kept_for_a_loss_that_does_not_look_at_it(tmp_path, variance):
    """But there are images, labels, and the outputs and spikes of each step, in training and in evaluation."""
    seen = []

    def value(self, output, images, labels):
        steps = {len(output.logits_by_step), *map(len, output.spikes_by_step.values())}
        seen.append(
            (
                output.predictions is output.errors is output.is_open is None,
                len(images) == len(labels) == 16,
                steps,
            )
        )
        return output.logits_by_step.square().mean()

    LOSSES.register("small")(dataclass(type("Own", (Loss,), {"value": value})))
    run_here("snn", f"{PLAIN} --small_weight 1 --epochs 1 --output_dir {tmp_path}")
    assert seen == [(True, True, {5})] * 3  # two batches to learn from, one to judge


def test_a_loss_that_looks_at_predictions_teaches_a_decoder(trained, tmp_path, variance):
    here = f"--pretrained_snn {trained.snn} --train decoder --trade_off 0 --epochs 1 {DATA} --select test --run_name x"
    assert "--trade_off above 0" in refused("snn", f"{here} --output_dir {tmp_path}")
    without = f"-a VGG5_small --epochs 1 {DATA} --output_dir {tmp_path} --variance_weight 1"
    assert "VGG5_small has no decoder" in refused("snn", without)
    run_here("snn", f"{here} --variance_weight 1 --output_dir {tmp_path}")
    before, after = (
        load_checkpoint(path)["state_dict"]
        for path in (trained.snn, tmp_path / "trained_models/snn/x.pth")
    )
    assert {
        name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])
    } == {"generate"}
