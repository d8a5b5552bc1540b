#!/usr/bin/env python3
"""Are the frames that we make of events those that SpikingJelly makes? Recordings of an event camera before which digits drift.

FOLDER/train/CLASS/N.npz and FOLDER/test/CLASS/N.npz have the key `frames`, counts of events (T, 2, H, W), off and on, of a digit
of MNIST that moves by 24 pixels back and forth: a data set for `--dataset FOLDER` where no real one can be had. With --check
nothing is written, and the frames are compared with those that SpikingJelly (pip install spikingjelly) counts of the same events.
One JSON object; exit status 1 where one differs.
"""

import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness import UserError  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.parser import Parser, SwitchAction, typed
from harness.command_line.scripts import run_script
from harness.data.scenes import Source, drift
from harness.data.sets import load_data
from self_models.basics.settings import COUNT, WHOLE
from self_models.running.draws import seed_for

import numpy as np


def main(argv=None):
    args = build_parser().parse_args(argv)
    train, _, test = load_data("MNIST", limit_train=args.train, limit_test=args.test)
    size = train.images.shape[2:]
    if args.check:
        return check(test, args, *size)
    if not args.folder:
        raise UserError("--folder is missing: where to write them")
    for part, images in (("train", train), ("test", test)):
        for number, label in enumerate(images.labels.tolist()):
            frames = counted(drifting_events(images, number, args.seed), args.frames, *size)
            path = Path(args.folder, part, str(label), f"{number}.npz")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, frames=frames.astype(np.uint16))
    print(f"wrote {len(train):,} and {len(test):,} recordings of {args.frames} frames to {args.folder}")


def check(images, args, height, width):
    """Compare each test image's frames with SpikingJelly's."""
    integrate = spikingjelly().integrate_events_by_fixed_frames_number
    same = events = 0
    for number in range(len(images)):
        found = drifting_events(images, number, args.seed)
        theirs = integrate(found._asdict(), "number", args.frames, height, width)
        same, events = same + np.array_equal(counted(found, args.frames, height, width), theirs), events + len(found.t)
    print(json.dumps({"recordings": len(images), "frames": args.frames, "events": events, "same": same}))
    if same < len(images):
        raise SystemExit(1)


class Events(NamedTuple):
    """Of an event camera, in the order of their time, int64 (N,) each: t, the number of a frame; x and y, a column and a row; p,
    1 where it grew brighter there, else 0."""

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray


def events_of(frames, bound):
    """The Events of frames (N, H, W), uint8: each time a pixel has moved by `bound` grey values since its last event, or since
    the first frame."""
    last, found = frames[0].astype(np.int64), []
    for t, frame in enumerate(frames[1:], 1):
        moved = np.trunc((frame - last) / bound).astype(np.int64)
        last += moved * bound
        y, x = moved.nonzero()
        found.append(np.repeat([np.full_like(x, t), x, y, moved[y, x] > 0], abs(moved[y, x]), 1))
    return Events(*np.concatenate(found, 1))


def counted(events, frames, height, width):
    """How many Events each pixel has in so many frames, (frames, 2, H, W): each frame has as many as the others, and what cannot
    be shared goes to the last, as in SpikingJelly's split_by="number"."""
    count = len(events.t)
    number = np.minimum(np.arange(count) // max(count // frames, 1), frames - 1)
    place = np.ravel_multi_index((number, events.p, events.y, events.x), (frames, 2, height, width))
    return np.bincount(place, minlength=frames * 2 * height * width).reshape(frames, 2, height, width)


def drifting_events(images, number, seed=0, moves=24, bound=64):
    """The Events of a camera before which a grey image of a set, of this number, drifts by so many pixels."""
    source = Source(images.part(number, number + 1), seed_for(seed, f"recording {number}"))
    shown = [frame[0] for frame, _ in islice(drift(source, 0.0), 0, 4 * (moves + 1), 4)]
    return events_of(np.stack(shown), bound)


def spikingjelly():
    """Its module datasets.utils, without those beside it, which want more packages."""
    if not (package := importlib.util.find_spec("spikingjelly")):
        raise UserError("--check needs a package: pip install spikingjelly")
    path = Path(package.submodule_search_locations[0], "datasets", "utils.py")
    spec = importlib.util.spec_from_file_location("spikingjelly.datasets.utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--folder", default="", metavar="FOLDER", help="where to")
    parser.add_argument("--check", action=SwitchAction, default=False, help="compare with SpikingJelly, write nothing")
    numbers = (("train", 6000, "digits"), ("test", 1000, "digits"), ("frames", 12, "T, of each recording"))
    for name, default, text in numbers:
        parser.add_argument(f"--{name}", type=typed(COUNT), default=default, metavar="N", help=text)
    parser.add_argument("--seed", type=typed(WHOLE), default=0, help="of where they drift to")
    return parser


if __name__ == "__main__":
    run_script(main)
