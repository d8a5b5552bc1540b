"""Objectives 1 to 3 as properties: what is blocked, when an image stops, what gains contrast; and the gate `once`."""

from math import log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import NET, OBJ1, PLAN, SNN, make_folder, records, run_here, run_undrawn, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.sets import load_data
from self_models import evaluate, first_difference, load
from self_models.counting.evaluation import figures_per_image
from self_models.counting.operations import OperationCounter
from self_models.objectives.contrast import CONTRASTS, Contrast, local_contrast, local_gain
from self_models.objectives.gates import Blocking, Gate
from self_models.objectives.once import Once, interpolated
from self_models.objectives.stopping import RULES, Rule, output_entropy, output_gap
from self_models.running.outputs import SNNOutput, share_of_active
from self_models.running.steps import RunState, View
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN
from snn_wFeedback_posthoc_model_inference_obj2 import sweep
from snn_wFeedback_posthoc_model_inference_obj3 import contrast_summary

STEPS, COUNT = 10, 6


def build(cls, **settings):
    common = {"timesteps": STEPS, "fc_width": 16, "readout": "membrane_linear", "default_threshold": 0.3, "epsilon": 0.3}
    return tiny(cls, **common | settings)


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(3)
    x = torch.rand(COUNT, 1, 28, 28, generator=draw)
    return x * (torch.rand(x.shape, generator=draw) > 0.6), torch.rand(STEPS, *x.shape, generator=draw)


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


def test_residual_input_is_what_the_prediction_left_open(images):
    """Step by step: an open pixel sends a spike of the sign of x - p where the draw is at most |x - p|, a blocked one nothing."""
    model = build(InputBlockingSNN, residual=True, latch=True)
    sent = []
    model.features[0].register_forward_pre_hook(lambda module, inputs: sent.append(inputs[0].reshape(images[0].shape)))
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


def test_slew_limits_each_move_of_the_prediction(images):
    """And below twice epsilon no prediction jumps over its pixel."""
    output = run(build(InputBlockingSNN, latch=True, epsilon=0.1, readout_slew=0.19, default_threshold=0.1), images)
    assert 0.18 < output.predictions.diff(dim=0).abs().max() <= 0.19 + 1e-6
    before, after = output.predictions[:-1] - images[0], output.predictions[1:] - images[0]
    assert not ((before < -0.1) & (after > 0.1)).any() and (output.predicted[1:] & (before < -0.1)).any()


ONCE = {"gate": "once", "encoding": "direct", "grid": 4, "default_threshold": 0.2}


@pytest.mark.parametrize(
    ("rule", "settings"),
    [
        ("all_predicted", {"open_bound": 0.635}), ("confidence", {"gap_bound": 0.8}), ("entropy", {"entropy_bound": 0.6}),
        ("both", {"open_bound": 0.655, "gap_bound": 0.2}), ("all_predicted", {"open_bound": 0.49, **ONCE}),
        ("confidence", {"gap_bound": 0.6, **ONCE}), ("never", {}), ("never", ONCE),
    ],
)  # fmt: skip
def test_stopping_changes_nothing_but_the_number_of_steps(images, rule, settings):
    """Each image, alone or in a batch in any order, ends as a run of that many steps ends."""
    model = build(AdaptiveTimestepsSNN, rule=rule, **settings)
    output = run(model, images)
    assert len(set(output.steps.tolist())) > 1 or rule == "never", output.steps  # else the test shows nothing
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = run(model, (images[0][order], images[1][:, order]))
    assert torch.equal(shuffled.steps, output.steps[order])
    torch.testing.assert_close(shuffled.logits, output.logits[order], rtol=1e-5, atol=1e-5)
    for image, steps in enumerate(output.steps.tolist()):
        short = build(InputBlockingSNN, timesteps=steps, **{name: settings[name] for name in ONCE if name in settings})
        alone = run(short, (images[0][[image]], images[1][:steps, [image]]))
        torch.testing.assert_close(alone.logits[0], output.logits[image], rtol=1e-5, atol=1e-5)
        assert all(torch.equal(alone.spikes[name][0], output.spikes[name][image]) for name in alone.spikes)
        torch.testing.assert_close(alone.predictions[:, 0], output.predictions[:steps, image], rtol=1e-5, atol=1e-5)
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
        monkeypatch.setattr("self_models.running.steps.LOOKED_AFTER", at_once)
        model, found[at_once] = build(InputBlockingSNN), []
        model.rule = Watching()
        run(model, images)
    assert [steps for steps, *_ in found[1]] == list(range(1, STEPS + 1)) and len(set(found[1])) == STEPS
    np.testing.assert_allclose(found[4], found[1], rtol=1e-5)


def test_rules_by_hand():
    logits = torch.tensor([[5.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    assert output_gap(logits).tolist() == [3.0, 0.0]
    assert output_entropy(logits)[1].item() == pytest.approx(1) and output_entropy(logits)[0] < 0.25
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
        ("both", [5.0, 2.0, 1.0], {"open_bound": 0.5, "gap_bound": 3.0}, {"open_bound": 0.5, "gap_bound": 3.001}),
        ("both", [5.0, 2.0, 1.0], {"open_bound": 0.5, "gap_bound": 3.0}, {"open_bound": 0.499, "gap_bound": 3.0}),
    )
    for name, logits, met, missed in cases:
        run = RunState(image, view, logits=torch.tensor([logits]))
        for bounds, stops in ((met, True), (missed, False)):
            assert RULES[name](**bounds).holds(run).tolist() == [stops], (name, bounds)


def test_blocking_by_hand():
    """Guesses lie 0, 1/8, 1/4 and 3/8 from their pixels, and epsilon is 1/4: one that is met exactly leaves the pixel open."""
    image = torch.full((2, 1, 1, 4), 0.5)
    guess = (image + torch.tensor([0.0, -0.125, 0.25, -0.375])).requires_grad_()
    for blocking, is_open in (("permanent", [False, False, False, True]), ("dynamic", [False, False, True, True])):
        gate = Blocking(epsilon=0.25, blocking=blocking)
        first = gate.start(image)
        assert first.image is image and first.is_open.all() and first.is_open.dtype == torch.bool and not first.predicted.any()
        assert gate.compared(first).tolist() == [4, 4] and gate.held(first) is None
        first.is_open[..., 2] = False
        second = gate.next_view(image, guess, first)
        assert second.predicted[0, 0, 0].tolist() == [True, True, False, False]
        assert second.is_open[1, 0, 0].tolist() == is_open and second.explained is None and second.attended is None
        assert second.image[0, 0, 0].tolist() == [0.5 * each for each in is_open]
        assert gate.compared(second).tolist() == [1 if blocking == "permanent" else 4] * 2
        assert Blocking(epsilon=0.0, blocking=blocking).compared(second) == 0
        own = Blocking(epsilon=0.25, blocking=blocking, latch=True, residual=True)
        assert torch.equal(own.held(second), ~second.is_open)
        explained = own.next_view(image, guess, first).explained
        assert torch.equal(explained, guess) and not explained.requires_grad


def test_an_open_gate_does_nothing():
    image = torch.rand(2, 1, 2, 2)
    gate = Gate()
    view = gate.start(image)
    assert view == View(image) and gate.next_view(image, image, view) is view
    assert gate.held(view) is None and gate.compared(view) == 0 and gate.check(False) is None


def test_local_gain_follows_what_is_open():
    """A bright stroke on the left, a dim one on the right: while both are open the gain is 1 / their mean, then 1 / 0.2."""
    image = torch.zeros(1, 1, 20, 20)
    image[..., 2:18, 3], image[..., 2:18, 16] = 1.0, 0.2
    everywhere = torch.ones_like(image, dtype=torch.bool)
    gain, attended = local_gain(image, everywhere)
    assert gain.item() == pytest.approx(1 / 0.6)
    assert attended[0, 0, 10, 3] and not attended[0, 0, 10, 16]  # 0.2 / 0.6 is below half
    assert local_contrast(image, everywhere)[0, 0, 10].nonzero().tolist() == [[3]]
    right = everywhere.clone()
    right[..., :10] = False  # the bright stroke is explained
    assert local_gain(image, right)[0].item() == pytest.approx(5)
    seen = local_contrast(image, right)
    assert seen[..., 2:18, 16].eq(1).all() and seen[..., :10].eq(0).all()
    assert local_gain(image, ~everywhere)[0].item() == 1


@pytest.mark.parametrize(("dim", "gain"), [(0.2, 5), (0.1, 10), (0.04, 10)])
def test_the_largest_gain_is_10(dim, gain):
    image = torch.zeros(1, 1, 20, 20)
    image[..., 2:18, 8] = dim
    found, attended = local_gain(image, torch.ones_like(image, dtype=torch.bool))
    assert found.item() == pytest.approx(gain)
    assert attended[0, 0, 10, 8].item() == (gain * dim >= 0.5)


def test_black_surroundings_are_attended_and_dim_ones_are_not():
    """Nothing is there to wait for: a prediction is made of pixels farther than 3 from anything that is not black."""
    image = torch.zeros(1, 1, 20, 20)
    image[..., 2:18, 3], image[..., 2:18, 12] = 1.0, 0.2
    _, attended = local_gain(image, torch.ones_like(image, dtype=torch.bool))
    assert attended[0, 0, 10].tolist() == [True] * 9 + [False] * 7 + [True] * 4  # 12 - 3 to 12 + 3


def test_a_grey_edge_beside_a_bright_stroke_gains_nothing():
    image = torch.zeros(1, 1, 20, 20)
    image[..., 2:18, 8], image[..., 2:18, 9] = 1.0, 0.3
    edge = torch.zeros_like(image, dtype=torch.bool)
    edge[..., 9] = True
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
    assert local_contrast(dim, everywhere)[0, :, 10, 10].tolist() == pytest.approx([1, 2 * 0.125 - 1, 2 * 0.125 - 1])


def test_ink_is_light():
    """And active is what sends while it is open, black included in colour."""
    colour = torch.tensor([-1.0, 1.0, 0.0, -0.5]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    output = SNNOutput(torch.zeros(2, 3), None, None, {"input": torch.ones(2)}, torch.ones(2), comparisons=torch.zeros(2))
    labels = torch.zeros(2, dtype=torch.int64)
    assert figures_per_image(output, colour, labels)["ink"].tolist() == [3 * (0 + 1 + 0.5 + 0.25)] * 2
    assert figures_per_image(output, colour[:, :1], labels)["ink"].tolist() == [2.5] * 2
    is_open = torch.tensor([True, True, True, False]).reshape(1, 1, 2, 2).expand(2, 3, 2, 2)
    assert share_of_active(is_open, colour).tolist() == pytest.approx([2 / 3] * 2)


def test_what_contrast_wins_back_by_hand():
    """Dimming costs plain blocking 0.9 - 0.5 = 0.4, of which contrast, at 0.7, wins back one half."""
    rows = [{"plain": 0.9, "contrast": 0.8}, {"plain": 0.4, "contrast": 0.6}, {"plain": 0.6, "contrast": 0.8}]
    expected = {"clean": 0.8, "clean_plain": 0.9, "dimmed_plain": 0.5, "dimmed_contrast": 0.7, "regained": 0.5}
    assert contrast_summary(rows) == pytest.approx(expected)
    assert contrast_summary([{"plain": 0.5, "contrast": 0.9}, *rows[1:]])["regained"] is None  # dimming has cost nothing


def test_images_with_a_small_margin_are_the_difficult_ones():
    """Spikes fall as the margin after all steps grows: rho is +1, and -1 per total intensity, of which hard images have more."""
    margin = torch.tensor([1.0, 2.0, 3.0])
    per_image = {"spikes": torch.tensor([30.0, 20.0, 10.0]), "ink": torch.tensor([30.0, 10.0, 1.0]), "margin": margin}

    def evaluate(**more):
        stopped_early = {"margin": -margin} if more["rule"] != "none" else {}
        return dict(more), per_image | stopped_early

    args = SimpleNamespace(gap_bounds=[1.0, 2.0])
    posthoc = SimpleNamespace(args=args, model=SimpleNamespace(change=lambda **settings: None), evaluate=evaluate)
    series = sweep(posthoc, ["confidence"])
    assert [len(rows) for rows in series.values()] == [2, 1]
    for record, _ in (row for rows in series.values() for row in rows):
        assert (record["rank_correlation"], record["rank_correlation_per_ink"]) == pytest.approx((1, -1))


def test_comparisons_are_counted_where_they_are_made(images):
    """Open pixels under permanent blocking, all of them under dynamic, none at epsilon 0, and every k-th step only."""
    pixels = images[0][0].numel()
    permanent = run(build(InputBlockingSNN), images)
    assert torch.equal(permanent.comparisons, permanent.is_open.sum((0, 2, 3, 4)))
    assert run(build(InputBlockingSNN, blocking="dynamic"), images).comparisons.tolist() == [STEPS * pixels] * COUNT
    assert run(build(InputBlockingSNN, epsilon=0.0), images).comparisons.tolist() == [0] * COUNT
    third = run(build(InputBlockingSNN, feedback_interval=3, blocking="dynamic"), images)
    assert third.comparisons.tolist() == [STEPS // 3 * pixels] * COUNT
    assert not third.predicted[:2].any() and third.predicted[2:].any()  # nothing has been compared before
    everything_open = VGG_SNN_STDB_wFeedback(plan=PLAN, timesteps=2, fc_width=4).eval()
    assert everything_open(images[0]).comparisons.sum() == 0


@pytest.mark.parametrize(("blocking", "compared"), [("permanent", 20 * 9 - 1), ("dynamic", 20 * 9)])
def test_what_is_not_attended_is_not_compared(blocking, compared):
    """Of 20 columns of 9 pixels the dim one's surroundings, 7 columns, are not attended; one of the others is closed."""
    image = torch.zeros(1, 1, 9, 20)
    image[..., 3], image[..., 14] = 1.0, 0.2
    view = Contrast(epsilon=0.1, blocking=blocking).start(image)
    view.is_open[..., 0, 0] = False
    assert Contrast(epsilon=0.1, blocking=blocking).compared(view).tolist() == [compared - 7 * 9]


COARSE = [[4, "D", 6, "fork", 6, "D"], ["U", 4, "in"]]
BASELINE = [[4, "D", 6], []]
SHAPE, TIMESTEPS = (3, 9, 10), 6

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


def once(cls=InputBlockingSNN, **own):
    common = {"plan": COARSE, "timesteps": TIMESTEPS, "fc_width": 16, "image_shape": SHAPE, "readout": "membrane_linear"}
    settings = common | {"default_threshold": 0.3, "encoding": "direct", "gate": "once", "epsilon": 0.3} | own
    model = tiny(cls, **{name: value for name, value in settings.items() if name != "epsilon" or settings["gate"] == "once"})
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


def seeded(model, x):
    with torch.no_grad():
        return model(x, seed=0)


def test_grid_1_is_sample_and_hold(x):
    """Every pixel is sent in the first step, and drives the network in all of them, as with the gate open."""
    model = once(grid=1, grid_steps=3)
    found, expected = seeded(model, x), seeded(once(VGG_SNN_STDB_wFeedback, gate="open"), x)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.predictions[0], x)
    active = (x != 0).sum((1, 2, 3))
    assert torch.equal(found.spikes["input"], active) and torch.equal(expected.spikes["input"], TIMESTEPS * active)
    assert not found.comparisons.any() and found.logits.abs().max() > 0


@pytest.mark.parametrize("colour", [True, False])
def test_a_decoder_of_zeros_is_interpolation(x, colour):
    """And so is no decoder at all, in grey too."""
    x = x if colour else x[:, :1].abs()
    shape = {"image_shape": tuple(x.shape[1:])}
    zeros, blind = once(guess="prediction", **shape), once(guess="interpolation", **shape)
    for layer in zeros.generate:
        for weight in layer.parameters():
            weight.data *= 0 if weight.dim() > 1 else 1
    none = once(plan=[COARSE[0][:3] + COARSE[0][4:], []], guess="interpolation", readout="spike_count", **shape)
    none.load_state_dict({name: value for name, value in blind.state_dict().items() if name in none.state_dict()})
    found = seeded(zeros, x)
    for other in (blind, none):
        expected = seeded(other, x)
        assert torch.equal(found.logits, expected.logits) and torch.equal(found.predictions, expected.predictions)
        assert torch.equal(found.spikes["input"], expected.spikes["input"])
    assert 0 < found.spikes["input"].sum() < (x != 0).sum()


@pytest.mark.parametrize("grid_steps", [1, 2])
def test_all_predicted_waits_until_every_pixel_has_had_its_turn(x, grid_steps):
    """Although nothing is sent where all is predicted: halvings to 1, each after its steps."""
    output = seeded(once(AdaptiveTimestepsSNN, rule="all_predicted", grid=4, grid_steps=grid_steps, epsilon=9.0), x)
    assert output.steps.tolist() == [2 * grid_steps] * len(x) and output.comparisons.all()


def test_the_decoder_learns_from_pixels_that_are_not_sent(x):
    """From the error of the step, and from nothing else; once all have had their turn, from nothing."""
    model, decoded = once(), []
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
    """Without a decoder the seeded is that on the image as known in the end, all at once, two steps later, and costs as much."""
    own = {"plan": [[4, "D", 6, 6, "D"], []], "guess": "interpolation", "default_threshold": 0.02}
    late = once(VGG_SNN_STDB_wFeedback, **own, grid=4, wait=True)
    soon = once(VGG_SNN_STDB_wFeedback, **own, grid=1, timesteps=TIMESTEPS - 2)
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
    late = once(grid=4, wait=True, anew=True, default_threshold=0.02, initial_potential=0.5)
    known = late(x).predictions[-1]
    own = {"plan": [[4, "D", 6, 6, "D"], []], "grid": 1, "guess": "interpolation"}
    soon = once(VGG_SNN_STDB_wFeedback, **own, default_threshold=0.02, initial_potential=0.5, timesteps=TIMESTEPS - 2)
    soon.load_state_dict({name: value for name, value in late.state_dict().items() if name in soon.state_dict()})
    for images in (x, x.flip(0)):
        waited = late(images)
        assert torch.equal(waited.logits_by_step[2:], soon(waited.predictions[-1]).logits_by_step)
    assert known.any() and waited.logits.any()
    late.change(anew=False)
    assert not torch.equal(late(x.flip(0)).logits, waited.logits)


@torch.no_grad()
def test_only_what_the_decoder_needs_runs_while_the_others_wait(x):
    model = once(grid=4, wait=True, default_threshold=0.1)
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
    model = once(VGG_SNN_STDB_wFeedback, wait=True, **own, **bounds)
    whole = seeded(model, x)
    model.change(rule=rule)
    output = seeded(model, x)
    assert output.steps.tolist() == [first] * len(x)
    assert torch.equal(output.logits, whole.logits_by_step[first - 1]) and output.logits.any()
    model.change(wait=False)
    assert seeded(model, x).steps.tolist() == [1] * len(x)
