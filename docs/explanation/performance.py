"""Write the tables and the picture of performance.md, from results/*_peers.jsonl.

`PYTHONPATH=. python docs/explanation/performance.py`
"""

import json
from collections.abc import Iterator
from pathlib import Path

from studies.results import between, markdown
from studies.speed.inference import LOOKS, save_simulators
from studies.speed.peers import SIMULATORS

PAGE = Path(__file__).with_suffix(".md")
PICTURE = Path(__file__).parents[1] / "inference_speed.png"
RESULTS = Path(__file__).parents[2] / "results"
BEGIN = "<!-- {}: docs/explanation/performance.py writes what stands between these lines -->"
END = "<!-- end -->"
INFERENCE_HEAD = " | ".join(
    [
        "machine, threads",
        "network",
        "T",
        "batch",
        "event",
        "dense",
        "best",
        "ANN",
        "event, times the best",
        "dense, times the best",
    ]
)


def records(name: str) -> list[dict]:
    """Read the records of a file of results."""
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def inference_table() -> Iterator[str]:
    """Return the lines of a table with a row for each case of each machine."""
    rows = []
    for case in records("inference_peers"):
        event = case["ours_event"]
        dense = case["ours_dense"]
        best, best_label = max((case[name], LOOKS[name].label) for name in SIMULATORS)
        rows.append(
            [
                f"{case['machine']}, {case['threads']}",
                case["network"],
                case["timesteps"],
                case["batch"],
                f"{event:,.0f}",
                f"{dense:,.0f}",
                f"{best:,.0f} ({best_label})",
                f"{case['ann']:,.0f}",
                f"{event / best:.1f}",
                f"{dense / best:.2f}",
            ]
        )
    return markdown(INFERENCE_HEAD, rows)


def nir_table() -> Iterator[str]:
    """Return the lines of a table with a row for each network and batch size.

    A dash stands where a simulator fails.
    """
    cases = records("nir_peers")
    speeds = {}  # (network, timesteps, batch) -> cells, in the order of the simulators
    for case in cases:
        speed = case.get("recordings_per_second")
        key = (case["network"], case["timesteps"], case["batch"])
        speeds.setdefault(key, []).append(f"{speed:,.1f}" if speed else "-")
    titles = ["network", "timesteps", "batch"]
    for simulator in dict.fromkeys(case["simulator"] for case in cases):
        if simulator == "kernel":
            titles.append("event engine")
        elif simulator in LOOKS:
            titles.append(LOOKS[simulator].label)
        else:
            titles.append(simulator)
    return markdown(" | ".join(titles), ([*key, *cells] for key, cells in speeds.items()))


def page() -> str:
    """Return the text of the page, with its tables as the results have them."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("inference_peers", inference_table()), ("nir_peers", nir_table())):
        text = between(text, BEGIN.format(name), END, lines)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    with_two_threads = [case for case in records("inference_peers") if case["threads"] == 2]
    save_simulators(PICTURE, with_two_threads)
