#!/usr/bin/env python3
"""Objective 1, input blocking: accuracy and spikes of a trained SNN, for one or several epsilons.

Several values of --readout_slew or --timesteps: all combinations are tried on held-out images, to choose one."""

import shlex
from itertools import product

from harness import UserError
from harness.command_line.flags import add_baseline_flag, posthoc_parser
from harness.command_line.parser import add_output_flag, typed
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.recipes import as_flags
from harness.command_line.scripts import run_script
from harness.drawing.plots import save_choices, save_extremes, save_sweep
from harness.measuring.comparing import difficulty_correlations, on_front
from harness.measuring.tables import (
    blocking_table,
    choices_table,
    class_lines,
    difficulty_lines,
    operations_table,
)
from harness.runs.run import log_beside, program, read_records
from self_models.basics.settings import settings_in
from self_models.objectives.gates import GATES
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

GRID = ("epsilon", "readout_slew", "timesteps")  # flags of one or several values


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN, without=GRID)
    group, known = parser.add_argument_group("objective 1"), InputBlockingSNN.known_settings()
    for name in GRID:
        told = {
            "default": known[name].default,
            "help": f"{known[name].help}; one or several (default: the checkpoint's)",
        }
        group.add_argument(f"--{name}", type=typed(known[name].kind), nargs="+", **told)
    parser.set_defaults(epsilon=[known["epsilon"].default])
    add_baseline_flag(group, "the baseline's accuracy and spikes")
    add_output_flag(group, "--picture", "also draw accuracy against spikes", ".png")
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    if len(args.typed.get("timesteps", ())) == 1:
        args = args.having(
            "typed", timesteps=args.timesteps[0]
        )  # which may be part of the checkpoint's name
    args, start = resolve_evaluation(args)
    if "epsilon" not in settings_in(GATES[args.gate]):
        raise UserError(
            f"gate {args.gate} has no epsilon, which is varied here: --gate block, or snn_wFeedback.py --test_only"
        )
    tried = {
        name: value if isinstance(value := getattr(args, name), list) else [value] for name in GRID
    }
    chooses = len(tried["readout_slew"]) > 1 or len(tried["timesteps"]) > 1
    if chooses and not args.holdout:
        args = args.having("script", holdout=held_out_by(args.pretrained_snn))
    suffix = "_choices" if chooses else "_epsilon_" + "_".join(map(str, tried["epsilon"]))
    posthoc = open_posthoc(
        args,
        start,
        InputBlockingSNN,
        suffix,
        **{name: max(values) for name, values in tried.items()},
    )
    run, records, baselines = posthoc.run, posthoc.records, []
    for steps in tried["timesteps"]:
        for slew, epsilon in product(tried["readout_slew"], tried["epsilon"]):
            posthoc.model.change(timesteps=steps, readout_slew=slew, epsilon=epsilon)
            _, per_image = posthoc.evaluate(readout_slew=slew)
            correlations = difficulty_correlations(per_image)
            run.record(event="difficulty", epsilon=epsilon, rank_correlation=correlations)
        if beside := posthoc.baseline():
            baselines.append(beside.evaluate(event="baseline")[0])
    if chooses:
        run.result(*choices_table(records, on_front(records)), *recommended(records, args))
    else:
        run.result(*blocking_table(records, *baselines), "", *operations_table(records))
        run.say(*difficulty_lines(epsilon, correlations))
        run.say(
            *class_lines(records[-1]["confusion"], posthoc.model.classes, f", epsilon {epsilon:g}")
        )
        posthoc.draw("_sweep.png", save_sweep, records, *baselines)
        posthoc.draw("_extremes.png", save_extremes, posthoc.test, per_image, epsilon)
    if args.picture:
        posthoc.draw("", save_choices, records, on_front(records), baselines, path=args.picture)
    return posthoc.finish()


def recommended(records, args):
    """Lines on the combination of fewest spikes whose accuracy is within half a point of the highest, with its command."""
    highest = max(record["accuracy"] for record in records)
    chosen = min(
        (one for one in records if one["accuracy"] >= highest - 0.005),
        key=lambda one: one["spikes"]["total"],
    )
    words = {
        name: args.typed[name]
        for name in ("preset", "pretrained_snn", "model", "dataset")
        if name in args.typed
    }
    yield f"{args.holdout:,} held-out training images; *: no other has fewer spikes and as high an accuracy"
    yield "fewest spikes within 0.5 points of the highest accuracy; on the test images:"
    yield f"  {shlex.join(program('obj1'))} {as_flags(words | {name: chosen[name] for name in GRID})}"


def held_out_by(path):
    """How many training images a checkpoint's training held out, by its log. Raises UserError where that is not known, or 0."""
    log = log_beside(path)
    counts = [
        record["parameters"].get("holdout")
        for record in read_records(log)
        if record["event"] == "run"
    ]
    if not (counts and counts[-1]):
        raise UserError(
            f"{log} names no held-out training images: choose on the last N of them by --holdout N"
        )
    return counts[-1]


if __name__ == "__main__":
    run_script(main)
