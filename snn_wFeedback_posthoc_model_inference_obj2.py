#!/usr/bin/env python3
"""Objective 2, early exit: accuracy, timesteps and spikes, for one or several bounds of a rule."""  # noqa: W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

from itertools import chain

from self_models.data.sets import ImageSet
from self_models.errors import UserError
from self_models.feedback.stopping import RULES
from self_models.settings import settings_in
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN
from wfeedback.arguments import Arguments
from wfeedback.building.models import lines_on_flags, new_snn, use_engine
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.posthoc import (
    choose_images,
    end_run,
    evaluate,
    load_weights,
    open_evaluated,
    open_run,
    posthoc_parser,
)
from wfeedback.command_line.scripts import run_script
from wfeedback.drawing.film import gate_in_words
from wfeedback.drawing.plots import looks_of, save_accuracies, save_step_histograms
from wfeedback.measuring.comparing import spike_correlations
from wfeedback.measuring.log_lines import counts_operations
from wfeedback.measuring.tables import adaptive_table, setting_in_words
from wfeedback.runs.run import Run

CHARTED = ("mean_steps", "spikes", "energy_event_joules")  # against accuracy


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose rules are flags, too."""
    parser = posthoc_parser(__doc__, argv, AdaptiveTimestepsSNN, without=("rule",))
    group = parser.add_argument_group("objective 2")
    group.add_argument(
        "--rules",
        nargs="+",
        choices=[name for name, rule in RULES.items() if rule.stops],
        default=["all_predicted"],
        help="stopping rules to evaluate",
    )
    for name, bound in settings_in(*RULES.values()).items():
        group.add_argument(
            f"--{name}s",
            nargs="+",
            type=flag_type(bound.kind),
            default=list(bound.tried) or [bound.default],
            help=bound.help,
        )
    return parser


def main(argv: list[str] | None = None) -> list[dict]:
    """Evaluate all bounds of the rules; return the record of each evaluation."""
    args = build_parser(argv).parse_args(argv)

    # --- the checkpoint, the network, and its images
    start = open_evaluated(args, takes_traced=True)
    model = new_snn(args, AdaptiveTimestepsSNN, rule=args.rules[0])
    notes = list(lines_on_flags(args, model, start))
    images = choose_images(args, model, start)
    engine_line = use_engine(model, args)
    run = open_run(args, "_adaptive")
    run.say(*notes, *images.notes, engine_line)
    load_weights(model, start, images, args, run)

    # --- the evaluations
    series = sweep(model, images.test, args, run)
    by_rule = {}
    for name, rows in series.items():
        by_rule[name] = [record for record, _ in rows]
    records = list(chain.from_iterable(by_rule.values()))

    # --- tables and pictures
    run.result(*adaptive_table(series))
    first_rule = args.rules[0]
    record, per_image = series[first_rule][0]
    setting = setting_in_words(first_rule, record["bounds"])
    title = f"{setting}, {gate_in_words(model.gate)}"
    pictures = [run.picture(".png"), run.picture("_steps.png")]
    save_accuracies(pictures[0], by_rule, looks_of(by_rule), CHARTED)
    save_step_histograms(pictures[1], per_image, model.timesteps, title, model.classes)
    end_run(args, run, records, pictures)
    return records


def sweep(
    model: VGG_SNN_STDB_wFeedback, images: ImageSet, args: Arguments, run: Run
) -> dict[str, list[tuple[dict, dict]]]:
    """Evaluate all bounds of the rules, and then all T timesteps for every image.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
    images : ImageSet
    args : Arguments
    run : Run

    Returns
    -------
    dict of {str: list of (record, per_image)}
        By the rule's name, and "all timesteps". A record gets ``rank_correlation``,
        Spearman's rho between spikes per image and difficulty (a small margin after all
        T timesteps), and ``rank_correlation_per_ink``, that of spikes per total
        intensity.
    """
    counts = counts_operations(model, run.say)
    series = {}
    for rule in dict.fromkeys(args.rules):
        series[rule] = []
        for bounds in bounds_of(rule, args):
            model.change(rule=rule, **bounds)
            doing = setting_in_words(f"evaluating {rule}", bounds)
            evaluated = evaluate(model, images, args, run, counts, doing, rule=rule, bounds=bounds)
            series[rule].append(evaluated)
    model.change(rule="never")
    doing = "evaluating all timesteps"
    evaluated = evaluate(model, images, args, run, counts, doing, rule="none", bounds={})
    series["all timesteps"] = [evaluated]

    difficulty = -evaluated[1]["margin"]
    for rows in series.values():
        for record, per_image in rows:
            correlations = spike_correlations(difficulty, per_image)
            record["rank_correlation"] = correlations["spikes"]
            record["rank_correlation_per_ink"] = correlations["spikes_per_ink"]
    return series


def bounds_of(rule: str, args: Arguments) -> list[dict[str, float]]:
    """Return the bounds to try a rule with.

    Raises
    ------
    UserError
        If a rule has several bounds, and their flags differ in length.
    """
    names = list(settings_in(RULES[rule]))
    values = [getattr(args, f"{name}s") for name in names]
    lengths = {len(bounds) for bounds in values}
    if len(lengths) > 1:
        flags = " as ".join(f"--{name}s" for name in names)
        raise UserError(f"--rules {rule} needs as many {flags}")
    return [dict(zip(names, bounds, strict=True)) for bounds in zip(*values, strict=True)]


if __name__ == "__main__":
    run_script(main)
