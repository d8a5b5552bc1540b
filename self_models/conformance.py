"""Where do two runs of a network part? first_difference(a, b, images)."""

from typing import NamedTuple

import torch

from self_models.basics.errors import ModelError
from self_models.basics.images import checked_images, tensor_of
from self_models.fast.event.engine import EventEngine
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import SNNOutput
from self_models.running.recording import Recorder
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
        words = f"image {self.image}, step {self.step}, {self.layer}{neuron}: {self.a:.9g} and {self.b:.9g}"
        if self.potentials:
            (v, other), (theta, others) = self.potentials, self.thresholds
            below = f"threshold {theta:.9g}" if theta == others else f"thresholds {theta:.9g} and {others:.9g}"
            words += f"; potentials {v:.9g} and {other:.9g}, {below}"
        return words


@torch.no_grad()
def first_difference(a, b, images=None, seed=0, uniforms=None, tolerance=None):
    """The Difference of two networks on images (B, C, H, W): of the first image in which they differ at its first step there, of
    the first layer in the order of a step; None for none. Spikes and blocked pixels are compared, and how many steps an image
    takes. tolerance: potentials, logits and predictions, too, each within tolerance (1 + its size); 0: to the last bit.

    a, b: SNNs, as load() gives them, EventEngines, or whatever is called like an SNN, gives an SNNOutput and has `thresholds`; or
    SNNOutputs, without images. seed, uniforms: of their draws, as in an SNN's call. Where they differ, the image runs again, and
    is recorded. Raises ModelError for runs that cannot be compared."""
    if isinstance(a, SNNOutput):
        return compared(a, b, tolerance)
    images = tensor_of(images)
    for part in torch.arange(len(images)).split(AT_ONCE):
        draws, drawn = Draws(seed, EVALUATION, part), None if uniforms is None else uniforms[:, part]
        found = compared(*(one(images[part], uniforms=drawn, draws=draws) for one in (a, b)), tolerance)
        if not found:
            continue
        at = part[[found.image]]
        draws, drawn = Draws(seed, EVALUATION, at), None if uniforms is None else uniforms[:, at]
        recorded = [recorded_by(one, images[at], drawn, draws) for one in (a, b)]
        thresholds = [dict(zip(list(output.spikes)[1:], getattr(one, "model", one).thresholds, strict=True))
                      for one, output in zip((a, b), recorded, strict=True)]  # fmt: skip
        alone = compared(*recorded, tolerance, thresholds) or found
        return alone._replace(image=int(at))
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
    if uniforms is not None or model.frames:
        return output
    x, states = checked_images(x, model), []
    left_on = engine.begun(x, draws)
    for _ in range(model.timesteps):
        _, left_on = engine.go_on(left_on, x, 1, False, Recorder())
        states.append(engine.state_of(left_on))
    membranes = {name: torch.stack([state[MEMBRANES + name] for state in states]) for name in model.neurons()}
    return output._replace(recorded={name: {"membrane": values} for name, values in membranes.items()})


def compared(a, b, tolerance=None, thresholds=None):
    """The first Difference of two SNNOutputs, or None. thresholds: of each, layer -> theta."""
    if list(a.spikes) != list(b.spikes) or a.logits_by_step.shape != b.logits_by_step.shape:
        raise ModelError("these runs cannot be compared: they have other layers, classes or timesteps, or other images")
    parts = list(parts_of(a, b, tolerance))
    differ = torch.stack([differs.flatten(2).any(2) for *_, differs in parts])  # (parts, T, B)
    if not differ.any():
        return None
    image = int(differ.any(0).any(0).nonzero()[0])
    step = int(differ[..., image].any(0).nonzero()[0])
    layer, *values = parts[int(differ[:, step, image].nonzero()[0])]
    one, other, differs = (value[step, image].flatten() for value in values)
    neuron = int(differs.nonzero()[0])
    found = Difference(image, step, layer, neuron if len(one) > 1 else None, one[neuron].item(), other[neuron].item())
    return with_potentials(found, a, b, thresholds) if thresholds and layer in thresholds[0] else found


def parts_of(a, b, tolerance):
    """(layer, what a has of it (T, B, ...), what b has, where they differ), in the order of a step."""
    step = torch.arange(len(a.logits_by_step))[:, None]
    found = [("running", step < a.steps, step < b.steps), ("is_open", a.is_open, b.is_open)]
    for name in a.spikes:
        (one, v), (other, others) = (of_layer(output, name) for output in (a, b))
        if one is None or other is None:
            one, other = a.spikes_by_step[name], b.spikes_by_step[name]
        found += [(name, one, other), (f"{name} potential", v, others)]
    found += [(name, getattr(a, field), getattr(b, field)) for name, field in AFTERWARDS.items()]
    for name, one, other in found:
        if one is None or other is None or (one.is_floating_point() and name not in a.spikes and tolerance is None):
            continue
        if tolerance is None or name in a.spikes or not one.is_floating_point():
            differs = one != other
        else:
            differs = ~torch.isclose(one, other.to(one.dtype), rtol=tolerance, atol=tolerance, equal_nan=True)
        yield name, one.view(*one.shape, 1), other.view(*other.shape, 1), differs.view(*differs.shape, 1)


def of_layer(output, name):
    """(recorded spikes, recorded potentials) of a layer, None for what was not recorded."""
    recorded = (output.recorded or {}).get(name, {})
    return recorded.get("spikes"), recorded.get("membrane")


def with_potentials(found, a, b, thresholds):
    """A Difference in spikes with the potentials of its neuron: where that is not known, of the one whose potentials, in
    thresholds, have just moved apart most."""
    v, theta = [of_layer(output, found.layer)[1] for output in (a, b)], tuple(of[found.layer] for of in thresholds)
    if any(values is None for values in v):
        return found
    v, neuron = [values[: found.step + 1, found.image].flatten(1) for values in v], found.neuron
    if neuron is None:
        apart = v[0] / theta[0] - v[1] / theta[1]
        neuron = int((apart[-1] - (apart[-2] if found.step else 0)).abs().argmax())
    return found._replace(neuron=neuron, potentials=tuple(values[-1, neuron].item() for values in v), thresholds=theta)
