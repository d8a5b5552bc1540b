"""A conversion on training images, as a run does it: what it says and shows."""

import contextlib

import torch

from harness.processes.signals import Interrupted
from harness.runs.progress import progress_bar
from harness.training.forecast import counted
from self_models.conversion import ROUNDS, balance_thresholds, calibrate_biases, rates_of
from self_models.network.wiring import in_stages
from self_models.running.draws import Draws


def balanced_thresholds(model, train, args, say):
    """Balance the model on images of this ImageSet. say: called with a line for the reader."""
    batch = balancing_batch(model, train, args)
    steps, draws = args.balance_timesteps, draws_before_training(model, batch, args)
    say(f"balancing thresholds: {counted(len(batch.index), 'image')}, {counted(steps, 'step')}")
    with layers_settled("balancing thresholds", model, steps, say, "threshold {:.4f}") as on:
        balance_thresholds(model, batch.images, draws, steps, args.balance_percentile, *on)


@contextlib.contextmanager
def layers_settled(what, model, steps, say, line, rounds=1):
    """(on_layer, on_step), to be called with a layer's name and the figures of its line, and after each of its steps, beside a
    progress bar. Raises Interrupted with how many layers were done."""
    done = []

    def on_layer(name, *figures):
        done.append(name)
        say(f"  {name}: {line.format(*figures)}")

    names = [name for name in model.neurons() if in_stages(name)]
    total = rounds * sum(steps // (model.feedback_interval if "generate" in name else 1) for name in names)
    try:
        with progress_bar(what, total) as bar:
            yield on_layer, bar.update
    except Interrupted as stop:
        layers = f"{len(done)} of {len(names)} layers done"
        message = f"interrupted while {what}, {layers}; nothing of that is kept: the same command does it again"
        raise Interrupted(stop.number, message) from None


def balancing_batch(model, train, args):
    """The Batch of the training images with which thresholds are balanced and biases calibrated."""
    return train.batch(torch.arange(min(args.balance_images, len(train))), next(model.parameters()).device)


def draws_before_training(model, batch, args):
    """t -> the draws of these images at step t, as balance_thresholds takes them."""
    draws = Draws(args.seed, 0, batch.index)
    return lambda t: draws.at_step(t, model.image_shape, batch.images.device)


def calibrated_biases(model, ann, train, args, say):
    """calibrate_biases on the images with which thresholds are balanced. say: called with lines for the reader."""
    batch = balancing_batch(model, train, args)
    say(f"calibrating biases: {counted(len(batch.index), 'image')}, {counted(model.timesteps, 'step')}")
    line = "mean rates of its channels off by {:.4f}, now by {:.4f}"
    with layers_settled("calibrating biases", model, model.timesteps, say, line, ROUNDS + 1) as on:
        calibrate_biases(model, rates_of(ann, model, batch.images), batch.images, draws_before_training(model, batch, args), *on)
