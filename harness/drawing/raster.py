"""What single neurons do: spikes and membrane potentials on one image; events and spikes on a recording of an event camera."""

from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torchvision.utils import make_grid

from harness.drawing.figures import ACCURACY_COLOUR, PART_COLOURS, chart, plt, save_frames, show
from harness.drawing.film import as_pixels, in_words, still
from self_models.runtime.draws import EVALUATION, Draws
from self_models.runtime.outputs import part_of
from self_models.runtime.recording import shapes_of_layers

FRAMES, SECONDS = 40, 0.15  # of the GIF of a recording, at most, and each
LOOKS = (
    {},
    {"color": "#222222"},
    {"color": "#e8743b"},
)  # of the neurons whose membrane is drawn, the first in its part's colour
WORDS = """Left: a mark where a neuron spikes; a random sample of the
neurons that spike, the most active on top.
Right: membrane potential of the first three of them after each
timestep's reset; a dot where one spikes; dashed: threshold."""


class Raster(NamedTuple):
    """A run on one image (H, W[, 3]), 0 to 255, in so many steps. totals: layer -> spikes of each of its neurons (N,). arrays: of
    some neurons of each layer, most spikes first, LAYER.neurons, their numbers in the order of the flattened (C, H, W), and
    LAYER.spikes (T, n); of all but the input LAYER.membrane (T, n) and LAYER.threshold; output.membrane, accumulated (T, K)."""

    image: np.ndarray
    steps: int
    totals: dict
    arrays: dict


@torch.no_grad()
def raster_of(model, batch, seed, count):
    """The Raster of a Batch's first image, with `count` neurons of each layer, drawn by the seed among those that spike."""
    image, draws = batch.images[:1], Draws(seed, EVALUATION, batch.index[:1])
    names, neurons = (
        [name for name, space in shapes_of_layers(model).items() if space and name != "output"],
        model.neurons(),
    )
    spikes = model(
        image, draws=draws, frames=False, record=dict.fromkeys(names, "spikes")
    ).recorded
    totals = {name: spikes[name]["spikes"].flatten(1).sum(0).cpu() for name in names}
    chosen = {name: some_of(total, seed, count) for name, total in totals.items()}
    record = {
        name: ("spikes", *["membrane"] * (name in neurons), chosen[name]) for name in names
    } | {"output": "membrane"}
    output = model(image, draws=draws, frames=False, record=record)
    arrays = {
        f"{name}.{kind}": part[:, 0]
        for name, parts in output.recorded.items()
        for kind, part in parts.items()
    }
    arrays |= {f"{name}.neurons": numbers for name, numbers in chosen.items()}
    arrays |= {f"{name}.threshold": neuron.threshold for name, neuron in neurons.items()}
    arrays = {name: values.detach().cpu().numpy() for name, values in arrays.items()}
    return Raster(as_pixels(still(image))[0].cpu().numpy(), int(output.steps[0]), totals, arrays)


def some_of(totals, seed, count):
    """Numbers of `count` neurons with these spikes (N,), drawn among those that have any, or all if none has; most first."""
    active = totals.nonzero().flatten() if totals.any() else torch.arange(len(totals))
    drawn = (
        active[torch.randperm(len(active), generator=torch.Generator().manual_seed(seed))[:count]]
        .sort()
        .values
    )
    return drawn[totals[drawn].argsort(descending=True, stable=True)]


def save_raster(path, raster, title, names):
    """A PNG: for each layer its raster and the membranes of a few neurons; below the outputs. names: of the classes."""
    arrays, output = raster.arrays, raster.arrays["output.membrane"]
    rows = len(raster.totals) + 1
    with chart(path, (12, 1.55 * rows + 0.8), 2 * rows, 2) as axes:
        for name, words, left, right in zip(
            raster.totals, in_words(raster.totals), axes[::2], axes[1::2], strict=False
        ):
            total, spikes = raster.totals[name], arrays[f"{name}.spikes"]
            draw_spikes(left, spikes, PART_COLOURS[part_of(name)], raster.steps)
            some = f"{spikes.shape[1]} of the {int((total > 0).sum()):,} neurons that spike"
            which = f"{some if total.any() else 'no neuron spikes'}, {len(total):,} in all"
            left.set_title(
                f"{words if words == name else f'{words} ({name})'}: {which}",
                loc="left",
                fontsize=9,
            )
            if f"{name}.membrane" in arrays:
                potentials, threshold = arrays[f"{name}.membrane"], arrays[f"{name}.threshold"]
                draw_membranes(right, potentials, spikes, threshold, PART_COLOURS[part_of(name)])
        draw_outputs(axes[-1], output, names)
        for axis in (*axes[:-2:2], *axes[3::2]):
            axis.set_xlim(0.5, raster.steps + 0.5)
            axis.locator_params("x", integer=True)
        stops = (
            f" (the image stops after {raster.steps} of {len(output)})"
            if raster.steps < len(output)
            else ""
        )
        for axis in (axes[-4], axes[-1]):
            axis.set_xlabel(f"timestep{stops}")
        show(axes[1], raster.image)
        axes[1].set_title("the image", loc="left", fontsize=9)
        axes[-2].set_axis_off()
        axes[-2].text(0, 0.5, WORDS, va="center", transform=axes[-2].transAxes)
        axes[0].figure.suptitle(title)


def draw_spikes(axis, spikes, colour, steps):
    """A mark where a neuron spikes (T, n), a row for each, the most active on top. steps: to be seen."""
    count = spikes.shape[1]
    look = {"colors": colour, "linelengths": 0.75, "linewidths": min(8, 150 / steps)}
    axis.eventplot(
        [1 + each.nonzero()[0] for each in spikes.T], lineoffsets=np.arange(1, count + 1), **look
    )
    axis.set(ylim=(count + 0.7, 0.3), yticks=sorted({1, count}), ylabel="neuron")


def draw_membranes(axis, potentials, spikes, threshold, colour):
    """Potentials of a layer's first neurons after each step (T, n), a dot where one has spiked, and their threshold."""
    axis.axhline(threshold, color="#222222", linestyle="--", linewidth=1)
    for potential, spiked, look in zip(potentials.T, spikes.T, LOOKS, strict=False):
        look = {"color": colour, "marker": "o", "markersize": 3.5, "linewidth": 1.2} | look
        axis.plot(
            np.arange(1, len(spikes) + 1),
            potential,
            markevery=spiked.nonzero()[0].tolist(),
            **look,
        )
    axis.set_ylabel("potential")
    words = f"potential of the first {min(len(LOOKS), spikes.shape[1])}, threshold {threshold:.3g}"
    axis.set_title(words, loc="left", fontsize=9)


def draw_outputs(axis, output, names):
    """What each class has accumulated after each step; the answer stands out."""
    steps, answer = np.arange(1, len(output) + 1), int(output[-1].argmax())
    axis.plot(steps, np.delete(output, answer, 1), color="#bbbbbb", linewidth=1)
    axis.plot(steps, output[:, answer], color=ACCURACY_COLOUR, linewidth=1.6)
    axis.set_ylabel("potential")
    axis.set_title(
        f"output: accumulated potential of each class, in black the answer {names[answer]}",
        loc="left",
        fontsize=9,
    )


def save_recording(path, model, rows, steps, names, title):
    """A GIF. rows: a recording as the model takes it, of so many timesteps; names: of the outputs; title: of the recording."""
    first = model.layers[1]
    with torch.no_grad():
        output = model([rows], steps, record={first: "spikes"})
    ends = np.unique(np.linspace(0, steps, min(FRAMES, steps) + 1).astype(int))
    spikes, outputs = (
        output.recorded[first]["spikes"][:, 0].numpy(),
        output.logits_by_step[:, 0].numpy(),
    )
    events = np.zeros((steps, *model.graph.shape), np.float32)
    np.add.at(events, tuple(rows.T), 1)
    most_spikes = max(spikes.sum(0).max() / (len(ends) - 1), 1)
    limits = min(outputs.min(), 0), max(outputs.max(), 1)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.8), layout="constrained")
    seen, middle, bars = axes

    def draw(number):
        start, end = ends[number], ends[number + 1]
        for axis in axes:
            axis.clear()
        show(seen, as_pixels(torch.from_numpy(events[start:end].sum(0).clip(max=1))).numpy())
        channels = torch.from_numpy(spikes[start:end].sum(0)).reshape(
            len(spikes[0]), 1, *spikes.shape[2:] or (1, 1)
        )
        grid = make_grid(
            channels, ceil(sqrt(len(channels))), padding=min(channels.shape[-1] - 1, 1)
        )[0].numpy()
        middle.imshow(grid, cmap="magma", vmin=0, vmax=most_spikes)
        sums = outputs[end - 1]
        colours = [
            PART_COLOURS["encoder" if n == sums.argmax() and sums.any() else "input"]
            for n in range(len(names))
        ]
        bars.barh(range(len(names)), sums, color=colours)
        bars.set(xlim=limits, yticks=range(len(names)), yticklabels=names, title="outputs so far")
        seen.set_title("events: on orange, off blue")
        middle.set(xticks=[], yticks=[], title=f"spikes of node {first}")
        several = f"s {start + 1} to" if end > start + 1 else ""
        figure.suptitle(f"{title}: timestep{several} {end} of {steps}")

    save_frames(path, figure, draw, range(len(ends) - 1), SECONDS)
