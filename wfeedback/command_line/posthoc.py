"""What the scripts share that evaluate a trained SNN.

These are flags, the way from a checkpoint to a network, images, and records.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from self_models.checkpoints.loading import load
from self_models.data.events import read_frames
from self_models.data.images import image_sources, read_images, readable_name
from self_models.data.sets import Batch, ImageSet, first_of_each_class
from self_models.errors import UserError
from self_models.running.draws import EVALUATION, Draws
from self_models.settings import WHOLE, Setting, field_values, settings_in, with_defaults
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.arguments import Arguments, set_found, take_over
from wfeedback.building.models import lines_on_flags, new_snn, use_engine, word_for
from wfeedback.building.start import (
    Start,
    apply_rules,
    check_flags,
    check_needs_no_prediction,
    load_snn,
    open_checkpoint,
    rules_of_streams,
    take_over_checkpoint,
)
from wfeedback.command_line.flags import (
    add_data_flags,
    add_network_flags,
    add_run_flags,
    add_training_flags,
    network_class,
)
from wfeedback.command_line.parser import Parser
from wfeedback.command_line.scripts import module_of
from wfeedback.data.facts import check_same, find_facts, images_for
from wfeedback.drawing.film import Film, film_of
from wfeedback.measuring.log_lines import evaluation_record, silent_outputs
from wfeedback.measuring.tables import save_results_json
from wfeedback.runs.run import Paths, Run, original_name
from wfeedback.training.evaluating import evaluate_with_bar

UNUSED_GROUPS = (  # where nothing is trained; their flags are of the original's command lines
    "training",
    "fine-tuning",
)
EVALUATED_WITH = (  # of what a checkpoint holds, these are what an evaluation varies
    "timesteps",
    "epsilon",
    "dataset",
)
SELDOM = (  # of an evaluation
    "pretrained_ann",
    "scaling_factor",
    "limit_train",
    "image_size",
    "test_only",
)


def posthoc_parser(
    description: str,
    argv: list[str] | None,
    model_class: type[VGG_SNN_STDB_wFeedback],
    without: tuple[str, ...] = (),
) -> Parser:
    """Return the parser of a script that evaluates a trained SNN.

    Parameters
    ----------
    description : str
        What the script does.
    argv : list of str or None
        The command line, which may have a ``--model``, whose settings are flags, too.
    model_class : type
        The class that the script evaluates networks as. Its defaults are the flags'.
    without : tuple of str
        Settings that get no flag here. Nor do those of the parts that they choose.

    Returns
    -------
    Parser
    """
    parser = Parser(description, "evaluation")
    network = network_class(argv, "evaluation", model_class)
    add_run_flags(parser, test_only=True)
    add_data_flags(parser)
    add_training_flags(parser, **module_of("snn").DEFAULTS)
    parser.add_flag(
        "data",
        "--holdout",
        kind=WHOLE,
        default=0,
        help=(
            "evaluate on the last N training images, which training held out, instead of the "
            "test images"
        ),
        metavar="N",
        common=True,
    )
    module_of("snn").add_snn_flags(parser)

    settings = settings_of_evaluation(network, model_class)
    for name in names_without(model_class, without):
        settings.pop(name, None)
    kept = {name for name, declared in settings.items() if not declared.objective}
    for name in kept:
        text = f"{settings[name].help} (default: the checkpoint's)"
        settings[name] = replace(settings[name], help=text)
    add_network_flags(parser, settings)

    seldom = {*SELDOM, *kept.difference(EVALUATED_WITH)}
    for flag, declared in parser.settings.items():
        if declared.group in UNUSED_GROUPS or flag in seldom:
            parser.rare.add(flag)
    for name in seldom & settings.keys():  # some have flags of other names
        parser.rare.add(settings[name].flag(name))
    return parser


def settings_of_evaluation(
    network: type[VGG_SNN_STDB_wFeedback], model_class: type[VGG_SNN_STDB_wFeedback]
) -> dict[str, Setting]:
    """Return the settings of a network that is evaluated as one of another class."""
    return with_defaults(network.known_settings(), model_class.defaults | network.defaults)


def names_without(model_class: type[VGG_SNN_STDB_wFeedback], without: tuple[str, ...]) -> set[str]:
    """Return these settings, and those of all parts that they choose from."""
    names = set(without)
    for setting in without:
        for part in model_class.parts.get(setting, {}).values():
            names.update(settings_in(part))
    return names


def open_evaluated(
    args: Arguments, as_trained: bool = False, streams: bool = False, takes_traced: bool = False
) -> Start:
    """Find the checkpoint that an evaluation is about, and what follows from it.

    Parameters
    ----------
    args : Arguments
        Changed in place: the checkpoint is the one that is typed, or that of the run's
        name.
    as_trained : bool
        Whether the network does what it was trained to do (gate, stopping rule). Else
        the script says it.
    streams : bool
        Whether the network sees a stream of frames.
    takes_traced : bool
        Whether the script takes a network that ``from_ann`` has traced.

    Returns
    -------
    Start
        The checkpoint.

    Raises
    ------
    UserError
        If there is none, and for flags that contradict others.
    """
    if not args.pretrained_snn and not args.pretrained_ann:
        path = Paths("snn", original_name("snn", args), args.output_dir).best_path
        if not path.is_file():
            raise UserError(
                f"--pretrained_snn is missing, and {path} is not there: give an SNN's checkpoint"
            )
        take_over(args, {"pretrained_snn": str(path)}, "followed")
    # Flags are checked before a file is opened. What the checkpoint says comes before
    # what the script says, since a value that is taken over later replaces it. Facts of
    # the images need the checkpoint's flags, and the rules need the facts.
    check_flags(args, "snn")
    start = open_checkpoint(args, "snn", takes_traced=takes_traced)
    take_over_checkpoint(args, start, "snn")
    if not as_trained:
        # The script's own gate and stopping rule, in place of those of training
        defaults = args.parser.defaults()
        asked = [flag for flag, known in args.parser.settings.items() if known.objective]
        take_over(args, {flag: defaults[flag] for flag in asked}, "script")
    find_facts(args)
    apply_rules(args, start, evaluates=True)
    check_needs_no_prediction(args, start)
    if streams:
        take_over(args, rules_of_streams(args, start), "followed")
    return start


class EvaluationImages(NamedTuple):
    """The images that a network is evaluated on.

    Attributes
    ----------
    test : ImageSet
        Test images, held-out images, or one's own.
    train : ImageSet or None
        Training images, where an ANN is to be converted.
    files : list of str
        Names of one's own images, empty for a data set's.
    notes : list of str
        What the log is to tell of one's own images.
    """

    test: ImageSet
    train: ImageSet | None
    files: list[str]
    notes: list[str]


def choose_images(
    args: Arguments, model: VGG_SNN_STDB_wFeedback, start: Start
) -> EvaluationImages:
    """Read the images that the flags name: of a data set, files, or frames of a stream.

    Parameters
    ----------
    args : Arguments
        With ``--images`` or ``--frames``, where the script has them.
    model : VGG_SNN_STDB_wFeedback
        The network, whose images they must be.
    start : Start
        Where it is an ANN, training images are read, too, to balance thresholds on.

    Returns
    -------
    EvaluationImages

    Raises
    ------
    UserError
        If images cannot be read, or are not the network's.
    """
    notes = []
    files = own_files(args)
    frames = getattr(args, "frames", "")
    train = None
    test = None
    balances = start.kind == "ann" or "settings" not in start.saved
    if balances or not (files or frames):
        train, held_out, test = images_for(args, model, args.holdout)
        if held_out:
            test = held_out
    pixels = None
    if files:
        pixels = read_images(files, model, notes.append, args.invert)
    elif frames:
        pixels = read_frames(frames, model, args.invert)
    if pixels is not None:
        test = ImageSet("own images", pixels, None, names=tuple(model.classes))
    names = [readable_name(path.name) for path in files]
    return EvaluationImages(test, train, names, notes)


def own_files(args: Arguments) -> list[Path]:
    """Return the files that ``--images`` names, none where it is a number of images."""
    words = getattr(args, "images", [1])
    if isinstance(words[0], int) and len(words) == 1:
        return []
    return image_sources([str(word) for word in words])


def open_run(args: Arguments, suffix: str) -> Run:
    """Return the run of an evaluation.

    It is called as ``--run_name`` says, else after its checkpoint.

    Parameters
    ----------
    args : Arguments
    suffix : str
        What follows the name of the checkpoint.
    """
    name = original_name("snn", args)
    if args.pretrained_snn:
        name = Path(args.pretrained_snn).stem
    return Run("snn", args.run_name or name + suffix, args, trains=False)


def load_weights(
    model: VGG_SNN_STDB_wFeedback,
    start: Start,
    images: EvaluationImages,
    args: Arguments,
    run: Run,
) -> None:
    """Give the network the weights of its checkpoint, and tell how it was trained.

    An ANN is converted as the training script does it.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        Is in evaluation mode afterwards.
    start : Start
        The checkpoint.
    images : EvaluationImages
    args : Arguments
    run : Run
        Whose log tells of it.
    """
    if start.kind == "ann":
        module_of("snn").convert(model, start, images.train, args, run)
    else:
        load_snn(model, start, args, run)
    model.eval()
    run.say(*notes_on_training(model, start, args))


def notes_on_training(
    model: VGG_SNN_STDB_wFeedback, start: Start, args: Arguments
) -> Iterator[str]:
    """Yield lines on a gate or epsilon of training that the network has not here."""
    trained_gate = start.settings.get("gate", "open")
    gate = model.settings["gate"]
    if trained_gate not in ("open", gate):
        yield (
            f"note: this SNN was trained with gate {trained_gate}, and runs with gate {gate} "
            f"here; --gate {trained_gate} runs it as trained"
        )
    trained_epsilon = start.settings.get("epsilon")
    epsilons = args.epsilon if isinstance(args.epsilon, list) else [args.epsilon]
    if trained_epsilon and trained_epsilon not in epsilons:
        yield f"note: this SNN was trained with epsilon {trained_epsilon:g}"


class TrainedNetwork(NamedTuple):
    """A network that is evaluated as it was trained, see ``open_as_trained``."""

    args: Arguments
    model: VGG_SNN_STDB_wFeedback
    images: EvaluationImages
    run: Run


def open_as_trained(
    parser: Parser, words: list[str], suffix: str, **settled: object
) -> TrainedNetwork:
    """Open the network that a command line names, with its own gate and stopping rule.

    Parameters
    ----------
    parser : Parser
    words : list of str
        The command line.
    suffix : str
        Of the name of its run.
    **settled
        Flags that the script sets itself.

    Returns
    -------
    TrainedNetwork
    """
    args = parser.parse_args(words)
    set_found(args, model=word_for(args.model, args.pretrained_snn), **settled)
    start = open_evaluated(args, as_trained=True, takes_traced=True)
    model = new_snn(args, InputBlockingSNN)
    notes = list(lines_on_flags(args, model, start))
    images = choose_images(args, model, start)
    engine_line = use_engine(model, args)
    run = open_run(args, suffix)
    run.say(*notes, *images.notes, engine_line)
    load_weights(model, start, images, args, run)
    return TrainedNetwork(args, model, images, run)


def open_baseline(
    args: Arguments, model: VGG_SNN_STDB_wFeedback, **changed: object
) -> VGG_SNN_STDB_wFeedback | None:
    """Load the network of ``--baseline``, with a network's timesteps and stopping rule.

    Parameters
    ----------
    args : Arguments
        With ``baseline``, the path of a checkpoint or "", and ``engine``.
    model : VGG_SNN_STDB_wFeedback
        The network that it is compared with. The baseline lies on its device.
    **changed
        Further settings that hold in place of those of the baseline's checkpoint, also
        in place of the network's timesteps and stopping rule.

    Returns
    -------
    VGG_SNN_STDB_wFeedback or None
        None without the flag.

    Raises
    ------
    UserError
        If it takes other images.
    """
    if not args.baseline:
        return None
    # Both networks run and stop alike, since they are compared. ``load`` takes all
    # other settings from the baseline's checkpoint.
    settings = {"timesteps": model.timesteps}
    settings |= stopping_rule_for_load(model)
    settings |= changed
    device = next(model.parameters()).device
    baseline = load(args.baseline, args.engine, device, **settings)
    check_same(
        f"--baseline {args.baseline}",
        (baseline.image_shape, baseline.classes),
        (model.image_shape, model.classes),
    )
    return baseline


def stopping_rule_for_load(model: VGG_SNN_STDB_wFeedback) -> dict[str, object]:
    """Return a network's stopping rule as keywords of ``load``.

    ``load`` takes a rule in one of two forms: an object as ``rule``, whose fields are
    its settings, or the name of a registered rule, with the rule's settings as keywords
    beside it. The rule passes on in the form in which the network has got it, since the
    class of an object need not be registered.
    """
    if "rule" in model.own_parts:  # parts that the network was given as objects
        return {"rule": model.own_parts["rule"]}
    return {"rule": model.settings["rule"]} | field_values(model.rule)


def check_predicts(model: VGG_SNN_STDB_wFeedback, args: Arguments) -> None:
    """Raise UserError for a network without a decoder."""
    if not model.has_feedback:
        raise UserError(
            f"{args.architecture} has no decoder: choose an architecture named ..._wFeedback"
        )


def evaluate(
    model: VGG_SNN_STDB_wFeedback,
    images: ImageSet,
    args: Arguments,
    run: Run,
    counts_operations: bool,
    doing: str = "evaluating",
    **more: object,
) -> tuple[dict, dict]:
    """Evaluate a network as it is now, and write the record to the run's log.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
    images : ImageSet
    args : Arguments
    run : Run
    counts_operations : bool
        Whether operations are counted, see ``wfeedback.measuring.log_lines``.
    doing : str
        What the progress bar says.
    **more
        For the record.

    Returns
    -------
    record : dict
        See ``evaluation_record``.
    per_image : dict of {str: Tensor of shape (N,)}
        Figures of each image.
    """
    run.begin()
    losses = partial(
        module_of("snn").compute_losses,
        trade_off=args.trade_off,
        trade_off_type=args.trade_off_type,
    )
    result = evaluate_with_bar(
        model,
        images,
        losses,
        run,
        batch_size=args.batch_size,
        seed=args.seed,
        notes_batches=args.test_acc_every_batch,
        count_operations=counts_operations,
        doing=doing,
    )
    if args.holdout:
        more = {"holdout": args.holdout} | more
    record = evaluation_record(model, result, args, **more)
    run.say(*silent_outputs(result))
    run.record(**record)
    return record, result["per_image"]


def shown_images(
    args: Arguments, images: EvaluationImages, device: torch.device, shown: ImageSet | None = None
) -> Batch:
    """Return the images that the flags name for pictures.

    Parameters
    ----------
    args : Arguments
    images : EvaluationImages
    device : torch.device
    shown : ImageSet, optional
        A set to take them from instead of the test images.

    Returns
    -------
    Batch

    Raises
    ------
    UserError
        For an ``--index`` beyond the test images.
    """
    if shown is None:
        shown = images.test
    if images.files:
        return shown.whole(device)
    if args.index is None:
        return shown.batch(first_of_each_class(shown.labels, args.images[0]), device)
    for number in args.index:
        if number >= len(shown):
            raise UserError(f"--index {number}: the test images in use are 0 to {len(shown) - 1}")
    return shown.batch(torch.tensor(args.index), device)


def titles_of(batch: Batch, images: EvaluationImages, model: VGG_SNN_STDB_wFeedback) -> list[str]:
    """Return what pictures call these images: their files, or their labels."""
    if images.files:
        return images.files
    return [f"label: {model.classes[label]}" for label in batch.labels.tolist()]


@torch.no_grad()
def film_images(
    model: VGG_SNN_STDB_wFeedback,
    batch: Batch,
    images: EvaluationImages,
    args: Arguments,
    run: Run,
) -> Film:
    """Run a network on images, and return all that it shows of them.

    The log tells what one's own images are predicted as.
    """
    run.begin()
    draws = Draws(args.seed, EVALUATION, batch.index)
    output = model(batch.images, draws=draws)
    predicted = output.logits.argmax(1).tolist()
    for file, label in zip(images.files, predicted, strict=False):
        name = model.classes[label]
        line = f"{file}: predicted class {name}"
        run.record(line, event="image", file=file, read_as=name)
    return film_of(model, batch, output, model.classes, titles_of(batch, images, model))


def end_run(
    args: Arguments, run: Run, records: list[dict], pictures: tuple[Path | str, ...] = ()
) -> None:
    """Name the files that were written, and write ``--results_json``.

    Parameters
    ----------
    args : Arguments
    run : Run
    records : list of dict
        What ``--results_json`` gets.
    pictures : tuple of Path or str
        What was drawn.
    """
    if pictures:
        run.say(f"wrote {', '.join(str(path) for path in pictures)}")
    if args.results_json:
        save_results_json(args.results_json, records)
        run.say(f"wrote {args.results_json}")
    if args.log:
        run.say(f"log: {run.log_path}")
