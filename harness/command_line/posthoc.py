"""What the post-hoc scripts share: their flags, and opening the trained SNN, its data and its run."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness import UserError
from harness.building.models import SNNSource, snn_from, use_engine
from harness.command_line.flags import posthoc_settings
from harness.command_line.idle import lines_on_idle
from harness.data.classes import class_names, first_of_each_class
from harness.data.sets import load_data
from harness.drawing.film import film_of
from harness.measuring.report import evaluation_record, save_results_json
from harness.runs.place import snn_name
from harness.runs.runlog import RunLog
from harness.training.fit import evaluate_with_bar
from harness.training.losses import Criterion
from self_models.network.plans import find_plan
from self_models.running.draws import EVALUATION, Draws


def source_for(args, cls):
    """The SNNSource of the checkpoint that the flags name. From now on its settings hold where no flag was typed, epsilon among
    them; a network without a decoder gets epsilon 0. cls: the model's class. Raises UserError where it is not to be had."""
    if not args.test_only:
        raise UserError("this script only evaluates: leave out --no-test_only")
    find_checkpoint(args)
    source = SNNSource(args, keeps={name for name, one in cls.declared().items() if not one.adopted})
    if "epsilon" not in args.given and not find_plan(args.architecture, args.plan).decoder:
        args.epsilon = 0.0
    return source


def open_posthoc(args, cls, suffix, source=None, **own):
    """The Posthoc that the flags ask for. cls: the model's class; suffix: of the run's name; source: what source_for returned, if
    it was asked; own: settings of no shared flag. Raises UserError where checkpoint, images or run are not to be had."""
    source = source or source_for(args, cls)
    model = snn_from(args, cls, **own)
    warnings = lines_on_idle(args, posthoc_settings(cls))
    train, test = find_images(args)
    engine = use_engine(model, args, len(test))
    name = Path(args.pretrained_snn).stem if args.pretrained_snn else snn_name(args)
    run = RunLog("snn", args.run_name or name + suffix, args, trains=False)
    for line in (*warnings, engine):
        run.say(line)
    source.fill(model, train, run).eval()
    trained = ((source.saved or {}).get("settings") or {}).get("epsilon")
    typed = args.epsilon if isinstance(args.epsilon, list) else [args.epsilon]
    if trained and trained not in typed:
        run.say(f"note: this SNN was trained with epsilon {trained:g}")
    return Posthoc(args, model, test, run)


def find_checkpoint(args):
    """Where no checkpoint is given, --pretrained_snn becomes the one that the other flags name. Raises UserError without one."""
    if args.pretrained_snn or args.pretrained_ann:
        return
    default = Path(args.output_dir) / "trained_models" / "snn" / f"{snn_name(args)}.pth"
    if not default.is_file():
        raise UserError(f"--pretrained_snn is missing, and {default} is not there: give an SNN's checkpoint")
    args.pretrained_snn = str(default)


def find_images(args):
    """(training images, the images to evaluate on): ImageSets. With --holdout both are of the training set."""
    if args.holdout and args.limit_test:
        raise UserError("--limit_test is of the test images, and --holdout evaluates on others: leave out one of the two")
    train, held_out, test = load_data(args.dataset, args.data_dir, args.limit_train, args.limit_test, args.holdout)
    return train, held_out or test


@dataclass
class Posthoc:
    """An evaluation of a trained SNN: its flags, the model, the ImageSet that it is evaluated on, its run, and the records of
    what was evaluated."""

    args: object
    model: object
    test: object
    run: RunLog
    records: list = field(default_factory=list)

    @property
    def device(self):
        return next(self.model.parameters()).device

    @property
    def names(self):
        """Of the classes."""
        return class_names(self.test.name, self.model.settings["labels"])

    def evaluate(self, test=None, **more):
        """Figures of the model as it is now, on the test images or others; kept as a record, with more in it."""
        self.run.begin()
        criterion = Criterion(self.args.trade_off, self.args.trade_off_type)
        result = evaluate_with_bar(self.model, test or self.test, criterion, self.args, self.run, count_operations=True)
        more = {"holdout": self.args.holdout} | more if self.args.holdout else more
        record = evaluation_record(self.model, result, self.args, **more)
        self.records.append(record)
        self.run.record(**record)
        return record, result["per_image"]

    @torch.no_grad()
    def watch(self, images):
        """The model's Film of --images images of an ImageSet: the first of each class, then the second, …"""
        self.run.begin()
        batch = images.batch(first_of_each_class(images.labels, self.args.images), self.device)
        output = self.model(batch.images, draws=Draws(self.args.seed, EVALUATION, batch.index))
        return film_of(self.model, batch, output, self.names)

    def finish(self):
        """Write the records where --results_json says, and name the log."""
        if self.args.results_json:
            save_results_json(self.args.results_json, self.records)
            self.run.say(f"wrote {self.args.results_json}")
        if self.args.log:
            self.run.say(f"log: {self.run.place.log_path}")
        return self.records
