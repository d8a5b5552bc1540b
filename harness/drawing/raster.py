"""What single neurons do on one image: a raster of their spikes, layer by layer, and membrane potentials with their threshold."""

from typing import NamedTuple

import numpy as np
import torch

from harness.drawing.figures import PART_COLOURS
from harness.drawing.film import in_words, shown, still
from harness.drawing.plots import ACCURACY_COLOUR, chart
from harness.runs.checkpoints import write_whole
from self_models.counting.spikes import part_of
from self_models.running.draws import EVALUATION, Draws
from self_models.running.recording import spaces_of

LOOKS = ({}, {"color": "#222222"}, {"color": "#e8743b"})  # of the neurons whose membrane is drawn, the first in its part's colour


class Layer(NamedTuple):
    """Some neurons of a layer. name: of the layer, of whose `size` neurons this many are `active`, spike; neurons: numbers in the
    order of the flattened (C, H, W), most spikes first (n,); spikes bool, membrane (T, n), None of the input."""

    name: str
    size: int
    active: int
    neurons: np.ndarray
    spikes: np.ndarray
    membrane: np.ndarray | None
    threshold: float


class Raster(NamedTuple):
    """A run on one image (H, W[, 3]), 0 to 255, in so many steps: its Layers, and what the output accumulates (T, K)."""

    image: np.ndarray
    steps: int
    layers: list
    output: np.ndarray


@torch.no_grad()
def raster_of(model, batch, seed, count):
    """The Raster of a Batch's first image, with `count` neurons of each layer, drawn by the seed among those that spike."""
    image, draws = batch.images[:1], Draws(seed, EVALUATION, batch.index[:1])
    names, neurons = [name for name, space in spaces_of(model.wiring).items() if space and name != "output"], model.neurons()
    fired = model(image, draws=draws, frames=False, record=dict.fromkeys(names, "spikes")).recorded
    totals = {name: fired[name]["spikes"].flatten(1).sum(0).cpu() for name in names}
    chosen = {name: some_of(total, seed, count) for name, total in totals.items()}
    record = {name: ("spikes", *["membrane"] * (name in neurons), chosen[name]) for name in names} | {"output": "membrane"}
    output = model(image, draws=draws, frames=False, record=record)
    found = {name: {kind: part[:, 0].cpu().numpy() for kind, part in parts.items()} for name, parts in output.recorded.items()}
    layers = [
        Layer(
            name, len(totals[name]), int((totals[name] > 0).sum()), chosen[name].numpy(), found[name]["spikes"],
            found[name].get("membrane"), neurons[name].threshold.item() if name in neurons else 0.0,
        )
        for name in names
    ]  # fmt: skip
    return Raster(shown(still(image))[0].cpu().numpy(), int(output.steps[0]), layers, found["output"]["membrane"])


def some_of(totals, seed, count):
    """Numbers of `count` neurons with these spikes (N,), drawn among those that have any, or all if none has; most first."""
    active = totals.nonzero().flatten() if totals.any() else torch.arange(len(totals))
    drawn = active[torch.randperm(len(active), generator=torch.Generator().manual_seed(seed))[:count]].sort().values
    return drawn[totals[drawn].argsort(descending=True, stable=True)]


def save_arrays(path, raster):
    """Write what is drawn: LAYER.spikes, LAYER.membrane, LAYER.neurons and LAYER.threshold, and output.membrane."""
    arrays = {"output.membrane": raster.output}
    for layer in raster.layers:
        kinds = ("spikes", "neurons", *("membrane", "threshold") * (layer.membrane is not None))
        arrays |= {f"{layer.name}.{kind}": np.asarray(getattr(layer, kind)) for kind in kinds}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def save_raster(path, raster, title, names):
    """A PNG: a row for each layer, its raster left and the membranes of a few neurons right; below them the outputs. title: of
    the image; names: of the classes."""
    words, steps = in_words([layer.name for layer in raster.layers]), len(raster.output)
    rows = len(raster.layers) + 1
    with chart(path, (12, 1.55 * rows + 0.8), 2 * rows, 2) as axes:
        for layer, word, spikes, membranes in zip(raster.layers, words, axes[::2], axes[1::2], strict=False):
            draw_spikes(spikes, layer, word, raster.steps)
            if layer.membrane is not None:
                draw_membranes(membranes, layer)
        draw_image(axes[1], raster.image)
        draw_outputs(axes[-1], raster.output, names)
        explain(axes[-2])
        for axis in (*axes[:-2:2], *axes[3::2]):
            axis.set_xlim(0.5, raster.steps + 0.5)
            axis.xaxis.get_major_locator().set_params(integer=True)
        for axis in (axes[-4], axes[-1]):
            axis.set_xlabel("step" if raster.steps == steps else f"step (the image stops after {raster.steps} of {steps})")
        axes[0].figure.suptitle(title)


def draw_spikes(axis, layer, words, steps):
    """A mark where a neuron spikes, a row for each, the most active on top. steps: how many there are to be seen."""
    count, look = len(layer.neurons), {"colors": PART_COLOURS[part_of(layer.name)], "linelengths": 0.75}
    look["linewidths"] = min(8, 150 / steps)
    axis.eventplot([1 + spikes.nonzero()[0] for spikes in layer.spikes.T], lineoffsets=np.arange(1, count + 1), **look)
    axis.set(ylim=(count + 0.7, 0.3), yticks=sorted({1, count}), ylabel="neuron")
    which = f"{count} of the {layer.active:,} neurons that spike" if layer.active else "no neuron spikes"
    name = words if words == layer.name else f"{words} ({layer.name})"
    axis.set_title(f"{name}: {which}, {layer.size:,} in all", loc="left", fontsize=9)


def draw_membranes(axis, layer):
    """Potentials of the first neurons after each step, a dot where one has spiked, and their threshold."""
    steps, colour = np.arange(1, len(layer.spikes) + 1), PART_COLOURS[part_of(layer.name)]
    axis.axhline(layer.threshold, color="#222222", linestyle="--", linewidth=1)
    for membrane, spikes, look in zip(layer.membrane.T, layer.spikes.T, LOOKS, strict=False):
        look = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.2} | look
        axis.plot(steps, membrane, markevery=spikes.nonzero()[0].tolist(), **look)
    axis.set_ylabel("potential")
    axis.set_title(
        f"potential of the first {min(len(LOOKS), len(layer.neurons))}, threshold {layer.threshold:.3g}", loc="left", fontsize=9
    )


def draw_outputs(axis, output, names):
    """What each class has accumulated after each step; the answer stands out."""
    steps, answer = np.arange(1, len(output) + 1), int(output[-1].argmax())
    axis.plot(steps, np.delete(output, answer, 1), color="#bbbbbb", linewidth=1)
    axis.plot(steps, output[:, answer], color=ACCURACY_COLOUR, linewidth=1.6)
    axis.set_ylabel("potential")
    axis.set_title(f"output: accumulated potential of each class, in black the answer {names[answer]}", loc="left", fontsize=9)


def draw_image(axis, image):
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_title("the image", loc="left", fontsize=9)


WORDS = """Left: a mark where a neuron spikes; neurons drawn by the seed
among those that spike, the most active on top.
Right: membrane potential of the first three of them after the
reset of each step; a dot where one spikes; dashed: threshold."""


def explain(axis):
    axis.set_axis_off()
    axis.text(0, 0.5, WORDS, va="center", transform=axis.transAxes)
