"""What --resume finds: the last checkpoint of a run, with the flags that it had."""

from functools import partial
from pathlib import Path

from self_models.checkpoints.loading import load_known
from self_models.data.folders import list_folder
from self_models.data.images import IMAGE_SHAPES, lasting_name
from self_models.errors import UserError
from wfeedback.arguments import Arguments, set_found, take_over
from wfeedback.data.facts import facts_of
from wfeedback.runs import ranks
from wfeedback.runs.run import Paths, read_records
from wfeedback.training.losses import loss_settings

# Flags of one command: a run that goes on never takes them from its checkpoint.
NEVER_FROM_CHECKPOINT = {
    "model",
    "output_dir",
    "overwrite",
    "preset",
    "results_json",
    "resume",
    "run_name",
    "seeds",
    "test_only",
}
# Flags of which a run that goes on may have other values than it began with.
MAY_CHANGE = {
    "bptt_segments",
    "checkpoint_minutes",
    "data_dir",
    "device",
    "devices",
    "engine",
    "epochs",
    "gpu",
    "log",
    "pretrained_ann",
    "pretrained_snn",
    "test_acc_every_batch",
    "train_acc_batches",
    "updates",
}
# All other flags must be equal, since the network, its images or its training would be
# others. tests/wfeedback/test_script_rules.py lists them, so that each new flag is a
# decision.


def kept_flags(args: Arguments, **found: object) -> dict[str, object]:
    """Return the flags that a last checkpoint keeps, and --resume takes from it.

    Parameters
    ----------
    args : Arguments
    **found
        Values that hold in place of what the flags say.
    """
    kept = {name: getattr(args, name) for name in kept_names(args)}
    return kept | found


def kept_names(args: Arguments) -> list[str]:
    """Return the names of the flags that a last checkpoint keeps."""
    return [name for name in args.parser.settings if name not in NEVER_FROM_CHECKPOINT]


def equal_names(args: Arguments) -> list[str]:
    """Return the names of the flags that must be as they were when the run began."""
    return [name for name in kept_names(args) if name not in MAY_CHANGE]


def open_last_checkpoint(
    args: Arguments, kind: str, name: str, model_class: type | None = None
) -> dict | None:
    """Read the last checkpoint that --resume asks for, and take over its flags.

    Parameters
    ----------
    args : Arguments
        Changed in place. With --resume, ``resume`` becomes the path of the file. If it
        is read, flags that neither the user typed nor the recipe has become the
        checkpoint's, except ``NEVER_FROM_CHECKPOINT``; ``plan`` and ``facts`` become
        those of its network. ``args.origins`` tells where each value came from.
    kind : {"ann", "snn"}
        What the run trains.
    name : str
        Name of the run.
    model_class : type, optional
        Class of ``--model``.

    Returns
    -------
    dict or None
        The checkpoint. None without --resume, with --test_only, and where the run is to
        begin since its last checkpoint is not there yet.

    Raises
    ------
    UserError
        If the file is no last checkpoint, or the run would not be the same.
    """
    if not args.resume or args.test_only:
        return None
    paths = Paths(kind, name, args.output_dir)
    path = paths.last_path if args.resume == "last" else Path(args.resume)
    # Log and messages of later steps name the file, also where the flag is "last".
    set_found(args, resume=str(path))
    # Rank 0 reads for all processes: the file may lie on its machine alone.
    saved = ranks.from_first(partial(load_unless_new, path, paths, model_class))
    if saved is None:
        check_may_begin(args, paths)
        return None
    if not {"optimizer", "flags", "settings"} <= saved.keys():
        raise UserError(
            f"{path} has no optimiser state: --resume needs the checkpoint named ..._last.pth"
        )

    # First compare, then take over: afterwards ``args.updates`` would be the
    # checkpoint's, and no longer what the run asks for.
    flags = flags_of_checkpoint(args, saved)
    check_same_flags(args, path, flags)
    kept = {name: flags[name] for name in kept_names(args) if name in flags}
    take_over(args, kept, "checkpoint")  # leaves alone what was typed or a recipe has

    # From here on ``args.dataset`` is the data set that the run goes on with.
    plan = saved["settings"].get("plan")
    set_found(args, plan=plan, facts=facts_of(saved["settings"], args.dataset))
    is_folder = args.dataset not in IMAGE_SHAPES
    if is_folder:
        check_same_files(args, path, saved["files"])
    return saved


def load_unless_new(path: Path, paths: Paths, model_class: type | None) -> dict | None:
    """Load a last checkpoint; None where the run is to begin.

    That is where the file is missing, and is the one that this run will write. Any
    other file must be there.

    Parameters
    ----------
    path : Path
        The file that --resume asks for.
    paths : Paths
        The files of this run.
    model_class : type or None
        Class of ``--model``.

    Raises
    ------
    CheckpointError
        If another run's file is missing, or the file cannot be read.
    """
    if not path.exists() and paths.wrote(path):
        return None
    return load_known(path, model_class)


def flags_of_checkpoint(args: Arguments, saved: dict) -> dict[str, object]:
    """Return the flags that a last checkpoint has, completed where it is older."""
    # Losses that the checkpoint did not know weighed nothing.
    flags = {flag: declared.default for flag, declared in loss_settings().items()}
    flags |= saved["flags"]
    if "dataset" in args.given and args.dataset:
        before = flags.get("dataset", args.dataset)
        if lasting_name(args.dataset) == lasting_name(before):
            flags["dataset"] = args.dataset  # the same, though it may have moved
    return flags


def check_same_flags(args: Arguments, path: Path, flags: dict[str, object]) -> None:
    """Raise UserError if a run would go on with other flags than it began with.

    Parameters
    ----------
    args : Arguments
    path : Path
        The last checkpoint.
    flags : dict of {str: object}
        Its flags.
    """
    for flag, value in flags.items():
        if flag.endswith("_weight") and value and flag not in args.parser.settings:
            raise UserError(
                f"{path} was trained with --{flag} {value:g}, a loss that is not registered "
                "here: add its --model FILE.py"
            )
    changed = []
    for flag in equal_names(args):
        if flag in flags and flag in args.given and getattr(args, flag) != flags[flag]:
            changed.append(flag)
    if changed:
        raise UserError(
            f"{path} was trained with other settings ({', '.join(changed)}); "
            "--resume needs the same flags, or none"
        )
    if args.updates and not flags.get("updates"):
        raise UserError(
            f"{path} has its length in epochs: give --epochs instead of --updates {args.updates}"
        )


def check_same_files(args: Arguments, path: Path, files: dict[str, str]) -> None:
    """Raise UserError if the folder of images is not as it was when the run began.

    Parameters
    ----------
    args : Arguments
    path : Path
        The last checkpoint.
    files : dict of {str: str}
        Of "train" and "test": what the folder had then.
    """
    changed = []
    for part, now in list_folder(args.dataset).known_by.items():
        if now != files[part]:
            changed.append(f"{part}/ had {files[part]} and has {now}")
    if changed:
        raise UserError(
            f"the images of {args.dataset} are not those that {path} began with: "
            f"{'; '.join(changed)}; bring them back, or begin a new run: another --run_name, "
            "or --overwrite, in place of --resume"
        )


def check_may_begin(args: Arguments, paths: Paths) -> None:
    """Raise UserError if a run without its last checkpoint must not begin.

    It must not if it has trained, or if no flag says what to train.
    """
    records = read_records(paths.json_path)
    epochs = [record.get("epoch") for record in records if record["event"] == "epoch"]
    # An epoch is recorded before it is saved: a run that was killed in between has one.
    has_trained = epochs not in ([], [1]) or (not records and paths.best_path.exists())
    if has_trained:
        raise UserError(
            f"{paths.last_path} is gone, but the run has trained: put it back, "
            "or --overwrite in place of --resume"
        )
    says_what = {"preset", "pretrained_ann", "pretrained_snn"}
    for flag in equal_names(args):
        if args.parser.settings[flag].group != "run":
            says_what.add(flag)
    if not says_what.intersection(args.typed):
        raise UserError(
            f"--resume: {paths.last_path} is not there, and no flag says what to train: "
            "give its --run_name, or more flags"
        )
