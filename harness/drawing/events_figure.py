"""A recording of an event camera in a network of somebody's own: events, spikes of the first layer and outputs over time."""

import numpy as np
import torch

from harness.drawing.figures import PART_COLOURS, STYLE, plt, save_frames
from harness.drawing.film import as_pixels

FRAMES, SECONDS = 40, 0.15  # of the GIF, at most, and each


def save_recording(path, model, rows, steps, names, title):
    """A GIF. rows: a recording as the model takes it, of so many timesteps; names: of the outputs; title: of the recording."""
    first = model.spiking[0]
    with torch.no_grad():
        output = model([rows], steps, record={first: "spikes"})
    ends = np.unique(np.linspace(0, steps, min(FRAMES, steps) + 1).astype(int))[1:]
    sent, outputs = output.recorded[first]["spikes"][:, 0].numpy(), output.logits_by_step[:, 0].numpy()
    events = np.zeros((steps, *model.input_shape), np.float32)
    np.add.at(events, tuple(rows.T), 1)

    def drawn(chosen):
        with plt.rc_context(STYLE):
            figure, (seen, middle, bars) = plt.subplots(1, 3, figsize=(10, 3.8), layout="constrained")
            for number in chosen:
                begin, end = ends[number - 1] if number else 0, ends[number]
                for axis in (seen, middle, bars):
                    axis.clear()
                seen.imshow(
                    as_pixels(torch.from_numpy(events[begin:end].sum(0).clip(max=1))).numpy(), cmap="gray", vmin=0, vmax=255
                )
                middle.imshow(
                    side_by_side(sent[begin:end].sum(0)), cmap="magma", vmin=0, vmax=max(sent.sum(0).max() / len(ends), 1)
                )
                best, now = outputs[end - 1].argmax(), outputs[end - 1]
                colours = [PART_COLOURS["encoder" if n == best and now.any() else "input"] for n in range(len(names))]
                bars.barh(range(len(names)), now, color=colours)
                bars.set(xlim=(min(outputs.min(), 0), max(outputs.max(), 1)), yticks=range(len(names)), yticklabels=names)
                for axis, words in (
                    (seen, "events: on orange, off blue"),
                    (middle, f"spikes of node {first}"),
                    (bars, "outputs so far"),
                ):
                    axis.set_title(words)
                seen.set(xticks=[], yticks=[])
                middle.set(xticks=[], yticks=[])
                several = f"s {begin + 1} to" if end > begin + 1 else ""
                figure.suptitle(f"{title}: timestep{several} {end} of {steps}")
                figure.canvas.draw()
                yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
            plt.close(figure)

    save_frames(path, drawn, len(ends), SECONDS)


def side_by_side(values):
    """Channels (C, H, W), or values (N,), as one picture."""
    values = values if values.ndim == 3 else values.reshape(-1, 1, 1)
    columns = int(np.ceil(np.sqrt(len(values))))
    values = np.pad(values, [(0, -len(values) % columns), (0, values.shape[1] > 1), (0, values.shape[2] > 1)])
    _, height, width = values.shape
    return values.reshape(-1, columns, height, width).swapaxes(1, 2).reshape(-1, columns * width)
