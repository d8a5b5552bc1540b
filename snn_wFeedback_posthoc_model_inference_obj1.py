#!/usr/bin/env python3
"""Objective 1, input blocking: accuracy and spikes of a trained SNN, for one or several epsilons.

Several values of --readout_slew or --timesteps: all combinations are tried on held-out images, to choose one."""

import shlex
from itertools import product
from pathlib import Path

from harness import UserError
from harness.command_line.flags import add_baseline_flag, posthoc_parser
from harness.command_line.parser import typed
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.recipes import as_flags
from harness.command_line.scripts import run_script
from harness.drawing.figures import check_png
from harness.drawing.plots import save_choices, save_extremes, save_sweep
from harness.measuring.measures import difficulty_correlations, on_front
from harness.measuring.report import blocking_table, choices_table, class_lines, difficulty_lines, operations_table
from harness.runs.commands import program
from harness.runs.run import read_records
from self_models.basics.settings import COUNT, NOT_NEGATIVE, settings_in
from self_models.objectives.gates import GATES
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

GRID = {  # flag -> its kind, and what it is
    "epsilon": (NOT_NEGATIVE, "pixels predicted within ±epsilon are blocked, one or several values; 0: none"),
    "readout_slew": (NOT_NEGATIVE, "largest change of the read-out per timestep, one or several values; 0: no limit"),
    "timesteps": (COUNT, "T, timesteps per image, one or several values"),
}
NOT_SAID = (*GRID, "holdout", "picture", "overwrite", "run_name")  # in the command for one combination
NEAR = 0.005  # of the highest accuracy is that of the combination that is recommended


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN, without=(*GRID,))
    group, known = parser.add_argument_group("objective 1"), InputBlockingSNN.known_settings()
    for name, (kind, text) in GRID.items():
        told = {"default": known[name].default, "help": f"{text} (default: the checkpoint's)"}
        group.add_argument(f"--{name}", type=typed(kind), nargs="+", **told)
    add_baseline_flag(group, "the baseline's accuracy and spikes")
    group.add_argument("--picture", default="", metavar="X.png", help="also draw accuracy against spikes")
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    if args.picture:
        check_png("--picture", args.picture)
    if len(args.typed.get("timesteps", ())) == 1:
        args = args.having("typed", timesteps=args.timesteps[0])  # which may be part of the checkpoint's name
    args, start = resolve_evaluation(args)
    if "epsilon" not in settings_in(GATES[args.gate]):
        raise UserError(f"gate {args.gate} has no epsilon, which is varied here: --gate block, or snn_wFeedback.py --test_only")
    epsilons, slews, timesteps = ([value] if not isinstance(value := getattr(args, name), list) else value for name in GRID)
    chooses = len(slews) > 1 or len(timesteps) > 1
    if chooses and not args.holdout:
        args = args.having("script", holdout=held_out(args.pretrained_snn))
    suffix = "_choices" if chooses else "_epsilon_" + "_".join(map(str, epsilons))
    widest = {"epsilon": max(epsilons), "readout_slew": slews[0], "timesteps": max(timesteps)}
    posthoc = open_posthoc(args, start, InputBlockingSNN, suffix, **widest)
    baselines = []
    for steps, slew, epsilon in product(timesteps, slews, epsilons):
        posthoc.model.change(timesteps=steps, readout_slew=slew, epsilon=epsilon)
        per_image = posthoc.evaluate(readout_slew=slew)[1]
        posthoc.run.record(event="difficulty", epsilon=epsilon, rank_correlation=difficulty_correlations(per_image))
        if args.baseline and steps not in [record["timesteps"] for record in baselines]:
            baselines.append(posthoc.baseline().evaluate(event="baseline")[0])
    if chooses:
        tell_choices(posthoc)
    else:
        tell_blocking(posthoc, per_image, (*baselines, None)[0])
    if args.picture:
        save_choices(args.picture, posthoc.records, on_front(posthoc.records), baselines)
        posthoc.run.say(f"wrote {args.picture}")
    return posthoc.finish()


def tell_blocking(posthoc, per_image, baseline):
    """Tables and pictures of the epsilons. per_image: of the last one; baseline: the record of --baseline, or None."""
    run, records, epsilon = posthoc.run, posthoc.records, posthoc.records[-1]["epsilon"]
    run.result(*blocking_table(records, baseline), "", *operations_table(records))
    run.say(*difficulty_lines(epsilon, difficulty_correlations(per_image)))
    run.say(*class_lines(records[-1]["confusion"], posthoc.model.classes, f", epsilon {epsilon:g}"))
    save_sweep(run.picture("_sweep.png"), records, baseline)
    save_extremes(run.picture("_extremes.png"), posthoc.test, per_image, epsilon)
    posthoc.wrote("_sweep.png", "_extremes.png")


def tell_choices(posthoc):
    """A table of all combinations, and the command for one: of the fewest spikes within NEAR of the highest accuracy."""
    records, args = posthoc.records, posthoc.args
    highest = max(record["accuracy"] for record in records)
    near = [record for record in records if record["accuracy"] >= highest - NEAR]
    chosen = min(near, key=lambda record: record["spikes"]["total"])
    words = {name: value for name, value in args.typed.items() if name not in NOT_SAID} | {name: chosen[name] for name in GRID}
    command = f"{shlex.join(program('obj1'))} {as_flags(words)}"
    about = f"{args.holdout:,} held-out training images; *: no other has fewer spikes and as high an accuracy"
    fewest = f"fewest spikes within {100 * NEAR:g} points of the highest accuracy; on the test images:"
    posthoc.run.result(*choices_table(records), about, fewest, f"  {command}")


def held_out(path):
    """How many training images a checkpoint's training held out, by its log. Raises UserError where that is not known, or 0."""
    path = Path(path).absolute()
    log = path.parent.parent.parent / f"logs/snn/{path.stem}.jsonl"
    counts = [record["parameters"].get("holdout") for record in read_records(log) if record["event"] == "run"]
    if not (counts and counts[-1]):
        raise UserError(f"{log} names no held-out training images: say how many of the last ones to choose on, --holdout N")
    return counts[-1]


if __name__ == "__main__":
    run_script(main)
