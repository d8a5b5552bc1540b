"""A conversion on training images, as a run does it: what it says, shows, and keeps of the thresholds that it found."""

import contextlib
import hashlib
import json

import torch

from harness.processes.signals import Interrupted
from harness.runs.checkpoints import write_whole
from harness.runs.progress import progress_bar
from harness.training.forecast import counted
from self_models.conversion import ROUNDS, balance_thresholds, calibrate_biases, rates_of
from self_models.fast import batched
from self_models.network.wiring import in_stages
from self_models.running.draws import Draws

RULE = 4  # of balancing: thresholds in caches of another rule are not read


def balanced_thresholds(model, train, args, folder, say):
    """Balance the model on images of this ImageSet, or read from the folder what was found earlier for the same weights, images
    and settings. say: called with a line for the reader."""
    batch = balancing_batch(model, train, args)
    cache = folder / f"balanced_thresholds_{_digest(model, train.images[batch.index], args)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):  # none there, or damaged: found again
        saved = {} if batched.why_not(model) else json.loads(cache.read_text())  # what neurons of one's own do may have changed
        if saved["check"] == check_of(saved["thresholds"]):
            model.set_thresholds(saved["thresholds"])
            say(f"balanced thresholds read from {cache}")
            return
    steps, draws = args.balance_timesteps, draws_before_training(model, batch, args)
    say(f"balancing thresholds: {counted(len(batch.index), 'image')}, {counted(steps, 'step')}")
    with layers_settled("balancing thresholds", model, steps, say, "threshold {:.4f}") as on:
        found = balance_thresholds(model, batch.images, draws, steps, args.balance_percentile, *on)
    saved = {"layers": list(model.neurons()), "thresholds": found, "check": check_of(found)}
    write_whole(cache, lambda file: file.write(json.dumps(saved).encode()))


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


def _digest(model, images, args):
    """Of all that balanced thresholds depend on. images: (B, ..., C, H, W), uint8."""
    known = model.declared()
    used = {name: value for name, value in model.settings.items() if known[name].balanced and not known[name].training}
    settings = [RULE, used, args.balance_timesteps, args.balance_percentile, args.seed, len(images)]
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6)
    digest.update(images.numpy().tobytes())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()


def check_of(thresholds):
    """A check sum of the thresholds, as text."""
    return hashlib.blake2b(json.dumps(thresholds).encode(), digest_size=6).hexdigest()
