#!/usr/bin/env python3
"""Record what the program computes, prints, writes and draws, and compare two revisions by it.

``python benchmarks/robustness/frozen.py against REVISION`` makes a worktree of that revision in
a temporary folder, records there with the frozen.py of that revision, records here, and prints
what differs. The exit status is 0 if nothing does, 1 if something does, and 2 if a recording
failed. ``write FILE`` and ``compare FILE`` do the same in two steps, the first at the revision
before, the second at the one after it. Records are of one machine: FILE is not for the
repository.

``--part`` names what is recorded, by default all:

- ``networks``: the outputs of each checkpoint in ``trained_models/`` with each engine.
- ``nir``: the outputs of networks in NIR.
- ``trainings``: weights and figures of three trainings.
- ``commands``: what about eighty command lines of all scripts print, write and draw, see
  recorded_commands.py. Less than a minute of one core; the others take six.

A network or a command line that only one of the two records has is named. It does not count
as a difference where its checkpoint is gone, or where it is new.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE))

import torch  # noqa: E402

from benchmarks.robustness.record_differences import compare_records  # noqa: E402
from benchmarks.robustness.recorded_commands import record_commands  # noqa: E402
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


def of_commands():
    """Record the command lines of recorded_commands.py."""
    return record_commands(HERE)


PARTS = {  # name -> what records it; how the keys of its values begin
    "networks": (of_networks, ("ann ", "snn ")),
    "nir": (of_nir, ("nir ",)),
    "trainings": (of_trainings, ("training ",)),
    "commands": (of_commands, ("command ",)),
}


def main():
    """Run the command line of this script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("write", "compare", "against"))
    parser.add_argument("file", metavar="FILE|REVISION", help="against: a revision of git")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=[*PARTS])
    args = parser.parse_args()
    if args.what == "against":
        kept, found = record_both(args.file, args.part)
    else:
        found = record(args.part)
        if args.what == "write":
            Path(args.file).write_text(json.dumps(found, indent=0))
            print(f"{len(found)} keys, {count_values(found)} values")
            return
        kept = json.loads(Path(args.file).read_text())
    beginnings = tuple(beginning for part in args.part for beginning in PARTS[part][1])
    kept = {key: value for key, value in kept.items() if key.startswith(beginnings)}
    lines, differs = compare_records(kept, found, is_there)
    print(*lines, sep="\n")
    sys.exit(int(differs))


def record(parts):
    """Record parts of ``PARTS`` here.

    Parameters
    ----------
    parts : list of str
        Their names.

    Returns
    -------
    dict of {str: object}
        Key -> digest or, of a command line, numbers, texts, lists and dicts.
    """
    torch.set_num_threads(1)
    found = {}
    for part in parts:
        for key, value in PARTS[part][0]():
            found[key] = value
    return json.loads(json.dumps(found))  # as a file has it: keys of dicts are texts


def count_values(value):
    """How many numbers and texts there are in a record, or in a part of it."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list):
        return sum(count_values(part) for part in value)
    return 1


def is_there(group):
    """Whether a network could be recorded today: its checkpoint is there, if it needs one."""
    kind, name = group.split()[:2]
    return kind not in ("ann", "snn") or (HERE / f"trained_models/{kind}/{name}.pth").is_file()


# --- another revision


def record_both(revision, parts):
    """Record parts in a worktree of another revision, and here, each in a process of its own.

    Parameters
    ----------
    revision : str
        What git takes for a revision.
    parts : list of str
        Names in ``PARTS``.

    Returns
    -------
    kept, found : dict
        The records of the other revision, and of the files here.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with worktree(revision, folder / "repository") as other:
            # The part `nir` looks for a network in a folder beside the repository.
            beside = HERE.parent / "shared"
            if beside.is_dir():
                (folder / "shared").symlink_to(beside)
            kept = record_in(other, folder / "kept.json", parts, revision)
        found = record_in(HERE, folder / "found.json", parts, "the files here")
    return kept, found


@contextmanager
def worktree(revision, folder):
    """Have a worktree of git meanwhile, without a branch.

    Parameters
    ----------
    revision : str
        What git takes for a revision.
    folder : Path
        Where the worktree is made.

    Yields
    ------
    Path
        The folder.
    """
    git = ["git", "-C", str(HERE), "worktree"]
    made = subprocess.run(
        [*git, "add", "--detach", str(folder), revision], capture_output=True, text=True
    )
    if made.returncode:
        fail(f"there is no worktree of {revision}: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def record_in(repository, file, parts, name):
    """Record with the frozen.py of a repository, in a process that imports its modules.

    Parameters
    ----------
    repository : Path
        Folder of the code.
    file : Path
        Where the record is written.
    parts : list of str
        Names in ``PARTS``.
    name : str
        What the code is called where its recording fails.

    Returns
    -------
    dict
        The record.
    """
    print(f"recording {name}", file=sys.stderr, flush=True)
    script = repository / "benchmarks/robustness/frozen.py"
    command = [sys.executable, str(script), "write", str(file), "--part", *parts]
    environment = os.environ | {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, stdout=subprocess.DEVNULL)
    if done.returncode:
        fail(f"recording {' '.join(parts)} of {name} failed, as said above")
    return json.loads(file.read_text())


def fail(message):
    """End with one line on standard error and exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
