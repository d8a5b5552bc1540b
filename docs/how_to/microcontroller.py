"""Writes the tables of microcontroller.md, of results/: `PYTHONPATH=. python docs/how_to/microcontroller.py`."""

import json
from pathlib import Path

from results import between, markdown

PAGE, RESULTS = (
    Path(__file__).with_suffix(".md"),
    Path(__file__).parents[2] / "results/microcontroller.jsonl",
)
MARKS = "<!-- {}: by docs/how_to/microcontroller.py -->", "<!-- end -->"
CORES = {"m4": "Cortex-M4", "m7": "Cortex-M7", "m33": "Cortex-M33", "rv32": "RISC-V"}
COMPARED = {  # network, weights -> its task, accuracy
    ("quick_feedback", "int8_folded"): ("MNIST", "98.72"),
    ("tiny_feedback", "int8_folded"): ("MNIST", "97.99"),
    ("nmnist.nir", "float32"): ("N-MNIST", "86 (100 recordings)"),
    ("cnn_sinabs.nir", "float32"): ("N-MNIST", "98.47 (published, in sinabs)"),
}
FOUND, ANNS = (
    {},
    {},
)  # network, weights -> core -> record; such records of an ANN -> the families of networks that have it
for found in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()):
    FOUND.setdefault((found["network"], found["weights"]), {})[found["core"]] = found
for (name, _), runs in FOUND.items():
    if "ann_instructions" in runs["m4"]:
        sizes = runs["m4"]["ann_weights"], runs["m4"]["ann_ram"]
        ANNS.setdefault((sizes, tuple(each["ann_instructions"] for each in runs.values())), {})[
            name.split("_")[0]
        ] = None


def figures_table():
    """A row for each network and each ANN; which networks need less than their ANN."""
    rows = []
    for (name, weights), runs in FOUND.items():
        one = runs["m4"]
        counts = (f"{runs[core]['instructions'] / 1e6:.1f}" for core in CORES)
        rows.append(
            [
                f"`{name}`",
                weights,
                one["timesteps"],
                *(f"{one[key] / 1e3:.0f}" for key in ("flash", "ram")),
                *counts,
            ]
        )
    for (sizes, counts), families in ANNS.items():
        cells = [f"{size / 1e3:.0f}" for size in sizes] + [
            f"{count / 1e6:.1f}" for count in counts
        ]
        rows.append([f"ANN of {', '.join(families)}", "int8", "-", *cells])
    yield from markdown(
        " | ".join(["network | weights | timesteps | flash, kB | RAM, kB", *CORES.values()]), rows
    )
    yield ""
    for core, title in (("m4", "a Cortex-M4"), ("rv32", "RISC-V")):
        fewer = {}
        for (name, weights), runs in FOUND.items():
            if runs[core]["instructions"] < runs[core].get("ann_instructions", 0):
                fewer.setdefault(f"`{name}`", []).append(weights)
        listed = ", ".join(
            name if len(forms) == 2 else f"{name} (only {forms[0]})"
            for name, forms in fewer.items()
        )
        yield f"On {title}, these need fewer instructions than their ANN: {listed or '**none**'}."


def compared_table():
    """Ours, on a Cortex-M4, beside what others have published."""
    rows = []
    for (name, weights), about in COMPARED.items():
        one = FOUND[name, weights]["m4"]
        thousands = f"{one['instructions'] / one['timesteps'] / 1e3:,.0f}"
        rows.append([f"`{name}`", weights, *about, one["timesteps"], thousands, "-"])
        if "ann_instructions" in one:
            rows.append(
                [
                    "its ANN",
                    "int8",
                    about[0],
                    "-",
                    "one pass",
                    f"{one['ann_instructions'] / 1e3:,.0f}",
                    "-",
                ]
            )
    rows.append(
        [
            "recurrent SNN of Boretti et al.",
            "-",
            "N-MNIST, made smaller",
            "97.2",
            "-",
            "up to 150 µs: 27 thousand cycles at 180 MHz",
            "4.1",
        ]
    )
    head = "network | weights | task | accuracy, % | timesteps | thousand instructions per timestep | energy, µJ"
    return markdown(head, rows)


def page():
    """The text of the page, with its tables as the results have them."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("figures", figures_table()), ("compared", compared_table())):
        text = between(text, MARKS[0].format(name), MARKS[1], lines)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
