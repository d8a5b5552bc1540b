#!/usr/bin/env python3
"""Objective 2, adaptive number of steps: stop each image as soon as a rule holds, for one bound or a sweep of several."""

from harness.command_line import flags
from harness.command_line.errors import UserError, run_script
from harness.drawing.plots import save_adaptive, save_step_histograms
from harness.measuring.difficulty import spike_correlations
from harness.measuring.posthoc import open_posthoc, posthoc_parser
from harness.measuring.report import adaptive_table
from self_models.vgg_wFeedback_spiking_target_objective_2 import BOUNDS, NEVER, AdaptiveTimestepsSNN


def build_parser():
    parser = posthoc_parser(__doc__)
    group = parser.add_argument_group("objective 2")
    group.add_argument("--epsilon", type=flags.NOT_NEGATIVE, default=0.1, help="pixels predicted this well are blocked; 0 = off")
    group.add_argument("--rules", nargs="+", choices=list(BOUNDS), default=["all_predicted"], help="when an image stops")
    any_number = flags.number(float)
    help_text = "all_predicted: largest share of active input pixels still open"
    group.add_argument("--open_bounds", nargs="+", type=any_number, default=[0.0, 0.05, 0.1, 0.2], help=help_text)
    help_text = "confidence: smallest gap between the two best outputs"
    group.add_argument("--gap_bounds", nargs="+", type=any_number, default=[2.0, 4.0, 8.0, 16.0], help=help_text)
    help_text = "entropy: largest entropy of the outputs, 0 to 1"
    group.add_argument("--entropy_bounds", nargs="+", type=any_number, default=[0.2, 0.05, 0.01, 0.001], help=help_text)
    help_text = "SNN of a plan without feedback, stopped by confidence and entropy for comparison"
    group.add_argument("--baseline_snn", default="", metavar="PATH", help=help_text)
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    posthoc = open_posthoc(args, AdaptiveTimestepsSNN, "_adaptive", epsilon=args.epsilon, rule=args.rules[0])
    baseline = baseline_of(args, argv)
    run, series = posthoc.run, {}
    sweep(posthoc, args.rules, series)
    if baseline:
        sweep(baseline, ["confidence", "entropy"], series, prefix="without feedback, ")
        posthoc.records += baseline.records
    for line in adaptive_table(series):
        run.say(line)
    first = next(iter(series.values()))
    steps = posthoc.model.timesteps
    save_adaptive(run.picture(".png"), {name: [r for r, _ in rows] for name, rows in series.items()}, first[0][1], steps)
    save_step_histograms(run.picture("_steps.png"), first[0][1], steps)
    run.say(f"wrote {run.picture('.png')}, {run.picture('_steps.png')}")
    return posthoc.finish()


def baseline_of(args, argv):
    """The Posthoc of --baseline_snn, or None. Raises UserError where that SNN has feedback."""
    if not args.baseline_snn:
        return None
    own = build_parser().parse_args(argv)
    own.pretrained_snn, own.pretrained_ann = args.baseline_snn, ""
    own.run_name += "_baseline" if own.run_name else ""
    baseline = open_posthoc(own, AdaptiveTimestepsSNN, "_adaptive", epsilon=0.0, rule="confidence")
    if baseline.model.has_feedback:
        raise UserError(f"--baseline_snn {args.baseline_snn} has a decoder: give an SNN of a plan without feedback")
    return baseline


def sweep(posthoc, rules, series, prefix=""):
    """All bounds of these rules, then T steps for every image; fills series: name -> list of (record, per_image).

    A record's rank_correlation is Spearman's rho between spikes per image and difficulty, a small margin after all T steps;
    rank_correlation_per_ink is that of spikes per unit of ink.
    """
    for rule, settings in [(rule, settings_of(rule, posthoc.args)) for rule in rules]:
        for bounds in settings:
            posthoc.model.set_rule(rule, **bounds)
            series.setdefault(prefix + rule, []).append(posthoc.evaluate(rule=rule, bounds=bounds))
    posthoc.model.set_rule(rules[0], **{BOUNDS[rules[0]][0]: NEVER[BOUNDS[rules[0]][0]]})
    series[f"{prefix}all steps"] = [posthoc.evaluate(rule="none", bounds={})]
    difficulty = -series[f"{prefix}all steps"][0][1]["margin"]
    for name, rows in series.items():
        for record, per_image in rows if name.startswith(prefix) else ():
            found = spike_correlations(difficulty, per_image)
            record |= {"rank_correlation": found["spikes"], "rank_correlation_per_ink": found["spikes_per_ink"]}


def settings_of(rule, args):
    """The bounds to try a rule with, a list of dicts. Raises UserError where the flags of one rule differ in length."""
    names = BOUNDS[rule]
    values = [getattr(args, f"{name}s") for name in names]
    if len({len(bounds) for bounds in values}) > 1:
        raise UserError(f"--rules {rule} wants as many {' as '.join(f'--{name}s' for name in names)}")
    return [dict(zip(names, bounds, strict=True)) for bounds in zip(*values, strict=True)]


if __name__ == "__main__":
    run_script(main)
