"""Writes the tables of microcontroller.md, of results/: `PYTHONPATH=. python docs/how_to/microcontroller.py`."""

import json
from pathlib import Path

PAGE, RESULTS = Path(__file__).with_suffix(".md"), Path(__file__).parents[2] / "results/microcontroller.jsonl"
MARKS = "<!-- {}: docs/how_to/microcontroller.py writes what stands between these lines -->\n", "<!-- end -->"
CORES = {"m4": "Cortex-M4", "m7": "Cortex-M7", "m33": "Cortex-M33", "rv32": "RISC-V"}
COMPARED = {  # network -> its task, accuracy
    "quick_feedback": ("MNIST, int8", "98.70"),
    "nmnist.nir": ("N-MNIST", "86 (100 recordings)"),
    "cnn_sinabs.nir": ("N-MNIST", "98.47 (published, in sinabs)"),
}
FOUND, ANNS = {}, {}  # network -> core -> record; such records of an ANN -> the families of networks that have it
for found in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()):
    FOUND.setdefault(found["network"], {})[found["core"]] = found
for name, runs in FOUND.items():
    if "ann_instructions" in runs["m4"]:
        sizes = runs["m4"]["ann_weights"], runs["m4"]["ann_ram"]
        ANNS.setdefault((sizes, tuple(each["ann_instructions"] for each in runs.values())), {})[name.split("_")[0]] = None


def row(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def figures_table():
    """A row for each network and each ANN; which networks need less than their ANN."""
    yield row("network", "timesteps", "flash, kB", "RAM, kB", *CORES.values())
    yield row(*["---"] * (4 + len(CORES)))
    for name, runs in FOUND.items():
        one = runs["m4"]
        counts = (f"{runs[core]['instructions'] / 1e6:.1f}" for core in CORES)
        yield row(f"`{name}`", one["timesteps"], *(f"{one[key] / 1e3:.0f}" for key in ("flash", "ram")), *counts)
    for (sizes, counts), families in ANNS.items():
        cells = [f"{size / 1e3:.0f}" for size in sizes] + [f"{count / 1e6:.1f}" for count in counts]
        yield row(f"ANN of {', '.join(families)}", "-", *cells)
    yield ""
    for core, title in (("m4", "a Cortex-M4"), ("rv32", "RISC-V")):
        ours = {name: runs[core] for name, runs in FOUND.items()}
        fewer = [f"`{name}`" for name, one in ours.items() if one["instructions"] < one.get("ann_instructions", 0)]
        yield f"On {title}, networks that need fewer instructions than their ANN: {', '.join(fewer) or '**none**'}."


def compared_table():
    """Ours, on a Cortex-M4, beside what others have published."""
    yield row("network", "task", "accuracy, %", "timesteps", "thousand instructions per timestep", "energy, µJ")
    yield row(*["---"] * 6)
    for name, about in COMPARED.items():
        one = FOUND[name]["m4"]
        yield row(f"`{name}`", *about, one["timesteps"], f"{one['instructions'] / one['timesteps'] / 1e3:,.0f}", "-")
        if "ann_instructions" in one:
            yield row("its ANN", about[0], "-", "one pass", f"{one['ann_instructions'] / 1e3:,.0f}", "-")
    yield row("recurrent SNN (ISCAS 2023)", "N-MNIST", "97.2", "-", "up to 150 µs: 27 thousand cycles at 180 MHz", "4.1")
    for name in (
        "snn-generator, C from snnTorch ([arXiv 2511.12136](https://arxiv.org/abs/2511.12136))",
        "TensorFlow Lite Micro, CMSIS-NN: ANNs for MNIST",
    ):
        yield row(name, *["-"] * 5)


def page():
    """The text of the page, with its tables as the results have them."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("figures", figures_table()), ("compared", compared_table())):
        before, mark, rest = text.partition(MARKS[0].format(name))
        _, end, after = rest.partition(MARKS[1])
        text = before + mark + "\n".join([*lines, end]) + after
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
