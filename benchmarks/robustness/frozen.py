#!/usr/bin/env python3
"""Record what the program computes, prints, writes and draws, to compare revisions.

``python benchmarks/robustness/frozen.py against REVISION`` makes a worktree of that
revision in a temporary folder, records there with the frozen.py of that revision,
records here, and prints what differs. The exit status is 0 if nothing does, 1 if
something does, and 2 if a recording failed. ``write FILE`` and ``compare FILE`` do the
same in two steps, the first at the revision before, the second at the one after it.
Records are of one machine: FILE is not for the repository.

``--part`` names what is recorded, by default all:

- ``networks``: the outputs of each checkpoint in ``trained_models/`` with each engine.
- ``nir``: the outputs of networks in NIR.
- ``trainings``: weights and figures of three trainings.
- ``commands``: what about eighty command lines of all scripts print, write and draw,
  see recorded_commands.py. Less than a minute of one core; the others take six.

A network or a command line that only one of the two records has is named. It does not
count as a difference where its checkpoint is gone, or where it is new.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE))

import torch  # noqa: E402

from benchmarks.robustness.record_differences import compare_records  # noqa: E402
from benchmarks.robustness.recorded_commands import record_commands  # noqa: E402
from self_models import evaluate, load, load_data  # noqa: E402

SMALL = 2**21  # bytes of a checkpoint whose network is fast enough for more images
TRAIN_ANN = "ann_wFeedback.py -a VGG5_wFeedback_small --fc_width 32 --epochs 1"
TRAIN_SNN = (
    "snn_wFeedback.py -a VGG5_wFeedback_small --fc_width 32 --epochs 1 --update immediate "
    "--engine dense"
)
TRAININGS = {  # script and flags; all from random weights but the last, from the first
    "ann": f"{TRAIN_ANN} --timesteps 2",
    "snn_poisson": f"{TRAIN_SNN} --timesteps 8 --default_threshold 0.3 --readout membrane "
    "--learn_threshold --learn_leak",
    "snn_direct": f"{TRAIN_SNN} --timesteps 4 --encoding direct --readout membrane_linear "
    "--gate block --epsilon 0.2 --spike_penalty 0.1 --pretrained_ann {ann} "
    "--balance_images 32 --balance_timesteps 20",
}
TIMED = ("seconds", "images_per_second")
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


Values = Iterator[tuple[str, str]]  # key and digest of each value


def digest(value: object) -> str:
    """Return the first digits of the SHA-256 of a tensor, or of what repr gives."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        head = f"{value.dtype} {tuple(value.shape)}".encode()
        content = head + value.numpy().tobytes()
    else:
        content = repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def arrays_of(name: str, value: object) -> Values:
    """Yield key and digest of all that an output holds."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        for key, part in value.items():
            yield from arrays_of(f"{name} {key}", part)
    elif value is not None:
        yield name, digest(value)


def images_of(model: torch.nn.Module, count: int) -> torch.Tensor:
    """Return test images of MNIST, or random ones of the network's shape."""
    torch.manual_seed(1)
    channels, *space = model.image_shape
    if channels == 1 and space == [28, 28]:
        return load_data("MNIST")[2].images[:count]
    return torch.randint(256, (count, channels, *space), dtype=torch.uint8)


RUNS = {  # name -> how `load` is told to run a network
    "dense": {"engine": "dense"},
    "event": {"engine": "event"},
    "int8": {"engine": "event", "weights": "int8"},
}


def of_networks() -> Values:
    """Record every array of each checkpoint.

    Dense and by events, with frames and without, early exit, streams, counts of
    operations, and whole numbers.
    """
    for path in sorted(HERE.glob("trained_models/*/*.pth")):
        kind = path.parent.name
        name = path.stem
        model = load(path, engine="dense")
        images = images_of(model, 16 if path.stat().st_size < SMALL else 4)
        print(f"{kind} {name}", file=sys.stderr, flush=True)
        if kind == "ann":
            yield from arrays_of(f"ann {name}", model(images, seed=0))
            continue
        for run, settings in RUNS.items():
            try:
                model = load(path, **settings)
            except Exception as error:  # of both revisions the same networks are refused
                print(f"{path.stem}: {error}", file=sys.stderr)
            else:
                yield from of_engine(f"{kind} {name} {run}", model, images)


@torch.no_grad()
def of_engine(name: str, model: torch.nn.Module, images: torch.Tensor) -> Values:
    """Record what a network sends by one engine."""
    yield from arrays_of(name, model(images, seed=0))
    yield from arrays_of(f"{name} sums", model(images, seed=0, frames=False))
    yield from arrays_of(f"{name} one", model(images[:1], seed=2))
    labels = torch.arange(len(images)) % 10
    counts_operations = not name.endswith("int8")
    measured = evaluate(model, images, labels, seed=0, operations=counts_operations)
    for key in MEASURED:
        if key in measured:
            yield f"{name} evaluate {key}", digest(measured[key])
    if model.settings["update"] != "phased":
        model.change(rule="confidence", gap_bound=4.0)
        yield from arrays_of(f"{name} exit", model(images, seed=0, frames=False))
        model.change(rule="never")
    try:
        stream = model.stream(seed=5)
        changed = images[4:8] if len(images) > 4 else images[:4].flip(-1)
        for number, part in enumerate([images[:4], images[:4], changed]):
            yield from arrays_of(f"{name} stream {number}", stream(part, 3))
        yield from arrays_of(f"{name} stream state", stream.state_dict())
    except Exception as error:
        yield f"{name} stream", type(error).__name__


def of_nir() -> Values:
    """Record the outputs of two NIR files, for random events."""
    for path in (HERE / "examples/nmnist.nir", HERE.parent / "shared/data/nir/cnn_sinabs.nir"):
        if not path.is_file():
            continue
        for engine in ("dense", "event"):
            model = load(path, engine=engine, dt=1e-3)
            torch.manual_seed(2)
            events = (torch.rand(4, 12, *model.input_shape) < 0.05).float()
            print(path.stem, engine, file=sys.stderr, flush=True)
            yield from arrays_of(f"nir {path.stem} {engine}", model(events))


def of_trainings() -> Values:
    """Record weights and figures of the trainings."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {}  # name -> path, for those that start from it
        for name, words in TRAININGS.items():
            kind = "ann" if name == "ann" else "snn"
            place = Path(folder) / name
            print(f"training {name}", file=sys.stderr, flush=True)
            train(words.format(**checkpoints), place)
            checkpoints[name] = place / f"trained_models/{kind}/frozen.pth"
            state = torch.load(checkpoints[name], weights_only=True)["state_dict"]
            for key, value in state.items():
                yield f"training {name} {key}", digest(value)
            log = (place / f"logs/{kind}/frozen.jsonl").read_text()
            for line in log.splitlines():
                record = json.loads(line)
                if record["event"] == "epoch":
                    figures = json.dumps(untimed(record), sort_keys=True)
                    yield f"training {name} epoch {record['epoch']}", digest(figures)


def train(words: str, place: Path) -> None:
    """Run a training script with these flags, into a folder."""
    script, *flags = words.split()
    command = [sys.executable, HERE / script, *flags, *COMMON.split(), "--output_dir", place]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=HERE, stdout=subprocess.DEVNULL, env=environment)


def untimed(record: dict) -> dict:
    """Return an epoch's figures without those that the clock has measured."""
    figures = {}
    for part in ("train", "evaluated"):
        figures[part] = {key: value for key, value in record[part].items() if key not in TIMED}
    return figures


def of_commands() -> Iterator[tuple[str, object]]:
    """Record the command lines of recorded_commands.py."""
    return record_commands(HERE)


class Part(NamedTuple):
    """A part of the record."""

    record: Callable[[], Iterator]
    beginnings: tuple[str, ...]  # of the keys of its values


PARTS = {
    "networks": Part(of_networks, ("ann ", "snn ")),
    "nir": Part(of_nir, ("nir ",)),
    "trainings": Part(of_trainings, ("training ",)),
    "commands": Part(of_commands, ("command ",)),
}


def main() -> None:
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
    beginnings = ()
    for part in args.part:
        beginnings += PARTS[part].beginnings
    kept = {key: value for key, value in kept.items() if key.startswith(beginnings)}
    lines, differs = compare_records(kept, found, is_there)
    print(*lines, sep="\n")
    sys.exit(int(differs))


def record(parts: Iterable[str]) -> dict[str, object]:
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
        found.update(PARTS[part].record())
    return json.loads(json.dumps(found))  # as a file has it: keys of dicts are texts


def count_values(value: object) -> int:
    """Count the numbers and texts in a record, or in a part of it."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list):
        return sum(count_values(part) for part in value)
    return 1


def is_there(group: str) -> bool:
    """Return whether a network could be recorded today: its checkpoint is there."""
    kind, name = group.split()[:2]
    needs_checkpoint = kind in ("ann", "snn")
    return not needs_checkpoint or (HERE / f"trained_models/{kind}/{name}.pth").is_file()


# --- another revision


def record_both(revision: str, parts: Sequence[str]) -> tuple[dict, dict]:
    """Record parts in a worktree of another revision, and here, in two processes.

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
def worktree(revision: str, folder: Path) -> Iterator[Path]:
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


def record_in(repository: Path, file: Path, parts: Sequence[str], name: str) -> dict:
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


def fail(message: str) -> NoReturn:
    """End with one line on standard error and exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
