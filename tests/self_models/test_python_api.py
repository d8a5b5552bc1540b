"""Use from Python: load() and evaluate(), what they give, and what they refuse."""

import copy
import pickle
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PLAN, REPOSITORY, check_same_figures, images, records, run_undrawn

from self_models import ModelError, evaluate, load, load_data
from self_models.checkpoints.files import load_checkpoint
from self_models.checkpoints.loading import on_engine
from self_models.data.images import prepare_images
from self_models.running.draws import EVALUATION, Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

FEEDBACK = REPOSITORY / "trained_models/snn/snn_feedback.pth"
ANN = REPOSITORY / "trained_models/ann/ann_feedback.pth"


def committed_checkpoints():
    """List the checkpoints that git knows, or all where there is no git."""
    command = ["git", "ls-files", "trained_models/*.pth"]  # a user's own are none of them
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout
    paths = [REPOSITORY / path for path in listed.split()]
    return paths or sorted((REPOSITORY / "trained_models").glob("*/*.pth"))


@pytest.fixture(scope="module")
def digits():
    """Load test images of MNIST."""
    return load_data("MNIST", limit_test=20)[2]


# --- what load() takes


@pytest.mark.parametrize("path", committed_checkpoints(), ids=lambda path: path.stem)
def test_every_committed_checkpoint(path, digits):
    saved = load_checkpoint(path)
    model = load(path, engine="dense")

    assert type(model).__name__ == saved["model"]
    assert not model.training
    assert saved["settings"].items() <= model.settings.items()
    state = model.state_dict()
    assert state.keys() == saved["state_dict"].keys()
    for name, values in state.items():
        assert torch.equal(values, saved["state_dict"][name].float())

    if model.image_shape == (1, 28, 28):
        images = digits.images[:2]
    else:
        images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(256).byte()
    with torch.no_grad():
        output = model(images)
    assert output.logits.shape == (2, 10)
    if model.has_feedback:
        assert output.predictions.shape == (model.timesteps, *images.shape)
    if path.parent.name == "snn":  # a clone may be called so, too
        assert torch.equal(output.spikes["input"] > 0, torch.tensor([True, True]))


# --- engines


def test_a_model_can_be_moved_from_each_engine_to_each():
    model = load(FEEDBACK, engine="dense")
    runs_by = {"dense": "dense", "reference": "reference", "event": "event", "auto": "event"}
    moves = "reference dense event reference event dense auto reference auto"

    for engine in moves.split():
        on_engine(model, engine)
        assert model.runs_by == runs_by[engine], engine
        assert bool(model.engine) == (runs_by[engine] == "event"), engine


def test_an_engine_that_cannot_run_a_model_is_refused():
    model = load(FEEDBACK, engine="reference")
    with pytest.raises(ModelError, match="engine: unknown name"):
        on_engine(model, "fast")

    model.propagate = model.propagate  # an attribute that no other network has
    with pytest.raises(ModelError, match="does not know"):
        on_engine(model, "event")
    assert model.engine is None
    assert model.runs_by == "reference"

    with pytest.raises(ModelError, match="this is an ANN"):
        load(ANN, engine="event")


@pytest.fixture(scope="module")
def three_digits(digits):
    """Take three images as floats, and the uniform samples that encode them."""
    x = digits.batch(torch.arange(3)).images
    uniforms = torch.rand(8, *x.shape, generator=torch.Generator().manual_seed(0))
    return x, uniforms


def test_the_event_engine_spikes_as_the_dense_one(three_digits):
    x, uniforms = three_digits
    dense = load(FEEDBACK, engine="dense")
    event = load(FEEDBACK, engine="event")

    output = event(x, uniforms)

    assert output.spikes["input"].tolist() == dense(x, uniforms).spikes["input"].tolist()
    assert not output.logits.requires_grad


def test_a_network_on_the_event_engine_has_gradients_where_they_are_wanted(three_digits):
    x, uniforms = three_digits
    model = load(FEEDBACK, engine="event")

    wanted = x.clone().requires_grad_()  # a gradient with respect to the images
    model(wanted, uniforms).logits.sum().backward()
    assert wanted.grad.shape == x.shape

    model.train()
    assert model(x, uniforms).logits.requires_grad


# --- images


@pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_scaled_and_floats_are_not(cls, channels):
    """Floats of another precision, or rounded elsewhere, answer alike."""
    torch.manual_seed(0)
    model = cls(plan=PLAN, fc_width=4, timesteps=2, image_shape=(channels, 8, 8)).eval()
    pixels = torch.arange(2 * channels * 64).remainder(256).byte().view(2, channels, 8, 8)
    if channels == 1:
        floats = pixels / 255
    else:
        floats = pixels / 127.5 - 1

    logits = []
    for x in (pixels, floats, floats.double(), floats + 5e-5):
        torch.manual_seed(1)
        with torch.no_grad():
            logits.append(model(x).logits)

    for of_floats in logits[1:]:
        torch.testing.assert_close(of_floats, logits[0], atol=1e-4, rtol=1e-4)


def test_mirrored_arrays_are_taken():
    x = images(2)
    mirrored = x.numpy()[..., ::-1]  # strides below 0, which torch does not have
    assert torch.equal(prepare_images(mirrored, load(ANN)), x.flip(-1))


def test_arrays_of_another_byte_order_are_taken():
    x = images(2)
    swapped = x.numpy().astype(np.dtype("f4").newbyteorder())
    assert torch.equal(prepare_images(swapped, load(ANN)), x)


# --- evaluate()


def test_images_held_out_have_the_same_figures_as_in_the_script(tmp_path):
    """As an ImageSet, whose images are not the first of their files."""
    flags = f"--pretrained_snn {FEEDBACK} --holdout 20 --epsilon 0.2 --seed 3"
    here = f"--batch_size 7 --engine event --run_name x --output_dir {tmp_path}"
    run_undrawn("obj1", flags, here)
    (record,) = records(tmp_path / "logs/snn/x.jsonl", "evaluation")
    assert record["holdout"] == 20

    held_out = load_data("MNIST", holdout=20)[1]
    found = evaluate(load(FEEDBACK, engine="event"), held_out, batch_size=6, seed=3)

    check_same_figures(found, record)


def test_an_image_set_says_what_its_images_are_and_which_draws_they_have(digits):
    """Draws follow an image's place in its file, and pixels are the changed ones."""
    model = load(FEEDBACK, engine="dense", timesteps=4)
    later = replace(digits.part(5, 12), change=lambda pixels: pixels // 2)
    output = model(later.images // 2, draws=Draws(0, EVALUATION, torch.arange(5, 12)))
    expected = sum(output.spikes.values()).tolist()

    assert evaluate(model, later, batch_size=3)["per_image"]["spikes"].tolist() == expected
    for other in (replace(later, start=0), replace(later, change=None)):
        assert evaluate(model, other)["per_image"]["spikes"].tolist() != expected


def test_an_ann_is_evaluated_without_figures_of_spikes(digits):
    found = evaluate(load(ANN), digits.part(5, 12))
    assert not {"spikes", "parts", "operations"} & found.keys()


@pytest.mark.parametrize("cls", [VGG_wFeedback, VGG_SNN_STDB_wFeedback])
def test_a_network_of_one_class_is_not_evaluated(cls):
    """It has no second logit, by which its margin would be known."""
    model = cls(plan=[[2], []], image_shape=(1, 4, 4), labels=1, fc_width=4).eval()
    ones = torch.ones(2, 1, 4, 4)
    assert model(ones).logits.shape == (2, 1)
    with pytest.raises(ModelError, match=r"^this network has only one class, .* needs two$"):
        evaluate(model, ones, torch.tensor([0, 0]))


# --- what else one does in Python


def pickle_and_load(model):
    """Copy a model as between processes."""
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, pickle_and_load])
def test_a_loaded_model_can_be_copied(make_copy, digits):
    model = load(FEEDBACK, engine="event", timesteps=3)
    images = digits.images[:2]
    before = model(images, seed=0).logits

    other = make_copy(model)

    assert other.engine.model is other
    assert torch.equal(other(images, seed=0).logits, before)

    # Its weights are its own, and its engine's.
    with torch.no_grad():
        other.features[0].weight.neg_()
        x = digits.batch(torch.arange(2)).images
        torch.testing.assert_close(other(x, seed=0).logits, other.forward(x, seed=0).logits)
    assert not torch.equal(other(x, seed=0).logits, before)
    assert torch.equal(model(x, seed=0).logits, before)


def test_numbers_of_numpy_make_a_checkpoint_that_can_be_read():
    model = InputBlockingSNN(
        plan=PLAN, fc_width=np.int64(8), kernel_size=np.int64(3), leak=np.float32(0.5)
    )
    assert type(model.settings["fc_width"]) is int
    assert type(model.settings["kernel_size"]) is int
    assert type(model.settings["leak"]) is float


def test_a_class_of_ones_own_keeps_the_defaults_of_its_base():
    class Short(InputBlockingSNN):
        defaults = {"timesteps": 3}  # noqa: RUF012

    settings = Short(plan=PLAN, fc_width=8).settings
    assert settings["timesteps"] == 3
    assert settings["gate"] == "block"
    assert settings["epsilon"] == 0.1


def test_a_setting_is_changed_by_change_only():
    # As an attribute it once differed from the settings that compiled code reads, which
    # then wrote beyond its arrays.
    model = load(FEEDBACK)
    with pytest.raises(AttributeError):
        model.timesteps = 4

    model.change(timesteps=4, epsilon=1)

    assert model.timesteps == 4
    assert model.settings["timesteps"] == 4
    assert model.settings["epsilon"] == 1
    assert model.gate.epsilon == 1
    black = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    assert len(model(black, seed=0).predictions) == 4


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"epsilon": -1}, "epsilon: -1 is not"),
        ({"attention": 0.25}, "attention belongs to a gate or read-out that is not chosen"),
    ],
    ids=["no tolerance", "of another gate"],
)
def test_an_impossible_change_leaves_settings_as_they_are(setting, words):
    model = load(FEEDBACK).change(timesteps=4, epsilon=1)
    before = copy.deepcopy(model.settings)

    with pytest.raises(ModelError, match=f"^{words}"):
        model.change(**setting)

    assert model.settings == before
    assert model.timesteps == 4
    assert model.gate.epsilon == 1


def test_a_change_reaches_every_neuron():
    model = load(FEEDBACK).change(membrane_floor=0.5)
    for neuron in model.neurons().values():
        assert neuron.floor == 0.5
