"""Where a run writes: its name and its paths."""

from pathlib import Path

TAKEN = "--resume goes on with that run, --overwrite replaces it, --run_name or --output_dir keeps both"


class Paths:
    """The paths of a run of this name. kind: ann or snn, the folder that they lie in."""

    def __init__(self, kind, name, output_dir):
        self.name = name
        self.logs, self.files = (Path(output_dir) / folder / kind for folder in ("logs", "trained_models"))

    log_path = property(lambda self: self.logs / f"{self.name}.log")
    json_path = property(lambda self: self.logs / f"{self.name}.jsonl")
    best_path = property(lambda self: self.files / f"{self.name}.pth")
    last_path = property(lambda self: self.files / f"{self.name}_last.pth")
    of_training = property(lambda self: (self.best_path, self.last_path, self.log_path, self.json_path))

    def wrote(self, path):
        """Whether this is the run's last checkpoint."""
        return path.resolve() == self.last_path.resolve()

    def picture(self, ending):
        """Path of a picture, say NAME.gif."""
        return self.files / f"{self.name}{ending}"

    @property
    def of_evaluation(self):
        return self.log_path, self.json_path, *map(self.picture, (".gif", ".png", "_sweep.png"))

    def taken(self, paths):
        """The first of these paths that is there, or None."""
        return next((path for path in paths if path.exists()), None)


def numbered(name, seed):
    """What a run of this name is called with a seed: NAME with seed 0, NAME_1 with seed 1."""
    return f"{name}_{seed}" if seed else name


def is_numbered(args):
    """Whether the run's name has its seed in it already, since a recipe named it."""
    return bool(args.run_name) and "run_name" not in args.given


def run_name(kind, args):
    """What a training script's run is called: --run_name; the checkpoint of --test_only; the run that --resume PATH goes on."""
    if not args.run_name and args.test_only:
        return f"{Path(getattr(args, 'pretrained_snn', '') or args.pretrained_ann).stem}_test"
    if not args.run_name and args.resume not in ("", "last"):
        return Path(args.resume).stem.removesuffix("_last")
    return args.run_name or (ann_name(args) if kind == "ann" else snn_name(args))


def ann_name(args):
    """As the original names its runs."""
    network = f"{args.architecture}_t{args.timesteps}_{Path(args.dataset).name}".lower()
    return f"ann_{network}_tradeoff{args.trade_off}_lr{args.learning_rate}"


def snn_name(args):
    """As the original names its runs; the learning rate and newer flags are in the log, not in the name."""
    network = f"{args.architecture}_{Path(args.dataset).name}_{args.timesteps}".lower()
    return f"snn_{network}_tradeoff{args.trade_off}_type{args.trade_off_type}"
