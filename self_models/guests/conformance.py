"""Where do two runs of a network part? first_difference(a, b, images)."""

from typing import NamedTuple

import torch

from self_models.basics import ModelError
from self_models.basics.images import checked_images, tensor_of
from self_models.engines.event.engine import EventEngine
from self_models.guests.streams.stream import MEMBRANES
from self_models.runtime.draws import EVALUATION, Draws
from self_models.runtime.outputs import SNNOutput

AT_ONCE = 50  # images that are compared at once
AFTERWARDS = {
    "predicted": "predicted",
    "output": "logits_by_step",
    "prediction": "predictions",
    "error": "errors",
}  # SNNOutput's


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
            words += (
                f", threshold {theta:.9g}"
                if theta == others
                else f", thresholds {theta:.9g} and {others:.9g}"
            )
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
        difference = compared(a, b, tolerance)
        return difference and with_potentials(difference, (a, b))
    images = tensor_of(images)

    def outputs(numbers, run):
        draws, drawn = (
            Draws(seed, EVALUATION, numbers),
            None if uniforms is None else uniforms[:, numbers],
        )
        return [run(network, images[numbers], drawn, draws) for network in (a, b)]

    for numbers in torch.arange(len(images)).split(AT_ONCE):
        difference = compared(
            *outputs(numbers, lambda network, x, u, draws: network(x, uniforms=u, draws=draws)),
            tolerance,
        )
        if difference:
            number = numbers[[difference.image]]
            recorded = outputs(number, recorded_by)
            if alone := compared(*recorded, tolerance):
                difference = with_potentials(alone, recorded, (a, b))
            return difference._replace(image=int(number))
    return None


def recorded_by(network, x, uniforms, draws):
    """The SNNOutput of a run on one image, with the spikes and potentials of all its layers; of an event engine where its draws
    are no uniforms that are given."""
    model = getattr(network, "model", network)
    engine = network if isinstance(network, EventEngine) else getattr(network, "engine", None)
    if not engine or not engine.serves():
        names = list(model(x, uniforms=uniforms, draws=draws, frames=False).spikes)
        record = dict.fromkeys(names[1:], ("spikes", "membrane")) | {"input": "spikes"}
        return model(x, uniforms=uniforms, draws=draws, record=record)
    output = engine(x, uniforms, draws)
    if uniforms is not None or model.frames or model.timing.is_phased:
        return output
    x, steps = checked_images(x, model), []
    memory = engine.begun(x, draws)
    for step in range(model.timesteps):
        _, memory = engine.go_on(memory, x, 1, frames=False)
        state, spikes = engine.state_of(memory), memory.spikes()
        steps.append(
            {name: {"spikes": spiked & (step < output.steps)} for name, spiked in spikes.items()}
        )
        for name in model.neurons():
            steps[-1][name]["membrane"] = state[MEMBRANES + name]
    stacked = {
        name: {kind: torch.stack([recorded[name][kind] for recorded in steps]) for kind in kinds}
        for name, kinds in steps[0].items()
    }
    return output._replace(recorded=stacked)


def compared(a, b, tolerance=None):
    """The first Difference of two SNNOutputs, or None."""
    if list(a.spikes) != list(b.spikes) or a.logits_by_step.shape != b.logits_by_step.shape:
        raise ModelError(
            "these runs cannot be compared: they have other layers, classes or timesteps, or other images"
        )
    parts = list(compared_values(a, b, tolerance))
    differ = torch.stack([differs.any(2) for *_, differs in parts])  # (parts, T, B)
    if not differ.any():
        return None
    image = int(differ.any(0).any(0).nonzero()[0])
    step = int(differ[..., image].any(0).nonzero()[0])
    layer, *values = parts[int(differ[:, step, image].nonzero()[0])]
    ours, theirs, differs = (value[step, image] for value in values)
    neuron = int(differs.nonzero()[0])
    return Difference(
        image,
        step,
        layer,
        neuron if len(ours) > 1 else None,
        ours[neuron].item(),
        theirs[neuron].item(),
    )


def compared_values(a, b, tolerance):
    """(layer, what a has of it (T, B, n), what b has, where they differ), in the order of a step."""
    step = torch.arange(len(a.logits_by_step))[:, None]
    compared = [
        None if output.comparisons is None else output.comparisons * (step == step[-1])
        for output in (a, b)
    ]
    parts = [("running", step < a.steps, step < b.steps), ("is_open", a.is_open, b.is_open)]
    for name in a.spikes:
        spikes, potentials = zip(*(of_layer(output, name) for output in (a, b)), strict=True)
        if any(each is None for each in spikes):
            spikes = a.spikes_by_step[name], b.spikes_by_step[name]
        potentials = [
            each if each is None else each.double() for each in potentials
        ]  # whole numbers, too, are values
        parts += [(name, *spikes), (f"{name} potential", *potentials)]
    parts += [
        (name, getattr(a, field), getattr(b, field)) for name, field in AFTERWARDS.items()
    ] + [("comparisons", *compared)]
    for name, *values in parts:
        if any(value is None for value in values):
            continue
        ours, theirs = (value[..., None].flatten(2) for value in values)
        if name in a.spikes or not ours.is_floating_point():
            yield name, ours, theirs, ours != theirs
        elif tolerance is not None:
            near = torch.isclose(
                ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance, equal_nan=True
            )
            yield name, ours, theirs, ~near


def of_layer(output, name):
    """(recorded spikes, recorded potentials) of a layer, None for what was not recorded."""
    recorded = (output.recorded or {}).get(name, {})
    return recorded.get("spikes"), recorded.get("membrane")


def with_potentials(difference, outputs, networks=()):
    """A Difference of these SNNOutputs with the potentials of its neuron, and of networks the thresholds, if they are known."""
    v, layers = (
        [of_layer(output, difference.layer)[1] for output in outputs],
        list(outputs[0].spikes)[1:],
    )
    if any(each is None for each in v) or (difference.neuron is None and v[0][0, 0].numel() > 1):
        return difference
    neuron = difference.neuron or 0
    v = tuple(each[difference.step, difference.image].flatten()[neuron].item() for each in v)
    thresholds = [
        getattr(network, "model", network).thresholds[layers.index(difference.layer)]
        for network in networks
    ]
    return difference._replace(neuron=neuron, potentials=v, thresholds=tuple(thresholds) or None)
