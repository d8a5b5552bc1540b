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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness import UserError  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.parser import Parser, SwitchAction, typed
from harness.command_line.scripts import run_script
from harness.data.scenes import counted, drifting_events
from harness.data.sets import load_data
from self_models.basics.settings import COUNT, WHOLE

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
