"""Objectives 1 to 3 as properties: what is blocked, when an image stops, what gains contrast."""

from math import log
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch
from conftest import tiny

from self_models import ModelError, first_difference
from self_models.counting.evaluation import figures_per_image
from self_models.data.sets import ImageSet
from self_models.objectives.contrast import CONTRASTS, Contrast, local_contrast, local_gain
from self_models.objectives.gates import Blocking, Reconstruct
from self_models.objectives.stopping import RULES, Rule, output_entropy, output_gap
from self_models.runtime.outputs import SNNOutput, share_of_active
from self_models.runtime.state import RunState, View
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN
from snn_wFeedback_posthoc_model_inference_obj3 import accuracies, contrast_summary

STEPS, COUNT = 10, 6


def build(cls, **settings):
    common = {
        "timesteps": STEPS,
        "fc_width": 16,
        "readout": "membrane_linear",
        "default_threshold": 0.3,
        "epsilon": 0.3,
    }
    return tiny(cls, **common | settings)


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(COUNT, 1, 28, 28, generator=draw)
    return x * (torch.rand(x.shape, generator=draw) > 0.6), torch.rand(
        STEPS, *x.shape, generator=draw
    )


def run(model, images):
    with torch.no_grad():
        return model(*images)


def test_latch_holds_the_prediction_of_a_blocked_pixel(images):
    held, free = (run(build(InputBlockingSNN, latch=latch), images) for latch in (True, False))
    blocked = ~held.is_open[1:]
    moved = held.predictions[1:] != held.predictions[:-1]
    assert blocked.any() and moved.any() and not (moved & blocked).any()
    assert ((free.predictions[1:] != free.predictions[:-1]) & ~free.is_open[1:]).any()
    guess = held.predictions[-1].clamp(0, 1)  # images lie in [0, 1], so guesses do
    assert ((guess - images[0]).abs() < 0.3)[~held.is_open[-1]].all()


def test_what_is_sent_and_predicted_rebuilds_the_frame(images):
    """Exactly where the image is black and white, and below epsilon elsewhere; what is open is sent."""
    (image, _), gate = images, Reconstruct(epsilon=0.25)
    guess = torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    view = gate.next_view(image, guess, gate.start(image))
    assert ((view.image - image).abs() < 0.25).all() and torch.equal(
        view.image[view.is_open], image[view.is_open]
    )
    assert torch.equal(view.is_open, (guess - image).abs() >= 0.25) and torch.equal(
        view.events, view.is_open
    )
    white = (image > 0.5).float()
    view = Reconstruct(epsilon=0.4).next_view(white, guess.round(), None)
    assert torch.equal(view.image, white) and view.events.sum() == (guess.round() != white).sum()
    again = gate.on_image_change(white, guess, view, white != image)
    assert torch.equal(again.image, torch.where((guess - white).abs() < 0.25, guess, white))


@pytest.mark.parametrize("batched", [True, False])
def test_a_gate_says_whose_sending_counts(images, batched):
    """And drives the first layer as without."""

    class Quiet(Blocking):
        def start(self, image):
            return super().start(image)._replace(events=image > 0.5)

        def next_view(self, image, prediction, view):
            return super().next_view(image, prediction, view)._replace(events=view.events)

    model = build(InputBlockingSNN)
    model.batched, expected = batched, run(model, images)
    model.gate = Quiet(epsilon=0.3)
    output = run(model, images)
    bright = (images[0] > 0.5).sum((1, 2, 3))
    assert torch.equal(output.spikes["input"], STEPS * bright) and bright.any()
    assert torch.equal(output.logits, expected.logits) and output.logits.any()


def test_residual_input_is_what_the_prediction_left_open(images):
    """Step by step: an open pixel sends a spike of the sign of x - p where the draw is at most |x - p|, a blocked one nothing."""
    model = build(InputBlockingSNN, residual=True, latch=True)
    sent = []
    model.features[0].register_forward_pre_hook(
        lambda module, inputs: sent.append(inputs[0].reshape(images[0].shape))
    )
    output = run(model, images)
    guess = output.predictions.clamp(0, 1)
    assert torch.equal(sent[0], (images[1][0] <= images[0]) * images[0].sign())
    for t in range(1, STEPS):
        error = (images[0] - guess[t - 1]) * output.is_open[t]
        assert torch.equal(sent[t], torch.where(images[1][t] <= error.abs(), error.sign(), 0.0))
    assert (torch.stack(sent) == -1).any()  # where the prediction is too high
    assert torch.equal(output.spikes["input"], torch.stack(sent).abs().sum((0, 2, 3, 4)))


@pytest.mark.parametrize("residual", [False, True])
def test_no_contrast_is_plain_blocking(images, residual):
    plain = run(build(InputBlockingSNN, residual=residual), images)
    none = run(build(ContrastAttentionSNN, contrast="none", residual=residual), images)
    assert first_difference(none, plain, tolerance=1e-5) is None


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("all_predicted", {"open_bound": 0.635}),
        ("confidence", {"gap_bound": 0.8}),
        ("entropy", {"entropy_bound": 0.6}),
        ("both", {"open_bound": 0.655, "gap_bound": 0.2}),
        ("never", {}),
    ],
)
def test_stopping_changes_nothing_but_the_number_of_steps(images, rule, settings):
    """Each image, alone or in a batch in any order, ends as a run of that many steps ends."""
    model = build(AdaptiveTimestepsSNN, rule=rule, **settings)
    output = run(model, images)
    assert len(set(output.steps.tolist())) > 1 or rule == "never", (
        output.steps
    )  # else the test shows nothing
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = run(model, (images[0][order], images[1][:, order]))
    assert torch.equal(shuffled.steps, output.steps[order])
    torch.testing.assert_close(shuffled.logits, output.logits[order], rtol=1e-5, atol=1e-5)
    for image, steps in enumerate(output.steps.tolist()):
        short = build(InputBlockingSNN, timesteps=steps)
        alone = run(short, (images[0][[image]], images[1][:steps, [image]]))
        torch.testing.assert_close(alone.logits[0], output.logits[image], rtol=1e-5, atol=1e-5)
        assert all(
            torch.equal(alone.spikes[name][0], output.spikes[name][image]) for name in alone.spikes
        )
        torch.testing.assert_close(
            alone.predictions[:, 0], output.predictions[:steps, image], rtol=1e-5, atol=1e-5
        )
        assert alone.comparisons[0] == output.comparisons[image]


def test_a_rule_sees_each_step_as_it_was(images, monkeypatch):
    """A user's rule may look at the read-out, too, and not at how many steps are taken at once."""
    found = {}

    class Watching(Rule):
        looks_at_input = True

        def holds(self, run):
            numbers = (one.sum().item() for one in (run.readout_sum, run.view.is_open, run.logits))
            found[at_once].append((run.steps, *numbers))
            return torch.zeros(len(run.image), dtype=torch.bool)

    for at_once in (1, 4):
        monkeypatch.setattr("self_models.runtime.loop.STEPS_BETWEEN_CHECKS", at_once)
        model, found[at_once] = build(InputBlockingSNN), []
        model.rule = Watching()
        run(model, images)
    assert [steps for steps, *_ in found[1]] == list(range(1, STEPS + 1)) and len(
        set(found[1])
    ) == STEPS
    np.testing.assert_allclose(found[4], found[1], rtol=1e-5)


def test_rules_by_hand():
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    assert output_gap(logits).tolist() == [3.0, 0.0]
    assert (
        output_entropy(logits)[1].item() == pytest.approx(1) and output_entropy(logits)[0] < 0.25
    )
    halves = torch.tensor([[log(2), 0.0, 0.0]])  # probabilities 1/2, 1/4, 1/4: 1.5 bits of log2(3)
    assert output_entropy(halves).item() == pytest.approx(1.5 * log(2) / log(3))


def test_a_bound_that_is_met_exactly_stops():
    """Two of four active pixels are open, and the outputs' gap is 3; entropy 1 is that of equal outputs."""
    image = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0]).reshape(1, 1, 1, 5)
    view = View(image, is_open=torch.tensor([True, True, False, False, True]).reshape(image.shape))
    cases = (
        ("all_predicted", [5.0, 2.0, 1.0], {"open_bound": 0.5}, {"open_bound": 0.499}),
        ("confidence", [5.0, 2.0, 1.0], {"gap_bound": 3.0}, {"gap_bound": 3.001}),
        ("entropy", [1.0, 1.0, 1.0, 1.0], {"entropy_bound": 1.0}, {"entropy_bound": 0.999}),
        (
            "both",
            [5.0, 2.0, 1.0],
            {"open_bound": 0.5, "gap_bound": 3.0},
            {"open_bound": 0.5, "gap_bound": 3.001},
        ),
        (
            "both",
            [5.0, 2.0, 1.0],
            {"open_bound": 0.5, "gap_bound": 3.0},
            {"open_bound": 0.499, "gap_bound": 3.0},
        ),
    )
    for name, logits, met, missed in cases:
        run = RunState(image, view, logits=torch.tensor([logits]))
        for bounds, stops in ((met, True), (missed, False)):
            assert RULES[name](**bounds).holds(run).tolist() == [stops], (name, bounds)


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


def test_blocking_by_hand():
    """Guesses lie 0, 1/8, 1/4 and 3/8 from their pixels, and epsilon is 1/4: one that is met exactly leaves the pixel open."""
    image = torch.full((2, 1, 1, 4), 0.5)
    guess = (image + torch.tensor([0.0, -0.125, 0.25, -0.375])).requires_grad_()
    for blocking, is_open in (
        ("permanent", [False, False, False, True]),
        ("dynamic", [False, False, True, True]),
    ):
        gate = Blocking(epsilon=0.25, blocking=blocking)
        first = gate.start(image)
        assert (
            first.image is image
            and first.is_open.all()
            and first.is_open.dtype == torch.bool
            and not first.predicted.any()
        )
        assert gate.compared(first).tolist() == [4, 4] and gate.held(first) is None
        first.is_open[..., 2] = False
        second = gate.next_view(image, guess, first)
        assert second.predicted[0, 0, 0].tolist() == [True, True, False, False]
        assert (
            second.is_open[1, 0, 0].tolist() == is_open
            and second.explained is None
            and second.attended is None
        )
        assert second.image[0, 0, 0].tolist() == [0.5 * each for each in is_open]
        assert gate.compared(second).tolist() == [1 if blocking == "permanent" else 4] * 2
        assert Blocking(epsilon=0.0, blocking=blocking).compared(second).tolist() == [0, 0]
        own = Blocking(epsilon=0.25, blocking=blocking, latch=True, residual=True)
        assert torch.equal(own.held(second), ~second.is_open)
        explained = own.next_view(image, guess, first).explained
        assert torch.equal(explained, guess) and not explained.requires_grad


def strokes(light, size=20):
    """A black image with a vertical stroke of this light in each of these columns; and that everything is open."""
    image = torch.zeros(1, 1, size, size)
    for column, value in light.items():
        image[..., 2 : size - 2, column] = value
    return image, torch.ones_like(image, dtype=torch.bool)


def test_local_gain_follows_what_is_open():
    """A bright stroke on the left, a dim one on the right: while both are open the gain is 1 / their mean, then 1 / 0.2. The dim
    one waits with what is within 3 pixels of it, as 0.2 / 0.6 is below half; farther away is nothing to wait for."""
    image, everywhere = strokes({3: 1.0, 12: 0.2})
    gain, attended = local_gain(image, everywhere)
    assert gain.item() == pytest.approx(1 / 0.6)
    assert attended[0, 0, 10].tolist() == [True] * 9 + [False] * 7 + [True] * 4
    assert local_contrast(image, everywhere)[0, 0, 10].nonzero().tolist() == [[3]]
    right = everywhere.clone()
    right[..., :10] = False  # the bright stroke is explained
    assert local_gain(image, right)[0].item() == pytest.approx(5)
    seen = local_contrast(image, right)
    assert seen[..., 2:18, 12].eq(1).all() and seen[..., :10].eq(0).all()
    assert local_gain(image, ~everywhere)[0].item() == 1


@pytest.mark.parametrize(("dim", "gain"), [(0.2, 5), (0.1, 10), (0.04, 10)])
def test_the_largest_gain_is_10(dim, gain):
    found, attended = local_gain(*strokes({8: dim}))
    assert found.item() == pytest.approx(gain)
    assert attended[0, 0, 10, 8].item() == (gain * dim >= 0.5)


def test_a_grey_edge_beside_a_bright_stroke_gains_nothing():
    image, edge = strokes({8: 1.0, 9: 0.3})
    edge[..., :9] = edge[..., 10:] = False
    assert local_contrast(image, edge)[0, 0, 10, 9].item() == pytest.approx(0.3)


# --- colour: light, 0 (black) to 1, is (x + 1) / 2


@pytest.mark.parametrize("rule", ["local", "original"])
def test_contrast_in_colour_is_that_of_the_same_light_in_grey(images, rule):
    """A blocked pixel, and one that waits, sends nothing: 0, which is no black in colour."""
    grey, is_open = images[0], images[1][0] < 0.7
    colour, everywhere = (2 * grey - 1).expand(-1, 3, -1, -1), is_open.expand(-1, 3, -1, -1)
    expected, found = CONTRASTS[rule](grey, is_open), CONTRASTS[rule](colour, everywhere)
    seen = is_open & local_gain(grey, is_open)[1] if rule == "local" else is_open
    assert (expected[seen] > grey[seen]).any() and (~seen).any()
    for channel in found.unbind(1):
        torch.testing.assert_close(channel, torch.where(seen, 2 * expected - 1, 0)[:, 0])


def test_a_dim_part_of_a_colour_image_gains_what_dimming_took():
    """Dimming towards black, which is -1, makes |x| larger and light smaller. The blue of a red field gains with the red only."""
    image = torch.full((1, 3, 20, 20), -1.0)
    image[:, 0, 2:18, 2:18], image[:, 1:, 2:18, 2:18] = 0.6, -0.8  # light 0.8 and 0.1
    everywhere = torch.ones_like(image, dtype=torch.bool)
    gain, attended = local_gain(image, everywhere)
    assert gain.item() == pytest.approx(1 / 0.8) and attended.all()
    dim = 0.15 * (image + 1) - 1
    assert local_gain(dim, everywhere)[0].item() == pytest.approx(1 / 0.12)
    torch.testing.assert_close(local_contrast(dim, everywhere), local_contrast(image, everywhere))
    assert local_contrast(dim, everywhere)[0, :, 10, 10].tolist() == pytest.approx(
        [1, 2 * 0.125 - 1, 2 * 0.125 - 1]
    )


def test_ink_is_light():
    """And active is what sends while it is open, black included in colour."""
    colour = torch.tensor([-1.0, 1.0, 0.0, -0.5]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    output = SNNOutput(
        torch.zeros(2, 3),
        None,
        None,
        {"input": torch.ones(2)},
        torch.ones(2),
        comparisons=torch.zeros(2),
    )
    labels = torch.zeros(2, dtype=torch.int64)
    assert (
        figures_per_image(output, colour, labels)["ink"].tolist() == [3 * (0 + 1 + 0.5 + 0.25)] * 2
    )
    assert figures_per_image(output, colour[:, :1], labels)["ink"].tolist() == [2.5] * 2
    is_open = torch.tensor([True, True, True, False]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    assert share_of_active(is_open, colour).tolist() == pytest.approx([2 / 3] * 2)


def test_what_contrast_wins_back_by_hand():
    """Dimming costs plain blocking 0.9 - 0.5 = 0.4, of which contrast, at 0.7, wins back one half."""
    rows = [
        {"plain": 0.9, "contrast": 0.8},
        {"plain": 0.4, "contrast": 0.6},
        {"plain": 0.6, "contrast": 0.8},
    ]
    expected = {
        "clean": 0.8,
        "clean_plain": 0.9,
        "dimmed_plain": 0.5,
        "dimmed_contrast": 0.7,
        "regained": 0.5,
    }
    assert contrast_summary(rows) == pytest.approx(expected)
    assert (
        contrast_summary([{"plain": 0.5, "contrast": 0.9}, *rows[1:]])["regained"] is None
    )  # dimming has cost nothing


def test_the_contrast_is_set_again_behind_the_controls(monkeypatch):
    """The GIF, which is drawn after them, shows it."""
    evaluate = Mock(return_value=({"accuracy": 0.5}, {}))
    monkeypatch.setattr("snn_wFeedback_posthoc_model_inference_obj3.evaluate", evaluate)
    model, args = Mock(), Mock(contrast="local")
    row, records = accuracies(model, "clean", ImageSet("", None, None), args, Mock(), False)
    assert model.change.call_args == call(contrast="local")
    assert row["contrast"] == 0.5 and len(records) == 4


@pytest.mark.parametrize(
    ("blocking", "compared"), [("permanent", 20 * 9 - 1), ("dynamic", 20 * 9)]
)
def test_what_is_not_attended_is_not_compared(blocking, compared):
    """Of 20 columns of 9 pixels the dim one's surroundings, 7 columns, are not attended; one of the others is closed."""
    image = torch.zeros(1, 1, 9, 20)
    image[..., 3], image[..., 14] = 1.0, 0.2
    view = Contrast(epsilon=0.1, blocking=blocking).start(image)
    view.is_open[..., 0, 0] = False
    assert Contrast(epsilon=0.1, blocking=blocking).compared(view).tolist() == [compared - 7 * 9]


def test_together_in_plain_blocking():
    """A pixel predicted in one of two channels is blocked there, or not at all."""
    image, guess = (
        torch.zeros(1, 2, 1, 2),
        torch.tensor([[0.0, 0.0], [0.0, 0.5]]).reshape(1, 2, 1, 2),
    )
    for together, expected in (
        (True, [False, True, False, True]),
        (False, [False, False, False, True]),
    ):
        gate = Blocking(epsilon=0.1, together=together)
        assert (
            gate.next_view(image, guess, gate.start(image)).is_open.flatten().tolist() == expected
        )
