#!/usr/bin/env python3
"""Evaluate every committed checkpoint on its whole test set; write results/results.json and the README's table from it."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from harness import UserError
from harness.command_line.scripts import run_script
from harness.drawing.plots import save_accuracy_against_spikes
from harness.runs.checkpoints import write_whole

HERE = Path(__file__).resolve().parent
MARKS = ("<!-- results: make results writes what stands between these lines -->", "<!-- end of results -->")
OBJ1, OBJ2 = (f"snn_wFeedback_posthoc_model_inference_obj{number}.py" for number in (1, 2))


class Network(NamedTuple):
    """name: in the table, the same for networks that only their seed tells apart; steps: it was trained for; epsilon: to
    block with, 0 for a network without feedback."""

    name: str
    steps: int
    epsilon: float = 0.0
    seed: int = 0


NETWORKS = {  # by their checkpoints in trained_models/snn
    "snn_feedback": Network("feedback", 8, 0.2),
    "snn_twin": Network("twin of feedback", 8),
    "accurate_feedback": Network("accurate feedback", 8, 0.2),
    "accurate_feedback_1": Network("accurate feedback", 8, 0.2, seed=1),
    "accurate_feedback_2": Network("accurate feedback", 8, 0.2, seed=2),
    "accurate_twin": Network("twin of accurate feedback", 8),
    "accurate_twin_1": Network("twin of accurate feedback", 8, seed=1),
    "accurate_twin_2": Network("twin of accurate feedback", 8, seed=2),
    "residual_feedback": Network("residual feedback", 5, 0.2),
    "residual_twin": Network("twin of residual feedback", 5),
    "fast_feedback": Network("fast feedback", 3, 0.5),
    "fast_feedback_1": Network("fast feedback", 3, 0.5, seed=1),
    "fast_twin": Network("twin of fast feedback", 3),
    "fast_twin_1": Network("twin of fast feedback", 3, seed=1),
    "fashion_feedback": Network("Fashion feedback", 4, 0.08),
    "fashion_twin": Network("twin of Fashion feedback", 4),
}
RULES = "--rules confidence entropy --gap_bounds 0.5 1 2 4 --entropy_bounds 0.1 0.3"


def commands():
    """(checkpoint, run's name, network, script and flags); a run with several settings gives several rows."""
    for checkpoint, (name, steps, epsilon, seed) in NETWORKS.items():
        source = f"--pretrained_snn trained_models/snn/{checkpoint}.pth --engine event --seed {seed}"
        runs = {f"T{steps}": f"{OBJ1} {source} --timesteps {steps} --epsilon {epsilon}"}
        runs["stop"] = f"{OBJ2} {source} --timesteps 50 --epsilon {epsilon} {RULES}"
        if epsilon:
            runs["T50_open"] = f"{OBJ1} {source} --timesteps 50 --epsilon 0 --no-residual"
        for kind, command in runs.items():
            yield checkpoint, f"{checkpoint}_{kind}", name, command


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit_test", metavar="N", help="first N test images only, to try it out; results in results_few/")
    help_text = "evaluate these checkpoints, or none, and take the others' results/*.json as they are"
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS), metavar="NAME", help=help_text)
    args = parser.parse_args(argv)
    folder = HERE / ("results_few" if args.limit_test else "results")
    few = f"--limit_test {args.limit_test}" if args.limit_test else ""
    folder.mkdir(exist_ok=True)
    rows = []
    for checkpoint, run, name, command in commands():
        path = folder / f"{run}.json"
        if checkpoint in args.only:
            evaluate(f"{command} --run_name {run} --output_dir {quote(folder)} --results_json {quote(path)} --overwrite {few}")
        if not path.is_file():
            raise UserError(f"{path} is missing: run it with --only {checkpoint}")
        rows += [row_of(name, record) for record in json.loads(path.read_text())]
    write_whole(folder / "results.json", lambda file: file.write(json.dumps(rows, indent=1).encode()))
    if not few:
        rows = means_over_seeds(rows)
        for dataset in {row["dataset"] for row in rows}:
            picture = HERE / "docs" / f"accuracy_spikes_{dataset.lower()}.png"
            save_accuracy_against_spikes(picture, [row for row in rows if row["dataset"] == dataset])
        put_into_readme(table(row for row in rows if row["rule"] == "none" or row["bounds"].get("gap_bound") == 1))


def quote(path):
    return shlex.quote(str(path.relative_to(HERE)))


def evaluate(command):
    """Run a script as the user would; stop where it fails."""
    print(f"\n$ python {command}", flush=True)
    done = subprocess.run([sys.executable, *shlex.split(command)], cwd=HERE)
    if done.returncode:
        sys.exit(done.returncode)


def row_of(name, record):
    """A row of results.json from an evaluation record. name: of the network."""
    keys = ("dataset", "seed", "epsilon", "timesteps", "accuracy", "mean_steps", "reconstruction_error", "open_share")
    keys += ("rank_correlation", "rank_correlation_per_ink", "spikes")
    return {
        "name": name + " (chosen on test images)" * (record.get("selected_on") == "test"),
        "plan": record["model"],
        "feedback": record["feedback"],
        "blocking": record["epsilon"] > 0,
        "rule": record.get("rule", "none"),
        "bounds": record.get("bounds", {}),
        **{key: record[key] for key in keys if key in record},
        "operations": {kind: value for kind, value in record["operations"].items() if kind != "layers"},
        "energy_joules": record["energy_joules"],
        "images_per_second": record["images_per_second"],
    }


def means_over_seeds(rows):
    """One row for all rows that only the seed tells apart, with the means of their figures; seeds: how many they are."""
    same = {}
    for row in rows:
        key = [row[key] for key in ("name", "dataset", "timesteps", "epsilon", "rule")]
        same.setdefault((*key, *row["bounds"].values()), []).append(row)
    return [mean(group) | {"seeds": len(group)} for group in same.values()]


def mean(values):
    """Mean of numbers; of dicts or lists a mean at each place; of anything else the first."""
    first = values[0]
    if isinstance(first, dict):
        return {key: mean([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [mean(list(group)) for group in zip(*values, strict=True)]
    is_number = isinstance(first, int | float) and not isinstance(first, bool)
    return first if not is_number or values.count(first) == len(values) else sum(values) / len(values)


def table(rows):
    """The rows as a Markdown table, in thousands of operations and microjoules per image."""
    yield "| data set | network | seeds | T | epsilon | stop | mean steps | accuracy | input | encoder | decoder | classifier | total spikes | event-driven ACs | energy |"  # noqa: E501
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        stop = " ".join([row["rule"], *(f"{value:g}" for value in row["bounds"].values())]) if row["rule"] != "none" else ""
        spikes = " | ".join(f"{row['spikes'][part]:,.0f}" for part in ("input", "encoder", "decoder", "classifier", "total"))
        events, energy = row["operations"]["event_acs"] / 1000, 1e6 * row["energy_joules"]
        yield (
            f"| {row['dataset']} | {row['name']} | {row['seeds']} | {row['timesteps']} | {row['epsilon'] or 'off'} | {stop} | "
            f"{row['mean_steps']:.1f} | {100 * row['accuracy']:.2f} % | {spikes} | {events:,.0f} k | {energy:.1f} µJ |"
        )


def put_into_readme(lines):
    """Replace what stands between the marks of the README. Raises UserError where they are missing."""
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    if not all(mark in text for mark in MARKS):
        raise UserError(f"{readme} lacks the line {MARKS[0]!r} or {MARKS[1]!r}: put both back where the table belongs")
    before, rest = text.split(MARKS[0], 1)
    after = rest.split(MARKS[1], 1)[1]
    new = f"{before}{MARKS[0]}\n" + "\n".join(lines) + f"\n{MARKS[1]}{after}"
    write_whole(readme, lambda file: file.write(new.encode()))


if __name__ == "__main__":
    run_script(main)
