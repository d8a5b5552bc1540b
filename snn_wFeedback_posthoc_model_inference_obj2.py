#!/usr/bin/env python3
"""Objective 2, early exit: accuracy, timesteps and spikes, for one or several bounds of a rule."""

import harness.idle_threads  # noqa: F401  (before torch)

from harness import UserError
from harness.command_line.flags import posthoc_parser
from harness.command_line.parser import typed
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.scripts import run_script
from harness.drawing.film import gate_in_words
from harness.drawing.plots import looks_of, save_accuracies, save_step_histograms
from harness.measuring.comparing import spike_correlations
from harness.measuring.tables import adaptive_table, setting_in_words
from self_models.basics.settings import settings_in
from self_models.objectives.stopping import RULES
from self_models.vgg_wFeedback_spiking_target_objective_2 import AdaptiveTimestepsSNN


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, AdaptiveTimestepsSNN, without=("rule",))
    group = parser.add_argument_group("objective 2")
    rules = [name for name, rule in RULES.items() if rule.stops]
    group.add_argument(
        "--rules",
        nargs="+",
        choices=rules,
        default=["all_predicted"],
        help="stopping rules to evaluate",
    )
    for name, bound in settings_in(
        *RULES.values()
    ).items():  # those of --model's file are among them
        tried = [*bound.tried] or [bound.default]
        group.add_argument(
            f"--{name}s", nargs="+", type=typed(bound.kind), default=tried, help=bound.help
        )
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    posthoc = open_posthoc(
        *resolve_evaluation(args), AdaptiveTimestepsSNN, "_adaptive", rule=args.rules[0]
    )
    series = sweep(posthoc)
    posthoc.run.result(*adaptive_table(series))
    rule, ((record, per_image), *_) = next(iter(series.items()))
    setting = f"{setting_in_words(rule, record['bounds'])}, {gate_in_words(posthoc.model.gate)}"
    by_rule = {name: [record for record, _ in rows] for name, rows in series.items()}
    posthoc.draw(
        ".png",
        save_accuracies,
        by_rule,
        looks_of(by_rule),
        ("mean_steps", "spikes", "energy_event_joules"),
    )
    posthoc.draw(
        "_steps.png",
        save_step_histograms,
        per_image,
        posthoc.model.timesteps,
        setting,
        posthoc.model.classes,
    )
    return posthoc.finish()


def sweep(posthoc):
    """All bounds of the rules of --rules, then T steps for every image: name -> list of (record, per_image).

    A record's rank_correlation is Spearman's rho between spikes per image and difficulty, a small margin after all T steps;
    rank_correlation_per_ink is that of spikes per total intensity.
    """
    series = {rule: [] for rule in posthoc.args.rules}
    for rule in series:
        for bounds in bounds_of(rule, posthoc.args):
            posthoc.model.change(rule=rule, **bounds)
            doing = setting_in_words(f"evaluating {rule}", bounds)
            series[rule].append(posthoc.evaluate(doing=doing, rule=rule, bounds=bounds))
    posthoc.model.change(rule="never")
    series["all timesteps"] = [
        posthoc.evaluate(doing="evaluating all timesteps", rule="none", bounds={})
    ]
    difficulty = -series["all timesteps"][0][1]["margin"]
    for record, per_image in (row for rows in series.values() for row in rows):
        rho = spike_correlations(difficulty, per_image)
        record |= {
            "rank_correlation": rho["spikes"],
            "rank_correlation_per_ink": rho["spikes_per_ink"],
        }
    return series


def bounds_of(rule, args):
    """The bounds to try a rule with, a list of dicts. Raises UserError where the flags of one rule differ in length."""
    names = list(settings_in(RULES[rule]))
    values = [getattr(args, f"{name}s") for name in names]
    if len({len(bounds) for bounds in values}) > 1:
        raise UserError(
            f"--rules {rule} needs as many {' as '.join(f'--{name}s' for name in names)}"
        )
    return [dict(zip(names, bounds, strict=True)) for bounds in zip(*values, strict=True)]


if __name__ == "__main__":
    run_script(main)
