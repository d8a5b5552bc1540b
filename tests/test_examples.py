"""Files of one's own, those of examples/ and that of docs/how_to/extend.md, go through every script, and do what they say."""

import re
from pathlib import Path

import pytest
import torch
from conftest import (
    ANALYSIS,
    ANN,
    BALANCE,
    DATA,
    OBJ1,
    REPOSITORY,
    SNN,
    SPIKING,
    STREAM,
    build,
    images,
    records,
    refused,
    run_here,
)

from harness.building import own
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.counting.operations import OperationCounter
from self_models.kernel.engine import EventEngine
from self_models.objectives.gates import GATES
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

PAGE = (REPOSITORY / "docs/how_to/extend.md").read_text(encoding="utf-8")
ON_HELD_OUT = SPIKING.replace("--select test", "--holdout 8")
IDEAS = {  # file -> (its class, flags, why its steps are taken one by one, what a count of operations does not know)
    "neighbours": ("", "--gate neighbours --around 0", "", ""),
    "adaptive_threshold": ("AdaptiveSNN", "", "features.1 (AdaptiveNeuron) is its own", "features.1 (AdaptiveNeuron)"),
    "two_decoders": ("TwoDecoders", "--readout spike_count", *["TwoDecoders.read_out_and_gate"] * 2),
    "refractory": ("Refractory", "", *["Refractory.step"] * 2),
}
pytestmark = pytest.mark.usefixtures("forgotten")


def word_for(name, folder=REPOSITORY / "examples"):
    """--model of an idea; that of the page is written into this folder."""
    path = REPOSITORY / f"examples/{name}.py"
    if not path.is_file():
        path = folder / path.name
        path.write_text(re.search(rf"^```python\n([^`]*class {IDEAS[name][0]}.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1])
    return f"{path}:{IDEAS[name][0]}".rstrip(":")


@pytest.mark.parametrize("name", IDEAS)
def test_an_idea_is_one_file_and_goes_through_all_scripts(name, trained, tmp_path):
    cls, flags, stepwise, not_counted = IDEAS[name]
    word, path, here = word_for(name, tmp_path), tmp_path / "trained_models/snn/x.pth", f"--output_dir {tmp_path}"
    said = run_here(SNN, f"--pretrained_ann {trained.ann}", ON_HELD_OUT, f"--model {word} {flags} {here} --run_name x")[1]
    assert len(Path(word.removesuffix(f":{cls}")).read_text().splitlines()) <= 40
    assert ("engine: dense (few images)" if not cls else f"engine: reference ({stepwise}") in said
    assert cls != "TwoDecoders" or f"{trained.ann} has no generate2.0, generate2.1: what is TwoDecoders's own starts" in said
    assert records(tmp_path / "logs/snn/x.jsonl", "run")[0]["parameters"]["model"] == word
    assert load_checkpoint(path)["model"] == (cls or "VGG_SNN_STDB_wFeedback")

    assert ("operations" in records(tmp_path / "logs/snn/x.jsonl", "evaluation")[0]) == (not cls)

    resumed = f"--run_name x --resume --epochs 2 {here}"
    if cls:
        assert f"holds '{cls}', a network of somebody's own: --model FILE.py:{cls}, or load(" in refused(SNN, resumed)
    run_here(SNN, resumed, f"--model {word}")
    assert [one["epoch"] for one in records(tmp_path / "logs/snn/x.jsonl", "epoch")] == [1, 2]

    later = f"--pretrained_snn {path} --model {word} {flags} {DATA} {here}"
    rows, said = run_here(OBJ1, later, "--epsilon 0 0.9")
    assert rows[1]["spikes"]["input"] < rows[0]["spikes"]["input"]
    assert rows[0]["engine"] == ("reference" if cls else "dense") and ("operations" in rows[0]) == (not cls)
    assert (f"note: a count of operations does not know {not_counted}: there are none" in said) == bool(cls)
    if name == "two_decoders":  # one with a step of its own is compared and drawn, a gate is shown a stream
        said = run_here("compare", trained.snn, path, f"--evaluate --model {word} {DATA} {here}")[1]
        assert re.search(r"run with +T = 5, ε = 0.0 +T = 5, ε = 0.0, class = TwoDecoders\n", said)
        (first,), (second,) = (records(tmp_path / f"logs/snn/{one}_compared.jsonl", "evaluation") for one in ("tiny", "x"))
        assert (first["engine"], second["engine"]) == ("dense", "reference")  # each is what its checkpoint says
        run_here(ANALYSIS, later, "--images 2 --raster")
    if name == "neighbours":
        run_here(STREAM, later.replace(flags, ""), "--scene switch --scene_frames 3 --steps_per_frame 2")
        kept = records(tmp_path / "logs/snn/x_posthoc_stream.jsonl", "run")[0]["parameters"]
        assert (kept["gate"], kept["around"]) == ("neighbours", 0)  # as trained


def test_the_pages_commands_run_one_after_the_other(tmp_path, monkeypatch):
    """As in a fresh clone, in which nobody has trained anything; small here."""
    word_for("refractory", tmp_path)
    (tmp_path / "parts.py").write_text(
        next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "slack" in block)
    )
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    python (\w+)\.py (.*(?:\\\n.*)?)", PAGE, re.MULTILINE)
    assert [name for name, _ in commands] == [ANN, SNN, OBJ1, SNN, SNN]
    for name, flags in commands:
        small = {ANN: f"{DATA} --holdout 8 --epochs 1", SNN: f"{DATA} --holdout 8 {BALANCE}", OBJ1: DATA}[name]
        run_here(name, flags.replace("\\", " "), small)
    made = sorted(path.stem for path in (tmp_path / "trained_models/snn").glob("*.pth") if not path.stem.endswith("_last"))
    assert made == ["refractory", "relative", "steady"]


@pytest.mark.parametrize("name", [name for name in IDEAS if IDEAS[name][0]])
@torch.no_grad()
def test_a_stream_keeps_all_of_a_state_of_ones_own(name, tmp_path):
    """In pieces, saved and loaded in between, it is the whole; surprise and record= find what they need in it."""
    cls = own.named(word_for(name, tmp_path))
    model = build(cls, gate="block", epsilon=0.4, blocking="dynamic", surprise=1.0, timesteps=6, plan=[[4, "D", 6], ["U", "in"]])
    x, record = images(2), {"features.1": ("spikes", "membrane")}
    shown = [x, x, x.flip(0), x.flip(0)]
    whole, stream = model.stream(seed=3), model.stream(seed=3)
    wanted = [whole(one, 2, record=record) for one in shown]
    for number, one in enumerate(shown):
        found, state = stream(one, 2, record=record), stream.state_dict()
        assert torch.equal(found.logits_by_step, wanted[number].logits_by_step)
        assert torch.equal(found.predictions, wanted[number].predictions)
        assert torch.equal(found.recorded["features.1"]["membrane"], wanted[number].recorded["features.1"]["membrane"])
        stream = model.stream(seed=9)
        stream.load_state_dict(state)
    key = {"AdaptiveSNN": "risen.features.1", "TwoDecoders": "memory.generate2", "Refractory": "memory.refractory"}[cls.__name__]
    assert len(state[key]) == 2 and state[key].any()
    with pytest.raises(ModelError, match=f"{key} of shape .* another network's stream"):
        build(VGG_SNN_STDB_wFeedback, plan=[[4, "D", 6], ["U", "in"]]).stream().load_state_dict(state)
    with pytest.raises(ModelError, match="the event engine does not know"):
        EventEngine(model).check()


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
    both, alone = (build(cls, **settings) for cls in (own.named(word_for("two_decoders")), VGG_SNN_STDB_wFeedback))
    alone.load_state_dict({name: value for name, value in both.state_dict().items() if "generate2" not in name})
    found, first = both(x, seed=1, record={"features.1": "spikes"}), alone(x, seed=1)
    second = torch.stack([both.generate2(sent.float()) for sent in found.recorded["features.1"]["spikes"]]).cumsum(0)
    torch.testing.assert_close(found.predictions, (first.predictions + second) / 2)
    assert torch.equal(found.logits, first.logits) and second.abs().max() > 0


@torch.no_grad()
def test_a_refractory_input_neuron_sends_no_two_spikes_in_a_row(tmp_path):
    """Not where a pixel is 1, either."""
    model = build(own.named(word_for("refractory", tmp_path)), gate="open", timesteps=6)
    sent = model(torch.ones(1, *model.image_shape), seed=0, record={"input": "spikes"}).recorded["input"]["spikes"]
    assert sent[::2].all() and not sent[1::2].any()


def test_a_gate_of_ones_own_is_counted_exactly():
    """By layers over many steps as by its steps one by one."""
    own.named(word_for("neighbours"))
    model, counted = build(VGG_SNN_STDB_wFeedback, gate="neighbours", epsilon=0.3), []
    for model.batched in (True, False):
        with OperationCounter(model) as counter, torch.no_grad():
            model(images(3), seed=2)
        counted.append(counter.counts())
    assert counted[0] == counted[1] and counted[0]["events"]["features.0"] > 0
