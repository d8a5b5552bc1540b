#!/usr/bin/env python3
"""Write energy_bars.png: what networks cost, as multiples of their 8-bit ANN.

The numbers are those of the ledgers in studies/notebook/energy.md.
`python docs/pictures/energy_bars.py`
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import wfeedback.idle_threads  # noqa: F401  (before torch)

from wfeedback.drawing.figures import chart

HERE = Path(__file__).resolve().parent
LEDGERS = HERE.parents[1] / "studies/notebook/energy.md"
NETWORKS = ("fast_baseline", "fast_feedback", "quick_baseline", "quick_feedback", "deep_baseline")
CONVENTIONS = ("arithmetic", "rate", "with memory")  # the last columns of the table
SHADES = ("#56b4e9", "#0072b2", "#e69f00")  # which the colour-blind can tell apart
HATCHES = ("", "///", "...")  # for a print in black and white
BAR_WIDTH = 0.26


def read_multiples() -> dict[str, list[float]]:
    """Return each network's energies, divided by those of its ANN.

    The ANN stands in the row after its networks.
    """
    multiples = {}
    waiting = {}  # networks whose ANN's row has not come yet
    for line in LEDGERS.read_text(encoding="utf-8").splitlines():
        if not line.startswith(("| `", "| their ANN")):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        energies = [float(cell.replace(",", "")) for cell in cells[-len(CONVENTIONS) :]]
        name = re.fullmatch(r"`(\w+)`", cells[0])
        if name:
            waiting[name[1]] = energies
            continue
        for network, own in waiting.items():
            multiples[network] = [
                energy / of_ann for energy, of_ann in zip(own, energies, strict=True)
            ]
        waiting = {}
    return multiples


def draw() -> None:
    """Draw three bars for each network, one for each convention."""
    multiples = read_multiples()
    with chart(HERE / "energy_bars.png", (8.4, 3.6)) as (axes,):
        for number, convention in enumerate(CONVENTIONS):
            heights = [multiples[network][number] for network in NETWORKS]
            places = [place + (number - 1) * BAR_WIDTH for place in range(len(NETWORKS))]
            bars = axes.bar(
                places,
                heights,
                BAR_WIDTH,
                color=SHADES[number],
                hatch=HATCHES[number],
                edgecolor="black",
                linewidth=0.6,
                label=convention,
            )
            axes.bar_label(
                bars,
                [f"{height:.2f}" for height in heights],
                fontsize=8,
                padding=2,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},
            )
        axes.axhline(1, color="black", linestyle="--", linewidth=1, zorder=0)
        axes.text(-0.45, 1.05, "as much as its ANN in 8 bits", fontsize=9)
        axes.set_xticks(range(len(NETWORKS)), NETWORKS)
        axes.set_ylabel("energy per image\n(its ANN in 8 bits = 1)")
        axes.set_ylim(0, 4.4)
        axes.legend(title="convention", frameon=False, loc="upper left")


if __name__ == "__main__":
    draw()
