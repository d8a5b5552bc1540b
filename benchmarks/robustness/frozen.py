#!/usr/bin/env python3
"""Has a change of the code changed a number? Digests of what the committed networks and three small trainings give.

`python frozen.py write FILE` at the revision before, `compare FILE` at the one after it, on the same machine: exit status 1
and the names where they differ. Networks that are gone are named, and do not count. Digests of a machine are its own: FILE is not
for the repository. `--part A B` of `networks`, `nir`, `trainings` (default: all). Six minutes of one core.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE))

import torch  # noqa: E402

from self_models import evaluate, load, load_data  # noqa: E402

SMALL = 2**21  # bytes of a checkpoint whose network is fast enough for more images
TRAININGS = {  # script and flags; each one epoch, from random weights but for the last, which converts the first
    "ann": "ann_wFeedback.py -a VGG5_wFeedback_small --fc_width 32 --timesteps 2 --epochs 1",
    "snn_poisson": "snn_wFeedback.py -a VGG5_wFeedback_small --fc_width 32 --timesteps 8 --epochs 1 --update immediate "
    "--engine dense --default_threshold 0.3 --readout membrane --learn_threshold --learn_leak",
    "snn_direct": "snn_wFeedback.py -a VGG5_wFeedback_small --fc_width 32 --timesteps 4 --epochs 1 --update immediate "
    "--engine dense --encoding direct --readout membrane_linear --gate block --epsilon 0.2 --spike_penalty 0.1 "
    "--pretrained_ann {ann} --balance_images 32 --balance_timesteps 20",
}
TIMED = "seconds", "images_per_second"
MEASURED = (
    "accuracy",
    "operations",
    "energy_event_joules",
    "energy_joules",
    "energy_memory_joules",
    "comparisons",
    "open_share",
)
COMMON = (
    "--dataset MNIST --limit_train 256 --limit_test 64 --batch_size 32 --seed 3 --run_name frozen"
)


def digest(value):
    if not isinstance(value, torch.Tensor):
        return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
    value = value.detach().cpu().contiguous()
    return hashlib.sha256(
        f"{value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes()
    ).hexdigest()[:16]


def arrays_of(name, value):
    """(name, digest) of all that an output holds."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        for key, part in value.items():
            yield from arrays_of(f"{name} {key}", part)
    elif value is not None:
        yield name, digest(value)


def images_of(model, count):
    torch.manual_seed(1)
    channels, *space = model.image_shape
    if channels == 1 and space == [28, 28]:
        return load_data("MNIST")[2].images[:count]
    return torch.randint(256, (count, channels, *space), dtype=torch.uint8)


def of_networks():
    """(name, digest) of every array of each checkpoint: dense and by events, with frames and without, early exit, streams, counts
    of operations, whole numbers."""
    for path in sorted(HERE.glob("trained_models/*/*.pth")):
        kind, name = path.parent.name, path.stem
        model = load(path, engine="dense")
        images = images_of(model, 16 if path.stat().st_size < SMALL else 4)
        print(f"{kind} {name}", file=sys.stderr, flush=True)
        if kind == "ann":
            yield from arrays_of(f"ann {name}", model(images, seed=0))
            continue
        for run, own in {
            "dense": {"engine": "dense"},
            "event": {"engine": "event"},
            "int8": {"weights": "int8"},
        }.items():
            try:
                model = load(path, **{"engine": "event"} | own)
            except Exception as error:  # of both revisions the same networks are refused
                print(f"{path.stem}: {error}", file=sys.stderr)
            else:
                yield from of_engine(f"{kind} {name} {run}", model, images)


@torch.no_grad()
def of_engine(name, model, images):
    yield from arrays_of(name, model(images, seed=0))
    yield from arrays_of(f"{name} sums", model(images, seed=0, frames=False))
    yield from arrays_of(f"{name} one", model(images[:1], seed=2))
    labels, counts = torch.arange(len(images)) % 10, not name.endswith("int8")
    measured = evaluate(model, images, labels, seed=0, operations=counts)
    yield from (
        (f"{name} evaluate {key}", digest(measured[key])) for key in MEASURED if key in measured
    )
    if model.settings["update"] != "phased":
        model.change(rule="confidence", gap_bound=4.0)
        yield from arrays_of(f"{name} exit", model(images, seed=0, frames=False))
        model.change(rule="never")
    try:
        stream = model.stream(seed=5)
        parts = [images[:4], images[:4], images[4:8] if len(images) > 4 else images[:4].flip(-1)]
        for number, part in enumerate(parts):
            yield from arrays_of(f"{name} stream {number}", stream(part, 3))
        yield from arrays_of(f"{name} stream state", stream.state_dict())
    except Exception as error:
        yield f"{name} stream", type(error).__name__


def of_nir():
    for path in (HERE / "examples/nmnist.nir", HERE.parent / "shared/data/nir/cnn_sinabs.nir"):
        if not path.is_file():
            continue
        for engine in ("dense", "event"):
            model = load(path, engine=engine, dt=1e-3)
            torch.manual_seed(2)
            events = (torch.rand(4, 12, *model.input_shape) < 0.05).float()
            print(path.stem, engine, file=sys.stderr, flush=True)
            yield from arrays_of(f"nir {path.stem} {engine}", model(events))


def of_trainings():
    with tempfile.TemporaryDirectory() as folder:
        made = {}
        for name, words in TRAININGS.items():
            place = Path(folder) / name
            words = words.format(**made).split()
            print(f"training {name}", file=sys.stderr, flush=True)
            command = [
                sys.executable,
                HERE / words[0],
                *words[1:],
                *COMMON.split(),
                "--output_dir",
                place,
            ]
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, cwd=HERE, stdout=subprocess.DEVNULL, env=env)
            kind = "ann" if name == "ann" else "snn"
            made[name] = place / f"trained_models/{kind}/frozen.pth"
            state = torch.load(made[name], weights_only=True)["state_dict"]
            yield from ((f"training {name} {key}", digest(value)) for key, value in state.items())
            for line in (place / f"logs/{kind}/frozen.jsonl").read_text().splitlines():
                record = json.loads(line)
                if record["event"] == "epoch":
                    figures = {
                        part: {
                            key: value for key, value in record[part].items() if key not in TIMED
                        }
                        for part in ("train", "evaluated")
                    }
                    yield (
                        f"training {name} epoch {record['epoch']}",
                        digest(json.dumps(figures, sort_keys=True)),
                    )


PARTS = {
    "networks": (of_networks, "ann", "snn"),
    "nir": (of_nir, "nir"),
    "trainings": (of_trainings, "training"),
}  # and kinds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[*PARTS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: value for part in args.part for name, value in PARTS[part][0]()}
    if args.what == "write":
        args.file.write_text(json.dumps(found, indent=0))
        return print(f"{len(found)} arrays")
    kept = json.loads(args.file.read_text())
    differ = sorted(name for name in kept.keys() & found.keys() if kept[name] != found[name])
    print(
        f"{len(kept.keys() & found.keys())} arrays in both, {len(differ)} differ, {len(found.keys() - kept.keys())} are new"
    )
    kinds = [kind for part in args.part for kind in PARTS[part][1:]]
    lost = {
        tuple(name.split()[:3]) for name in kept.keys() - found.keys() if name.split()[0] in kinds
    }
    left = {
        name
        for name in lost
        if name[0] == "nir" or (HERE / f"trained_models/{name[0]}/{name[1]}.pth").is_file()
    }
    print(
        *sorted(
            f"{'no longer run' if name in left else 'gone'}: {' '.join(name)}" for name in lost
        ),
        *differ,
        sep="\n",
    )
    sys.exit(bool(differ or left))


if __name__ == "__main__":
    main()
