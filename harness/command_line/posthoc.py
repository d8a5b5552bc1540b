"""What the post-hoc scripts share: their flags, and opening the trained SNN, its data and its run."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from harness import UserError
from harness.command_line.flags import posthoc_settings
from harness.command_line.idle import lines_on_idle
from harness.data.facts import check_fits
from harness.data.sets import ImageSet, load_data
from harness.measuring.report import evaluation_record, save_results_json
from harness.runs.place import snn_name
from harness.runs.runlog import RunLog
from harness.training.building import SNNSource, snn_from, use_engine
from harness.training.fit import evaluate_with_bar
from harness.training.losses import Criterion
from self_models.basics.files import image_files, read_images
from self_models.running.draws import EVALUATION, Draws

MOST = 50  # files of one's own that a picture shows


def open_posthoc(args, cls, suffix, **own):
    """The Posthoc that the flags ask for. cls: the model's class; own: its settings that come from no shared flag; suffix: of the
    run's name. Raises UserError where checkpoint, images or run are not to be had."""
    find_checkpoint(args)
    source = SNNSource(args, keeps={name for name, one in cls.declared().items() if not one.adopted})
    model = snn_from(args, cls, **own)
    use_engine(model, args)
    notes = lines_on_idle(args, posthoc_settings(cls))
    needs_data = source.converts or "settings" not in source.saved
    files = own_files(args, needs_data)
    train, test = find_images(args, model) if needs_data or not files else (None, None)
    if files:
        test = ImageSet("own images", read_images(files, model, notes.append), None, names=tuple(model.classes))
    name = Path(args.pretrained_snn).stem if args.pretrained_snn else snn_name(args)
    run = RunLog("snn", args.run_name or name + suffix, args, trains=False)
    for line in notes:
        run.say(line)
    source.fill(model, train, run).eval()
    trained = (source.saved.get("settings") or {}).get("epsilon")
    typed = args.epsilon if isinstance(args.epsilon, list) else [args.epsilon]
    if trained and trained not in typed:
        run.say(f"note: this SNN was trained with epsilon {trained:g}")
    return Posthoc(args, model, test, run, [path.name for path in files])


def find_checkpoint(args):
    """Where no checkpoint is given, --pretrained_snn becomes the one that the other flags name. Raises UserError without one."""
    if args.pretrained_snn or args.pretrained_ann:
        return
    default = Path(args.output_dir) / "trained_models" / "snn" / f"{snn_name(args)}.pth"
    if not default.is_file():
        raise UserError(f"--pretrained_snn is missing, and {default} is not there: give an SNN's checkpoint")
    args.pretrained_snn = str(default)


def own_files(args, needs_data):
    """The files that --images names, Paths; none where it is a number, or the script has no such flag. Raises UserError for what
    is neither, for too many, and for flags without effect beside them. needs_data: a data set is needed all the same."""
    words = getattr(args, "images", [1])
    index = getattr(args, "index", None)
    if index and "images" in args.given:
        raise UserError("--index does nothing beside --images: leave out one of the two")
    if isinstance(words[0], int) and len(words) == 1:
        return []
    if numbers := [word for word in words if isinstance(word, int)]:
        raise UserError(f"--images {numbers[0]}: one number or files and folders; test images by their numbers are --index")
    of_data = () if needs_data else ("dataset", "data_dir", "limit_train", "image_size", "grey", "skip_bad")
    if idle := [flag for flag in ("limit_test", "holdout", "chart_images", *of_data) if flag in args.typed]:
        raise UserError(f"--{idle[0]} does nothing with files as --images: leave it out")
    files = image_files(words)
    if len(files) > MOST:
        raise UserError(f"--images names {len(files):,} files, and a picture shows {MOST} at most: name fewer")
    return files


def find_images(args, model):
    """(training images, the images to evaluate on): ImageSets. With --holdout both are of the training set."""
    if args.holdout and args.limit_test:
        raise UserError("--limit_test is of the test images, and --holdout evaluates on others: leave out one of the two")
    limits = args.limit_train, args.limit_test, args.holdout
    train, held_out, test = load_data(args.dataset, args.data_dir, *limits, model.image_shape, args.skip_bad)
    check_fits(test, model)
    return train, held_out or test


@dataclass
class Posthoc:
    """An evaluation of a trained SNN: its flags, the model, the ImageSet that it is evaluated on, its run, the names of the files
    where the images are somebody's own, and the records of what was evaluated."""

    args: object
    model: object
    test: object
    run: RunLog
    files: list = field(default_factory=list)
    records: list = field(default_factory=list)

    @property
    def device(self):
        return next(self.model.parameters()).device

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

    def shown(self, images=None):
        """The Batch of images that --index or --images names, of the test images or others. Raises UserError for a number that
        no image has."""
        images = self.test if images is None else images
        if self.args.index is None:
            return images.part(0, len(images) if self.files else self.args.images[0]).whole(self.device)
        if beyond := [number for number in self.args.index if number >= len(images)]:
            raise UserError(f"--index {beyond[0]}: the test images in use are 0 to {len(images) - 1}")
        return images.batch(torch.tensor(self.args.index), self.device)

    @torch.no_grad()
    def watch(self, batch):
        """The model's output for a Batch, its guesses (T, B, C, H, W), and a title for each image."""
        self.run.begin()
        output = self.model(batch.images, draws=Draws(self.args.seed, EVALUATION, batch.index))
        return output, self.model.readout.guess(output.predictions), self.titles(batch, output)

    def titles(self, batch, output):
        """What each image of a Batch is and what it was read as, by the names of the classes. Of somebody's own images only the
        file is known; what they were read as is said and recorded, too."""
        names = self.model.classes
        found = [names[label] for label in output.logits.argmax(1).tolist()]
        if not self.files:
            known = [names[label] for label in batch.labels.tolist()]
            return [f"{name}: read {'right' if name == read else f'as {read}'}" for name, read in zip(known, found, strict=True)]
        for file, read in zip(self.files, found, strict=True):
            self.run.say(f"{file}: read as {read}")
            self.run.record(event="image", file=file, read_as=read)
        return [
            f"{file if len(file) <= 18 else file[:17] + '…'}\nread as {read}"
            for file, read in zip(self.files, found, strict=True)
        ]

    def finish(self):
        """Write the records where --results_json says, and name the log."""
        if self.args.results_json:
            save_results_json(self.args.results_json, self.records)
            self.run.say(f"wrote {self.args.results_json}")
        if self.args.log:
            self.run.say(f"log: {self.run.place.log_path}")
        return self.records
