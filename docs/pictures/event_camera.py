#!/usr/bin/env python3
"""Draw event_camera.png beside this file: a recording of N-MNIST.

It is split into eight frames, as `wfeedback ann` reads it.
`python docs/pictures/event_camera.py`
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wfeedback.idle_threads  # noqa: F401  (before torch)

import numpy as np

from self_models.data.events import read_as_frames, read_recording
from wfeedback.drawing.figures import chart

HERE = Path(__file__).resolve().parent
RECORDING = HERE.parents[1] / "data/nmnist/3/00008.bin"
NUM_FRAMES = 8
SIZE = 34  # pixels of a side
# Channels of a frame
OFF = 0
ON = 1
ORANGE = (255, 128, 0)
BLUE = (0, 128, 255)


def draw() -> None:
    """Draw one panel for each frame."""
    frames = read_as_frames(RECORDING, (NUM_FRAMES, 2, SIZE, SIZE), bound=1)
    time = read_recording(RECORDING).t
    milliseconds = (time[-1] - time[0]) / 1000 / NUM_FRAMES
    with chart(HERE / "event_camera.png", (12, 1.9), panels=NUM_FRAMES) as panels:
        for number, (frame, axes) in enumerate(zip(frames, panels, strict=True)):
            picture = np.zeros((SIZE, SIZE, 3), np.uint8)
            picture[frame[OFF] > 0] = BLUE
            picture[frame[ON] > 0] = ORANGE
            axes.imshow(picture)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"from {number * milliseconds:.0f} ms", fontsize=10)


if __name__ == "__main__":
    draw()
