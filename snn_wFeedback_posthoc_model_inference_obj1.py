#!/usr/bin/env python3
"""Objective 1, input blocking: accuracy and spikes of a trained SNN, for one or several epsilons.

Several values of --readout_slew or --timesteps: all combinations are tried on held-out
images, to choose one.
"""  # noqa: W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

import shlex
from itertools import product

import snn_wFeedback
from self_models.errors import UserError
from self_models.feedback.gates import GATES
from self_models.settings import settings_in
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.arguments import Arguments, take_over
from wfeedback.building.models import lines_on_flags, new_snn, use_engine
from wfeedback.building.start import Start
from wfeedback.command_line.flags import add_baseline_flag
from wfeedback.command_line.parser import Parser, add_output_flag, flag_type
from wfeedback.command_line.posthoc import (
    EvaluationImages,
    choose_images,
    end_run,
    evaluate,
    load_weights,
    open_baseline,
    open_evaluated,
    open_run,
    posthoc_parser,
)
from wfeedback.command_line.recipes import as_flags
from wfeedback.command_line.scripts import run_script
from wfeedback.drawing.plots import save_choices, save_extremes, save_sweep
from wfeedback.measuring.comparing import difficulty_correlations, on_front
from wfeedback.measuring.log_lines import class_lines, counts_operations
from wfeedback.measuring.tables import (
    blocking_table,
    choices_table,
    details_table,
    difficulty_lines,
)
from wfeedback.runs.run import Run, counted, log_beside, program, read_records

GRID = ("epsilon", "readout_slew", "timesteps")  # flags of one or several values
# Typed flags that the recommended command does not repeat. It repeats all others, since
# each may change a number, or says where files are.
NOT_REPEATED = {
    *GRID,  # they get the values that were chosen
    "holdout",  # it evaluates the test images
    "picture",  # a chart of all combinations, which a chart of one would replace
    "results_json",  # the evaluations of all combinations, likewise
    "run_name",  # of the run that chose; the evaluation gets a name of its own
    "overwrite",  # a permission for that run's files, not for others
}


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN, without=GRID)
    group = parser.add_argument_group("objective 1")
    known = InputBlockingSNN.known_settings()
    for name in GRID:
        group.add_argument(
            f"--{name}",
            type=flag_type(known[name].kind),
            nargs="+",
            default=known[name].default,
            help=f"{known[name].help}; one or several (default: the checkpoint's)",
        )
    parser.set_defaults(epsilon=[known["epsilon"].default])
    add_baseline_flag(group, "the baseline's accuracy and spikes")
    add_output_flag(group, "--picture", "also draw accuracy against spikes", ".png")
    return parser


def main(argv: list[str] | None = None) -> list[dict]:
    """Evaluate all combinations of the grid; return the record of each evaluation."""
    args = build_parser(argv).parse_args(argv)

    # --- the checkpoint, and what follows from it
    if "timesteps" in args.typed and len(args.timesteps) == 1:
        args.timesteps = args.timesteps[0]  # which may be part of the checkpoint's name
    start = open_evaluated(args, takes_traced=True)
    has_epsilon = "epsilon" in settings_in(GATES[args.gate])
    if not has_epsilon and not start.nodes:
        raise UserError(
            f"gate {args.gate} has no epsilon, which is varied here: --gate block, "
            "or snn_wFeedback.py --test_only"
        )
    grid = {}
    for name in GRID:
        value = getattr(args, name)
        grid[name] = value if isinstance(value, list) else [value]
    chooses = len(grid["readout_slew"]) > 1 or len(grid["timesteps"]) > 1
    if chooses and not args.holdout:
        take_over(args, {"holdout": held_out_by(start)}, "script")

    # --- the network, made for the largest values of the grid, and its images
    largest = {name: max(values) for name, values in grid.items()}
    model = new_snn(args, InputBlockingSNN, **largest)
    notes = list(lines_on_flags(args, model, start))
    images = choose_images(args, model, start)
    engine_line = use_engine(model, args)
    suffix = "_epsilon_" + "_".join(str(epsilon) for epsilon in grid["epsilon"])
    if chooses:
        suffix = "_choices"
    run = open_run(args, suffix)
    run.say(*notes, *images.notes, engine_line)
    load_weights(model, start, images, args, run)

    # --- the evaluation of each combination
    records = []
    baseline_records = []
    counts = counts_operations(model, run.say)
    # Thresholds of a phased network, and calibrated biases, depend on T.
    is_converted_for_t = start.kind == "ann" and (model.timing.is_phased or args.calibrate)
    opened = model
    for timesteps in grid["timesteps"]:
        model = opened
        if is_converted_for_t and timesteps != opened.timesteps:
            model = convert_again(args, start, opened, timesteps, images, run)
        for slew, epsilon in product(grid["readout_slew"], grid["epsilon"]):
            change_to(model, timesteps, slew, epsilon)
            record, per_image = evaluate(model, images.test, args, run, counts, readout_slew=slew)
            records.append(record)
            correlations = difficulty_correlations(per_image)
            run.record(event="difficulty", epsilon=epsilon, rank_correlation=correlations)
        baseline = open_baseline(args, model)
        if baseline:
            counts_baseline = counts_operations(baseline, run.say)
            record, _ = evaluate(
                baseline, images.test, args, run, counts_baseline, event="baseline"
            )
            baseline_records.append(record)

    # --- tables and pictures
    pictures = []
    if chooses:
        lines = recommended(records, args, start, images)
        run.result(*choices_table(records, on_front(records)), *lines)
    else:
        run.result(*blocking_table(records, *baseline_records))
        run.say(*difficulty_lines(epsilon, correlations))
        confusion = records[-1]["confusion"]
        run.say(*class_lines(confusion, model.classes, f", epsilon {epsilon:g}"))
        run.say(*details_table(records))
        pictures += [run.picture("_sweep.png"), run.picture("_extremes.png")]
        save_sweep(pictures[0], records, *baseline_records)
        save_extremes(pictures[1], images.test, per_image, epsilon)
    if args.picture:
        pictures.append(args.picture)
        save_choices(args.picture, records, on_front(records), baseline_records)
    end_run(args, run, records, pictures)
    return records


def change_to(model: VGG_SNN_STDB_wFeedback, timesteps: int, slew: float, epsilon: float) -> None:
    """Give a network a combination of the grid; no epsilon where its gate has none."""
    changed = {"timesteps": timesteps, "readout_slew": slew}
    if "epsilon" in model.settings:
        changed["epsilon"] = epsilon
    model.change(**changed)


def convert_again(
    args: Arguments,
    start: Start,
    opened: VGG_SNN_STDB_wFeedback,
    timesteps: int,
    images: EvaluationImages,
    run: Run,
) -> VGG_SNN_STDB_wFeedback:
    """Convert the ANN again, for another number of timesteps.

    Parameters
    ----------
    args : Arguments
        The flags, of which those of ``GRID`` may have several values.
    start : Start
        The ANN.
    opened : VGG_SNN_STDB_wFeedback
        The network that was converted first.
    timesteps : int
        The number of timesteps, T.
    images : EvaluationImages
        With training images, on which thresholds are balanced.
    run : Run

    Returns
    -------
    VGG_SNN_STDB_wFeedback
        The network, in evaluation.
    """
    settings = {name: opened.settings[name] for name in GRID}
    settings["timesteps"] = timesteps
    model = new_snn(args, InputBlockingSNN, **settings)
    run.say(f"converted for {counted(timesteps, 'timestep')}:")
    use_engine(model, args)
    snn_wFeedback.convert(model, start, images.train, args, run)
    return model.eval()


def recommended(
    records: list[dict], args: Arguments, start: Start, images: EvaluationImages
) -> list[str]:
    """Say which combination has the fewest spikes at nearly the highest accuracy.

    Parameters
    ----------
    records : list of dict
        The evaluation of each combination, on held-out images.
    args : Arguments
    start : Start
        What its network starts from.
    images : EvaluationImages

    Returns
    -------
    list of str
        Lines of the log. The last is the command that evaluates the combination on the
        test images.
    """
    highest = max(record["accuracy"] for record in records)
    accurate = [record for record in records if record["accuracy"] >= highest - 0.005]
    chosen = min(accurate, key=lambda record: record["spikes"]["total"])
    return [
        f"{args.holdout:,} held-out training images; "
        "*: no other has fewer spikes and as high an accuracy",
        "fewest spikes within 0.5 points of the highest accuracy; on the test images:",
        f"  {test_command(chosen, args, start, images)}",
    ]


def test_command(chosen: dict, args: Arguments, start: Start, images: EvaluationImages) -> str:
    """Write the command that evaluates a combination on the test images.

    With ``--holdout N`` added, it gives the figures of the combination's row exactly:
    it repeats whatever decides what the network is, how it runs, and on which images.

    Parameters
    ----------
    chosen : dict
        The evaluation record of the combination.
    args : Arguments
    start : Start
        What its network starts from.
    images : EvaluationImages

    Returns
    -------
    str
        The command, as one types it.
    """
    words = {flag: getattr(args, flag) for flag in args.typed if flag not in NOT_REPEATED}
    if args.origins["holdout"] == "recipe" and args.holdout:
        words["holdout"] = 0  # else the recipe's holds
    if not args.preset and not args.pretrained_ann:
        # Where it was not typed, it was found by a name that contains T of training.
        words["pretrained_snn"] = args.pretrained_snn
    if start.kind == "ann" and len(images.train) < args.balance_images:
        # Without --holdout, those that it held out would be balanced on, too.
        words["limit_train"] = len(images.train)
    for name in GRID:
        words[name] = chosen[name]
    several = set()
    for flag, declared in args.parser.settings.items():
        if declared.argparse.get("nargs") == "+":
            several.add(flag)
    return f"{shlex.join(program('obj1'))} {as_flags(words, several)}"


def held_out_by(start: Start) -> int:
    """Read from a log how many training images a network's training held out.

    Parameters
    ----------
    start : Start
        The network's checkpoint.

    Returns
    -------
    int
        The number of images, above 0.

    Raises
    ------
    UserError
        If the log beside the checkpoint does not say, or says 0.
    """
    log = log_beside(start.path, start.kind)
    counts = []
    for record in read_records(log):
        if record["event"] == "run":
            counts.append(record["parameters"].get("holdout"))
    if not (counts and counts[-1]):
        raise UserError(
            f"{log} names no held-out training images: choose on the last N of them by --holdout N"
        )
    return counts[-1]


if __name__ == "__main__":
    run_script(main)
