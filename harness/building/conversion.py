"""From ANN to SNN: copy the weights, then balance the thresholds layer by layer, or take the bounds of a QCFS ANN for them.

A spike counts 1 here, whatever its layer's threshold; an ANN's activation is on the scale of its layer. So what drives a layer is
in a unit, the product of the thresholds before it, and with it that layer's bias and bound have to be divided.
"""

import contextlib
import hashlib
import json
import math
import re
from functools import cache

import numpy as np
import torch

from harness import UserError
from harness.processes.signals import Interrupted
from harness.runs.checkpoints import write_whole
from harness.runs.progress import progress_bar
from harness.training.forecast import counted
from self_models.network.forward import chains, run_stage
from self_models.network.stages import encoder_parts, list_layers
from self_models.running.draws import Draws

RULE = 3  # of balancing: thresholds in caches of another rule are not read
KEPT = 2**31  # bytes of a layer's drives that are kept until its threshold is known; more are computed twice


@torch.no_grad()
def balance_thresholds(model, images, draws, timesteps, percentile=100.0, on_layer=None, on_step=None):
    """Thresholds of each spiking layer, encoder, decoder, classifier: the largest drive W a[t] over steps, images, neurons; with
    a percentile below 100 the largest over steps of that percentile over images and neurons (Rueckauer et al., 2017).

    Each layer is run with leak 1 and the thresholds found so far (Diehl et al., IJCNN 2015; Sengupta et al., 2019), once: its
    spikes at all steps, a bit each, are kept for the layers after it. The input neurons see the whole image, whatever the gate.
    The decoder is driven as in a run, by the encoder's output summed over feedback_interval steps. The model's leaks are put
    back, its thresholds are the ones found, its biases, which were the ANN's, fit to them. images: (B, C, H, W), or
    recordings (B, T, C, H, W), which begin again at their end; draws: t -> (B, C, H, W), uniform in [0, 1); on_layer: called
    with (name, threshold); on_step: after each step of a layer. Raises UserError for fewer steps than the decoder needs to run
    once.
    """
    interval = model.feedback_interval
    if model.has_feedback and timesteps < interval:
        raise UserError(f"in {timesteps} steps of balancing the decoder never runs: --feedback_interval is {interval}")
    leaks = {name: neuron.leak.item() for name, neuron in model.neurons().items()}
    was_training, biases = model.training, biases_of(model)
    model.eval()
    model.set_leak(1.0)

    def on_found(name, threshold):
        fit_biases(model, biases)
        if on_layer:
            on_layer(name, threshold)

    def balance(stage, layers, signal, steps):
        return balance_stage(stage, layers, signal, steps, percentile, on_found, on_step)

    before_fork, after_fork = encoder_parts(model.features)
    shown = images.unbind(1) if images.dim() > 4 else [images]
    forked = balance("features", before_fork, lambda t: model.encoding.send(shown[t % len(shown)], draws(t)), timesteps)
    encoded = balance("features", after_fork, forked, timesteps)
    if model.has_feedback:
        inflow = lambda n: sum(forked(n * interval + t) for t in range(interval))  # noqa: E731
        balance("generate", list_layers(model.generate), inflow, timesteps // interval)
    balance("classifier", list_layers(model.classifier), lambda t: encoded(t).flatten(1), timesteps)
    for name, neuron in model.neurons().items():
        neuron.leak.fill_(leaks[name])
    model.train(was_training)
    return model.thresholds


def balance_stage(name, layers, signal, steps, percentile, on_layer, on_step):
    """Balance the spiking layers of a stage. layers: as run_stage takes them; signal: t -> the stage's input at step t, (B, ...).
    Returns t -> its output likewise."""
    for linear, neuron in chains(layers):
        signal = through(name, linear, signal)
        if neuron:
            position, module = neuron
            signal = spikes_of(module, signal, steps, percentile, on_step)
            on_layer(f"{name}.{position}", module.threshold.item())
    return signal


def through(name, linear, signal):
    """t -> what layers that do not spike make of the signal at step t, (B, ...)."""
    return lambda t: run_stage(name, linear, signal(t)[None], {})[0]


def spikes_of(neuron, drive, steps, percentile, on_step):
    """Set a layer's threshold from its drives, t -> (B, ...), to 1 where nothing positive ever reaches it; returns t -> its
    spikes, likewise, of which it keeps a bit each."""
    first = drive(0)
    count, kind = first.numel(), (first.device, first.dtype)
    drive = cache(drive) if steps * first.nbytes <= KEPT else drive
    found = torch.stack([largest(drive(t), percentile) for t in range(steps)]).max()
    neuron.threshold.copy_(torch.where(found > 0, found, 1.0))
    bits, state = [], None
    for t in range(steps):
        fired, state, _ = neuron(drive(t), state)
        bits.append(np.packbits(fired.bool().as_strided((count,), (1,)).cpu().numpy()))  # in the order of the memory
        if on_step:
            on_step()
    shape, strides = fired.shape, fired.stride()
    return lambda t: torch.from_numpy(np.unpackbits(bits[t], count=count)).as_strided(shape, strides).to(*kind)


def largest(values, percentile):
    """The smallest of the values that this percentage of them does not exceed; the largest where that is not above 0."""
    if percentile < 100:
        found = values.flatten().kthvalue(max(1, math.ceil(percentile * values.numel() / 100))).values
        if found > 0:
            return found
    return values.max()


def scale_thresholds(model, factor):
    """Multiply every threshold by factor, as the original does before use (0.7)."""
    model.set_thresholds([factor * threshold for threshold in model.thresholds])


def bounds_as_thresholds(state):
    """(an ANN's state_dict with the bounds of its QCFS layers as thresholds, whether it has any)"""
    renamed = {re.sub(r"(\.nonlinearity)?\.bound$", ".threshold", name): value for name, value in state.items()}
    return renamed, renamed.keys() != state.keys()


def biases_of(model):
    """Number of a node -> a copy of the bias that its neurons have."""
    wiring = model.wiring
    return {one.target: one.bias.detach().clone() for one in (*wiring.forward, *wiring.feedback) if one.bias is not None}


def fit_biases(model, biases):
    """Bring the model's biases from the ANN's, see biases_of, to the unit of what drives each layer, for the thresholds now."""
    with torch.no_grad():
        for connection, unit in units(model):
            if connection.target in biases:
                connection.bias.copy_(biases[connection.target] / unit)


@torch.no_grad()
def fit_thresholds(model):
    """Bring thresholds that are the ANN's bounds to the unit of what drives each layer."""
    neurons = list(model.neurons().values())
    for connection, unit in units(model):
        if connection.target < model.wiring.output:
            neurons[connection.target - 1].threshold.div_(unit)


def units(model):
    """(Connection, unit of its drive) of each, in their order: a drive of 1 stands for so much of the ANN's. Thresholds may be
    changed on the way, each when its connection is met."""
    wiring, thresholds, found = model.wiring, list(model.neurons().values()), {0: 1.0}
    for connection in (*wiring.forward, *wiring.feedback):
        sums = connection in wiring.feedback and connection.source == wiring.forked
        unit = found[wiring.before_pools(connection.source)] / (model.feedback_interval if sums else 1)
        yield connection, unit
        if connection.target < wiring.output:
            found[connection.target] = unit * thresholds[connection.target - 1].threshold.item()


def balanced_thresholds(model, train, args, folder, say):
    """Balance the model, or read what was found earlier for the same weights, images and settings.

    The cache lies in folder, beside the SNN's own files. train: ImageSet; args: the flags balance_images,
    balance_timesteps, balance_percentile and seed; say: called with a line for the reader.
    """
    batch = train.batch(torch.arange(min(args.balance_images, len(train))), next(model.parameters()).device)
    cache = folder / f"balanced_thresholds_{_digest(model, train.images[batch.index], args)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):  # none there, or damaged: found again
        saved = json.loads(cache.read_text())
        if saved["check"] == check_of(saved["thresholds"]):
            model.set_thresholds(saved["thresholds"])
            say(f"balanced thresholds read from {cache}")
            return
    say(f"balancing thresholds: {counted(len(batch.index), 'image')}, {counted(args.balance_timesteps, 'step')}")
    before_training, done = Draws(args.seed, 0, batch.index), []

    def draws(t):
        return before_training.at_step(t, model.image_shape, batch.images.device)

    def on_layer(name, threshold):
        done.append(name)
        say(f"  {name}: threshold {threshold:.4f}")

    total = sum(args.balance_timesteps // (model.feedback_interval if "generate" in name else 1) for name in model.neurons())
    try:
        with progress_bar("balancing thresholds", total) as bar:
            found = balance_thresholds(
                model, batch.images, draws, args.balance_timesteps, args.balance_percentile, on_layer, bar.update
            )
    except Interrupted as stop:
        layers = f"{len(done)} of {len(model.neurons())} layers done"
        message = f"interrupted while balancing thresholds, {layers}; nothing is kept: the same command begins anew"
        raise Interrupted(stop.number, message) from None
    saved = {"layers": list(model.neurons()), "thresholds": found, "check": check_of(found)}
    write_whole(cache, lambda file: file.write(json.dumps(saved).encode()))


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
