#!/usr/bin/env python3
"""Objective 1, input blocking: accuracy and spikes of a trained SNN, for one or several epsilons.

Several values of --readout_slew or --timesteps: all combinations are tried on held-out images, to choose one."""

import harness.idle_threads  # noqa: F401  (before torch)

import shlex
from itertools import product

import snn_wFeedback
from harness import UserError
from harness.building.models import new_snn, use_engine
from harness.command_line.flags import add_baseline_flag, posthoc_parser
from harness.command_line.parser import add_output_flag, typed
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.recipes import as_flags
from harness.command_line.scripts import run_script
from harness.drawing.plots import save_choices, save_extremes, save_sweep
from harness.measuring.comparing import difficulty_correlations, on_front
from harness.measuring.log_lines import class_lines
from harness.measuring.tables import blocking_table, choices_table, details_table, difficulty_lines
from harness.runs.run import counted, log_beside, program, read_records
from self_models.basics.settings import settings_in
from self_models.objectives.gates import GATES
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

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
        args = args.having("script", holdout=held_out_by(start))
    suffix = "_choices" if chooses else "_epsilon_" + "_".join(map(str, tried["epsilon"]))
    posthoc = open_posthoc(
        args,
        start,
        InputBlockingSNN,
        suffix,
        **{name: max(values) for name, values in tried.items()},
    )
    run, records, baselines = posthoc.run, posthoc.records, []
    # Thresholds of a phased network, and calibrated biases, depend on T.
    is_converted_for_t = start.kind == "ann" and (posthoc.model.timing.is_phased or args.calibrate)
    opened = posthoc.model
    most_steps = opened.timesteps
    for steps in tried["timesteps"]:
        if is_converted_for_t:
            posthoc.model = opened
            if steps != most_steps:
                posthoc.model = convert_again(args, start, posthoc, steps)
        for slew, epsilon in product(tried["readout_slew"], tried["epsilon"]):
            posthoc.model.change(timesteps=steps, readout_slew=slew, epsilon=epsilon)
            _, per_image = posthoc.evaluate(readout_slew=slew)
            correlations = difficulty_correlations(per_image)
            run.record(event="difficulty", epsilon=epsilon, rank_correlation=correlations)
        if beside := posthoc.baseline():
            baselines.append(beside.evaluate(event="baseline")[0])
    if chooses:
        lines = recommended(records, posthoc, start)
        run.result(*choices_table(records, on_front(records)), *lines)
    else:
        run.result(*blocking_table(records, *baselines))
        run.say(*difficulty_lines(epsilon, correlations))
        run.say(
            *class_lines(records[-1]["confusion"], posthoc.model.classes, f", epsilon {epsilon:g}")
        )
        run.say(*details_table(records))
        posthoc.draw("_sweep.png", save_sweep, records, *baselines)
        posthoc.draw("_extremes.png", save_extremes, posthoc.test, per_image, epsilon)
    if args.picture:
        posthoc.draw("", save_choices, records, on_front(records), baselines, path=args.picture)
    return posthoc.finish()


def convert_again(args, start, posthoc, timesteps):
    """Convert the ANN again, for another number of timesteps.

    Parameters
    ----------
    args : Configuration
        The flags, of which those of ``GRID`` may have several values.
    start : Start
        The ANN.
    posthoc : Posthoc
        The run, with its training images.
    timesteps : int
        The number of timesteps, T.

    Returns
    -------
    VGG_SNN_STDB_wFeedback
        The network, in evaluation.
    """
    before = posthoc.model.settings
    settings = {name: before[name] for name in GRID} | {"timesteps": timesteps}
    model = new_snn(args, InputBlockingSNN, **settings)
    posthoc.run.say(f"converted for {counted(timesteps, 'timestep')}:")
    use_engine(model, args)
    snn_wFeedback.convert(model, start, posthoc.train, args, posthoc.run)
    return model.eval()


def recommended(records, posthoc, start):
    """Say which combination has the fewest spikes at nearly the highest accuracy.

    Parameters
    ----------
    records : list of dict
        The evaluation of each combination, on held-out images.
    posthoc : Posthoc
        The run that made them.
    start : Start
        What its network starts from.

    Yields
    ------
    str
        A line of the log. The last is the command that evaluates the combination on the
        test images.
    """
    highest = max(record["accuracy"] for record in records)
    accurate = [record for record in records if record["accuracy"] >= highest - 0.005]
    chosen = min(accurate, key=lambda record: record["spikes"]["total"])
    images = f"{posthoc.args.holdout:,} held-out training images"
    yield f"{images}; *: no other has fewer spikes and as high an accuracy"
    yield "fewest spikes within 0.5 points of the highest accuracy; on the test images:"
    yield f"  {test_command(chosen, posthoc, start)}"


def test_command(chosen, posthoc, start):
    """Write the command that evaluates a combination on the test images.

    With ``--holdout N`` added, it gives the figures of the combination's row exactly:
    it repeats whatever decides what the network is, how it runs, and on which images.

    Parameters
    ----------
    chosen : dict
        The evaluation record of the combination.
    posthoc : Posthoc
        The run that tried it.
    start : Start
        What its network starts from.

    Returns
    -------
    str
        The command, as one types it.
    """
    args = posthoc.args
    words = {flag: value for flag, value in args.typed.items() if flag not in NOT_REPEATED}
    if args.recipe.get("holdout"):
        words["holdout"] = 0  # else the recipe's holds
    if not args.preset and not args.pretrained_ann:
        # Where it was not typed, it was found by a name that contains T of training.
        words["pretrained_snn"] = args.pretrained_snn
    if start.kind == "ann" and len(posthoc.train) < args.balance_images:
        # Without --holdout, those that it held out would be balanced on, too.
        words["limit_train"] = len(posthoc.train)
    words |= {name: chosen[name] for name in GRID}
    several = {flag for flag, known in args.known.items() if known.argparse.get("nargs") == "+"}
    return f"{shlex.join(program('obj1'))} {as_flags(words, several)}"


def held_out_by(start):
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
