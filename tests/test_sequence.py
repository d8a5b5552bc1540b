"""Training of a streaming network: what goes from one image to the next, where gradients are cut, and that it goes on."""

import functools
import os
import shlex
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import SNN, check_same, records, refused, run_here, split
from test_ranks import SNN_RUN, check_same_training, succeed
from test_stream import DYNAMIC, build, in_event, inputs, scene
from test_survive import RUN, after_step, compare, stopped, train

import harness.training.fit
from harness.training.fit import in_sequence
from harness.training.losses import Criterion
from self_models.basics.checkpoints import load_checkpoint
from self_models.network.neurons import HeldDropout
from self_models.running.draws import EVALUATION, Draws
from self_models.running.stream import SequenceState
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

SEQUENCE = "--sequence 2 --blocking dynamic --latch --surprise 1 --epsilon 0.2"


def in_places(model, frames, pieces, seed=1):
    """The outputs of Places one after the other, on draws as a stream with this seed has them; and the Places."""
    place, found, places = SequenceState(0), [], []
    for x, steps in zip(frames, pieces, strict=True):
        place = SequenceState(steps, place.after)
        found.append(model(x, draws=Draws(seed, EVALUATION, torch.arange(len(x))), frames=False, place=place))
        places.append(place)
    return found, places


# --- what goes on, and what does not


def test_two_images_by_hand():
    """One neuron that gets w x, theta 1, and one output that keeps a half per step. x = 0.6 for three steps: V' = .6 1.2 .8, a
    spike in the second; O = 0 1 .5. Then x = 0.5 for two: V' = .8 + .5 = 1.3, a spike, and .3 + .5 = .8; O = 1.25 .625.
    The surrogate is 0.3 (1 - |v|), v = V' - 1. Of the last O with respect to w, V = .8 and O = .5 being given:
    .5 * .3 (1 - .3) * .5 + .3 (1 - .2) * (.5 + .5) = .2925; to the output's weight: .5, of the second image's spike alone."""
    common = {"image_shape": (1, 1, 1), "kernel_size": 1, "fc_layers": 0, "dropout": 0, "encoding": "direct"}
    model = VGG_SNN_STDB_wFeedback(plan=[[1], []], labels=1, update="immediate", timesteps=3, output_leak=0.5, **common).train()
    for weight in model.parameters():
        weight.data.fill_(1)
    (first, second), places = in_places(model, [torch.tensor(x).view(1, 1, 1, 1) for x in (0.6, 0.5)], (3, 2))
    torch.testing.assert_close(first.logits_by_step.flatten(), torch.tensor([0, 1, 0.5]))
    torch.testing.assert_close(second.logits_by_step.flatten(), torch.tensor([1.25, 0.625]))
    assert [one.after["steps"] for one in places] == [3, 5] and second.spikes["features.1"].tolist() == [1]
    second.logits.sum().backward()
    gradients = [weight.grad.item() for weight in model.parameters() if weight.grad is not None]
    assert gradients == pytest.approx([0.2925, 0.5])
    assert not any(value.requires_grad for place in places for name, value in place.after.items() if name != "steps")


@pytest.mark.parametrize("settings", [{}, DYNAMIC, {"dropout": 0.3, "surprise": 1.0, **DYNAMIC}], ids=str)
def test_a_first_image_is_a_run_of_training(settings):
    """Bit for bit, with its gradients; of T steps."""
    model = build(**settings).train()
    x, _ = inputs(model)
    draws, found = Draws(1, 2, torch.arange(len(x))), []
    for more in ({}, {"place": SequenceState(model.timesteps)}):
        model.zero_grad()
        output = model(x, draws=draws, frames=False, **more)
        Criterion(0.1, "linear_over_t", 1e-3, "mean_t")(output, torch.zeros(len(x), dtype=torch.int64))["total"].backward()
        found.append([output.logits_by_step.detach(), *(weight.grad for weight in model.parameters() if weight.requires_grad)])
    assert all(torch.equal(one, other) and one.any() for one, other in zip(*found, strict=True))


def test_a_later_image_in_segments():
    """Whose steps are computed again in the backward pass: the same gradients, but for rounding."""
    found = []
    for segments in (0, 2):
        model = build(**DYNAMIC, dropout=0.3, surprise=1.0).train()
        model.set_bptt_segments(segments)
        outputs, _ = in_places(model, *scene(model))
        outputs[1].logits.square().sum().backward()
        found.append([weight.grad for weight in model.classifier.parameters() if weight.requires_grad])
    assert all(gradient.any() for gradient in found[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ["dense", "event"])
@pytest.mark.parametrize("settings", [{"membrane_floor": 0.25}, {"leak": 0.5, "output_leak": 0.75, "surprise": 0.75}], ids=str)
def test_an_image_after_others_is_seen_as_in_a_stream(settings, engine):
    dense = build(**DYNAMIC, **settings)
    model, (frames, pieces) = in_event(dense) if engine == "event" else dense, scene(dense)
    with torch.no_grad():
        found, _ = in_places(model, frames, pieces)
    stream = model.stream(seed=1)
    for one, x, steps in zip(found, frames, pieces, strict=True):
        check_same(stream(x, steps, frames=False), one)
    if engine == "event":
        assert model.engine.runs["dense"] == 0
    trained, _ = in_places(dense.train(), frames, pieces) if dense.settings["dropout"] == 0 else (found, None)
    for one, other in zip(found, trained, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-4)


def test_each_image_has_dropout_masks_of_its_own():
    model, place, used = build(dropout=0.5).train(), SequenceState(0), []
    x, _ = inputs(model)
    drops = [module for module in model.modules() if isinstance(module, HeldDropout) and module.p]
    for module in drops:
        module.register_forward_hook(lambda module, given, output: used.append((module, output[1])))
    for number in (1, 2):
        draws, place = Draws(0, 1, torch.arange(len(x)) + number * len(x)), SequenceState(model.timesteps, place.after)
        used.clear()
        model(x, draws=draws, frames=False, place=place)
        assert {module for module, _ in used} == {*drops}
        for module, mask in used:
            assert torch.equal(mask, draws.mask(module.layer, module.p, mask.shape[1:]))


# --- which images come after which, and for how long


def batches_of(*sizes):
    return [SimpleNamespace(index=range(size), _replace=lambda place: place) for size in sizes]


def test_an_image_comes_after_that_of_the_batch_before():
    """By threes, from batch 2 of an epoch on: the next of them begins anew, as does a last one that is smaller."""
    found = []
    for place in in_sequence(batches_of(4, 4, 4, 4, 4, 4, 3), 3, lambda number: number, first=2):
        found.append((place.steps, place.before))
        place.after = f"after {place.steps}"
    none = None
    assert found == [(2, none), (3, none), (4, "after 3"), (5, "after 4"), (6, none), (7, "after 6"), (8, none)]
    assert list(in_sequence(batches_of(4, 3), 1, None)) == [None, None]


@pytest.mark.parametrize("timesteps", [1, 5, 6])
def test_steps_are_half_of_t_to_one_and_a_half_and_follow_from_seed_and_epoch(tmp_path, monkeypatch, timesteps):
    found, real = [], harness.training.fit.train_one_epoch

    def noted(model, batches, *more):
        batches = list(batches)
        found.append([batch.place.steps for batch in batches])
        return real(model, batches[:1], *more)

    monkeypatch.setattr(harness.training.fit, "train_one_epoch", noted)
    small = f"-a VGG5_wFeedback_small --fc_width 4 --timesteps {timesteps} --limit_train 600 --limit_test 8 --batch_size 1"
    for seed in (0, 1) if timesteps == 6 else (0,):
        run_here(SNN, f"{small} --sequence 2 --holdout 8 --epochs 2 --seed {seed} --overwrite --output_dir {tmp_path}")
    for steps in found:
        assert len(steps) == 600 and {*steps} == {*range(-(-timesteps // 2), 3 * timesteps // 2 + 1)}
        assert sum(steps) / 600 == pytest.approx(timesteps, rel=0.07)
    assert timesteps == 1 or all(one != other for number, one in enumerate(found) for other in found[:number])


# --- the script


def test_a_run_goes_on_where_a_sequence_has_ended(tmp_path, monkeypatch, capsys):
    """Of three updates an epoch two are a sequence: a signal in the first waits for the second, one in the third does not."""
    flags = f"{RUN} {SEQUENCE} --dropout 0.3 --augment"
    train(tmp_path / "alone", flags=flags)
    for at, saved in (((1, 1), (0, 2)), ((2, 3), (1, 3))):
        folder = tmp_path / f"killed_{saved[0]}"
        monkeypatch.setattr(sys, "argv", [f"{SNN}.py", *split([flags]), "--output_dir", str(folder)])
        with monkeypatch.context() as patch:
            after_step(patch, *at, functools.partial(os.kill, os.getpid(), signal.SIGTERM))
            stopped(folder, signal.SIGTERM, flags=flags)
        last = load_checkpoint(folder / "trained_models/snn/x_last.pth")
        assert (last["epoch"], last["step"]) == saved
        run_here(SNN, *shlex.split(capsys.readouterr().err.rpartition("go on with: ")[2])[2:])
        assert compare(tmp_path / "alone", folder) == []


def test_ranks_learn_from_sequences_as_one_process_does(tmp_path):
    flags = f"{SNN_RUN} {SEQUENCE} --epochs 2"
    run_here(SNN, flags, f"--run_name x --output_dir {tmp_path / 'alone'}")
    succeed(2, tmp_path / "said", SNN, flags, f"--run_name x --output_dir {tmp_path / 'run'}")
    check_same_training(tmp_path / "alone", tmp_path / "run")
    held_out = [[one["evaluated"]["accuracy"] for one in records(tmp_path / f"{name}/logs/snn/x.jsonl", "epoch")]
                for name in ("alone", "run")]  # fmt: skip
    assert held_out[0] == held_out[1]


@pytest.mark.parametrize("select", ["held-out", "test --holdout 0"])
def test_the_best_epoch_is_the_best_at_sequences_and_its_test_figures_are_of_single_images(tmp_path, monkeypatch, select):
    seen, real = [], harness.training.fit.evaluate

    def evaluate(model, batches, *more):
        kept = []
        result = real(model, (kept.append(batch) or batch for batch in batches), *more)
        seen.append([(batch.place.steps, bool(batch.place.before)) if batch.place else None for batch in kept])
        return result

    monkeypatch.setattr(harness.training.fit, "evaluate", evaluate)
    train(tmp_path, f"{SEQUENCE} --epochs 1 --select {select}")
    steps = load_checkpoint(tmp_path / "trained_models/snn/x.pth")["settings"]["timesteps"]
    assert seen[0][:2] == [(steps, False), (steps, True)][: len(seen[0])] and len(seen) == 2 and {*seen[1]} == {None}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "--gate once --epsilon 0.2 --encoding direct",
            "gate once is for one image: a streaming network wants block, or open",
        ),
        ("--feedback_interval 2", "--feedback_interval 1"),
        ("--sequence 0", "--sequence"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(tmp_path, flags, words):
    base = "-a VGG5_wFeedback_small --fc_width 8 --timesteps 4 --readout membrane_linear --limit_train 16 --sequence 2"
    assert words in refused(SNN, base, flags, f"--output_dir {tmp_path}")
