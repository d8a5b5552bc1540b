#!/usr/bin/env python3
"""Objective 1, input blocking: accuracy and spikes per image of a trained SNN, for one epsilon or several."""

from harness import flags
from harness.errors import run_script
from harness.fit import evaluate_with_bar
from harness.posthoc import open_posthoc, posthoc_parser
from harness.report import blocking_table, evaluation_record
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def build_parser():
    parser = posthoc_parser(__doc__)
    group = parser.add_argument_group("objective 1")
    help_text = "pixels predicted this well are blocked, one or several values; 0 = no blocking"
    group.add_argument("--epsilon", type=flags.NOT_NEGATIVE, nargs="+", default=[0.1], help=help_text)
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    suffix = "_epsilon_" + "_".join(str(epsilon) for epsilon in args.epsilon)
    model, test, run, objective = open_posthoc(args, InputBlockingSNN, suffix, epsilon=max(args.epsilon))
    records = []
    for epsilon in args.epsilon:
        model.set_epsilon(epsilon)
        result = evaluate_with_bar(model, test, objective, args, run)
        records.append(evaluation_record(model, result, args, objective="input_blocking"))
        run.record(**records[-1])
    for line in blocking_table(records):
        run.say(line)
    return records


if __name__ == "__main__":
    run_script(main)
