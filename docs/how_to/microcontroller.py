"""Write the tables of microcontroller.md, from results/microcontroller.jsonl.

`PYTHONPATH=. python docs/how_to/microcontroller.py`
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from studies.results import between, markdown

PAGE = Path(__file__).with_suffix(".md")
RESULTS = Path(__file__).parents[2] / "results/microcontroller.jsonl"
BEGIN = "<!-- {}: by docs/how_to/microcontroller.py -->"
END = "<!-- end -->"
CORES = {"m4": "Cortex-M4", "m7": "Cortex-M7", "m33": "Cortex-M33", "rv32": "RISC-V"}
COMPARED = {  # network, weights -> its task, accuracy
    ("quick_feedback", "int8_folded"): ("MNIST", "98.72"),
    ("tiny_feedback", "int8_folded"): ("MNIST", "97.99"),
    ("nmnist.nir", "float32"): ("N-MNIST", "86 (100 recordings)"),
    ("cnn_sinabs.nir", "float32"): ("N-MNIST", "98.47 (published, in sinabs)"),
}
FIGURES_HEAD = " | ".join(
    ["network", "weights", "timesteps", "flash, kB", "RAM, kB", *CORES.values()]
)
COMPARED_HEAD = " | ".join(
    [
        "network",
        "weights",
        "task",
        "accuracy, %",
        "timesteps",
        "thousand instructions per timestep",
        "energy, µJ",
    ]
)
OF_OTHERS = [
    "recurrent SNN of Boretti et al.",
    "-",
    "N-MNIST, made smaller",
    "97.2",
    "-",
    "up to 150 µs: 27 thousand cycles at 180 MHz",
    "4.1",
]

Records = dict[tuple[str, str], dict[str, dict]]  # (network, weights) -> core -> record


def read_records() -> Records:
    """Read the results."""
    found = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        key = (record["network"], record["weights"])
        found.setdefault(key, {})[record["core"]] = record
    return found


class ANN(NamedTuple):
    """What an ANN takes. Families of networks with the same layers share theirs."""

    weights: int  # bytes
    ram: int
    instructions: tuple[int, ...]  # on each core


def families_by_ann(found: Records) -> dict[ANN, list[str]]:
    """Return the families of networks that have each ANN."""
    families = {}
    for (network, _), by_core in found.items():
        on_m4 = by_core["m4"]
        if "ann_instructions" not in on_m4:
            continue
        instructions = tuple(record["ann_instructions"] for record in by_core.values())
        ann = ANN(on_m4["ann_weights"], on_m4["ann_ram"], instructions)
        family = network.split("_")[0]
        if family not in families.setdefault(ann, []):
            families[ann].append(family)
    return families


def figures_table(found: Records) -> Iterator[str]:
    """Yield a table of all networks and ANNs, and who needs less than their ANN."""
    rows = []
    for (network, weights), by_core in found.items():
        on_m4 = by_core["m4"]
        row = [f"`{network}`", weights, on_m4["timesteps"]]
        row += [thousands(on_m4["flash"]), thousands(on_m4["ram"])]
        row += [millions(by_core[core]["instructions"]) for core in CORES]
        rows.append(row)
    for ann, families in families_by_ann(found).items():
        row = [f"ANN of {', '.join(families)}", "int8", "-"]
        row += [thousands(ann.weights), thousands(ann.ram)]
        row += [millions(count) for count in ann.instructions]
        rows.append(row)
    yield from markdown(FIGURES_HEAD, rows)
    yield ""
    for core, title in (("m4", "a Cortex-M4"), ("rv32", "RISC-V")):
        listed = ", ".join(networks_below_ann(found, core)) or "**none**"
        yield f"On {title}, these need fewer instructions than their ANN: {listed}."


def networks_below_ann(found: Records, core: str) -> list[str]:
    """Name the networks that need fewer instructions than their ANN on a core."""
    weights_below = {}  # network -> kinds of weights with which it does
    for (network, weights), by_core in found.items():
        record = by_core[core]
        if record["instructions"] < record.get("ann_instructions", 0):
            weights_below.setdefault(network, []).append(weights)
    names = []
    for network, weights in weights_below.items():
        if len(weights) == 2:
            names.append(f"`{network}`")
        else:
            names.append(f"`{network}` (only {weights[0]})")
    return names


def compared_table(found: Records) -> Iterator[str]:
    """Return a table of ours, on a Cortex-M4, beside what others have published."""
    rows = []
    for (network, weights), (task, accuracy) in COMPARED.items():
        record = found[network, weights]["m4"]
        steps = record["timesteps"]
        per_step = f"{record['instructions'] / steps / 1e3:,.0f}"
        rows.append([f"`{network}`", weights, task, accuracy, steps, per_step, "-"])
        if "ann_instructions" in record:
            in_all = f"{record['ann_instructions'] / 1e3:,.0f}"
            rows.append(["its ANN", "int8", task, "-", "one pass", in_all, "-"])
    rows.append(OF_OTHERS)
    return markdown(COMPARED_HEAD, rows)


def thousands(count: int) -> str:
    """Return a number in thousands."""
    return f"{count / 1e3:.0f}"


def millions(count: int) -> str:
    """Return a number in millions, with a decimal."""
    return f"{count / 1e6:.1f}"


def page() -> str:
    """Return the text of the page, with its tables as the results have them."""
    found = read_records()
    text = PAGE.read_text(encoding="utf-8")
    text = between(text, BEGIN.format("figures"), END, figures_table(found))
    return between(text, BEGIN.format("compared"), END, compared_table(found))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
