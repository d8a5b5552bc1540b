"""Where do two runs of a network part? first_difference(a, b, images)."""

from typing import NamedTuple

import torch

from self_models.basics import ModelError
from self_models.basics.images import checked_images, tensor_of
from self_models.kernel.engine import EventEngine
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import SNNOutput
from self_models.running.stream import MEMBRANES

AT_ONCE = 50  # images that are compared at once
AFTERWARDS = {"predicted": "predicted", "output": "logits_by_step", "prediction": "predictions", "error": "errors"}  # SNNOutput's


class Difference(NamedTuple):
    """The first place where two runs differ. image, step: numbers from 0. layer: a layer of neurons, 'input', 'output' (logits),
    or another part of an SNNOutput. neuron: its number in the flattened (C, H, W), None where sums alone are known. a, b: what
    each has there: spikes, or a value. potentials: of that neuron after this step, (of a, of b), each in its own unit,
    as thresholds are; None where they are not known."""

    image: int
    step: int
    layer: str
    neuron: int | None
    a: float
    b: float
    potentials: tuple | None = None
    thresholds: tuple | None = None

    def __str__(self):
        neuron = "" if self.neuron is None else f", neuron {self.neuron}"
        words = f"image {self.image}, timestep {self.step}, {self.layer}{neuron}: {self.a:.9g} and {self.b:.9g}"
        if self.potentials:
            v, other = self.potentials
            words += f"; potentials {v:.9g} and {other:.9g}"
        if self.thresholds:
            theta, others = self.thresholds
            words += f", threshold {theta:.9g}" if theta == others else f", thresholds {theta:.9g} and {others:.9g}"
        return words


@torch.no_grad()
def first_difference(a, b, images=None, seed=0, uniforms=None, tolerance=None):
    """The Difference of two networks on images (B, C, H, W): of the first image in which they differ at its first step there, of
    the first layer in the order of a step; None for none. Spikes and blocked pixels are compared, and how many steps an image
    takes. tolerance: potentials, logits and predictions, too, each within tolerance (1 + its size); 0: to the last bit.

    a, b: SNNs, as load() gives them, EventEngines, or whatever is called like an SNN, gives an SNNOutput and has `thresholds`; or
    SNNOutputs, without images. seed, uniforms: of their draws, as in an SNN's call. Where they differ, the image runs again, and
    is recorded. Raises ModelError for runs that cannot be compared."""
    if isinstance(a, SNNOutput) and isinstance(b, SNNOutput):
        found = compared(a, b, tolerance)
        v = [of_layer(output, found.layer)[1] for output in (a, b)] if found and found.neuron is not None else [None]
        if any(each is None for each in v):
            return found
        return found._replace(potentials=tuple(each[found.step, found.image].flatten()[found.neuron].item() for each in v))
    images = tensor_of(images)
    for part in torch.arange(len(images)).split(AT_ONCE):
        draws, drawn = Draws(seed, EVALUATION, part), None if uniforms is None else uniforms[:, part]
        found = compared(*(one(images[part], uniforms=drawn, draws=draws) for one in (a, b)), tolerance)
        if not found:
            continue
        at = part[[found.image]]
        draws, drawn = Draws(seed, EVALUATION, at), None if uniforms is None else uniforms[:, at]
        recorded = [recorded_by(one, images[at], drawn, draws) for one in (a, b)]
        found = (compared(*recorded, tolerance) or found)._replace(image=int(at))
        layers = list(recorded[0].spikes)[1:]
        if found.layer not in layers:
            return found
        thresholds = tuple(getattr(one, "model", one).thresholds[layers.index(found.layer)] for one in (a, b))
        return with_potentials(found, [of_layer(output, found.layer)[1] for output in recorded], thresholds)
    return None


def recorded_by(network, x, uniforms, draws):
    """The SNNOutput of a run on one image, with the spikes and potentials of all its layers; of an event engine the potentials,
    where its draws are no uniforms that are given."""
    model = getattr(network, "model", network)
    engine = network if isinstance(network, EventEngine) else getattr(network, "engine", None)
    if not engine or not engine.serves():
        names = list(model(x, uniforms=uniforms, draws=draws, frames=False).spikes)
        record = dict.fromkeys(names[1:], ("spikes", "membrane")) | {"input": "spikes"}
        return model(x, uniforms=uniforms, draws=draws, record=record)
    output = engine(x, uniforms, draws)
    if uniforms is not None or model.frames or model.phased:
        return output
    x, states = checked_images(x, model), []
    left_on = engine.begun(x, draws)
    for _ in range(model.timesteps):
        _, left_on = engine.go_on(left_on, x, 1, frames=False)
        states.append(engine.state_of(left_on))
    membranes = {name: torch.stack([state[MEMBRANES + name] for state in states]) for name in model.neurons()}
    return output._replace(recorded={name: {"membrane": values} for name, values in membranes.items()})


def compared(a, b, tolerance=None):
    """The first Difference of two SNNOutputs, or None."""
    if list(a.spikes) != list(b.spikes) or a.logits_by_step.shape != b.logits_by_step.shape:
        raise ModelError("these runs cannot be compared: they have other layers, classes or timesteps, or other images")
    parts = list(compared_values(a, b, tolerance))
    differ = torch.stack([differs.any(2) for *_, differs in parts])  # (parts, T, B)
    if not differ.any():
        return None
    image = int(differ.any(0).any(0).nonzero()[0])
    step = int(differ[..., image].any(0).nonzero()[0])
    layer, *values = parts[int(differ[:, step, image].nonzero()[0])]
    one, other, differs = (value[step, image] for value in values)
    neuron = int(differs.nonzero()[0])
    return Difference(image, step, layer, neuron if len(one) > 1 else None, one[neuron].item(), other[neuron].item())


def compared_values(a, b, tolerance):
    """(layer, what a has of it (T, B, n), what b has, where they differ), in the order of a step."""
    step = torch.arange(len(a.logits_by_step))[:, None]
    compared = [None if one.comparisons is None else one.comparisons * (step == step[-1]) for one in (a, b)]
    found = [("running", step < a.steps, step < b.steps), ("is_open", a.is_open, b.is_open)]
    for name in a.spikes:
        (one, v), (other, others) = (of_layer(output, name) for output in (a, b))
        if one is None or other is None:
            one, other = a.spikes_by_step[name], b.spikes_by_step[name]
        potentials = [each if each is None else each.double() for each in (v, others)]  # whole numbers, too, are values
        found += [(name, one, other), (f"{name} potential", *potentials)]
    found += [(name, getattr(a, field), getattr(b, field)) for name, field in AFTERWARDS.items()] + [("comparisons", *compared)]
    for name, *values in found:
        if any(value is None for value in values):
            continue
        one, other = (value[..., None].flatten(2) for value in values)
        if name in a.spikes or not one.is_floating_point():
            yield name, one, other, one != other
        elif tolerance is not None:
            near = torch.isclose(one, other.to(one.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)
            yield name, one, other, ~near


def of_layer(output, name):
    """(recorded spikes, recorded potentials) of a layer, None for what was not recorded."""
    recorded = (output.recorded or {}).get(name, {})
    return recorded.get("spikes"), recorded.get("membrane")


def with_potentials(found, potentials, thresholds):
    """A Difference in an image's spikes with the potentials (T, 1, ...) of its neuron: where that is not known, of the one whose
    potentials, in thresholds, have just moved apart most."""
    if any(v is None for v in potentials):
        return found
    v, neuron = [v[: found.step + 1].flatten(1) for v in potentials], found.neuron
    if neuron is None:
        apart = v[0] / thresholds[0] - v[1] / thresholds[1]
        neuron = int((apart[-1] - (apart[-2] if found.step else 0)).abs().argmax())
    return found._replace(neuron=neuron, potentials=tuple(each[-1, neuron].item() for each in v), thresholds=thresholds)
