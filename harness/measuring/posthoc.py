"""What the post-hoc scripts share: their flags, and opening the trained SNN, its data and its run."""

from pathlib import Path

import torch

from harness.command_line import flags
from harness.command_line.errors import UserError
from harness.data.sets import load_data
from harness.measuring.report import evaluation_record, save_results_json
from harness.runs.runlog import Run, snn_name
from harness.training.building import BLOCKING, SNNSource, use_engine
from harness.training.fit import evaluate_with_bar
from harness.training.loops import Objective, run_model
from self_models.running.draws import EVALUATION


def posthoc_parser(description):
    """A parser with the run's and the SNN's flags; the script adds its own, --epsilon among them."""
    parser = flags.Parser(description)
    flags.add_run_args(parser, trains=False)
    flags.add_snn_args(parser, trains=False)
    flags.add_results_args(parser)
    return parser


class Posthoc:
    """An evaluation of a trained SNN: model, test (ImageSet; with --holdout training images), run, and the records of what was
    evaluated.

    cls: the model's class, own: its settings that come from no shared flag. The checkpoint is --pretrained_snn, or a
    converted --pretrained_ann, or the one that the flags name. suffix: of the run's name.
    """

    def __init__(self, args, cls, suffix, **own):
        if not (args.pretrained_snn or args.pretrained_ann):
            default = Path(args.output_dir) / "trained_models" / "snn" / f"{snn_name(args)}.pth"
            if not default.is_file():
                raise UserError(f"--pretrained_snn is missing, and {default} is not there: give an SNN's checkpoint")
            args.pretrained_snn = str(default)
        self.args, self.records = args, []
        source = SNNSource(args, BLOCKING)
        self.model = source.model(cls, latch=args.latch, residual=args.residual, **own)
        use_engine(self.model, args)
        if args.holdout and args.limit_test:
            raise UserError("--limit_test is of the test images, and --holdout evaluates on others: leave out one of the two")
        train, held_out, test = load_data(args.dataset, args.data_dir, args.limit_train, args.limit_test, args.holdout)
        self.test = held_out or test
        name = Path(args.pretrained_snn).stem if args.pretrained_snn else snn_name(args)
        self.run = Run("snn", args.run_name or name + suffix, args, trains=False)
        source.fill(self.model, train, self.run).eval()
        trained = (source.saved.get("settings") or {}).get("epsilon")
        typed = args.epsilon if isinstance(args.epsilon, list) else [args.epsilon]
        if trained and trained not in typed:
            self.run.say(f"note: this SNN was trained with epsilon {trained:g}")
        self.device = next(self.model.parameters()).device

    def evaluate(self, test=None, **more):
        """Figures of the model as it is now, on the test images or others; kept as a record, with more in it."""
        self.run.begin()
        objective = Objective(self.args.trade_off, self.args.trade_off_type)
        result = evaluate_with_bar(self.model, test or self.test, objective, self.args, self.run, count_operations=True)
        more = {"holdout": self.args.holdout} | more if self.args.holdout else more
        record = evaluation_record(self.model, result, self.args, **more)
        self.records.append(record)
        self.run.record(**record)
        return record, result["per_image"]

    @torch.no_grad()
    def watch(self, images, count):
        """The first images of an ImageSet as a Batch, the model's output for them, and its guesses (T, B, C, H, W)."""
        self.run.begin()
        batch = images.part(0, count).whole(self.device)
        output = run_model(self.model, batch, self.args.seed, EVALUATION)
        return batch, output, self.model.readout.guess(output.predictions)

    def finish(self):
        """Write the records where --results_json says, and name the log."""
        if self.args.results_json:
            save_results_json(self.args.results_json, self.records)
            self.run.say(f"wrote {self.args.results_json}")
        if self.args.log:
            self.run.say(f"log: {self.run.log_path}")
        return self.records
