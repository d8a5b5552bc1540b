#!/usr/bin/env python3
"""Why the original's contrast fails, measured: what the input neurons see at each step under each rule.

One JSON object per line for each rule and step: `background`, the largest value seen at a black pixel; `gain`, the mean of
seen / image over open active pixels; `grey`, the mean gain of grey pixels (below half) beside bright ones; `open_bright` and
`open_dim`, shares of bright and of dimmed active pixels still open; `spikes_dim`, input spikes from the dimmed half so far.
Then one line per rule with the accuracy. Images: the first 500 test images with the bottom half dimmed to 15 %.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.command_line.flags import posthoc_parser  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.dimming import dimmed_sets
from harness.command_line.posthoc import open_posthoc
from self_models.objectives.contrast import CONTRASTS
from self_models.running.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking_target_objective_3 import ContrastAttentionSNN

import torch


@torch.no_grad()
def main():
    parser = posthoc_parser(__doc__, ContrastAttentionSNN)
    parser.set_defaults(epsilon=0.2)
    args = parser.parse_args()
    posthoc = open_posthoc(args, ContrastAttentionSNN, "_contrast_failure")
    model, count = posthoc.model, min(500, len(posthoc.test))
    batch = dimmed_sets(posthoc.test)["bottom half"].batch(torch.arange(count), posthoc.device)
    clean = posthoc.test.batch(torch.arange(count), posthoc.device).images
    draws = Draws(args.seed, EVALUATION, batch.index).uniforms(model.timesteps, model.image_shape, posthoc.device)
    active, lower = clean > 0, torch.zeros_like(clean, dtype=torch.bool)
    lower[:, :, clean.shape[2] // 2 :] = True
    bright, dim, grey = active & ~lower, active & lower, active & ~lower & (clean < 0.5)
    for rule in CONTRASTS:
        model.change(contrast=rule)
        run, from_dim = model.start(batch.images), 0.0
        for t, drawn in enumerate(draws, 1):
            seen, is_open = run.view.image, run.view.is_open
            from_dim += ((drawn <= seen) & (seen > 0) & lower).sum().item() / count
            gain = seen / batch.images.clamp(min=1e-6)
            row = {
                "rule": rule,
                "step": t,
                "background": seen[~active].max().item(),
                "gain": mean_over(gain, is_open & active & (batch.images > 0)),
                "grey": mean_over(gain, is_open & grey & (batch.images > 0)),
                "open_bright": mean_over(is_open.float(), bright),
                "open_dim": mean_over(is_open.float(), dim),
                "spikes_dim": from_dim,
            }
            print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))
            model.step(run, drawn)
        accuracy = (run.logits.argmax(1) == batch.labels).float().mean().item()
        print(json.dumps({"rule": rule, "images": count, "accuracy": round(accuracy, 4)}))


def mean_over(values, where):
    return values[where].mean().item() if where.any() else 0.0


if __name__ == "__main__":
    run_script(main)
