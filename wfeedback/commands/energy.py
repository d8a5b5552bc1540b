"""Estimate a network's energy per image under published cost models, next to its ANN.

Means over the first 1,000 test images, or --limit_test. Cost models:
self_models/evaluation/conventions/.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import copy
import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from self_models.data.sets import ImageSet
from self_models.errors import UserError
from self_models.evaluation.evaluate import evaluate
from self_models.evaluation.operations import Convention, conventions, read_convention
from self_models.networks.stages import LINEAR
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.arguments import Arguments
from wfeedback.building.idle_flags import NEEDS_OF_ENERGY, refuse_idle
from wfeedback.building.models import ann_of
from wfeedback.command_line.parser import Parser, add_output_flag
from wfeedback.command_line.posthoc import TrainedNetwork, open_as_trained, posthoc_parser
from wfeedback.command_line.recipes import names
from wfeedback.drawing.plots import save_energies
from wfeedback.energy.ledger import EXECUTIONS, Ledger, ledger
from wfeedback.energy.tables import energy_rows, part_rows, verdicts
from wfeedback.measuring.tables import as_text, in_words
from wfeedback.runs.run import Run

LIMIT = 1000  # test images
LEVELS = 127  # of a signed 8-bit number
IMAGES = 128  # of training, whose largest activations set the scales
SMALLEST = 1e-12  # instead of a largest value of 0, by which one cannot divide
# Flags that the words of the command line take the place of, or that do nothing here.
RARE = {"preset", "pretrained_snn", "pretrained_ann", "test_only", "engine", "results_json"}


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN)
    parser.usage = "%(prog)s NETWORK [NETWORK ...] [--against ANN] [FLAG ...]"
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="a recipe, or the path of an SNN's checkpoint",
    )
    group = parser.add_argument_group("energy")
    group.add_argument(
        "--against",
        default="",
        metavar="ANN",
        help="checkpoint of the networks' ANN, whose accuracy is measured in 32 and in 8 bits",
    )
    group.add_argument(
        "--convention",
        nargs="+",
        default=[],
        metavar="FILE",
        help="more cost models, as TOML files",
    )
    group.add_argument(
        "--format",
        choices=["text", "md", "csv", "json"],
        default="text",
        help="format of the tables",
    )
    add_output_flag(group, "--picture", "also draw the parts' energies as a chart", ".png")
    parser.rare |= RARE
    return parser


@dataclass(frozen=True)
class Estimate:
    """What is estimated of one network.

    Attributes
    ----------
    ledger : Ledger
        What it does per image.
    ann_accuracies : tuple of float
        Of the ANN of --against, in 32 and in 8 bits; () without the flag.
    parts : list of list
        Table of the parts' energies; the first row is the head.
    lines : list of str
        Who costs less, the network or its ANN.
    """

    ledger: Ledger
    ann_accuracies: tuple[float, ...]
    parts: list[list]
    lines: list[str]


def main(argv: list[str] | None = None) -> dict[str, Ledger]:
    """Estimate the energy of each network, and print tables; return name -> Ledger."""
    args = build_parser(argv).parse_args(argv)
    refuse_idle(args, NEEDS_OF_ENERGY, args)
    prices = dict(conventions())
    for path in args.convention:
        prices[Path(path).stem] = read_convention(path)
    command_line = sys.argv[1:] if argv is None else argv
    estimates = {}
    with redirect_stdout(io.StringIO()):  # what a run says stands in its log
        for word in dict.fromkeys(args.networks):
            estimates[word] = estimate(word, command_line, args, prices)
    ledgers = {word: one.ledger for word, one in estimates.items()}

    if args.format == "json":
        numbers = {word: numbers_of(one, prices) for word, one in estimates.items()}
        print(json.dumps(numbers, indent=1))
    else:
        print_tables(estimates, prices, args.format)
    if args.picture:
        save_energies(args.picture, ledgers, prices)
    return ledgers


def estimate(
    word: str, command_line: list[str], args: Arguments, prices: dict[str, Convention]
) -> Estimate:
    """Estimate the energy of a network, and write it to the log of a run of its own.

    Parameters
    ----------
    word : str
        The network, as the command line names it.
    command_line : list of str
        All words of the command line, which names this network among others.
    args : Arguments
        What the command line says by itself, without a recipe. Not changed.
    prices : dict of {str: Convention}
        Cost models by name.

    Returns
    -------
    Estimate
    """
    network = open_network(word, command_line)
    test = measured_images(network)
    ann_accuracies = ()
    if args.against:
        # Before the SNN, which takes longer: a wrong ANN is refused here.
        ann_accuracies = accuracies_of_ann(network, test, word)
    # Runs the SNN on the images, and counts what it does per image.
    costs = ledger(network.model, test, name=word, batch_size=args.batch_size, seed=args.seed)
    first_convention = next(iter(prices.values()))  # the only one in the table of parts
    found = Estimate(
        ledger=costs,
        ann_accuracies=ann_accuracies,
        parts=part_rows(costs, first_convention),
        lines=list(verdicts(word, costs, prices)),
    )
    log_estimate(network.run, word, found, prices)
    return found


def open_network(word: str, command_line: list[str]) -> TrainedNetwork:
    """Load one of the networks that the command line names, its images, and its run.

    Parameters
    ----------
    word : str
        The network: a recipe's name or file, or the path of a checkpoint.
    command_line : list of str
        All words of the command line.

    Returns
    -------
    TrainedNetwork
        With ``args`` of its own.
    """
    # The command line is parsed once more for each network, so that flags of its recipe
    # and settings of its checkpoint hold for this network, and for no other.
    is_recipe = word in names("snn") or word.endswith(".toml")
    flag = "--preset" if is_recipe else "--pretrained_snn"
    parser = build_parser(command_line)
    # Dense, whatever --engine says: the event engine does not tell which neurons spikes
    # reach, and the ledger counts that. Of the networks, the log names this one alone.
    return open_as_trained(
        parser, [*command_line, flag, word], "_energy", engine="dense", networks=[word]
    )


def measured_images(network: TrainedNetwork) -> ImageSet:
    """Return the images that a network is measured on.

    Without ``--holdout`` and ``--limit_test`` they are the first ``LIMIT`` test images.
    With one of these flags, ``network.images.test`` has what the flag asks for already.
    """
    is_told = network.args.holdout or network.args.limit_test
    if is_told:
        return network.images.test
    return network.images.test.part(0, LIMIT)


def log_estimate(run: Run, word: str, found: Estimate, prices: dict[str, Convention]) -> None:
    """Write an estimate to a run's log: as text for readers, as a record for programs.

    Parameters
    ----------
    run : Run
        It begins to write its files here, if it has not.
    word : str
        Name of the network.
    found : Estimate
    prices : dict of {str: Convention}
        Cost models by name.
    """
    anns = {}
    if found.ann_accuracies:
        anns[word] = found.ann_accuracies
    tables = [energy_rows({word: found.ledger}, prices, anns), found.parts]
    texts = [as_text(rows, "text") + "\n" for rows in tables]
    run.result(*texts, *found.lines)
    tables_in_words = [in_words(rows) for rows in tables]
    run.record(event="ledger", lines=found.lines, tables=tables_in_words)


def print_tables(estimates: dict[str, Estimate], prices: dict[str, Convention], form: str) -> None:
    """Print a table of all networks, one of each network's parts, and who costs less.

    Parameters
    ----------
    estimates : dict of {str: Estimate}
        By the name of the network.
    prices : dict of {str: Convention}
        Cost models by name.
    form : {"text", "md", "csv"}
        Format of the tables.
    """
    ledgers = {}
    anns = {}
    lines = []
    for word, one in estimates.items():
        ledgers[word] = one.ledger
        if one.ann_accuracies:
            anns[word] = one.ann_accuracies
        lines += one.lines
    print(as_text(energy_rows(ledgers, prices, anns), form))
    for word, one in estimates.items():
        print()
        print(f"{word}, event-driven, by part:")
        print()
        print(as_text(one.parts, form))
    print("", *lines, sep="\n")


def numbers_of(one: Estimate, prices: dict[str, Convention]) -> dict[str, object]:
    """Return all that is known of a network, for programs."""
    accuracy, accuracy_in_8_bits = one.ann_accuracies or (None, None)
    joules = {}
    for title, convention in prices.items():
        numbers = {execution: one.ledger.joules(convention, execution) for execution in EXECUTIONS}
        numbers["ann"] = one.ledger.ann_joules(convention)
        numbers["ann_8_bits"] = one.ledger.ann_joules(convention, 8)
        numbers["break_even"] = one.ledger.break_even(convention)
        joules[title] = numbers
    return asdict(one.ledger) | {
        "ann_accuracy": accuracy,
        "ann_8_bits_accuracy": accuracy_in_8_bits,
        "joules": joules,
    }


def accuracies_of_ann(network: TrainedNetwork, test: ImageSet, word: str) -> tuple[float, float]:
    """Measure the accuracy of the ANN of --against.

    Parameters
    ----------
    network : TrainedNetwork
        What it is compared with.
    test : ImageSet
        On which it is measured.
    word : str
        Name of the network, for the error.

    Returns
    -------
    accuracy : float
        In 32 bits.
    accuracy_in_8_bits : float

    Raises
    ------
    UserError
        If the ANN has not the network's encoder and classifier, and for a network that
        ``from_ann`` has traced.
    """
    path = network.args.against
    if "nodes" in network.model.settings:
        raise UserError(
            f"--against {path}: the ANN of {word}, by from_ann, is in no checkpoint of ours: "
            "leave out --against"
        )
    ann = ann_of(path, network.args)
    shapes = {name: value.shape for name, value in ann.named_parameters()}
    for name, value in network.model.named_parameters():
        has_decoder_weights = "generate" in name
        if not name.endswith("weight") or has_decoder_weights:
            continue
        if shapes.get(name) != value.shape:
            raise UserError(
                f"--against {path} is not the ANN of {word}: its {name} differs; "
                "give the ANN that it was made from"
            )
    train = network.images.train
    few = train.batch(torch.arange(min(IMAGES, len(train)))).images
    ann_in_8_bits = in_eight_bits(ann, few)
    return evaluate(ann, test)["accuracy"], evaluate(ann_in_8_bits, test)["accuracy"]


@torch.no_grad()
def in_eight_bits(model: VGG_wFeedback, images: torch.Tensor) -> VGG_wFeedback:
    """Copy an ANN to one that computes with integers of 8 bits.

    It does so exactly, in floating point: each number is an integer times a scale.
    Weights have a scale for each output channel, what goes into a linear layer has one
    for the layer. Both are symmetric, and rounded to the nearest.

    Parameters
    ----------
    model : VGG_wFeedback
    images : Tensor of shape (N, C, H, W)
        Training images. The largest activation on them is the largest number.

    Returns
    -------
    VGG_wFeedback
        The copy, in evaluation.
    """
    model = copy.deepcopy(model).eval()
    largest = largest_inputs(model, images)
    for layer, most in largest.items():
        out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0  # axis of output channels
        others = [axis for axis in range(layer.weight.dim()) if axis != out]
        most_of_channels = layer.weight.abs().amax(others, keepdim=True)
        scale = most_of_channels.clamp(min=SMALLEST) / LEVELS
        layer.weight.copy_((layer.weight / scale).round() * scale)
        layer.register_forward_pre_hook(rounding_hook(most / LEVELS))
    return model


def largest_inputs(model: nn.Module, images: torch.Tensor) -> dict[nn.Module, float]:
    """Return the largest magnitude that goes into each linear layer on these images."""
    layers = [layer for layer in model.modules() if isinstance(layer, LINEAR)]
    largest = dict.fromkeys(layers, SMALLEST)
    with register_module_forward_pre_hook(partial(note_largest, largest)):
        model(images)
    return largest


def note_largest(largest: dict[nn.Module, float], layer: nn.Module, inputs: tuple) -> None:
    """Remember the largest magnitude that has gone into a layer, in a hook."""
    if layer in largest:
        largest[layer] = max(largest[layer], inputs[0].abs().max().item())


def rounding_hook(step: float) -> Callable:
    """Return a hook that rounds a layer's input to whole multiples of a step."""

    def round_input(layer: nn.Module, inputs: tuple) -> tuple:
        return ((inputs[0] / step).round().clamp(-LEVELS, LEVELS) * step,)

    return round_input
