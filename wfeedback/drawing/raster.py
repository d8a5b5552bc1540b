"""What single neurons do: on one image, or on a recording of an event camera."""

from collections.abc import Sequence
from math import ceil, sqrt
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes

from self_models.data.sets import Batch
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import part_of
from self_models.running.recording import shapes_of_layers
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.drawing.figures import ACCURACY_COLOUR, PART_COLOURS, chart, plt, save_frames, show
from wfeedback.drawing.film import as_pixels, layer_labels, still_image
from wfeedback.nir.graph_snn import GraphSNN

FRAMES = 40  # of the GIF of a recording, at most
SECONDS = 0.15  # of each of them
SECOND_COLOURS = ("#222222", "#e8743b")  # of membranes; the first has the colour of its part
MEMBRANES = 1 + len(SECOND_COLOURS)  # neurons of a layer whose membrane potential is drawn
WORDS = """Left: a mark where a neuron spikes; a random sample of the
neurons that spike, the most active on top.
Right: membrane potential of the first three of them after each
timestep's reset; a dot where one spikes; dashed: threshold."""


class Raster(NamedTuple):
    """What some neurons of each layer do on one image.

    Attributes
    ----------
    image : ndarray of shape (H, W[, 3]), 0 to 255
        The image.
    steps : int
        Number of timesteps that it took.
    totals : dict of {str: Tensor of shape (N,)}
        Layer -> spikes of each of its neurons.
    arrays : dict of {str: ndarray}
        Of ``n`` neurons of each layer, the most active first: ``LAYER.neurons`` (n,),
        their numbers in the order of the flattened (C, H, W); ``LAYER.spikes`` (T, n);
        of all layers but the input ``LAYER.membrane`` (T, n) and ``LAYER.threshold``.
        For each of ``K`` classes ``output.membrane`` (T, K), accumulated.
    """

    image: np.ndarray
    steps: int
    totals: dict[str, torch.Tensor]
    arrays: dict[str, np.ndarray]


@torch.no_grad()
def raster_of(model: VGG_SNN_STDB_wFeedback, batch: Batch, seed: int, count: int) -> Raster:
    """Run a network on one image, and record some of its neurons.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    batch : Batch
        Images, of which the first is taken.
    seed : int
        Seed of the encoding, and of the choice of neurons.
    count : int
        How many neurons of each layer are recorded, among those that spike.

    Returns
    -------
    Raster
        What they do.
    """
    image = batch.images[:1]
    draws = Draws(seed, EVALUATION, batch.index[:1])
    neurons = model.neurons()
    shapes = shapes_of_layers(model)
    layers = [name for name, shape in shapes.items() if shape and name != "output"]

    # A first run finds out which neurons spike; a second one records some of them.
    every_spike = dict.fromkeys(layers, "spikes")
    recorded = model(image, draws=draws, frames=False, record=every_spike).recorded
    totals = {}
    chosen = {}
    record = {}
    for name in layers:
        totals[name] = recorded[name]["spikes"].flatten(1).sum(0).cpu()
        chosen[name] = choose_neurons(totals[name], seed, count)
        kinds = ("spikes", "membrane") if name in neurons else ("spikes",)
        record[name] = (*kinds, chosen[name])
    record["output"] = "membrane"
    output = model(image, draws=draws, frames=False, record=record)

    arrays = {}
    for name, parts in output.recorded.items():
        for kind, values in parts.items():
            arrays[f"{name}.{kind}"] = values[:, 0]
    for name, numbers in chosen.items():
        arrays[f"{name}.neurons"] = numbers
    for name, neuron in neurons.items():
        arrays[f"{name}.threshold"] = neuron.threshold
    arrays = {name: values.detach().cpu().numpy() for name, values in arrays.items()}
    pixels = as_pixels(still_image(image))[0].cpu().numpy()
    return Raster(pixels, int(output.steps[0]), totals, arrays)


def choose_neurons(totals: torch.Tensor, seed: int, count: int) -> torch.Tensor:
    """Draw some neurons of a layer.

    Parameters
    ----------
    totals : Tensor of shape (N,)
        Spikes of each neuron.
    seed : int
        Seed of the choice.
    count : int
        How many are drawn, at most.

    Returns
    -------
    Tensor of shape (n,)
        Numbers of the neurons, the most active first. If any neuron spikes, only such
        are drawn.
    """
    active = torch.arange(len(totals))
    if totals.any():
        active = totals.nonzero().flatten()
    order = torch.randperm(len(active), generator=torch.Generator().manual_seed(seed))
    drawn = active[order[:count]].sort().values
    return drawn[totals[drawn].argsort(descending=True, stable=True)]


def save_raster(path: str | PathLike, raster: Raster, title: str, names: Sequence[str]) -> None:
    """Draw spikes and membrane potentials of some neurons of each layer, and outputs.

    Parameters
    ----------
    path : str or Path
        The PNG.
    raster : Raster
        What the neurons do.
    title : str
        What stands above all.
    names : sequence of str
        Names of the classes.
    """
    arrays = raster.arrays
    outputs = arrays["output.membrane"]
    rows = len(raster.totals) + 1
    with chart(path, (12, 1.55 * rows + 0.8), 2 * rows, 2) as axes:
        *left_axes, words_axis = axes[::2]
        right_axes = axes[1::2]
        image_axis = right_axes[0]
        output_axis = right_axes[-1]
        labels = layer_labels(raster.totals)
        for number, (name, total) in enumerate(raster.totals.items()):
            spikes = arrays[f"{name}.spikes"]
            colour = PART_COLOURS[part_of(name)]
            draw_spikes(left_axes[number], spikes, colour, raster.steps)
            title_of_layer = _layer_title(name, labels[number], total, spikes.shape[1])
            left_axes[number].set_title(title_of_layer, loc="left", fontsize=9)
            if f"{name}.membrane" in arrays:
                draw_membranes(
                    right_axes[number],
                    arrays[f"{name}.membrane"],
                    spikes,
                    arrays[f"{name}.threshold"],
                    colour,
                )
        draw_outputs(output_axis, outputs, names)
        for axis in (*left_axes, *right_axes[1:]):
            axis.set_xlim(0.5, raster.steps + 0.5)
            axis.locator_params("x", integer=True)
        xlabel = "timestep"
        if raster.steps < len(outputs):
            xlabel += f" (the image stops after {raster.steps} of {len(outputs)})"
        left_axes[-1].set_xlabel(xlabel)
        output_axis.set_xlabel(xlabel)
        show(image_axis, raster.image)
        image_axis.set_title("the image", loc="left", fontsize=9)
        words_axis.set_axis_off()
        words_axis.text(0, 0.5, WORDS, va="center", transform=words_axis.transAxes)
        image_axis.figure.suptitle(title)


def _layer_title(name: str, label: str, totals: torch.Tensor, num_drawn: int) -> str:
    """Say which neurons of a layer are drawn."""
    called = label if label == name else f"{label} ({name})"
    drawn = "no neuron spikes"
    if totals.any():
        drawn = f"{num_drawn} of the {int((totals > 0).sum()):,} neurons that spike"
    return f"{called}: {drawn}, {len(totals):,} in all"


def draw_spikes(axis: Axes, spikes: np.ndarray, colour: str, steps: int) -> None:
    """Draw a mark where a neuron spikes, in a row for each neuron.

    Parameters
    ----------
    axis : Axes
        The axis.
    spikes : ndarray of shape (T, n), bool
        Where each neuron spikes. The first is on top.
    colour : str
        Colour of the marks.
    steps : int
        Number of timesteps that will be seen.
    """
    count = spikes.shape[1]
    timesteps_of_spikes = [1 + neuron.nonzero()[0] for neuron in spikes.T]
    axis.eventplot(
        timesteps_of_spikes,
        lineoffsets=np.arange(1, count + 1),
        colors=colour,
        linelengths=0.75,
        linewidths=min(8, 150 / steps),
    )
    axis.set(ylim=(count + 0.7, 0.3), yticks=sorted({1, count}), ylabel="neuron")


def draw_membranes(
    axis: Axes, potentials: np.ndarray, spikes: np.ndarray, threshold: float, colour: str
) -> None:
    """Draw the membrane potentials of the first neurons of a layer.

    Parameters
    ----------
    axis : Axes
        The axis.
    potentials : ndarray of shape (T, n)
        Potential of each neuron after each timestep.
    spikes : ndarray of shape (T, n), bool
        Where each has spiked, which gets a dot.
    threshold : float
        Threshold of the layer.
    colour : str
        Colour of the first neuron.
    """
    axis.axhline(threshold, color="#222222", linestyle="--", linewidth=1)
    colours = (colour, *SECOND_COLOURS)
    for potential, spiked, line_colour in zip(potentials.T, spikes.T, colours, strict=False):
        axis.plot(
            np.arange(1, len(spikes) + 1),
            potential,
            markevery=spiked.nonzero()[0].tolist(),
            color=line_colour,
            marker="o",
            markersize=3.5,
            linewidth=1.2,
        )
    axis.set_ylabel("potential")
    count = min(MEMBRANES, spikes.shape[1])
    title = f"potential of the first {count}, threshold {threshold:.3g}"
    axis.set_title(title, loc="left", fontsize=9)


def draw_outputs(axis: Axes, outputs: np.ndarray, names: Sequence[str]) -> None:
    """Draw what each class has accumulated (T, K), with the answer standing out."""
    timesteps = np.arange(1, len(outputs) + 1)
    answer = int(outputs[-1].argmax())
    axis.plot(timesteps, np.delete(outputs, answer, 1), color="#bbbbbb", linewidth=1)
    axis.plot(timesteps, outputs[:, answer], color=ACCURACY_COLOUR, linewidth=1.6)
    axis.set_ylabel("potential")
    axis.set_title(
        f"output: accumulated potential of each class, in black the answer {names[answer]}",
        loc="left",
        fontsize=9,
    )


# --- a recording


class RecordingFrames:
    """A figure that shows one part of a recording after the other.

    Parameters
    ----------
    events : ndarray of shape (T, C, H, W)
        Number of events in each timestep.
    spikes : ndarray of shape (T, ...)
        Spikes of a node.
    outputs : ndarray of shape (T, K)
        Outputs so far.
    names : sequence of str
        Names of the outputs.
    node : str
        Name of the node.
    title : str
        Name of the recording.

    Attributes
    ----------
    figure : Figure
        The figure.
    ends : ndarray of shape (frames + 1,)
        Timesteps between which the parts lie.
    """

    def __init__(
        self,
        events: np.ndarray,
        spikes: np.ndarray,
        outputs: np.ndarray,
        names: Sequence[str],
        node: str,
        title: str,
    ):
        self.events = events
        self.spikes = spikes
        self.outputs = outputs
        self.names = names
        self.node = node
        self.title = title
        steps = len(events)
        self.ends = np.unique(np.linspace(0, steps, min(FRAMES, steps) + 1).astype(int))
        # Of a mean frame, so that the colours of all frames have one scale.
        self.most_spikes = max(spikes.sum(0).max() / (len(self.ends) - 1), 1)
        self.limits = (min(outputs.min(), 0), max(outputs.max(), 1))
        self.figure, self.axes = plt.subplots(1, 3, figsize=(10, 3.8), layout="constrained")

    def draw(self, number: int) -> None:
        """Show the part of this number, from 0."""
        start = self.ends[number]
        end = self.ends[number + 1]
        for axis in self.axes:
            axis.clear()
        events_axis, spikes_axis, outputs_axis = self.axes
        draw_events(events_axis, self.events[start:end])
        draw_node(spikes_axis, self.spikes[start:end].sum(0), self.most_spikes)
        spikes_axis.set_title(f"spikes of node {self.node}")
        draw_bars(outputs_axis, self.outputs[end - 1], self.names)
        outputs_axis.set(xlim=self.limits, title="outputs so far")
        several = f"s {start + 1} to" if end > start + 1 else ""
        steps = len(self.events)
        self.figure.suptitle(f"{self.title}: timestep{several} {end} of {steps}")


def draw_events(axis: Axes, events: np.ndarray) -> None:
    """Draw where there were events (T, C, H, W)."""
    light = torch.from_numpy(events.sum(0).clip(max=1))
    show(axis, as_pixels(light).numpy())
    axis.set_title("events: on orange, off blue")


def draw_node(axis: Axes, spikes: np.ndarray, most: float) -> None:
    """Draw the spikes of a node (C, H, W) or (C,), its channels side by side."""
    shape = spikes.shape[1:] or (1, 1)
    channels = torch.from_numpy(spikes).reshape(len(spikes), 1, *shape)
    columns = ceil(sqrt(len(channels)))
    from torchvision.utils import make_grid  # takes a second

    grid = make_grid(channels, columns, padding=min(channels.shape[-1] - 1, 1))[0].numpy()
    axis.imshow(grid, cmap="magma", vmin=0, vmax=most)
    axis.set(xticks=[], yticks=[])


def draw_bars(axis: Axes, outputs: np.ndarray, names: Sequence[str]) -> None:
    """Draw the outputs (K,) as bars, the largest in another colour."""
    colours = [PART_COLOURS["input"]] * len(names)
    if outputs.any():
        colours[outputs.argmax()] = PART_COLOURS["encoder"]
    axis.barh(range(len(names)), outputs, color=colours)
    axis.set(yticks=range(len(names)), yticklabels=names)


def save_recording(
    path: str | PathLike,
    model: GraphSNN,
    rows: np.ndarray,
    steps: int,
    names: Sequence[str],
    title: str,
) -> None:
    """Write a GIF of a recording: events, spikes of the first node, and outputs so far.

    Parameters
    ----------
    path : str or Path
        The GIF.
    model : GraphSNN
        The network.
    rows : ndarray of shape (events, 4)
        The recording as the network takes it: timestep, channel, row and column of each
        event.
    steps : int
        Number of its timesteps.
    names : sequence of str
        Names of the outputs.
    title : str
        Name of the recording.
    """
    node = model.layers[1]
    with torch.no_grad():
        output = model([rows], steps, record={node: "spikes"})
    spikes = output.recorded[node]["spikes"][:, 0].numpy()
    outputs = output.logits_by_step[:, 0].numpy()
    events = np.zeros((steps, *model.graph.shape), np.float32)
    np.add.at(events, tuple(rows.T), 1)
    frames = RecordingFrames(events, spikes, outputs, names, node, title)
    save_frames(path, frames.figure, frames.draw, range(len(frames.ends) - 1), SECONDS)
