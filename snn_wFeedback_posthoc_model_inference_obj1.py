#!/usr/bin/env python3
"""Objective 1, input blocking: accuracy and spikes of a trained SNN, for one or several epsilons."""

from harness import UserError
from harness.command_line.flags import posthoc_parser
from harness.command_line.parser import typed
from harness.command_line.posthoc import add_baseline_flag, open_posthoc, resolve_evaluation
from harness.command_line.scripts import run_script
from harness.drawing.plots import save_extremes, save_sweep
from harness.measuring.comparing import difficulty_correlations
from harness.measuring.tables import blocking_table, class_lines, difficulty_lines, operations_table
from self_models.basics.settings import NOT_NEGATIVE, settings_in
from self_models.objectives.gates import GATES
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN, without=("epsilon",))
    group = parser.add_argument_group("objective 1")
    help_text = "pixels predicted within ±epsilon are blocked, one or several values; 0: none; default: the checkpoint's"
    group.add_argument("--epsilon", type=typed(NOT_NEGATIVE), nargs="+", default=[0.1], help=help_text)
    add_baseline_flag(group, "the baseline's accuracy and spikes")
    return parser


def main(argv=None):
    args, start = resolve_evaluation(build_parser(argv).parse_args(argv), InputBlockingSNN)
    if "epsilon" not in settings_in(GATES[args.gate]):
        raise UserError(f"gate {args.gate} has no epsilon, which is varied here: --gate block, or snn_wFeedback.py --test_only")
    epsilons = args.epsilon if isinstance(args.epsilon, list) else [args.epsilon]
    suffix = "_epsilon_" + "_".join(str(epsilon) for epsilon in epsilons)
    posthoc = open_posthoc(args, start, InputBlockingSNN, suffix, epsilon=max(epsilons))
    run = posthoc.run
    for epsilon in epsilons:
        posthoc.model.change(epsilon=epsilon)
        per_image = posthoc.evaluate()[1]
        correlations = difficulty_correlations(per_image)
        run.record(event="difficulty", epsilon=epsilon, rank_correlation=correlations)
    baseline = (beside := posthoc.baseline()) and beside.evaluate(event="baseline")[0]
    run.result(*blocking_table(posthoc.records, baseline), "", *operations_table(posthoc.records))
    by_class = class_lines(posthoc.records[-1]["confusion"], posthoc.model.classes, f", epsilon {epsilons[-1]:g}")
    run.say(*difficulty_lines(epsilons[-1], correlations), *by_class)
    save_sweep(run.picture("_sweep.png"), posthoc.records, baseline)
    save_extremes(run.picture("_extremes.png"), posthoc.test, per_image, epsilons[-1])
    run.say(f"wrote {run.picture('_sweep.png')}, {run.picture('_extremes.png')}")
    return posthoc.finish()


if __name__ == "__main__":
    run_script(main)
