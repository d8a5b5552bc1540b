"""From ANN to SNN: copy the weights, then balance the thresholds layer by layer."""

import contextlib
import hashlib
import json

import torch

from harness.runs.checkpoints import write_whole
from self_models.running.draws import Draws


@torch.no_grad()
def balance_thresholds(model, images, draws, timesteps, on_layer=None):
    """Thresholds of each spiking layer, encoder, decoder, classifier: the largest drive W a[t] over steps, images, neurons.

    Each layer is run with leak 1 and the thresholds found so far (Diehl et al., IJCNN 2015; Sengupta et al., 2019). The
    model's leaks are put back, its thresholds are the ones found. images: (B, C, H, W); draws: t -> (B, C, H, W), uniform
    in [0, 1); on_layer: called with (name, threshold).
    """
    neurons = model.neurons()
    leaks = {name: neuron.leak.item() for name, neuron in neurons.items()}
    was_training = model.training
    model.eval()
    model.set_leak(1.0)
    for name, neuron in neurons.items():
        run, largest = model.start(images), torch.zeros((), device=images.device)
        for t in range(timesteps):
            largest = torch.maximum(largest, model.drive_into(name, run, draws(t)).max())
        neuron.threshold.copy_(usable_threshold(largest))
        if on_layer:
            on_layer(name, neuron.threshold.item())
    for name, neuron in neurons.items():
        neuron.leak.fill_(leaks[name])
    model.train(was_training)
    return model.thresholds


def usable_threshold(largest):
    """The threshold for a layer's largest drive; 1 where nothing positive ever reached the layer."""
    return torch.where(largest > 0, largest, torch.ones_like(largest))


def scale_thresholds(model, factor):
    """Multiply every threshold by factor, as the original does before use (0.7)."""
    model.set_thresholds([factor * threshold for threshold in model.thresholds])


def dynamics_parameters(model):
    """Names of the parameters that an ANN does not have: each layer's threshold and leak."""
    return [f"{name}.{key}" for name in model.neurons() for key in ("threshold", "leak")]


def balanced_thresholds(model, train, args, folder, say):
    """Balance the model, or read what was found earlier for the same weights, images and settings.

    The cache lies in folder, beside the SNN's own files. train: ImageSet; args: the flags balance_images,
    balance_timesteps and seed; say: called with a line for the reader.
    """
    images = train.batch(torch.arange(min(args.balance_images, len(train))), next(model.parameters()).device)
    known = model.declared()
    used = {name: value for name, value in model.settings.items() if known[name].balanced}
    settings = [used, args.balance_timesteps, args.seed, train.name, len(images.index)]
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6)
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    cache = folder / f"balanced_thresholds_{digest.hexdigest()}.json"
    if cache.is_file():
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # what a damaged cache held is found again
            saved = json.loads(cache.read_text())
            if saved["check"] == check_of(saved["thresholds"]):
                model.set_thresholds(saved["thresholds"])
                say(f"balanced thresholds read from {cache}")
                return
    say(f"balancing thresholds: {len(images.index)} images, {args.balance_timesteps} steps")
    before_training = Draws(args.seed, 0, images.index)

    def draws(t):
        return before_training.at_step(t, model.image_shape, images.images.device)

    def on_layer(name, threshold):
        say(f"  {name}: threshold {threshold:.4f}")

    found = balance_thresholds(model, images.images, draws, args.balance_timesteps, on_layer)
    saved = {"layers": list(model.neurons()), "thresholds": found, "check": check_of(found)}
    write_whole(cache, lambda file: file.write(json.dumps(saved).encode()))


def check_of(thresholds):
    """A check sum of the thresholds, as text."""
    return hashlib.blake2b(json.dumps(thresholds).encode(), digest_size=6).hexdigest()
