"""Writes performance.md's tables and picture of results/*_peers.jsonl: `PYTHONPATH=. python docs/explanation/performance.py`."""

import json
from pathlib import Path

from benchmarks.speed.inference import LOOKS, save_simulators
from benchmarks.speed.peers import SIMULATORS
from results import between, markdown

PAGE, PICTURE = (
    Path(__file__).with_suffix(".md"),
    Path(__file__).parents[1] / "inference_speed.png",
)
RESULTS = Path(__file__).parents[2] / "results"
MARKS = (
    "<!-- {}: docs/explanation/performance.py writes what stands between these lines -->",
    "<!-- end -->",
)


def records(name):
    return [
        json.loads(line)
        for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def inference_table():
    """A row for each case of each machine."""
    rows = []
    for case in records("inference_peers"):
        best, name = max((case[name], LOOKS[name][0]) for name in SIMULATORS)
        event, dense, ann = (case[name] for name in ("ours_event", "ours_dense", "ann"))
        run = (
            f"{case['machine']}, {case['threads']}",
            case["network"],
            case["timesteps"],
            case["batch"],
        )
        speeds = f"{event:,.0f}", f"{dense:,.0f}", f"{best:,.0f} ({name})", f"{ann:,.0f}"
        rows.append([*run, *speeds, f"{event / best:.1f}", f"{dense / best:.2f}"])
    head = "machine, threads | network | T | batch | event | dense | best | ANN | event, times the best | dense, times the best"
    return markdown(head, rows)


def nir_table():
    """A row for each network and batch size; a dash where a simulator fails."""
    cases, runs = records("nir_peers"), {}
    simulators = dict.fromkeys(case["simulator"] for case in cases)
    for case in cases:
        speed = case.get("recordings_per_second")
        runs.setdefault((case["network"], case["timesteps"], case["batch"]), []).append(
            f"{speed:,.1f}" if speed else "-"
        )
    names = {name: look[0] for name, look in LOOKS.items()} | {"kernel": "event engine"}
    head = " | ".join(
        ["network | timesteps | batch", *(names.get(name, name) for name in simulators)]
    )
    return markdown(head, ([*run, *speeds] for run, speeds in runs.items()))


def page():
    """The text of the page, with its tables as the results have them."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("inference_peers", inference_table()), ("nir_peers", nir_table())):
        text = between(text, MARKS[0].format(name), MARKS[1], lines)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    save_simulators(PICTURE, [one for one in records("inference_peers") if one["threads"] == 2])
