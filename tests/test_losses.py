"""Losses of one's own, examples/prediction_variance.py among them: flags, values, gradients, records, resuming."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from conftest import ANN, DATA, PLAN, REPOSITORY, SNN, images, records, refused, run_here, same_weights

from harness.building import own
from harness.command_line.flags import snn_parser
from harness.data.sets import load_data
from harness.training.losses import LOSSES, Criterion, Loss, own_losses
from self_models import load
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import SNNOutput
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

TINY = f"-a VGG5_wFeedback_small --fc_width 16 --timesteps 5 --update immediate --readout membrane_linear --select test {DATA}"
FILE = REPOSITORY / "examples/prediction_variance.py"
LABELS = torch.tensor([0, 1])


@pytest.fixture(autouse=True)
def variance():
    """The class that the example registers; nobody else's losses are there, and none stays."""
    before = dict(LOSSES)
    LOSSES.clear()
    yield own.imported(FILE).PredictionVariance
    LOSSES.clear()
    LOSSES.update(before)
    own.imported.cache_clear()


def register(name, value, base=Loss, **more):
    LOSSES.register(name)(dataclass(type("Own", (base,), {"value": value, **more})))


def test_the_variance_by_hand_and_what_its_weight_does(variance):
    """Two images of two pixels; before the last two steps, which count, all is 9. Variances 1 and 4, 0 and 0.25: 5.25 / 2."""
    predictions = torch.tensor([[[9, 9], [9, 9]], [[0, 1], [2, 0]], [[2, 5], [2, 1]]]).float().view(3, 2, 1, 1, 2)
    output = SNNOutput(torch.zeros(2, 4), predictions, None, {}, None)
    losses = Criterion(0.0, "last_t", own={"variance_loss": variance(0.5, 2)})(output, LABELS)
    assert losses["variance_loss"].item() == 2.625
    assert losses["total"].item() == pytest.approx(losses["classification"].item() + 1.3125)


def test_gradients_are_the_weighted_sums(variance):
    """And reach the network through what computes many steps at once."""

    def gradients(trade_off, weight):
        torch.manual_seed(0)
        own = {"timesteps": 4, "update": "immediate", "default_threshold": 0.2, "readout": "membrane_linear"}
        model = VGG_SNN_STDB_wFeedback(plan=PLAN, fc_width=12, **own)
        criterion = Criterion(trade_off, "mean_t", own={"variance_loss": variance(weight)})
        criterion(model(images(2), seed=0), LABELS)["total"].backward()
        return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])

    none, more, both = gradients(0.0, 0.0), gradients(0.0, 0.1), gradients(0.1, 0.1)
    assert (more - none).abs().max() > 1e-4
    torch.testing.assert_close(both - more, gradients(0.1, 0.0) - none, rtol=1e-3, atol=1e-5)


def test_the_example_trains_through_the_script_and_resumes(tmp_path):
    LOSSES.clear()  # the flag --model is to bring it
    own.imported.cache_clear()
    weighed, here = f"{TINY} --model {FILE} --variance_weight 0.02 --variance_steps 3", f"--output_dir {tmp_path}"
    run_here(SNN, f"{weighed} --epochs 2 --run_name whole {here}")
    run_here(SNN, f"{weighed} --epochs 1 --run_name part {here}")
    weights, logs = tmp_path / "trained_models/snn", tmp_path / "logs/snn"
    evaluated = records(logs / "part.jsonl", "epoch")[0]["evaluated"]
    test = load_data("MNIST", limit_test=16)[2].whole()
    p = load(weights / "part.pth")(test.images, draws=Draws(0, EVALUATION, test.index)).predictions[2:].detach()
    expected = ((p - p.mean(0)) ** 2).mean(0).sum().item() / 16
    assert evaluated["variance_loss"] == pytest.approx(expected, rel=1e-4) and expected > 0.01
    parts = evaluated["classification"] + evaluated["reconstruction"] + 0.02 * expected  # trade_off is 1
    assert evaluated["total"] == pytest.approx(parts, rel=1e-4)

    again = f"--resume --epochs 2 --run_name part {here}"
    for changed, words in (("--variance_weight 0.1", "variance_weight"), ("--variance_steps 2", "variance_steps")):
        assert f"trained with other settings ({words})" in refused(SNN, f"{TINY} {again} {changed}")
    run_here(SNN, again)
    assert same_weights(weights / "part_last.pth", weights / "whole_last.pth")
    for both in zip(*(records(logs / f"{name}.jsonl", "epoch") for name in ("part", "whole")), strict=True):
        assert both[0]["train"] == both[1]["train"] and both[0]["train"]["variance_loss"] > 0
    line = next(line for line in (logs / "whole.log").read_text().splitlines() if line.startswith("epoch 1/2"))
    assert line.count(" | variance_loss ") == 2
    run_here("report", f"{logs / 'whole.jsonl'} --output {tmp_path / 'page.html'}")
    assert "variance loss" in (tmp_path / "page.html").read_text()

    run_here(SNN, f"{TINY} --epochs 1 --run_name other {here}")  # without its weight: other weights, and not a word of it
    assert not same_weights(weights / "part.pth", weights / "other.pth")
    assert "variance_loss" not in (logs / "other.jsonl").read_text()
    LOSSES.clear()
    words = "part_last.pth was trained with --variance_weight 0.02, a loss that is not registered here: add its --model FILE.py"
    assert words in refused(SNN, again)
    register("later", lambda *_: None)
    assert "other settings (later_weight)" in refused(SNN, again.replace("part", "other"), "--later_weight 1")


def test_no_step_is_kept_for_a_loss_that_does_not_look_at_it(tmp_path):
    """But there are images, labels, and the outputs and spikes of each step, in training and in evaluation."""
    seen = []

    def value(self, output, images, labels):
        steps = {len(output.logits_by_step), *map(len, output.spikes_by_step.values())}
        seen.append((output.predictions is output.errors is output.is_open is None, len(images) == len(labels) == 16, steps))
        return output.logits_by_step.square().mean()

    register("small", value)
    run_here(SNN, f"{TINY} --small_weight 1 --epochs 1 --output_dir {tmp_path}")
    assert seen == [(True, True, {5})] * 3  # two batches to learn from, one to judge


def test_what_does_nothing_is_refused(tmp_path, variance):
    here = f"--epochs 1 --output_dir {tmp_path}"
    line = "error: --variance_steps does nothing without --variance_weight: give both, or neither"
    assert refused(SNN, f"{TINY} {here} --variance_steps 2") == line
    plain = TINY.replace("VGG5_wFeedback", "VGG5")
    assert "VGG5_small has no decoder" in refused(SNN, f"{plain} {here} --variance_weight 1")
    assert "--variance_weight" in refused(ANN, f"--variance_weight 1 {here}")
    assert "at least 0" in refused(SNN, f"{TINY} {here} --variance_weight -1")
    LOSSES.clear()
    assert "unrecognized arguments: --variance_weight" in refused(SNN, f"{TINY} {here} --variance_weight 1")
    assert not any(tmp_path.iterdir())


def test_losses_of_one_class_have_flags_of_their_own(variance):
    register("calm", variance.value, base=variance)
    args = snn_parser("").parse_args(["--calm_weight", "1", "--calm_steps", "2"])
    assert own_losses(args, SimpleNamespace(has_feedback=True)) == {"calm_loss": LOSSES["calm"](1, 2)}


def test_a_loss_that_looks_at_predictions_teaches_a_decoder(trained, tmp_path):
    here = f"--pretrained_snn {trained.snn} --train decoder --trade_off 0 --epochs 1 {DATA} --select test --run_name x"
    assert "--trade_off above 0" in refused(SNN, f"{here} --output_dir {tmp_path}")
    run_here(SNN, f"{here} --variance_weight 1 --output_dir {tmp_path}")
    before, after = (load_checkpoint(path)["state_dict"] for path in (trained.snn, tmp_path / "trained_models/snn/x.pth"))
    assert {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])} == {"generate"}


def test_what_a_loss_lacks_is_said_at_once():
    with pytest.raises(ModelError, match=r"loss 'x': Own lacks value\(\), see Loss of harness.training.losses"):
        LOSSES.register("x")(dataclass(type("Own", (Loss,), {})))
    register("each", lambda self, output, images, labels: torch.zeros(2))
    with pytest.raises(ModelError, match=r"each_loss: value\(\) of Own must be a scalar tensor, the mean over the batch"):
        Criterion(0.0, "last_t", own={"each_loss": LOSSES["each"](1)})(SNNOutput(torch.zeros(2, 4), None, None, {}, None), LABELS)
