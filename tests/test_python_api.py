"""Use from Python: load() and evaluate(), what they give, and what they refuse."""

import copy
import pickle
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PLAN, REPOSITORY, images, records, run_here

from self_models import ModelError, evaluate, load, load_data
from self_models.basics.checkpoints import CheckpointError, load_checkpoint
from self_models.basics.images import prepare_images
from self_models.loading import on_engine
from self_models.runtime.draws import EVALUATION, Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

LIST = ["git", "ls-files", "trained_models/*.pth"]  # a user's own are none of them
LISTED = subprocess.run(LIST, cwd=REPOSITORY, capture_output=True, text=True).stdout.split()
COMMITTED = [REPOSITORY / path for path in LISTED] or sorted(
    (REPOSITORY / "trained_models").glob("*/*.pth")
)
FEEDBACK, ANN = (
    REPOSITORY / "trained_models" / name
    for name in ("snn/snn_feedback.pth", "ann/ann_feedback.pth")
)


@pytest.fixture(scope="module")
def digits():
    return load_data("MNIST", limit_test=20)[2]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_checkpoint(path, digits):
    model, saved = load(path, engine="dense"), load_checkpoint(path)
    assert type(model).__name__ == saved["model"] and not model.training
    assert saved["settings"].items() <= model.settings.items()
    state, kept = model.state_dict(), saved["state_dict"]
    assert state.keys() == kept.keys() and all(
        torch.equal(state[name], kept[name].float()) for name in state
    )
    colour = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(256).to(torch.uint8)
    images = digits.images[:2] if model.image_shape == (1, 28, 28) else colour
    with torch.no_grad():
        output = model(images)
    assert output.logits.shape == (2, 10)
    if model.has_feedback:
        assert output.predictions.shape == (model.timesteps, *images.shape)
    if "snn" in path.parts:
        assert torch.equal(output.spikes["input"] > 0, torch.tensor([True, True]))


WEIGHT, THRESHOLD = "features.0.weight", "features.1.threshold"


def settings(**changed):
    return lambda saved: saved | {"settings": saved["settings"] | changed}


def tensor(change, name=WEIGHT):
    return lambda saved: (
        saved | {"state_dict": saved["state_dict"] | {name: change(saved["state_dict"][name])}}
    )


def weights_of(saved):
    return {
        f"module.{name}": value for name, value in saved["state_dict"].items() if "weight" in name
    }


FILES = [  # (what becomes of a checkpoint, what is said of it)
    (lambda saved: [1], "cannot be read as a checkpoint"),
    (
        lambda saved: {"state_dict": weights_of(saved)},
        "without the settings .* snn_wFeedback.py as --pretrained_snn",
    ),
    (
        lambda saved: saved | {"state_dict": weights_of(saved)},
        r"features.1.threshold is missing; .* and \d+ more; give the",
    ),
    (settings(timesteps=2.5), r": its settings build no .*timesteps: 2\.5 is not"),
    (settings(gate="mine"), ".*unknown name 'mine'.* add the --model FILE.py that registers"),
    (tensor(lambda w: w.double() * 1e300), f"is damaged: {WEIGHT} is not finite"),
    (
        tensor(lambda w: w.double() * 1e-300, THRESHOLD),
        f"is damaged: {THRESHOLD} is .*not above 0; use another copy",
    ),
]


@pytest.mark.filterwarnings("ignore")  # torch's, of what it will no longer make
@pytest.mark.parametrize(
    ("change", "words"), FILES, ids=[re.sub(r"\W+", "_", words)[:40] for _, words in FILES]
)
def test_files_that_cannot_be_loaded(tmp_path, trained, change, words):
    torch.save(change(load_checkpoint(trained.snn)), tmp_path / "x.pth")
    device = torch.get_default_device()
    with pytest.raises(CheckpointError, match=rf"x\.pth.*{words}"):
        load(tmp_path / "x.pth")
    assert torch.get_default_device() == device


def test_a_setting_that_is_no_more_is_named_and_ignored(tmp_path, trained):
    torch.save(settings(warp=9)(load_checkpoint(trained.snn)), tmp_path / "x.pth")
    with pytest.warns(
        RuntimeWarning, match=r"x\.pth: settings that are no more, and are ignored: warp"
    ):
        assert "warp" not in load(tmp_path / "x.pth").settings
    said = run_here(
        "snn",
        f"--pretrained_snn {tmp_path}/x.pth --test_only --limit_test 8 --output_dir {tmp_path}",
    )[1]
    assert f"note: {tmp_path}/x.pth has settings that are no more, and are ignored: warp\n" in said


def test_a_model_can_be_moved_from_each_engine_to_each():
    model, places = (
        load(FEEDBACK, engine="dense"),
        {"dense": (False, "dense"), "reference": (False, "reference")},
    )
    places |= dict.fromkeys(("event", "auto"), (True, "event"))
    for engine in (
        "reference",
        "dense",
        "event",
        "reference",
        "event",
        "dense",
        "auto",
        "reference",
        "auto",
    ):
        on_engine(model, engine)
        assert (bool(model.engine), model.runs_by) == places[engine], engine
    on_engine(model, "reference")
    with pytest.raises(ModelError, match="engine: unknown name"):
        on_engine(model, "fast")
    model.propagate = model.propagate  # which nobody else's is
    with pytest.raises(ModelError, match="does not know"):
        on_engine(model, "event")
    assert model.engine is None and model.runs_by == "reference"
    with pytest.raises(ModelError, match="this is an ANN"):
        load(ANN, engine="event")


def test_the_engine_serves_the_model_in_evaluation_only(digits):
    x = digits.batch(torch.arange(3)).images
    dense, event = (load(FEEDBACK, engine=engine) for engine in ("dense", "event"))
    u = torch.rand(8, *x.shape, generator=torch.Generator().manual_seed(0))
    assert event(x, u).spikes["input"].tolist() == dense(x, u).spikes["input"].tolist()
    assert not event(x, u).logits.requires_grad
    wanted = x.clone().requires_grad_()  # a gradient with respect to the images
    event(wanted, u).logits.sum().backward()
    assert wanted.grad.shape == x.shape
    event.train()
    assert event(x, u).logits.requires_grad


@pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_bytes_are_scaled_and_floats_are_not(cls, shape):
    torch.manual_seed(0)
    model = cls(plan=PLAN, fc_width=4, timesteps=2, image_shape=shape).eval()
    values = (
        torch.arange(256, dtype=torch.uint8)
        .repeat(shape[0])[: 2 * shape[0] * 64]
        .reshape(-1, *shape)
    )
    floats = values / 255 if shape[0] == 1 else values / 127.5 - 1
    outputs = []
    for x in (values, floats, floats.double(), floats + 5e-5):
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append(model(x).logits)
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], atol=1e-4, rtol=1e-4)


def test_arrays_of_another_byte_order_and_mirrored_ones_are_taken():
    x = images(2)
    for array, expected in (
        (x.numpy()[..., ::-1], x.flip(-1)),
        (x.numpy().astype(np.dtype("f4").newbyteorder()), x),
    ):
        assert torch.equal(prepare_images(array, load(ANN)), expected)


@pytest.mark.parametrize(
    ("engine", "held_out"), [("dense", False), ("event", False), ("event", True)]
)
def test_the_same_figures_as_the_script(tmp_path, digits, engine, held_out):
    """Of an ImageSet, too, whose images are not the first of their files."""
    flags = f"--pretrained_snn {FEEDBACK} --epsilon 0.2 --seed 3 --engine {engine} --batch_size 7 --run_name x"
    script, images = (
        ("obj1", "--holdout 20") if held_out else ("snn", "--test_only --limit_test 20")
    )
    run_here(script, f"{flags} {images} --output_dir {tmp_path}")
    (record,) = records(tmp_path / "logs/snn/x.jsonl", "evaluation")
    assert not held_out or record["holdout"] == 20
    data = [load_data("MNIST", holdout=20)[1]] if held_out else [digits.images, digits.labels]
    found = evaluate(load(FEEDBACK, engine=engine), *data, batch_size=6, seed=3)
    for name, key in (
        ("accuracy",) * 2,
        ("spikes", "parts"),
        ("spikes_per_layer", "spikes"),
        ("mean_steps",) * 2,
    ):
        assert record[name] == found[key], name
    for name, key in (
        ("reconstruction_error", "error"),
        ("energy_joules",) * 2,
        ("open_share",) * 2,
        ("comparisons",) * 2,
    ):
        assert record[name] == pytest.approx(found[key], rel=1e-5), name
    layers, expected = (
        operations.pop("layers") for operations in (found["operations"], record["operations"])
    )
    assert (
        found["operations"] == pytest.approx(record["operations"])
        and layers["event_acs"] == expected["event_acs"]
    )


def test_an_image_set_says_what_its_images_are_and_which_draws_they_have(digits):
    """Image by image: those of its own first image, start, and of what change makes of them, which is what the scripts show."""
    model = load(FEEDBACK, engine="dense", timesteps=4)
    later = replace(digits.part(5, 12), change=lambda pixels: pixels // 2)
    output = model(later.images // 2, draws=Draws(0, EVALUATION, torch.arange(5, 12)))
    expected = sum(output.spikes.values()).tolist()
    assert evaluate(model, later, batch_size=3)["per_image"]["spikes"].tolist() == expected
    for other in (replace(later, start=0), replace(later, change=None)):
        assert evaluate(model, other)["per_image"]["spikes"].tolist() != expected
    assert not {"spikes", "parts", "operations"} & evaluate(load(ANN), later).keys()


@pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])
def test_a_network_of_one_class_is_not_evaluated(cls):
    """It has no second logit, by which its margin would be known."""
    model = cls(plan=[[2], []], image_shape=(1, 4, 4), labels=1, fc_width=4)
    images, labels = torch.ones(2, 1, 4, 4), torch.tensor([0, 0])
    assert model.eval()(images).logits.shape == (2, 1)
    with pytest.raises(ModelError, match=r"^this network has only one class, .* needs two$"):
        evaluate(model, images, labels)


def test_importing_is_cheap():
    cheap = "import sys, self_models; assert not {'harness', 'matplotlib', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", cheap], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_loaded_model_can_be_copied(copied, digits):
    model = load(FEEDBACK, engine="event", timesteps=3)
    before = model(digits.images[:2], seed=0)
    other = copied(model)
    assert other.engine.model is other and torch.equal(
        other(digits.images[:2], seed=0).logits, before.logits
    )
    with torch.no_grad():
        other.features[0].weight.neg_()
        x = digits.batch(torch.arange(2)).images
        torch.testing.assert_close(other(x, seed=0).logits, other.forward(x, seed=0).logits)
    assert not torch.equal(other(x, seed=0).logits, before.logits) and torch.equal(
        model(x, seed=0).logits, before.logits
    )


def test_numbers_of_numpy_make_a_checkpoint_that_can_be_read():
    model = InputBlockingSNN(
        plan=PLAN, fc_width=np.int64(8), kernel_size=np.int64(3), leak=np.float32(0.5)
    )
    assert [type(model.settings[name]) for name in ("fc_width", "kernel_size", "leak")] == [
        int,
        int,
        float,
    ]


def test_a_class_of_ones_own_keeps_the_defaults_of_its_base():
    class Short(InputBlockingSNN):
        defaults = {"timesteps": 3}  # noqa: RUF012

    settings = Short(plan=PLAN, fc_width=8).settings
    assert (settings["timesteps"], settings["gate"], settings["epsilon"]) == (3, "block", 0.1)


def test_a_setting_is_changed_by_change_only():
    """Set as an attribute it once differed from the settings that compiled code reads, which wrote beyond its arrays."""
    model = load(FEEDBACK)
    with pytest.raises(AttributeError):
        model.timesteps = 4
    model.change(timesteps=4, epsilon=1)
    for impossible in ({"epsilon": -1}, {"attention": 0.25}):  # of another gate
        with pytest.raises(
            ModelError,
            match=r"^epsilon: -1 is not|^attention belongs to a gate or read-out that is not chosen",
        ):
            model.change(**impossible)
    assert (
        model.timesteps == model.settings["timesteps"] == 4
        and model.settings["epsilon"] == model.gate.epsilon == 1
    )
    assert (
        len(model(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), seed=0).predictions)
        == model.timesteps
    )
    assert {neuron.floor for neuron in model.change(membrane_floor=0.5).neurons().values()} == {
        0.5
    }
