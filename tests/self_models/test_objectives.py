"""Properties of objectives 1 to 3: blocking, stopping, and gaining contrast."""

from dataclasses import dataclass
from math import log
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
from conftest import tiny

from self_models import ModelError, first_difference
from self_models.data.sets import ImageSet
from self_models.evaluation.evaluate import figures_per_image
from self_models.feedback.contrast import CONTRASTS, Contrast, local_contrast, local_gain
from self_models.feedback.gates import Blocking, Reconstruct
from self_models.feedback.stopping import RULES, Rule, output_entropy, output_gap
from self_models.running.outputs import SNNOutput, share_of_active
from self_models.running.state import RunState, View
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN
from snn_wFeedback_posthoc_model_inference_obj3 import accuracies, contrast_summary

STEPS = 10
COUNT = 6


def build(cls, **settings):
    common = {
        "timesteps": STEPS,
        "fc_width": 16,
        "readout": "membrane_linear",
        "default_threshold": 0.3,
        "epsilon": 0.3,
    }
    return tiny(cls, **{**common, **settings})


@dataclass
class Inputs:
    """What the networks here get.

    Attributes
    ----------
    x : Tensor of shape (COUNT, 1, 28, 28)
        Images, of which more than half of the pixels are black.
    u : Tensor of shape (STEPS, COUNT, 1, 28, 28)
        Uniform samples for the encoding.
    """

    x: torch.Tensor
    u: torch.Tensor


@pytest.fixture(scope="module")
def inputs():
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(COUNT, 1, 28, 28, generator=draw)
    x = x * (torch.rand(x.shape, generator=draw) > 0.6)
    return Inputs(x, torch.rand(STEPS, *x.shape, generator=draw))


def run(model, inputs):
    with torch.no_grad():
        return model(inputs.x, inputs.u)


def test_latch_holds_the_prediction_of_a_blocked_pixel(inputs):
    latched = run(build(InputBlockingSNN, latch=True), inputs)
    blocked = ~latched.is_open[1:]
    moved = latched.predictions[1:] != latched.predictions[:-1]
    assert blocked.any()
    assert moved.any()
    assert not (moved & blocked).any()
    guess = latched.predictions[-1].clamp(0, 1)  # images lie in [0, 1], so guesses do
    assert ((guess - inputs.x).abs() < 0.3)[~latched.is_open[-1]].all()


def test_without_latch_the_prediction_of_a_blocked_pixel_moves(inputs):
    free = run(build(InputBlockingSNN, latch=False), inputs)
    blocked = ~free.is_open[1:]
    moved = free.predictions[1:] != free.predictions[:-1]
    assert (moved & blocked).any()


def test_what_is_sent_and_predicted_rebuilds_the_frame(inputs):
    gate = Reconstruct(epsilon=0.25)
    image = inputs.x
    guess = torch.rand(image.shape, generator=torch.Generator().manual_seed(1))

    view = gate.next_view(image, guess, gate.start(image))

    # Open pixels are sent, and are exact; the others are predicted, within epsilon.
    assert torch.equal(view.is_open, (guess - image).abs() >= 0.25)
    assert torch.equal(view.events, view.is_open)
    assert torch.equal(view.image[view.is_open], image[view.is_open])
    assert ((view.image - image).abs() < 0.25).all()


def test_a_black_and_white_frame_is_rebuilt_exactly(inputs):
    white = (inputs.x > 0.5).float()
    guess = torch.rand(white.shape, generator=torch.Generator().manual_seed(1))

    view = Reconstruct(epsilon=0.4).next_view(white, guess.round(), None)

    assert torch.equal(view.image, white)
    assert view.events.sum() == (guess.round() != white).sum()


def test_a_new_frame_is_rebuilt_from_what_is_predicted(inputs):
    gate = Reconstruct(epsilon=0.25)
    image = inputs.x
    white = (image > 0.5).float()
    guess = torch.rand(white.shape, generator=torch.Generator().manual_seed(1))
    view = Reconstruct(epsilon=0.4).next_view(white, guess.round(), None)

    again = gate.on_image_change(white, guess, view, white != image)

    is_predicted = (guess - white).abs() < 0.25
    assert torch.equal(again.image, torch.where(is_predicted, guess, white))


class BrightPixelsCount(Blocking):
    """Blocks, but only says of bright pixels that they send."""

    def start(self, image):
        return super().start(image)._replace(events=image > 0.5)

    def next_view(self, image, prediction, view):
        return super().next_view(image, prediction, view)._replace(events=view.events)


@pytest.mark.parametrize("batched", [True, False])
def test_a_gate_says_whose_sending_counts(inputs, batched):
    model = build(InputBlockingSNN)
    model.batched = batched
    expected = run(model, inputs)

    model.gate = BrightPixelsCount(epsilon=0.3)
    output = run(model, inputs)

    bright = (inputs.x > 0.5).sum((1, 2, 3))
    assert bright.any()
    assert torch.equal(output.spikes["input"], STEPS * bright)
    # The first layer is driven as before.
    assert torch.equal(output.logits, expected.logits)
    assert output.logits.any()


def test_residual_input_is_what_the_prediction_left_open(inputs):
    x = inputs.x
    model = build(InputBlockingSNN, residual=True, latch=True)
    sent_by_step = []
    model.features[0].register_forward_pre_hook(
        lambda _, signals: sent_by_step.append(signals[0].reshape(x.shape))
    )

    output = run(model, inputs)

    sent = torch.stack(sent_by_step)
    # An open pixel sends a spike of the sign of x - p where the draw is at most |x -
    # p|, a blocked one nothing. At first nothing is predicted.
    assert torch.equal(sent[0], (inputs.u[0] <= x) * x.sign())
    guess = output.predictions.clamp(0, 1)
    for t in range(1, STEPS):
        error = (x - guess[t - 1]) * output.is_open[t]
        expected = torch.where(inputs.u[t] <= error.abs(), error.sign(), 0.0)
        assert torch.equal(sent[t], expected)
    assert (sent == -1).any()  # where the prediction is too high
    assert torch.equal(output.spikes["input"], sent.abs().sum((0, 2, 3, 4)))


@pytest.mark.parametrize("residual", [False, True])
def test_no_contrast_is_plain_blocking(inputs, residual):
    plain = run(build(InputBlockingSNN, residual=residual), inputs)
    none = run(build(ContrastAttentionSNN, contrast="none", residual=residual), inputs)
    assert first_difference(none, plain, tolerance=1e-5) is None


STOPPING_RULES = pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"rule": "all_predicted", "open_bound": 0.635}, id="all_predicted"),
        pytest.param({"rule": "confidence", "gap_bound": 0.8}, id="confidence"),
        pytest.param({"rule": "entropy", "entropy_bound": 0.6}, id="entropy"),
        pytest.param({"rule": "both", "open_bound": 0.655, "gap_bound": 0.2}, id="both"),
        pytest.param({"rule": "never"}, id="never"),
    ],
)


@STOPPING_RULES
def test_stopping_changes_nothing_but_the_number_of_steps(inputs, settings):
    output = run(build(AdaptiveTimestepsSNN, **settings), inputs)

    if settings["rule"] != "never":  # else the test shows nothing
        assert len(set(output.steps.tolist())) > 1, output.steps
    for image, steps in enumerate(output.steps.tolist()):
        # A run of that many steps, of this image alone.
        short = build(InputBlockingSNN, timesteps=steps)
        alone = run(short, Inputs(inputs.x[[image]], inputs.u[:steps, [image]]))
        torch.testing.assert_close(alone.logits[0], output.logits[image], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            alone.predictions[:, 0], output.predictions[:steps, image], rtol=1e-5, atol=1e-5
        )
        for name, count in alone.spikes.items():
            assert torch.equal(count[0], output.spikes[name][image])
        assert alone.comparisons[0] == output.comparisons[image]


@STOPPING_RULES
def test_an_image_stops_alike_wherever_it_stands_in_a_batch(inputs, settings):
    model = build(AdaptiveTimestepsSNN, **settings)
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    output = run(model, inputs)
    shuffled = run(model, Inputs(inputs.x[order], inputs.u[:, order]))

    assert torch.equal(shuffled.steps, output.steps[order])
    torch.testing.assert_close(shuffled.logits, output.logits[order], rtol=1e-5, atol=1e-5)


class WatchingRule(Rule):
    """Never stops an image, and notes what it sees of each step."""

    looks_at_input = True

    def __init__(self):
        self.seen = []

    def holds(self, run):
        readout = run.readout_sum.sum().item()
        is_open = run.view.is_open.sum().item()
        self.seen.append((run.steps, readout, is_open, run.logits.sum().item()))
        return torch.zeros(len(run.image), dtype=torch.bool)


def test_a_rule_sees_each_step_as_it_was(inputs, monkeypatch):
    # However many steps are taken at once, and it may look at the read-out, too.
    seen = {}
    for at_once in (1, 4):
        monkeypatch.setattr("self_models.running.loop.STEPS_BETWEEN_CHECKS", at_once)
        model = build(InputBlockingSNN)
        model.rule = WatchingRule()
        run(model, inputs)
        seen[at_once] = model.rule.seen

    assert [steps for steps, *_ in seen[1]] == list(range(1, STEPS + 1))
    assert len(set(seen[1])) == STEPS
    np.testing.assert_allclose(seen[4], seen[1], rtol=1e-5)


def test_the_output_gap_by_hand():
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    assert output_gap(logits).tolist() == [5.0 - 2.0, 0.0]


def test_the_output_entropy_by_hand():
    sure = torch.tensor([[5.0, 1.0, 2.0]])
    equal = torch.tensor([[0.0, 0.0, 0.0]])
    assert output_entropy(sure) < 0.25
    assert output_entropy(equal).item() == pytest.approx(1)
    # Probabilities of 1/2, 1/4 and 1/4 have 1.5 bits, of log2(3) bits.
    halves = torch.tensor([[log(2), 0.0, 0.0]])
    assert output_entropy(halves).item() == pytest.approx(1.5 * log(2) / log(3))


# Two of four active pixels are open, which is a share of 0.5. The last pixel is black.
HALF_OPEN = View(
    torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0]).reshape(1, 1, 1, 5),
    is_open=torch.tensor([True, True, False, False, True]).reshape(1, 1, 1, 5),
)
GAP_OF_3 = torch.tensor([[5.0, 2.0, 1.0]])
EQUAL_OUTPUTS = torch.tensor([[1.0, 1.0, 1.0, 1.0]])  # of entropy 1


@pytest.mark.parametrize(
    ("name", "logits", "bounds", "stops"),
    [
        ("all_predicted", GAP_OF_3, {"open_bound": 0.5}, True),
        ("all_predicted", GAP_OF_3, {"open_bound": 0.499}, False),
        ("confidence", GAP_OF_3, {"gap_bound": 3.0}, True),
        ("confidence", GAP_OF_3, {"gap_bound": 3.001}, False),
        ("entropy", EQUAL_OUTPUTS, {"entropy_bound": 1.0}, True),
        ("entropy", EQUAL_OUTPUTS, {"entropy_bound": 0.999}, False),
        ("both", GAP_OF_3, {"open_bound": 0.5, "gap_bound": 3.0}, True),
        ("both", GAP_OF_3, {"open_bound": 0.5, "gap_bound": 3.001}, False),
        ("both", GAP_OF_3, {"open_bound": 0.499, "gap_bound": 3.0}, False),
    ],
)
def test_a_bound_that_is_met_exactly_stops(name, logits, bounds, stops):
    state = RunState(HALF_OPEN.image, HALF_OPEN, logits=logits)
    assert RULES[name](**bounds).holds(state).tolist() == [stops]


@pytest.mark.parametrize("rule", ["confidence", "entropy", "both"])
def test_rules_that_compare_classes_are_refused_for_one_class(rule):
    """One class leads no other, and its probability is always 1."""
    words = f"^rule {rule} compares the logits of classes, and this network has only one: choose "
    with pytest.raises(ModelError, match=words):
        build(AdaptiveTimestepsSNN, labels=1, rule=rule)

    model = build(AdaptiveTimestepsSNN, labels=1, rule="all_predicted", open_bound=1.0)
    with pytest.raises(ModelError, match=words):
        model.change(rule=rule)
    assert model(torch.ones(2, 1, 28, 28), seed=0).steps.tolist() == [1, 1]  # as before


@pytest.fixture
def grey_images():
    """Make two images of four pixels of 1/2."""
    return torch.full((2, 1, 1, 4), 0.5)


@pytest.fixture
def guess(grey_images):
    """Make guesses that lie 0, 1/8, 1/4 and 3/8 from the pixels of grey_images."""
    return (grey_images + torch.tensor([0.0, -0.125, 0.25, -0.375])).requires_grad_()


@pytest.fixture
def first_view(grey_images):
    """Make the view of a first step, in which pixel 2 has been closed."""
    view = Blocking(epsilon=0.25).start(grey_images)
    view.is_open[..., 2] = False
    return view


BLOCKING = pytest.mark.parametrize("blocking", ["permanent", "dynamic"])


@BLOCKING
def test_at_first_everything_is_open(grey_images, blocking):
    gate = Blocking(epsilon=0.25, blocking=blocking)

    view = gate.start(grey_images)

    assert view.image is grey_images
    assert view.is_open.all()
    assert view.is_open.dtype == torch.bool
    assert not view.predicted.any()
    assert gate.compared(view).tolist() == [4, 4]
    assert gate.held(view) is None


@pytest.mark.parametrize(
    ("blocking", "is_open", "compared"),
    [
        # Pixel 2 stays closed, and only open pixels are compared.
        ("permanent", [False, False, False, True], 1),
        # Pixel 2 opens, since a distance of epsilon is not predicted.
        ("dynamic", [False, False, True, True], 4),
    ],
)
def test_blocking_by_hand(grey_images, guess, first_view, blocking, is_open, compared):
    gate = Blocking(epsilon=0.25, blocking=blocking)

    view = gate.next_view(grey_images, guess, first_view)

    assert view.predicted[0, 0, 0].tolist() == [True, True, False, False]
    assert view.is_open[1, 0, 0].tolist() == is_open
    assert view.explained is None
    assert view.attended is None
    assert view.image[0, 0, 0].tolist() == [0.5 * each for each in is_open]
    assert gate.compared(view).tolist() == [compared, compared]


@BLOCKING
def test_nothing_is_compared_where_epsilon_is_0(grey_images, guess, first_view, blocking):
    view = Blocking(epsilon=0.25, blocking=blocking).next_view(grey_images, guess, first_view)
    assert Blocking(epsilon=0.0, blocking=blocking).compared(view).tolist() == [0, 0]


@BLOCKING
def test_a_latch_holds_what_is_closed(grey_images, guess, first_view, blocking):
    gate = Blocking(epsilon=0.25, blocking=blocking, latch=True, residual=True)
    view = gate.next_view(grey_images, guess, first_view)
    assert torch.equal(gate.held(view), ~view.is_open)


@BLOCKING
def test_a_residual_gate_explains_the_guess_without_gradient(
    grey_images, guess, first_view, blocking
):
    gate = Blocking(epsilon=0.25, blocking=blocking, latch=True, residual=True)
    view = gate.next_view(grey_images, guess, first_view)
    assert torch.equal(view.explained, guess)
    assert not view.explained.requires_grad


def strokes(light, size=20):
    """Draw a vertical stroke on black for each column -> light."""
    image = torch.zeros(1, 1, size, size)
    for column, value in light.items():
        image[..., 2 : size - 2, column] = value
    return image


def all_open(image):
    return torch.ones_like(image, dtype=torch.bool)


# A bright stroke on the left, a dim one on the right. Their mean light is 0.6.
BRIGHT_AND_DIM = strokes({3: 1.0, 12: 0.2})


def test_local_gain_follows_what_is_open():
    both_open = all_open(BRIGHT_AND_DIM)
    gain, attended = local_gain(BRIGHT_AND_DIM, both_open)
    assert gain.item() == pytest.approx(1 / 0.6)
    # The dim stroke waits, since 0.2 / 0.6 is below half, and so does what is within 3
    # pixels of it. Farther away is nothing to wait for.
    assert attended[0, 0, 10].tolist() == [True] * 9 + [False] * 7 + [True] * 4
    assert local_contrast(BRIGHT_AND_DIM, both_open)[0, 0, 10].nonzero().tolist() == [[3]]


def test_local_gain_rises_when_the_bright_part_is_explained():
    right_open = all_open(BRIGHT_AND_DIM)
    right_open[..., :10] = False

    gain, _ = local_gain(BRIGHT_AND_DIM, right_open)
    seen = local_contrast(BRIGHT_AND_DIM, right_open)

    assert gain.item() == pytest.approx(1 / 0.2)
    assert seen[..., 2:18, 12].eq(1).all()
    assert seen[..., :10].eq(0).all()


def test_where_nothing_is_open_nothing_gains():
    gain, _ = local_gain(BRIGHT_AND_DIM, ~all_open(BRIGHT_AND_DIM))
    assert gain.item() == 1


@pytest.mark.parametrize(("dim", "expected"), [(0.2, 5), (0.1, 10), (0.04, 10)])
def test_the_largest_gain_is_10(dim, expected):
    image = strokes({8: dim})
    gain, attended = local_gain(image, all_open(image))
    assert gain.item() == pytest.approx(expected)
    assert attended[0, 0, 10, 8].item() == (expected * dim >= 0.5)


def test_a_grey_edge_beside_a_bright_stroke_gains_nothing():
    image = strokes({8: 1.0, 9: 0.3})
    only_edge = ~all_open(image)
    only_edge[..., 9] = True
    assert local_contrast(image, only_edge)[0, 0, 10, 9].item() == pytest.approx(0.3)


# --- colour: light, 0 (black) to 1, is (x + 1) / 2


@pytest.mark.parametrize("rule", ["local", "original"])
def test_contrast_in_colour_is_that_of_the_same_light_in_grey(inputs, rule):
    grey = inputs.x
    is_open = inputs.u[0] < 0.7
    colour = (2 * grey - 1).expand(-1, 3, -1, -1)
    colour_is_open = is_open.expand(-1, 3, -1, -1)

    in_grey = CONTRASTS[rule](grey, is_open)
    in_colour = CONTRASTS[rule](colour, colour_is_open)

    seen = is_open
    if rule == "local":
        _, attended = local_gain(grey, is_open)
        seen = is_open & attended
    assert (in_grey[seen] > grey[seen]).any()
    assert (~seen).any()
    # A pixel that is blocked, or waits, sends nothing: 0, which is no black in colour.
    expected = torch.where(seen, 2 * in_grey - 1, 0)[:, 0]
    for channel in in_colour.unbind(1):
        torch.testing.assert_close(channel, expected)


def test_a_dim_part_of_a_colour_image_gains_what_dimming_took():
    """Dimming towards black, which is -1, makes |x| larger and light smaller."""
    image = torch.full((1, 3, 20, 20), -1.0)
    image[:, 0, 2:18, 2:18] = 0.6  # red has light 0.8
    image[:, 1:, 2:18, 2:18] = -0.8  # green and blue have 0.1
    dim = 0.15 * (image + 1) - 1
    everywhere = all_open(image)

    gain, attended = local_gain(image, everywhere)
    dim_gain, _ = local_gain(dim, everywhere)

    # Blue gains with red only: the gain is 1 / 0.8, and 1 / (0.15 * 0.8) when dimmed.
    assert gain.item() == pytest.approx(1 / 0.8)
    assert attended.all()
    assert dim_gain.item() == pytest.approx(1 / 0.12)
    seen = local_contrast(dim, everywhere)
    torch.testing.assert_close(seen, local_contrast(image, everywhere))
    blue = 2 * (0.1 / 0.8) - 1
    assert seen[0, :, 10, 10].tolist() == pytest.approx([1, blue, blue])


FOUR_LIGHTS = torch.tensor([-1.0, 1.0, 0.0, -0.5]).reshape(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("channels", "ink"),
    [
        # In grey light is |x|, in colour (x + 1) / 2, of three channels.
        pytest.param(1, 1 + 1 + 0 + 0.5, id="grey"),
        pytest.param(3, 3 * (0 + 1 + 0.5 + 0.25), id="colour"),
    ],
)
def test_ink_is_light(channels, ink):
    images = FOUR_LIGHTS.expand(2, channels, 2, 2)
    output = SNNOutput(
        logits=torch.zeros(2, 3),
        predictions=None,
        errors=None,
        spikes={"input": torch.ones(2)},
        steps=torch.ones(2),
        comparisons=torch.zeros(2),
    )
    figures = figures_per_image(output, images, torch.zeros(2, dtype=torch.int64))
    assert figures["ink"].tolist() == [ink, ink]


def test_what_sends_while_it_is_open_is_active():
    """Black included, in colour."""
    images = FOUR_LIGHTS.expand(2, 3, 2, 2)
    is_open = torch.tensor([True, True, True, False]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    # The pixel of 0 sends nothing. Two of the other three are open.
    assert share_of_active(is_open, images).tolist() == pytest.approx([2 / 3] * 2)


def test_what_contrast_wins_back_by_hand():
    clean = {"plain": 0.9, "contrast": 0.8}
    dimmed = [{"plain": 0.4, "contrast": 0.6}, {"plain": 0.6, "contrast": 0.8}]
    # Dimming costs plain blocking 0.9 - 0.5 = 0.4, of which contrast, at 0.7, wins back
    # one half.
    expected = {
        "clean": 0.8,
        "clean_plain": 0.9,
        "dimmed_plain": 0.5,
        "dimmed_contrast": 0.7,
        "regained": 0.5,
    }
    assert contrast_summary([clean, *dimmed]) == pytest.approx(expected)


def test_where_dimming_has_cost_nothing_nothing_is_won_back():
    clean = {"plain": 0.5, "contrast": 0.9}
    dimmed = [{"plain": 0.4, "contrast": 0.6}, {"plain": 0.6, "contrast": 0.8}]
    assert contrast_summary([clean, *dimmed])["regained"] is None


def test_the_contrast_is_set_again_behind_the_controls(monkeypatch):
    """The GIF, which is drawn after them, shows it."""
    evaluate = Mock(return_value=({"accuracy": 0.5}, {}))
    monkeypatch.setattr("snn_wFeedback_posthoc_model_inference_obj3.evaluate", evaluate)
    model = Mock()
    args = Mock(contrast="local")

    row, records = accuracies(model, "clean", ImageSet("", None, None), args, Mock(), False)

    assert model.change.call_args == call(contrast="local")
    assert row["contrast"] == 0.5
    assert len(records) == 4


@pytest.mark.parametrize(
    ("blocking", "compared"),
    # Of 20 columns of 9 pixels the dim one's surroundings, 7 columns, are not attended.
    # One pixel of the others is closed, which permanent blocking does not compare
    # either.
    [("permanent", (20 - 7) * 9 - 1), ("dynamic", (20 - 7) * 9)],
)
def test_what_is_not_attended_is_not_compared(blocking, compared):
    image = torch.zeros(1, 1, 9, 20)
    image[..., 3] = 1.0
    image[..., 14] = 0.2
    gate = Contrast(epsilon=0.1, blocking=blocking)

    view = gate.start(image)
    view.is_open[..., 0, 0] = False

    assert gate.compared(view).tolist() == [compared]


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        # Of both channels: the second pixel is predicted in one of them only.
        (True, [False, True, False, True]),
        (False, [False, False, False, True]),
    ],
)
def test_together_in_plain_blocking(together, expected):
    image = torch.zeros(1, 2, 1, 2)
    guess = torch.tensor([[0.0, 0.0], [0.0, 0.5]]).reshape(1, 2, 1, 2)
    gate = Blocking(epsilon=0.1, together=together)

    view = gate.next_view(image, guess, gate.start(image))

    assert view.is_open.flatten().tolist() == expected
