"""What the post-hoc scripts share: opening the trained SNN, its data and its run; an evaluation, its records and pictures."""

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch

import snn_wFeedback
from harness import UserError
from harness.building.models import lines_on_flags, new_snn, use_engine, word_for
from harness.building.start import load_snn, resolve
from harness.data.facts import check_same, images_for
from harness.drawing.film import film_of
from harness.measuring.log_lines import counts_operations, evaluation_record, silent_outputs
from harness.measuring.tables import save_results_json
from harness.runs.run import Paths, Run, original_name
from harness.training.evaluating import evaluate_with_bar
from self_models.basics.images import image_sources, read_images, readable_name
from self_models.basics.settings import settings_in
from self_models.data.events import read_frames
from self_models.data.sets import ImageSet, first_of_each_class
from self_models.loading import load
from self_models.objectives.stopping import RULES
from self_models.runtime.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def resolve_evaluation(args, as_trained=False):
    """(Configuration, Start) of the checkpoint that flags, or the run's name, mean. as_trained: with its objective's settings."""
    if not args.pretrained_snn and not args.pretrained_ann:
        path = Paths("snn", original_name("snn", args), args.output_dir).best_path
        if not path.is_file():
            raise UserError(
                f"--pretrained_snn is missing, and {path} is not there: give an SNN's checkpoint"
            )
        args = args.having("followed", pretrained_snn=str(path))
    if not as_trained:
        asked = [flag for flag, known in args.known.items() if known.scope == "objective"]
        args = args.having("script", **{flag: args.default[flag] for flag in asked})
    return resolve(args, "snn")


def open_posthoc(args, start, cls, suffix, **own):
    """The Posthoc of these flags, see resolve_evaluation. cls: of the model; suffix: of the run's name; own: other settings."""
    model = new_snn(args, cls, **own)
    lines, words = [*lines_on_flags(args, model, start)], getattr(args, "images", [1])
    files = (
        []
        if isinstance(words[0], int) and len(words) == 1
        else image_sources(list(map(str, words)))
    )
    frames, train = getattr(args, "frames", ""), None
    if (
        start.kind == "ann" or "settings" not in start.saved or not (files or frames)
    ):  # to balance, or to evaluate on
        train, held_out, test = images_for(args, model, args.holdout)
        test = held_out or test
    if files or frames:
        images = (
            read_images(files, model, lines.append, args.invert)
            if files
            else read_frames(frames, model, args.invert)
        )
        test = ImageSet("own images", images, None, names=tuple(model.classes))
    lines.append(use_engine(model, args))
    name = Path(args.pretrained_snn).stem if args.pretrained_snn else original_name("snn", args)
    run = Run("snn", args.run_name or name + suffix, args, trains=False)
    run.say(*lines)
    if start.kind == "ann":  # it is converted as training does
        snn_wFeedback.convert(model, start, train, args, run)
    else:
        load_snn(model, start, args, run)
    model.eval()
    was, gate = start.settings, model.settings["gate"]
    if was.get("gate", "open") not in ("open", gate):
        again = f"--gate {was['gate']} runs it as trained"
        run.say(
            f"note: this SNN was trained with gate {was['gate']}, and runs with gate {gate} here; {again}"
        )
    epsilons = args.epsilon if isinstance(args.epsilon, list) else [args.epsilon]
    if was.get("epsilon") and was["epsilon"] not in epsilons:
        run.say(f"note: this SNN was trained with epsilon {was['epsilon']:g}")
    return Posthoc(
        args, model, test, run, [readable_name(path.name) for path in files], train=train
    )


def open_network(parser, words, suffix, **settled):
    """The Posthoc of the network that these words name, as it was trained. settled: flags that the script itself sets."""
    args = parser.parse_args(words)
    args = args.having("found", model=word_for(args.model, args.pretrained_snn), **settled)
    return open_posthoc(*resolve_evaluation(args, as_trained=True), InputBlockingSNN, suffix)


@dataclass
class Posthoc:
    """An evaluation of a trained SNN. test: the ImageSet that it is evaluated on; files: names of somebody's own images; records:
    of what was evaluated; train: training images, None where none are read; pictures: paths of what was drawn."""

    args: object
    model: object
    test: object
    run: Run
    files: list = field(default_factory=list)
    records: list = field(default_factory=list)
    train: object = None
    pictures: list = field(default_factory=list)

    @property
    def device(self):
        return next(self.model.parameters()).device

    def check_predicts(self):
        """Raises UserError for a network without a decoder."""
        if not self.model.has_feedback:
            raise UserError(
                f"{self.args.architecture} has no decoder: choose an architecture named ..._wFeedback"
            )

    @cached_property
    def counts(self):
        """Whether operations can be counted, said once."""
        return counts_operations(self.model, self.run.say)

    def evaluate(self, test=None, doing="evaluating", **more):
        """(record, per_image) of the model as it is now. test: another ImageSet; doing: for the bar; more: for the record."""
        self.run.begin()
        args = self.args
        losses = partial(
            snn_wFeedback.compute_losses,
            trade_off=args.trade_off,
            trade_off_type=args.trade_off_type,
        )
        result = evaluate_with_bar(
            self.model,
            test or self.test,
            losses,
            self.run,
            batch_size=args.batch_size,
            seed=args.seed,
            notes_batches=args.test_acc_every_batch,
            count_operations=self.counts,
            doing=doing,
        )
        more = {"holdout": args.holdout} | more if args.holdout else more
        record = evaluation_record(self.model, result, args, **more)
        self.run.say(*silent_outputs(result))
        self.keep(record)
        return record, result["per_image"]

    def keep(self, record):
        """Write a record, and keep it for --results_json."""
        self.records.append(record)
        self.run.record(**record)

    def baseline(self, **changed):
        """A Posthoc of --baseline with the same images, timesteps and rule, and these settings changed; None without the flag."""
        if not (path := self.args.baseline):
            return None
        settings = self.model.settings
        shared = {
            name: settings[name]
            for name in ("timesteps", "rule", *settings_in(RULES[settings["rule"]]))
        }
        model = load(path, self.args.engine, self.device, **shared | changed)
        check_same(
            f"--baseline {path}",
            (model.image_shape, model.classes),
            (self.model.image_shape, self.model.classes),
        )
        return replace(self, model=model, records=[])

    def chosen(self, images=None):
        """The Batch of images that the flags name, of the test images or others. Raises UserError for a number beyond them."""
        images = self.test if images is None else images
        if self.files:
            return images.whole(self.device)
        if self.args.index is None:
            return images.batch(
                first_of_each_class(images.labels, self.args.images[0]), self.device
            )
        if beyond := [number for number in self.args.index if number >= len(images)]:
            raise UserError(
                f"--index {beyond[0]}: the test images in use are 0 to {len(images) - 1}"
            )
        return images.batch(torch.tensor(self.args.index), self.device)

    @torch.no_grad()
    def watch(self, images=None):
        """The model's Film of the images that the flags name; says what one's own are predicted as."""
        self.run.begin()
        batch, names = self.chosen(images), self.model.classes
        output = self.model(batch.images, draws=Draws(self.args.seed, EVALUATION, batch.index))
        for file, label in zip(self.files, output.logits.argmax(1).tolist(), strict=False):
            self.run.record(
                f"{file}: predicted class {names[label]}",
                event="image",
                file=file,
                read_as=names[label],
            )
        return film_of(self.model, batch, output, names, self.titles(batch))

    def titles(self, batch):
        """What to call the images of what chosen() gave."""
        return self.files or [
            f"label: {self.model.classes[label]}" for label in batch.labels.tolist()
        ]

    def draw(self, ending, save, *shown, path=""):
        """save(path, *shown) a picture; without a path, of the run, whose name ends so."""
        self.pictures.append(path := path or self.run.picture(ending))
        save(path, *shown)

    def finish(self):
        """Write the records where --results_json says, and name the files. Returns the records."""
        if self.pictures:
            self.run.say(f"wrote {', '.join(map(str, self.pictures))}")
        if self.args.results_json:
            save_results_json(self.args.results_json, self.records)
            self.run.say(f"wrote {self.args.results_json}")
        if self.args.log:
            self.run.say(f"log: {self.run.log_path}")
        return self.records
