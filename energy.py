#!/usr/bin/env python3
"""Estimate a network's energy per image under published cost models, next to its ANN.

Means over the first 1,000 test images, or --limit_test. Cost models: self_models/counting/conventions/."""

import harness.idle_threads  # noqa: F401  (before torch)

import copy
import io
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from harness import UserError
from harness.building.models import ann_of
from harness.command_line.parser import add_output_flag
from harness.command_line.posthoc import TrainedNetwork, open_as_trained, posthoc_parser
from harness.command_line.recipes import names
from harness.command_line.scripts import run_script
from harness.drawing.plots import save_energies
from harness.measuring.energy_tables import energy_rows, part_rows, verdicts
from harness.measuring.tables import as_text, in_words
from self_models.counting.evaluation import evaluate
from self_models.counting.operations import conventions, read_convention
from self_models.data.sets import ImageSet
from self_models.guests.energy import EXECUTIONS, ledger
from self_models.layers.stages import LINEAR
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

LIMIT = 1000  # test images
LEVELS = 127  # of a signed 8-bit number
IMAGES = 128  # of training, whose largest activations set the scales


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN)
    parser.usage = "%(prog)s NETWORK [NETWORK ...] [--against ANN] [FLAG ...]"
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="a recipe, or the path of an SNN's checkpoint",
    )
    group = parser.add_argument_group("energy")
    help_text = "checkpoint of the networks' ANN, whose accuracy is measured in 32 and in 8 bits"
    group.add_argument("--against", default="", metavar="ANN", help=help_text)
    group.add_argument(
        "--convention",
        nargs="+",
        default=[],
        metavar="FILE",
        help="more cost models, as TOML files",
    )
    formats = ["text", "md", "csv", "json"]
    group.add_argument("--format", choices=formats, default="text", help="format of the tables")
    add_output_flag(group, "--picture", "also draw the parts' energies as a chart", ".png")
    parser.rare |= {"preset", "pretrained_snn", "pretrained_ann", "test_only", "engine"}
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    prices = conventions() | {Path(path).stem: read_convention(path) for path in args.convention}
    argv, ledgers, anns, parts, lines = sys.argv[1:] if argv is None else argv, {}, {}, {}, []
    with redirect_stdout(io.StringIO()):  # what a run says stands in its log
        for word in dict.fromkeys(args.networks):
            is_recipe = word in names("snn") or word.endswith(".toml")
            words = [*argv, "--preset" if is_recipe else "--pretrained_snn", word]
            network = open_as_trained(
                build_parser(argv), words, "_energy", engine="dense", networks=[word]
            )
            test = network.images.test
            if not (network.args.holdout or network.args.limit_test):
                test = test.part(0, LIMIT)
            if args.against:
                anns[word] = accuracies_of_ann(network, test, word)
            ledgers[word] = ledger(
                network.model, test, name=word, batch_size=args.batch_size, seed=args.seed
            )
            parts[word], said = (
                part_rows(ledgers[word], next(iter(prices.values()))),
                [*verdicts(word, ledgers[word], prices)],
            )
            tables = [energy_rows({word: ledgers[word]}, prices, anns), parts[word]]
            network.run.result(*(as_text(rows, "text") + "\n" for rows in tables), *said)
            network.run.record(
                event="ledger", lines=said, tables=[in_words(rows) for rows in tables]
            )
            lines += said
    if args.format == "json":
        print(
            json.dumps(
                {
                    word: numbers_of(costs, prices, *anns.get(word, ()))
                    for word, costs in ledgers.items()
                },
                indent=1,
            )
        )
    else:
        print(as_text(energy_rows(ledgers, prices, anns), args.format))
        for word, rows in parts.items():
            print("", f"{word}, event-driven, by part:", "", as_text(rows, args.format), sep="\n")
        print("", *lines, sep="\n")
    if args.picture:
        save_energies(args.picture, ledgers, prices)
    return ledgers


def numbers_of(ledger, prices, accuracy=None, in_8_bits=None):
    """All that is known of a network, for programs. accuracy, in_8_bits: of its ANN."""
    joules = {
        title: {execution: ledger.joules(one, execution) for execution in EXECUTIONS}
        | {
            "ann": ledger.ann_joules(one),
            "ann_8_bits": ledger.ann_joules(one, 8),
            "break_even": ledger.break_even(one),
        }
        for title, one in prices.items()
    }
    return asdict(ledger) | {
        "ann_accuracy": accuracy,
        "ann_8_bits_accuracy": in_8_bits,
        "joules": joules,
    }


def accuracies_of_ann(network: TrainedNetwork, test: ImageSet, word: str) -> tuple[float, float]:
    """Return the accuracy of the ANN of --against, and that of the same in 8 bits.

    Raises
    ------
    UserError
        If it has not the network's encoder and classifier.
    """
    path = network.args.against
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
def in_eight_bits(model, images):
    """A copy of an ANN that computes with integers of 8 bits, exactly, in floating point: weights by output channel and what goes
    into each linear layer by layer, both symmetric, rounded to the nearest. images: of training, (N, C, H, W), floats; the
    largest activation on them is the largest number."""
    model = copy.deepcopy(model).eval()
    largest = {layer: 1e-12 for layer in model.modules() if isinstance(layer, LINEAR)}

    def note(layer, inputs):
        if layer in largest:
            largest[layer] = max(largest[layer], inputs[0].abs().max().item())

    with register_module_forward_pre_hook(note):
        model(images)
    for layer, most in largest.items():
        out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        others = [dim for dim in range(layer.weight.dim()) if dim != out]
        scale = layer.weight.abs().amax(others, keepdim=True).clamp(min=1e-12) / LEVELS
        layer.weight.copy_((layer.weight / scale).round() * scale)
        step = most / LEVELS
        layer.register_forward_pre_hook(
            lambda _, inputs, step=step: (
                (inputs[0] / step).round().clamp(-LEVELS, LEVELS) * step,
            )
        )
    return model


if __name__ == "__main__":
    run_script(main)
