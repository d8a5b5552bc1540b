#!/usr/bin/env python3
"""Evaluate every committed checkpoint on its whole test set; write results/results.json and the README's table from it."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from harness.checkpoints import write_whole
from harness.errors import UserError, run_script
from harness.plots import save_accuracy_against_spikes

HERE = Path(__file__).resolve().parent
FEEDBACK, TWIN = (f"trained_models/snn/snn_{name}.pth" for name in ("feedback", "twin"))
MARKS = ("<!-- results: make results writes what stands between these lines -->", "<!-- end of results -->")
OBJ1, OBJ2 = (f"snn_wFeedback_posthoc_model_inference_obj{number}.py" for number in (1, 2))

RUNS = {  # name -> script and flags; a run with several settings gives several rows
    "feedback_T8": f"{OBJ1} --pretrained_snn {FEEDBACK} --timesteps 8 --epsilon 0 0.1 0.2",
    "twin_T8": f"{OBJ1} --pretrained_snn {TWIN} --timesteps 8 --epsilon 0",
    "feedback_T50_open": f"{OBJ1} --pretrained_snn {FEEDBACK} --timesteps 50 --epsilon 0",
    "feedback_adaptive": f"{OBJ2} --pretrained_snn {FEEDBACK} --timesteps 50 --epsilon 0.2 --rules all_predicted confidence "
    "--open_bounds 0 0.05 --gap_bounds 4 8",
    "twin_adaptive": f"{OBJ2} --pretrained_snn {TWIN} --timesteps 50 --epsilon 0 --rules confidence --gap_bounds 2 4 8",
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit_test", metavar="N", help="first N test images only, to try it out; results in results_few/")
    parser.add_argument("--from_files", action="store_true", help="evaluate nothing: use the results/NAME.json already there")
    args = parser.parse_args(argv)
    folder = HERE / ("results_few" if args.limit_test else "results")
    few = f"--limit_test {args.limit_test}" if args.limit_test else ""
    folder.mkdir(exist_ok=True)
    rows = []
    for name, command in RUNS.items():
        path = folder / f"{name}.json"
        if not args.from_files:
            evaluate(f"{command} --run_name {name} --output_dir {quote(folder)} --results_json {quote(path)} --overwrite {few}")
        if not path.is_file():
            raise UserError(f"{path} is missing: run make results without --from_files")
        rows += map(row_of, json.loads(path.read_text()))
    write_whole(folder / "results.json", lambda file: file.write(json.dumps(rows, indent=1).encode()))
    if not few:
        save_accuracy_against_spikes(HERE / "docs" / "accuracy_spikes.png", rows)
        put_into_readme(table(rows))


def quote(path):
    return shlex.quote(str(path))


def evaluate(command):
    """Run a script as the user would; stop where it fails."""
    print(f"\n$ python {command}", flush=True)
    done = subprocess.run([sys.executable, *shlex.split(command)], cwd=HERE)
    if done.returncode:
        sys.exit(done.returncode)


def row_of(record):
    """A row of results.json from an evaluation record."""
    keys = ("dataset", "seed", "epsilon", "timesteps", "accuracy", "mean_steps", "reconstruction_error", "open_share", "spikes")
    return {
        "name": "feedback" if record["feedback"] else "feedforward twin",
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


def table(rows):
    """The rows as a Markdown table, in thousands of operations and microjoules per image."""
    yield "| network | T | epsilon | stop | mean steps | accuracy | input | encoder | decoder | classifier | total spikes | event-driven ACs | energy |"  # noqa: E501
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        stop = " ".join([row["rule"], *(f"{value:g}" for value in row["bounds"].values())]) if row["rule"] != "none" else ""
        spikes = " | ".join(f"{row['spikes'][part]:,.0f}" for part in ("input", "encoder", "decoder", "classifier", "total"))
        events, energy = row["operations"]["event_acs"] / 1000, 1e6 * row["energy_joules"]
        yield (
            f"| {row['name']} | {row['timesteps']} | {row['epsilon'] or 'off'} | {stop} | {row['mean_steps']:.1f} | "
            f"{100 * row['accuracy']:.2f} % | {spikes} | {events:,.0f} k | {energy:.1f} µJ |"
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
