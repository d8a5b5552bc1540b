"""What --resume finds: the last checkpoint of a run, with the flags that it had."""

from pathlib import Path

from harness import UserError
from harness.data.facts import facts_of
from harness.runs import ranks
from harness.runs.run import Paths, read_records
from harness.training.losses import loss_settings
from self_models.basics.images import IMAGE_SHAPES, lasting_name
from self_models.data.folders import list_folder
from self_models.loading import load_known

FIXED = (
    "network",
    "objective",
    "recipe",
)  # scopes of settings of which a run that goes on has those that it began with


def kept_settings(args):
    """flag -> Setting of those that a last checkpoint keeps, and that --resume takes from it."""
    return {flag: known for flag, known in args.known.items() if known.scope != "command"}


def kept_flags(args):
    """flag -> value of those that a last checkpoint keeps."""
    return {flag: getattr(args, flag) for flag in kept_settings(args)}


def resumed(args, kind, name, own=None):
    """(the Configuration, the checkpoint that --resume asks for, whose flags hold unless they are typed); None where the run is
    to begin. kind, name: of the run; own: the class of --model. Raises UserError where the run would not be the same."""
    if not args.resume or args.test_only:
        return args, None
    paths = Paths(kind, name, args.output_dir)
    path = paths.last_path if args.resume == "last" else Path(args.resume)
    args = args.having("found", resume=str(path))
    saved = ranks.from_first(
        lambda: load_known(path, own) if path.exists() or not paths.wrote(path) else None
    )
    if saved is None:
        check_may_begin(args, paths)
        return args, None
    if not {"optimizer", "flags", "settings"} <= saved.keys():
        raise UserError(
            f"{path} has no optimiser state: --resume needs the checkpoint named ..._last.pth"
        )
    was = {flag: known.default for flag, known in loss_settings().items()} | saved[
        "flags"
    ]  # losses that it did not know
    if (typed := args.given.get("dataset")) and lasting_name(typed) == lasting_name(
        was.get("dataset", typed)
    ):
        was["dataset"] = typed  # the same, though it may have moved
    check_same_flags(args, path, was)
    args = args.having(
        "checkpoint", **{flag: was[flag] for flag in kept_settings(args) if flag in was}
    )
    args = args.having(
        "found",
        plan=saved["settings"].get("plan"),
        facts=facts_of(saved["settings"], args.dataset),
    )
    files, were = (
        {} if args.dataset in IMAGE_SHAPES else list_folder(args.dataset).known_by,
        saved["files"],
    )
    if changed := [
        f"{part}/ had {were[part]} and has {files[part]}"
        for part in files
        if were[part] != files[part]
    ]:
        again = "bring them back, or begin a new run: another --run_name, or --overwrite, in place of --resume"
        raise UserError(
            f"the images of {args.dataset} are not those that {path} began with: {'; '.join(changed)}; {again}"
        )
    return args, saved


def check_same_flags(args, path, was):
    """Raises UserError where a run that goes on would have another recipe than these flags of its checkpoint."""
    if lost := [
        flag for flag in was if flag.endswith("_weight") and was[flag] and flag not in args.known
    ]:
        unknown = f"--{lost[0]} {was[lost[0]]:g}, a loss that is not registered here"
        raise UserError(f"{path} was trained with {unknown}: add its --model FILE.py")
    fixed = [
        flag for flag, known in kept_settings(args).items() if known.scope in FIXED and flag in was
    ]
    if changed := [flag for flag in fixed if args.given.get(flag, was[flag]) != was[flag]]:
        raise UserError(
            f"{path} was trained with other settings ({', '.join(changed)}); --resume needs the same flags, or none"
        )
    if args.updates and not was.get("updates"):
        raise UserError(
            f"{path} has its length in epochs: give --epochs instead of --updates {args.updates}"
        )


def check_may_begin(args, paths):
    """Raises UserError where a run without its last checkpoint has trained, or where no flag says what to train."""
    records = read_records(paths.json_path)
    epochs = [record.get("epoch") for record in records if record["event"] == "epoch"]
    if epochs not in ([], [1]) or (
        not records and paths.best_path.exists()
    ):  # an epoch is recorded before it is saved
        raise UserError(
            f"{paths.last_path} is gone, but the run has trained: put it back, or --overwrite in place of --resume"
        )
    says = {
        flag for flag, known in args.known.items() if known.scope in FIXED and known.group != "run"
    }
    if not (says | {"preset", "pretrained_ann", "pretrained_snn"}) & args.typed.keys():
        nothing = f"{paths.last_path} is not there, and no flag says what to train"
        raise UserError(f"--resume: {nothing}: give its --run_name, or more flags")
