"""The gate `once`: each pixel sends at most once, a coarse grid first, then what is not predicted."""

import pytest
import torch
from conftest import NET, OBJ1, SNN, make_folder, records, run_here, run_undrawn
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.sets import load_data
from self_models import evaluate, load
from self_models.counting.operations import OperationCounter
from self_models.objectives.gates import Blocking
from self_models.objectives.once import Once, interpolated
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN

PLAN = [[4, "D", 6, "fork", 6, "D"], ["U", 4, "in"]]
BASELINE = [[4, "D", 6], []]
SHAPE, STEPS = (3, 9, 10), 6

IMAGE = torch.tensor([[0.0, 0.25, 0.4, 0.6], [0.4, 0.0, 0.4, 0.45], [0.8, 0.6, 0.4, 0.4], [0.8, 0.6, 0.4, 1.0]])[None, None]
# from 0, 0.4, 0.8 and 0.4 at its every second pixel; the last row and column are like the ones before
GUESS = torch.tensor([[0.0, 0.2, 0.4, 0.4], [0.4, 0.4, 0.4, 0.4], [0.8, 0.6, 0.4, 0.4], [0.8, 0.6, 0.4, 0.4]])[None, None]
WRONG = [[0, 3], [1, 1], [3, 3]]  # by 0.1 or more


def play(gate, image, predictions):
    """The Views of the steps before, between and after these predictions, each of the decoder alone."""
    views = [gate.start(image)]
    for prediction in predictions:
        views.append(gate.next_view(image, gate.complete(prediction, views[-1]), views[-1]))
    return views


def sent(view):
    """Which pixels send in this step, those of value 0 in the first one among them."""
    return view.is_open & view.known.done


def drive(view):
    return view.unexplained()


def test_interpolation_by_hand():
    torch.testing.assert_close(interpolated(IMAGE, 2), GUESS)
    row = torch.tensor([0.0, 9, 9, 9, 4.0, 9, 9])[None, None, None]
    assert interpolated(row, 4).flatten().tolist() == [0, 1, 2, 3, 4, 4, 4]
    assert interpolated(row, 8).flatten().tolist() == [0] * 7 and interpolated(row, 1) is row


def test_a_grey_image_by_hand():
    """The zero of the first grid is silent, the one that is sent later is an event, since its silence says: as guessed."""
    gate = Once(epsilon=0.1, guess="interpolation")
    first, second, third = play(gate, IMAGE, [0.0, 0.0])
    assert first.events[0, 0].nonzero().tolist() == [[0, 2], [2, 0], [2, 2]]
    assert sent(first)[0, 0].nonzero().tolist() == [[0, 0], [0, 2], [2, 0], [2, 2]] and first.is_open.all()
    torch.testing.assert_close(drive(first), GUESS)
    assert not first.predicted.any() and (~second.predicted)[0, 0].nonzero().tolist() == WRONG and third.predicted.all()
    assert sent(second)[0, 0].nonzero().tolist() == second.events[0, 0].nonzero().tolist() == WRONG
    assert torch.equal(second.is_open, sent(second)) and second.known.done.all()
    held = GUESS.clone()
    for y, x in WRONG:
        held[..., y, x] = IMAGE[..., y, x]
    torch.testing.assert_close(drive(second), held)
    assert not third.events.any() and not third.is_open.any() and torch.equal(drive(third), drive(second))
    assert [gate.compared(view).tolist() for view in (first, second, third)] == [[12], [0], [0]]


# A row of five pixels with grid 4, then 2, then 1; epsilon 0.2, and a decoder that says 0.05 everywhere. Of a step: what drives
# the network, who sends, who is open, who is predicted by the step before.
ROW = [0.0, 0.3, 0.8, 0.9, 0.4]
FIRST = [0.0, 0.1, 0.2, 0.3, 0.4], [4], [0, 1, 2, 3, 4], []  # the ends are sent, 0 in silence, and between them is a line
SECOND = [0.0, 0.4, 0.8, 0.6, 0.4], [2], [1, 2, 3], [0, 1, 4]  # the middle was taken for 0.25
THIRD = [0.0, 0.45, 0.8, 0.9, 0.4], [3], [3], [0, 1, 2, 4]  # 0.45 is near enough to 0.3, and is held; 0.65 is not to 0.9
LAST = [0.0, 0.45, 0.8, 0.9, 0.4], [], [], [0, 1, 2, 3, 4]
AFTER_FIRST = [0.0, 0.15, 0.25, 0.35, 0.4], [], [1, 2, 3], [0, 1, 4]  # with 2 steps for each grid: what the step before predicts
AFTER_SECOND = [0.0, 0.45, 0.8, 0.65, 0.4], [], [1, 3], [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("grid_steps", "steps", "compared"),
    [
        (1, [FIRST, SECOND, THIRD, LAST], [1, 2, 0, 0]),
        (2, [FIRST, AFTER_FIRST, SECOND, AFTER_SECOND, THIRD, LAST, LAST], [0, 1, 0, 2, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("flag", [True, False])
def test_a_row_by_hand(grid_steps, steps, compared, flag):
    """flag: fill and wait."""
    image, coarse = torch.tensor(ROW).expand(2, 1, 1, 5), 2 * grid_steps  # steps in which turns are to come
    gate = Once(epsilon=0.2, grid=4, grid_steps=grid_steps, fill=flag, wait=flag)
    views = play(gate, image, [0.05] * (len(steps) - 1))
    for step, (view, (drives, *expected)) in enumerate(zip(views, steps, strict=True)):
        drives, known = torch.tensor(drives), view.known
        torch.testing.assert_close(drive(view)[1, 0, 0], drives if flag else torch.where(known.done[1, 0, 0], drives, 0.0))
        assert [mask[1, 0, 0].nonzero().flatten().tolist() for mask in (view.events, view.is_open, view.predicted)] == expected
        assert known.step == step and gate.grid_at(step) == [4, 2, 1, 1][step // grid_steps]
        assert gate.wants(view) == (step < coarse) and gate.waits(view) == (flag and step < coarse)
        assert not Once(guess="interpolation", grid=4).wants(view)
    assert [gate.compared(view).tolist() for view in views] == [[count] * 2 for count in compared]
    assert gate.least_steps == (coarse + 1 if flag else 1)


@pytest.mark.parametrize("together", [False, True])
def test_a_colour_image_by_hand(together):
    """Red is the grey image, green and blue are as interpolated: together, they send where red does, and only there."""
    image = torch.cat([IMAGE, GUESS, GUESS], 1)
    first, second = play(Once(epsilon=0.1, guess="interpolation", together=together), image, [0.0])
    assert first.events.sum((0, 2, 3)).tolist() == [3, 3, 3]
    assert second.events[0, 0].nonzero().tolist() == WRONG
    for channel in second.events[0, 1:]:
        assert channel.nonzero().tolist() == (WRONG if together else [])


def test_together_in_plain_blocking():
    """A pixel predicted in one of two channels is blocked there, or not at all."""
    image, guess = torch.zeros(1, 2, 1, 2), torch.tensor([[0.0, 0.0], [0.0, 0.5]]).reshape(1, 2, 1, 2)
    for together, expected in ((True, [False, True, False, True]), (False, [False, False, False, True])):
        gate = Blocking(epsilon=0.1, together=together)
        assert gate.next_view(image, guess, gate.start(image)).is_open.flatten().tolist() == expected


def test_the_three_guesses_by_hand():
    decoded = torch.full_like(IMAGE, 0.05)
    corners = torch.zeros_like(IMAGE, dtype=torch.bool)
    corners[..., ::2, ::2] = True
    for guess, rest in (("interpolation", GUESS), ("decoder", decoded), ("prediction", GUESS + 0.05)):
        gate = Once(epsilon=0.1, guess=guess)
        torch.testing.assert_close(gate.complete(decoded, gate.start(IMAGE)), torch.where(corners, IMAGE, rest))


@settings(max_examples=100, deadline=None)
@given(
    guess=st.sampled_from(["interpolation", "prediction", "decoder"]), together=st.booleans(), fill=st.booleans(),
    seed=st.integers(0, 10**6), grid=st.sampled_from([1, 2, 4, 8]), grid_steps=st.integers(1, 2),
    epsilon=st.sampled_from([0.0, 0.1, 0.5]), shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
def test_every_pixel_has_one_turn(guess, together, seed, grid, grid_steps, fill, epsilon, shape):
    draw = torch.Generator().manual_seed(seed)
    image = (torch.rand(2, *shape, generator=draw) * 5).round() / 5
    gate = Once(epsilon=epsilon, together=together, grid=grid, grid_steps=grid_steps, guess=guess, fill=fill)
    turns = grid.bit_length() - 1
    views = play(gate, image, [torch.randn(image.shape, generator=draw) / 5 for _ in range(turns * grid_steps + 1)])
    often, last = sum(sent(view).int() for view in views), views[-1].known
    assert often.max() <= 1 and last.done.all()
    assert all(torch.equal(view.events, sent(view)) for view in views[1:])
    assert torch.equal(views[0].events, sent(views[0]) & (image != 0))
    assert torch.equal(last.held[often == 1], image[often == 1])
    assert ((last.held - image).abs() < epsilon)[often == 0].all()
    assert epsilon or (often == 1).all()
    assert not together or torch.equal(often.amin(1), often.amax(1))
    assert torch.equal(drive(views[-1]), last.held)
    compared = sum(gate.compared(view) for view in views)
    assert compared.tolist() == [image[0].numel() - sent(views[0])[0].sum().item() if epsilon else 0] * 2


# --- in a network


def build(cls=InputBlockingSNN, **own):
    torch.manual_seed(0)
    common = {"plan": PLAN, "timesteps": STEPS, "fc_width": 16, "image_shape": SHAPE, "readout": "membrane_linear"}
    common |= {"update": "immediate", "default_threshold": 0.3, "encoding": "direct", "gate": "once", "epsilon": 0.3}
    settings = {**common, **own}
    model = cls(**{name: value for name, value in settings.items() if name != "epsilon" or settings["gate"] == "once"}).eval()
    for layer in (0, 3, 6):  # as drawn, linear weights are too small for the classifier to fire
        model.classifier[layer].weight.data *= 20
    for layer in model.generate or ():
        for weight in layer.parameters():
            weight.data *= 0.3 if weight.dim() > 1 else 1  # so that some predictions are right
    return model


@pytest.fixture(scope="module")
def x():
    draw = torch.Generator().manual_seed(3)
    coarse = torch.rand(5, 3, 4, 4, generator=draw) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear").round(decimals=1)
    smooth[0], smooth[1] = 0.5, torch.rand(SHAPE, generator=draw) * 2 - 1  # no longer: one that is plain, one that is noise
    return smooth


def run(model, x):
    with torch.no_grad():
        return model(x, seed=0)


def test_grid_1_is_sample_and_hold(x):
    """Every pixel is sent in the first step, and drives the network in all of them, as with the gate open."""
    model = build(grid=1, grid_steps=3)
    found, expected = run(model, x), run(build(VGG_SNN_STDB_wFeedback, gate="open"), x)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.predictions[0], x)
    active = (x != 0).sum((1, 2, 3))
    assert torch.equal(found.spikes["input"], active) and torch.equal(expected.spikes["input"], STEPS * active)
    assert not found.comparisons.any() and found.logits.abs().max() > 0


@pytest.mark.parametrize("colour", [True, False])
def test_a_decoder_of_zeros_is_interpolation(x, colour):
    """And so is no decoder at all, in grey too."""
    x = x if colour else x[:, :1].abs()
    shape = {"image_shape": tuple(x.shape[1:])}
    zeros, blind = build(guess="prediction", **shape), build(guess="interpolation", **shape)
    for layer in zeros.generate:
        for weight in layer.parameters():
            weight.data *= 0 if weight.dim() > 1 else 1
    none = build(plan=[PLAN[0][:3] + PLAN[0][4:], []], guess="interpolation", readout="spike_count", **shape)
    none.load_state_dict({name: value for name, value in blind.state_dict().items() if name in none.state_dict()})
    found = run(zeros, x)
    for other in (blind, none):
        expected = run(other, x)
        assert torch.equal(found.logits, expected.logits) and torch.equal(found.predictions, expected.predictions)
        assert torch.equal(found.spikes["input"], expected.spikes["input"])
    assert 0 < found.spikes["input"].sum() < (x != 0).sum()


@pytest.mark.parametrize("grid_steps", [1, 2])
def test_all_predicted_waits_until_every_pixel_has_had_its_turn(x, grid_steps):
    """Although nothing is sent where all is predicted: halvings to 1, each after its steps."""
    output = run(build(AdaptiveTimestepsSNN, rule="all_predicted", grid=4, grid_steps=grid_steps, epsilon=9.0), x)
    assert output.steps.tolist() == [2 * grid_steps] * len(x) and output.comparisons.all()


def test_the_decoder_learns_from_pixels_that_are_not_sent(x):
    """From the error of the step, and from nothing else; once all have had their turn, from nothing."""
    model, decoded = build(), []
    model.generate[-1].register_forward_hook(lambda _, __, output: output.retain_grad() or decoded.append(output))
    output = model(x)
    output.errors[0].sum().backward(retain_graph=True)
    gradient = decoded[0].grad
    assert not gradient[..., ::2, ::2].any()
    assert torch.equal(gradient != 0, output.errors[0] != 0) and gradient.any()
    later = output.errors[1:].sum() + output.logits.sum()
    weights = [weight for weight in model.generate.parameters() if weight.requires_grad]
    gradients = torch.autograd.grad(later, weights, allow_unused=True)
    assert len(gradients) == 3 and not any(grad.any() for grad in gradients if grad is not None)


def test_the_scripts_evaluate_as_trained_without_any_flag_but_where_the_images_are(tmp_path):
    """A colour folder: the gate and its settings come from the checkpoint; another epsilon is one typed."""
    folder = make_folder(tmp_path / "pets", count=3)
    once = "--encoding direct --gate once --grid 4 --epsilon 0.3 --together --guess prediction --no-fill"
    flags = f"--dataset {folder} {NET} --timesteps 3 --update immediate --readout membrane_linear --epochs 1"
    run_here(SNN, f"{flags} {once} --run_name x --output_dir {tmp_path}")
    path = tmp_path / "trained_models/snn/x.pth"
    run_undrawn(OBJ1, f"--pretrained_snn {path} --dataset {folder} --run_name y --output_dir {tmp_path}")
    (record,) = records(tmp_path / "logs/snn/y.jsonl", "evaluation")
    model, test = load(path, engine="dense"), load_data(str(folder))[2]
    kept = {name: model.settings[name] for name in ("gate", "encoding", "grid", "epsilon", "together", "fill")}
    assert kept == {"gate": "once", "encoding": "direct", "grid": 4, "epsilon": 0.3, "together": True, "fill": False}
    expected = evaluate(model, test.images, test.labels)
    assert (record["epsilon"], record["accuracy"]) == (0.3, expected["accuracy"])
    assert record["spikes"] == expected["parts"] and 0 < record["spikes"]["input"] < 12 * 12 * 3
    assert record["comparisons"] == expected["comparisons"] > 0


# --- layers that wait, and a decoder that rests


@torch.no_grad()
def test_waiting_layers_begin_when_all_is_known(x):
    """Without a decoder the run is that on the image as known in the end, all at once, two steps later, and costs as much."""
    own = {"plan": [[4, "D", 6, 6, "D"], []], "guess": "interpolation", "default_threshold": 0.02}
    late = build(VGG_SNN_STDB_wFeedback, **own, grid=4, wait=True)
    soon = build(VGG_SNN_STDB_wFeedback, **own, grid=1, timesteps=STEPS - 2)
    with OperationCounter(late) as counted:
        waited = late(x)
    with OperationCounter(soon) as expected:
        output = soon(waited.predictions[-1])
    assert torch.equal(waited.logits_by_step[2:], output.logits_by_step) and not waited.logits_by_step[:2].any()
    assert output.logits.any()
    hidden = [name for name in output.spikes if name != "input"]
    assert all(torch.equal(waited.spikes[name], output.spikes[name]) for name in hidden)
    assert counted.counts() == expected.counts()


@torch.no_grad()
def test_layers_that_begin_anew_know_nothing_of_the_blurred_image(x):
    """With --anew what is classified is the image as known in the end, from rest, whatever the decoder saw before."""
    late = build(grid=4, wait=True, anew=True, default_threshold=0.02, initial_potential=0.5)
    known = late(x).predictions[-1]
    own = {"plan": [[4, "D", 6, 6, "D"], []], "grid": 1, "guess": "interpolation"}
    soon = build(VGG_SNN_STDB_wFeedback, **own, default_threshold=0.02, initial_potential=0.5, timesteps=STEPS - 2)
    soon.load_state_dict({name: value for name, value in late.state_dict().items() if name in soon.state_dict()})
    for images in (x, x.flip(0)):
        waited = late(images)
        assert torch.equal(waited.logits_by_step[2:], soon(waited.predictions[-1]).logits_by_step)
    assert known.any() and waited.logits.any()
    late.change(anew=False)
    assert not torch.equal(late(x.flip(0)).logits, waited.logits)


@torch.no_grad()
def test_only_what_the_decoder_needs_runs_while_the_others_wait(x):
    model = build(grid=4, wait=True, default_threshold=0.1)
    with OperationCounter(model) as counter:
        output = model(x)
    early = {name: spikes[:2].sum() > 0 for name, spikes in output.spikes_by_step.items()}
    late = {name: spikes[2:].sum() > 0 for name, spikes in output.spikes_by_step.items()}
    assert [name for name in early if early[name]] == ["input", "features.1", "features.4", "generate.2"]
    assert not late["generate.2"] and late["features.7"] and late["classifier.1"]
    to_decoder, onwards = (counter.counts()["events"][name] for name in ("generate.1", "features.6"))
    spikes = output.spikes_by_step["features.4"].sum(1)
    assert to_decoder / spikes[:2].sum() != onwards / spikes.sum()
    model.change(guess="interpolation", wait=False)  # now nobody asks the decoder
    with OperationCounter(model) as counter:
        output = model(x)
    assert output.spikes["features.4"].sum() and not output.spikes["generate.2"].any()
    assert not counter.result(2)["feedback_event_acs"]


@pytest.mark.parametrize("rule", ["confidence", "entropy", "all_predicted", "both"])
@pytest.mark.parametrize(("grid_steps", "first"), [(1, 3), (2, 5)])
@torch.no_grad()
def test_no_image_stops_before_the_waiting_classifier_has_run(x, rule, grid_steps, first):
    """With bounds that always hold: at the first step that has an answer, and with the answer of that step."""
    own = {"plan": BASELINE, "grid": 4, "grid_steps": grid_steps, "guess": "interpolation", "default_threshold": 0.02}
    bounds = {"gap_bound": 0.0, "entropy_bound": 1.0, "open_bound": 1.0}
    model = build(VGG_SNN_STDB_wFeedback, wait=True, **own, **bounds)
    whole = run(model, x)
    model.change(rule=rule)
    output = run(model, x)
    assert output.steps.tolist() == [first] * len(x)
    assert torch.equal(output.logits, whole.logits_by_step[first - 1]) and output.logits.any()
    model.change(wait=False)
    assert run(model, x).steps.tolist() == [1] * len(x)
