"""Where do two runs of a network part? ``first_difference(a, b, images)``.

All engines, forms of weights and programs in C are to send the same spikes. This file
finds the first spike that they do not share. To the core it adds the comparison, and a
recording of the event engine; it changes no network.

It compares networks of the same layers, classes and timesteps. A network in C can be
compared if it is wrapped as something that is called like an SNN
(wfeedback/export/c_build.py). It does not compare training, nor networks of events
other than by their outputs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from self_models.data.images import prepare_images, tensor_of
from self_models.errors import ModelError
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import SNNOutput
from wfeedback.event.engine import EventEngine
from wfeedback.streams.stream import MEMBRANES

BATCH_SIZE = 50  # images that are compared at once
OTHER_PARTS = {  # what is compared behind the layers: its name -> field of SNNOutput
    "predicted": "predicted",
    "output": "logits_by_step",
    "prediction": "predictions",
    "error": "errors",
}


class Difference(NamedTuple):
    """The first place where two runs, a and b, differ.

    Attributes
    ----------
    image : int
        Number of the image, from 0.
    step : int
        Number of the timestep, from 0.
    layer : str
        A layer of neurons, "input", "output" (logits), or another part of an SNNOutput.
    neuron : int or None
        Number of the neuron in the flattened layer. None where only sums are known.
    a, b : float
        What each run has there: spikes, or a value.
    potentials : tuple of (float, float) or None
        Membrane potentials of that neuron after this timestep, of a and of b, each in
        its own unit. None where they are not known.
    thresholds : tuple of (float, float) or None
        Thresholds of the layer in the units of ``potentials``.
    """

    image: int
    step: int
    layer: str
    neuron: int | None
    a: float
    b: float
    potentials: tuple[float, float] | None = None
    thresholds: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Say the difference in a line."""
        place = f"image {self.image}, timestep {self.step}, {self.layer}"
        if self.neuron is not None:
            place += f", neuron {self.neuron}"
        message = f"{place}: {self.a:.9g} and {self.b:.9g}"
        if self.potentials:
            v_a, v_b = self.potentials
            message += f"; potentials {v_a:.9g} and {v_b:.9g}"
        if self.thresholds:
            theta_a, theta_b = self.thresholds
            if theta_a == theta_b:
                message += f", threshold {theta_a:.9g}"
            else:
                message += f", thresholds {theta_a:.9g} and {theta_b:.9g}"
        return message


@torch.no_grad()
def first_difference(
    a: object,
    b: object,
    images: torch.Tensor | None = None,
    seed: int = 0,
    uniforms: torch.Tensor | None = None,
    tolerance: float | None = None,
) -> Difference | None:
    """Find the first place where two networks differ.

    Spikes and blocked pixels are compared, and how many timesteps an image takes. Of
    the first image in which they differ, this is its first timestep, and there the
    first layer in the order in which a timestep runs. That image then runs again, and
    is recorded, for the potentials.

    Parameters
    ----------
    a, b : SNN, EventEngine or SNNOutput
        Networks, as ``load`` gives them, or whatever is called like an SNN, gives an
        SNNOutput and has ``thresholds``. Or two SNNOutputs, without images.
    images : Tensor of shape (B, C, H, W), optional
        What both are to see.
    seed : int
        Seed of the input's draws.
    uniforms : Tensor of shape (T, B, C, H, W), optional
        The draws themselves, as in an SNN's call.
    tolerance : float, optional
        Potentials, logits and predictions are compared too, each within
        ``tolerance * (1 + its size)``; 0 compares them to the last bit.

    Returns
    -------
    Difference or None
        None if nothing differs.

    Raises
    ------
    ModelError
        For runs that cannot be compared.
    """
    if isinstance(a, SNNOutput) and isinstance(b, SNNOutput):
        difference = compare_outputs(a, b, tolerance)
        if difference is None:
            return None
        return add_potentials(difference, (a, b))
    images = tensor_of(images)
    for numbers in torch.arange(len(images)).split(BATCH_SIZE):
        batch = make_batch(images, numbers, seed, uniforms)
        difference = compare_outputs(run(a, batch), run(b, batch), tolerance)
        if difference:
            # compare_outputs() counts images within the batch. (1,), to select one.
            number = numbers[[difference.image]]
            image_alone = make_batch(images, number, seed, uniforms)
            return difference_with_potentials(a, b, image_alone, tolerance, difference)
    return None


def difference_with_potentials(
    a: object, b: object, batch: "Batch", tolerance: float | None, known: Difference
) -> Difference:
    """Run an image in which two networks differ once more, now recorded.

    Parameters
    ----------
    a, b : SNN or EventEngine
        The networks.
    batch : Batch
        The image alone.
    tolerance : float or None
        See ``first_difference``.
    known : Difference
        The one that was found when the image ran among others, not recorded.

    Returns
    -------
    Difference
        That of the recorded runs, with potentials and thresholds. It may be an earlier
        one, since these are compared by neuron, and the others by sums of spikes. It is
        ``known`` if alone the image makes no difference, which happens where sums are
        rounded otherwise in batches of another size.
    """
    outputs = (run_recorded(a, batch), run_recorded(b, batch))
    difference = compare_outputs(*outputs, tolerance)
    if difference is None:
        difference = known
    else:
        difference = add_potentials(difference, outputs)
        difference = add_thresholds(difference, list(outputs[0].spikes), (a, b))
    return difference._replace(image=int(batch.draws.index))


# --- runs


class Batch(NamedTuple):
    """What two networks are to see.

    Attributes
    ----------
    images : Tensor of shape (B, C, H, W)
    uniforms : Tensor of shape (T, B, C, H, W) or None
        The draws, if they are given.
    draws : Draws
        Otherwise what makes them, for each image by its number among all.
    """

    images: torch.Tensor
    uniforms: torch.Tensor | None
    draws: Draws


def make_batch(
    images: torch.Tensor, numbers: torch.Tensor, seed: int, uniforms: torch.Tensor | None
) -> Batch:
    """Return the images of these numbers, with their draws."""
    own_uniforms = None if uniforms is None else uniforms[:, numbers]
    return Batch(images[numbers], own_uniforms, Draws(seed, EVALUATION, numbers))


def run(network: object, batch: Batch) -> SNNOutput:
    """Run a network on a batch."""
    return network(batch.images, uniforms=batch.uniforms, draws=batch.draws)


def model_of(network: object) -> object:
    """Return the model of an engine, or the network itself."""
    return getattr(network, "model", network)


def run_recorded(network: object, batch: Batch) -> SNNOutput:
    """Run a network on an image, and record spikes and potentials of all its layers.

    What runs on the event engine is recorded by a stream of it, one timestep after the
    other. A stream makes its draws itself, shows still images and knows no phases, so a
    run whose uniforms are given, of recordings or of a phased network stays without a
    record: its difference then has no potentials.

    Parameters
    ----------
    network : SNN or EventEngine
        The network.
    batch : Batch
        The image.

    Returns
    -------
    SNNOutput
        With ``recorded``, or with None there in the cases above.
    """
    model = model_of(network)
    engine = event_engine_of(network)
    if engine is None:
        record = record_of_all(model, batch)
        return model(batch.images, uniforms=batch.uniforms, draws=batch.draws, record=record)
    output = engine(batch.images, batch.uniforms, batch.draws)
    has_stream = batch.uniforms is None and not model.frames and not model.timing.is_phased
    if not has_stream:
        return output
    return output._replace(recorded=record_events(engine, batch, output.steps))


def event_engine_of(network: object) -> EventEngine | None:
    """Return the event engine that runs a network, or None where PyTorch runs it.

    An engine ``serves`` if its kernel can run the network as it is now.
    """
    engine = network
    if not isinstance(network, EventEngine):
        engine = getattr(network, "engine", None)
    if engine and engine.serves():
        return engine
    return None


def record_of_all(model: object, batch: Batch) -> dict[str, str | tuple[str, ...]]:
    """Return the argument ``record`` for spikes and potentials of all layers.

    What only is called like an SNN need not have a list of its layers. An output has
    their names, the input first, so the model runs once for these.
    """
    output = model(batch.images, uniforms=batch.uniforms, draws=batch.draws, frames=False)
    layers_of_neurons = list(output.spikes)[1:]
    record = dict.fromkeys(layers_of_neurons, ("spikes", "membrane"))
    record["input"] = "spikes"  # which has no potential
    return record


def record_events(engine: EventEngine, batch: Batch, steps: torch.Tensor) -> dict:
    """Run a stream of the event engine, and record it timestep by timestep.

    Parameters
    ----------
    engine : EventEngine
        The engine.
    batch : Batch
        An image.
    steps : Tensor of shape (1,)
        After how many timesteps the image stops; later spikes do not count.

    Returns
    -------
    dict of {str: dict of {str: Tensor of shape (T, 1, ...)}}
        For each layer "spikes" and, of neurons, "membrane".
    """
    model = engine.model
    images = prepare_images(batch.images, model)
    memory = engine.begun(images, batch.draws)
    recorded = {}  # layer -> kind -> values of each timestep
    for step in range(model.timesteps):
        _, memory = engine.go_on(memory, images, 1, frames=False)
        state = engine.state_of(memory)
        for name, spikes in memory.spikes().items():
            layer = recorded.setdefault(name, {"spikes": []})
            layer["spikes"].append(spikes & (step < steps))
        for name in model.neurons():
            recorded[name].setdefault("membrane", []).append(state[MEMBRANES + name])
    for layer in recorded.values():
        for kind, values in layer.items():
            layer[kind] = torch.stack(values)
    return recorded


# --- comparisons


class Comparison(NamedTuple):
    """What two outputs have of one part, say the spikes of a layer.

    Attributes
    ----------
    name : str
        What it is, see ``Difference.layer``.
    ours, theirs : Tensor of shape (T, B, n)
        What each of them has.
    differs : Tensor of shape (T, B, n), bool
        Where they differ.
    """

    name: str
    ours: torch.Tensor
    theirs: torch.Tensor
    differs: torch.Tensor


def compare_outputs(
    a: SNNOutput, b: SNNOutput, tolerance: float | None = None
) -> Difference | None:
    """Find the first difference of two outputs.

    First is the difference in the image with the lowest number; in that image the
    earliest timestep; in that timestep the part that comes first in ``paired_parts``;
    and in that part the neuron with the lowest number.

    Parameters
    ----------
    a, b : SNNOutput
        Outputs of T timesteps for B images.
    tolerance : float or None
        See ``first_difference``.

    Returns
    -------
    Difference or None
        Its ``potentials`` and ``thresholds`` are None, see ``add_potentials``. None if
        the outputs have no difference.

    Raises
    ------
    ModelError
        If the outputs have other layers, or are of another shape.
    """
    if list(a.spikes) != list(b.spikes) or a.logits_by_step.shape != b.logits_by_step.shape:
        raise ModelError(
            "these runs cannot be compared: they have other layers, classes or timesteps, "
            "or other images"
        )
    comparisons = list(compare_parts(a, b, tolerance))
    # part.differs is (T, B, n), with another n for each part: (parts, T, B) for all
    part_differs = torch.stack([part.differs.any(2) for part in comparisons])
    if not part_differs.any():
        return None
    image = first_true(part_differs.any(0).any(0))
    step = first_true(part_differs[:, :, image].any(0))
    part = comparisons[first_true(part_differs[:, step, image])]
    neuron = first_true(part.differs[step, image])
    ours = part.ours[step, image]  # (n,)
    theirs = part.theirs[step, image]
    return Difference(
        image=image,
        step=step,
        layer=part.name,
        neuron=neuron if len(ours) > 1 else None,
        a=ours[neuron].item(),
        b=theirs[neuron].item(),
    )


def first_true(values: torch.Tensor) -> int:
    """Return the first index at which values (n,) are True; one must be."""
    return int(values.nonzero()[0])


def compare_parts(a: SNNOutput, b: SNNOutput, tolerance: float | None) -> Iterator[Comparison]:
    """Compare all parts that both outputs have, in the order in which a timestep runs.

    Spikes, and what is no fraction, such as whether a pixel is open, have to be equal.
    So do spikes of a layer, though they are float32: they are whole numbers. Other
    values, such as potentials and logits, are compared if there is a tolerance.

    Parameters
    ----------
    a, b : SNNOutput
        Outputs of T timesteps for B images.
    tolerance : float or None
        See ``first_difference``.

    Yields
    ------
    Comparison
        Of each part, (T, B, n): n is 1 for what each image has once.
    """
    for part in paired_parts(a, b):
        if part.ours is None or part.theirs is None:
            continue
        # (T, B) becomes (T, B, 1), and (T, B, C, H, W) becomes (T, B, C H W)
        ours = part.ours[..., None].flatten(2)
        theirs = part.theirs[..., None].flatten(2)
        is_layer_of_spikes = part.name in a.spikes
        if is_layer_of_spikes or not ours.is_floating_point():
            yield Comparison(part.name, ours, theirs, differs=ours != theirs)
        elif tolerance is not None:
            same_type = theirs.to(ours.dtype)
            is_near = torch.isclose(
                ours, same_type, rtol=tolerance, atol=tolerance, equal_nan=True
            )
            yield Comparison(part.name, ours, theirs, differs=~is_near)


class PairedPart(NamedTuple):
    """What two outputs have of one part, not compared yet.

    Attributes
    ----------
    name : str
        What it is, see ``Difference.layer``.
    ours, theirs : Tensor of shape (T, B, ...) or None
        What each of them has. None where it does not have the part.
    """

    name: str
    ours: torch.Tensor | None
    theirs: torch.Tensor | None


def paired_parts(a: SNNOutput, b: SNNOutput) -> Iterator[PairedPart]:
    """Give all parts of two outputs, in the order in which a timestep runs.

    The order matters: of several parts that differ in the same timestep the first one
    given here is reported, since the others may follow from it.

    Parameters
    ----------
    a, b : SNNOutput
        Outputs of T timesteps for B images, with the same layers.

    Returns
    -------
    iterator of PairedPart
        Parts that one of the outputs lacks are among them.
    """
    step = torch.arange(len(a.logits_by_step))[:, None]  # (T, 1)
    # An image that has stopped in one run alone differs from that timestep on.
    yield PairedPart("running", step < a.steps, step < b.steps)
    yield PairedPart("is_open", a.is_open, b.is_open)
    for layer in a.spikes:
        yield paired_spikes(a, b, layer)
        yield PairedPart(
            f"{layer} potential",
            as_double(recorded_layer(a, layer).membrane),
            as_double(recorded_layer(b, layer).membrane),
        )
    # What follows from the layers: logits, the prediction, and its pixels and errors.
    for name, field in OTHER_PARTS.items():
        yield PairedPart(name, getattr(a, field), getattr(b, field))
    yield PairedPart("comparisons", comparisons_by_step(a, step), comparisons_by_step(b, step))


def paired_spikes(a: SNNOutput, b: SNNOutput, layer: str) -> PairedPart:
    """Return the spikes of a layer, of each neuron if both outputs have recorded these.

    A run that does not record knows only how many spikes the layer sends in a timestep.
    If one of the two is such a run, these numbers (T, B) are compared.
    """
    ours = recorded_layer(a, layer).spikes
    theirs = recorded_layer(b, layer).spikes
    if ours is None or theirs is None:
        ours = a.spikes_by_step[layer]
        theirs = b.spikes_by_step[layer]
    return PairedPart(layer, ours, theirs)


def as_double(values: torch.Tensor | None) -> torch.Tensor | None:
    """Return potentials as float64, those that are whole numbers, too."""
    return None if values is None else values.double()


def comparisons_by_step(output: SNNOutput, step: torch.Tensor) -> torch.Tensor | None:
    """Return the comparisons of a run, (T, B), or None if it makes none.

    Only their sum over timesteps is known. It stands at the last timestep, so that any
    difference that can be dated to an earlier one is found first. step: 0 to T - 1, as
    (T, 1).
    """
    if output.comparisons is None:
        return None
    return output.comparisons * (step == step[-1])


class RecordedLayer(NamedTuple):
    """What was recorded of a layer, (T, B, ...); None for what was not."""

    spikes: torch.Tensor | None
    membrane: torch.Tensor | None


def recorded_layer(output: SNNOutput, name: str) -> RecordedLayer:
    """Return what was recorded of a layer."""
    recorded = (output.recorded or {}).get(name, {})
    return RecordedLayer(recorded.get("spikes"), recorded.get("membrane"))


def add_potentials(difference: Difference, outputs: tuple[SNNOutput, SNNOutput]) -> Difference:
    """Return a difference with the potentials of its neuron, if both are recorded.

    Parameters
    ----------
    difference : Difference
        Of these outputs.
    outputs : tuple of (SNNOutput, SNNOutput)
        Runs, whose records of a layer's membrane are (T, B, ...).

    Returns
    -------
    Difference
        The same if there is no such record, or if only sums of the layer's spikes were
        compared, so that the neuron is not known.
    """
    membranes = [recorded_layer(output, difference.layer).membrane for output in outputs]
    if any(membrane is None for membrane in membranes):
        return difference
    neuron = difference.neuron
    if neuron is None:
        num_neurons = membranes[0][0, 0].numel()
        if num_neurons > 1:
            return difference
        neuron = 0  # a layer of one neuron: a sum of its spikes is its spike
    potentials = []
    for membrane in membranes:
        layer = membrane[difference.step, difference.image]  # (...), of all its neurons
        potentials.append(layer.flatten()[neuron].item())
    return difference._replace(neuron=neuron, potentials=tuple(potentials))


def add_thresholds(
    difference: Difference, layers: list[str], networks: tuple[object, object]
) -> Difference:
    """Return a difference with the thresholds of its layer, if it has potentials.

    Parameters
    ----------
    difference : Difference
        See ``add_potentials``, which comes before.
    layers : list of str
        "input", then the names of the networks' layers of neurons.
    networks : tuple of (object, object)
        The networks. ``thresholds`` of each has those of the layers of neurons.
    """
    if difference.potentials is None:
        return difference
    number = layers[1:].index(difference.layer)
    thresholds = [model_of(network).thresholds[number] for network in networks]
    return difference._replace(thresholds=tuple(thresholds))
