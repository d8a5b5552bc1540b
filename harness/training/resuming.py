"""--resume: a run's last checkpoint, and its flags, which hold unless they are typed."""

from pathlib import Path

from harness import UserError
from harness.data.facts import facts_of, is_folder
from harness.data.folders import list_folder
from harness.runs import ranks
from harness.runs.paths import Paths
from harness.runs.runlog import read_records
from harness.training.losses import loss_settings
from self_models.basics.images import lasting_name
from self_models.loading import load_known

FIXED = ("network", "objective", "recipe")  # scopes of settings of which a run that goes on has those that it began with


def resumed(args, kind, name, own=None):
    """(the Configuration, the checkpoint that --resume asks for, whose flags it has adopted); None without --resume, or where the
    run has not saved yet, and is to begin.

    kind, name: of the run; own: the class of --model. Raises UserError where the
    checkpoint is damaged or gone, a flag was typed that may not change, or a folder's images are others; or where there is no
    checkpoint, and no flag was typed that says what to train.
    """
    if not args.resume or args.test_only:
        return args, None
    paths = Paths(kind, name, args.output_dir)
    path = paths.last_path if args.resume == "last" else Path(args.resume)
    args = args.having("found", resume=str(path))
    if args.overwrite and paths.wrote(path):
        raise UserError(f"--resume goes on with the run {name}, and --overwrite replaces it: leave out one of the two")
    of_recipe = {one.flag(name) for name, one in args.known.items() if one.scope in FIXED and one.group != "run"}
    may_begin = bool({"preset", "pretrained_ann", "pretrained_snn", *of_recipe}.intersection(args.typed))
    saved = ranks.from_first(lambda: _read(path, paths, may_begin, own))
    if saved is None:
        return args, None
    if not {"optimizer", "flags", "settings"} <= saved.keys():
        raise UserError(f"{path} has no optimiser state: --resume needs the checkpoint named ..._last.pth")
    was = {flag: one.default for flag, one in loss_settings().items()} | saved["flags"]  # losses that it did not know
    if lost := [flag for flag in was if flag.endswith("_weight") and was[flag] and flag not in args.known]:
        unknown = f"--{lost[0]} {was[lost[0]]:g}, a loss that is not registered here"
        raise UserError(f"{path} was trained with {unknown}: add its --model FILE.py")
    if (typed := args.given.get("dataset")) and lasting_name(typed) == lasting_name(was.get("dataset", typed)):
        was["dataset"] = typed  # the same, though it may have moved
    restored = {one.flag(name): one for name, one in args.known.items() if one.scope != "command" and one.flag(name) in was}
    if changed := [flag for flag, one in restored.items() if one.scope in FIXED and args.given.get(flag, was[flag]) != was[flag]]:
        raise UserError(f"{path} was trained with other settings ({', '.join(changed)}); --resume needs the same flags, or none")
    if args.updates and not was.get("updates"):
        raise UserError(f"{path} has its length in epochs: give --epochs instead of --updates {args.updates}")
    args = args.having("checkpoint", **{flag: was[flag] for flag in restored})
    args = args.having("found", plan=saved["settings"].get("plan"), facts=facts_of(saved["settings"], args.dataset))
    if is_folder(args.dataset):
        now, were = list_folder(args.dataset).known_by, saved["files"]
        if changed := [f"{part}/ had {were[part]} and has {known}" for part, known in now.items() if were[part] != known]:
            others = f"the images of {args.dataset} are not those that the run of {path} was given: {'; '.join(changed)}"
            advice = "bring them back, or begin a new run: another --run_name, or --overwrite, in place of --resume"
            raise UserError(f"{others}; {advice}")
    return args, saved


def flags_to_save(args, model):
    """flag -> value of this run, for its last checkpoint: the model's settings as they are in force."""
    flags, settings = {name: one.flag(name) for name, one in args.known.items() if one.scope != "command"}, dict(model.settings)
    settings["dataset"] = args.dataset  # where it lies, too
    return {flag: settings.get(name, getattr(args, flag)) for name, flag in flags.items() if hasattr(args, flag)}


def _read(path, paths, may_begin, own):
    """The checkpoint, or None where the run has not saved yet, and may begin."""
    if path.exists() or not paths.wrote(path):
        return load_known(path, own)
    records = read_records(paths.json_path)
    epochs = [record.get("epoch") for record in records if record["event"] == "epoch"]
    was_saving = epochs == [1]  # an epoch is recorded before its state is saved
    has_trained = bool(epochs) and not was_saving if records else paths.best_path.exists()
    if has_trained:
        raise UserError(f"{path} is gone, but the run has trained: put it back, or --overwrite in place of --resume")
    if not may_begin:
        raise UserError(f"--resume: {path} is not there, and no flag says what to train: give its --run_name, or more flags")
    return None
