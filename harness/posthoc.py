"""What the post-hoc scripts share: their flags, and opening the trained SNN, its data and its run."""

from pathlib import Path

from harness import flags
from harness.building import SPIKING, SNNSource
from harness.data import load_data
from harness.errors import UserError
from harness.loops import Objective
from harness.runlog import Run, snn_name


def posthoc_parser(description):
    """A parser with the run's and the SNN's flags; the script adds its own, --epsilon among them."""
    parser = flags.Parser(description)
    flags.add_run_args(parser, trains=False)
    flags.add_snn_args(parser, trains=False)
    return parser


def open_posthoc(args, cls, suffix, **own):
    """The SNN as a model of class cls with its own settings, the test images, the run NAME + suffix, and the objective.

    The checkpoint is --pretrained_snn, or a converted --pretrained_ann, or the one that the flags name.
    """
    if not (args.pretrained_snn or args.pretrained_ann):
        default = Path(args.output_dir) / "trained_models" / "snn" / f"{snn_name(args)}.pth"
        if not default.is_file():
            raise UserError(f"--pretrained_snn is missing, and {default} is not there: give an SNN's checkpoint")
        args.pretrained_snn = str(default)
    source = SNNSource(args, SPIKING)
    model = source.model(cls, **own)
    train, _, test = load_data(args.dataset, args.data_dir, args.limit_train, args.limit_test)
    name = Path(args.pretrained_snn).stem if args.pretrained_snn else snn_name(args)
    run = Run("snn", args.run_name or name + suffix, args, trains=False)
    source.fill(model, train, run)
    return model.eval(), test, run, Objective(args.trade_off, args.trade_off_type)
