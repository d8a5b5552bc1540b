#!/usr/bin/env python3
"""What of an image must be sent? A network whose pixels send once, beside the controls that know less.

One JSON object per line and case, for colour images: accuracy, spikes by part, events beyond the first grid (`surprises`),
event-driven ACs and the energies, mean steps. Cases: twin: every pixel at every step; twin, sent once: all at once, held;
schedule: the blind network's grids without prediction (epsilon 0); interpolation: the network trained with blind interpolation,
by epsilon; feedback: interpolation and decoder, by epsilon; feedback, decoder silent; feedback, another image's decoder; feedback
with all channels of a pixel judged together, with other first grids, and with no layer waiting. With --gaps each of twin, sent
once; interpolation; and feedback stops, too, where its two best outputs are so far apart. --picture draws the first of them, not
stopped.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.facts import check_fits
from harness.data.sets import load_data
from harness.drawing.plots import accuracies, chart
from self_models import evaluate, load
from self_models.basics.settings import COUNT, NOT_NEGATIVE, Number, WHOLE
from self_models.objectives.gates import GATES
from self_models.objectives.once import Once, on_grid

import torch
from matplotlib.ticker import LogLocator

SHOWN = ("accuracy", "mean_steps", "error", "open_share", "energy_joules", "energy_event_joules")
DRAWN = ("twin", "twin, sent once", "schedule", "interpolation", "feedback", "feedback, nothing waits")
SENT_ONCE = {"gate": "once", "grid": 1, "epsilon": 0.0, "guess": "interpolation"}


class Exchanged(Once):
    """Gate once with the decoder's output of another image of the batch."""

    def complete(self, prediction, view):
        return super().complete(prediction.roll(1, 0), view)


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("feedback", "interpolation", "twin"):
        parser.add_argument(f"--{name}", required=True, metavar="PATH", help="its checkpoint")
    parser.add_argument("--dataset", required=True, metavar="NAME|FOLDER")
    parser.add_argument("--limit_test", type=typed(COUNT), default=None, metavar="N", help="first N test images only")
    parser.add_argument("--holdout", type=typed(WHOLE), default=0, metavar="N", help="the last N training images instead")
    parser.add_argument("--epsilons", type=typed(NOT_NEGATIVE), nargs="+", default=[0.1, 0.15, 0.2])
    parser.add_argument("--gaps", type=typed(Number(float)), nargs="*", default=[], help="of the two best outputs, to stop at")
    parser.add_argument("--timesteps", type=typed(COUNT), default=None, help="T; default: each network's own")
    parser.add_argument("--seed", type=typed(WHOLE), default=0, help="of the networks, said in the rows")
    parser.add_argument("--picture", default="", metavar="PNG")
    return parser


def cases(args):
    """(case, checkpoint, settings, gate's class)"""
    yield "twin", args.twin, {}, None
    yield "twin, sent once", args.twin, SENT_ONCE, None
    yield "schedule", args.interpolation, {"epsilon": 0.0}, None
    for epsilon in args.epsilons:
        yield "interpolation", args.interpolation, {"epsilon": epsilon}, None
        yield "feedback", args.feedback, {"epsilon": epsilon}, None
        yield "feedback, decoder silent", args.feedback, {"epsilon": epsilon, "guess": "interpolation"}, None
        yield "feedback, another image's decoder", args.feedback, {"epsilon": epsilon}, Exchanged
    yield "feedback, channels together", args.feedback, {"together": True}, None
    for grid in (2, 8):
        yield f"feedback, first grid {grid}", args.feedback, {"grid": grid}, None
    yield "feedback, nothing waits", args.feedback, {"wait": False}, None
    for gap in args.gaps:
        stop = {"rule": "confidence", "gap_bound": gap}
        yield "twin, sent once", args.twin, SENT_ONCE | stop, None
        yield "interpolation", args.interpolation, stop, None
        yield "feedback", args.feedback, stop, None


def main(argv=None):
    args, series = build_parser().parse_args(argv), {}
    GATES["exchanged"] = Exchanged
    steps = {} if args.timesteps is None else {"timesteps": args.timesteps}
    images = None
    for case, path, settings, gate in cases(args):
        model = load(path, engine="dense", **({"gate": "exchanged"} if gate else {}), **steps, **settings)
        if images is None:
            train, held, test = load_data(args.dataset, "", None, args.limit_test, args.holdout, model.image_shape)
            check_fits(train, model)
            images = held or test
        result = evaluate(model, images, seed=args.seed)
        row = {"case": case, "seed": args.seed, "images": result["images"], "timesteps": model.timesteps}
        row |= {name: model.settings[name] for name in ("epsilon", "grid", "guess") if name in model.settings}
        row |= {"gap": settings.get("gap_bound"), **{name: result[name] for name in SHOWN if name in result}}
        row |= {"spikes": result["parts"], "event_acs": result["operations"]["event_acs"]}
        if "grid" in model.settings:
            row["surprises"] = result["parts"]["input"] - first_grid(model)
        print(json.dumps(row), flush=True)
        if row["gap"] is None and case in DRAWN:
            series.setdefault(case, []).append({"epsilon": 0.0, **row})
    if args.picture:
        channels, height, width = model.image_shape
        save_sweep(args.picture, series, channels * height * width)


def first_grid(model):
    """How many values the first step sends, of an image of which none is 0."""
    return int(on_grid(torch.empty(1, *model.image_shape), model.gate.grid).sum())


def save_sweep(path, series, values):
    """Accuracy with its 95 % interval against the share of an image's values that is sent, a line for each case. series: case ->
    rows; values: how many an image has, C * H * W."""
    with chart(path, size=(10, 4.5)) as (axis,):
        for (case, rows), marker in zip(series.items(), "osD^vP", strict=False):
            rows = sorted(rows, key=lambda row: row["spikes"]["input"])
            shares = [100 * row["spikes"]["input"] / values for row in rows]
            accuracy, spread = accuracies(rows)
            look = {"marker": marker, "capsize": 3, "elinewidth": 0.8, "label": case}
            line, *_ = axis.errorbar(shares, accuracy, spread, **look)
            for row, *place in zip(rows, shares, accuracy, strict=True) if len(rows) > 1 else ():
                words = {"textcoords": "offset points", "va": "top", "fontsize": 8, "color": line.get_color()}
                axis.annotate(f"{row['epsilon']:g}", place, (5, -5), **words)
        axis.axvline(100, color="#999999", linestyle=":", zorder=0)
        axis.set(
            xscale="log", ylabel="accuracy in %", title="accuracy against what is sent; numbers: epsilon, bars: 95 % interval"
        )
        axis.set_xlabel("values sent, % of the image's values (dotted: each of them once)")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:,.10g}")
        axis.minorticks_off()
        axis.figure.legend(loc="outside right upper", frameon=False)


if __name__ == "__main__":
    run_script(main)
