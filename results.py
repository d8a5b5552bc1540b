#!/usr/bin/env python3
"""Evaluate every committed checkpoint on its whole test set; write results/results.json and the README's table from it."""

import argparse
import json
from pathlib import Path

import snn_wFeedback_posthoc_model_inference_obj1 as obj1
import snn_wFeedback_posthoc_model_inference_obj2 as obj2
from harness.checkpoints import write_whole
from harness.errors import UserError, run_script

HERE = Path(__file__).resolve().parent
FEEDBACK, TWIN = (HERE / f"trained_models/snn/snn_{name}.pth" for name in ("feedback", "twin"))
OUTPUT = HERE / "results"
MARKS = ("<!-- results: make results writes what stands between these lines -->", "<!-- end of results -->")

# name, script, checkpoint, its flags; a run with several settings gives several rows
RUNS = [
    ("feedback", obj1, FEEDBACK, "--timesteps 8 --epsilon 0 0.1 0.2"),
    ("feedforward twin", obj1, TWIN, "--timesteps 8 --epsilon 0"),
    ("feedback", obj1, FEEDBACK, "--timesteps 50 --epsilon 0"),
    (
        "feedback",
        obj2,
        FEEDBACK,
        "--timesteps 50 --epsilon 0.2 --rules all_predicted confidence entropy --open_bounds 0 0.05 --gap_bounds 4 8 "
        f"--entropy_bounds 0.05 0.005 --baseline_snn {TWIN} --run_name adaptive",
    ),
]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--limit_test", metavar="N", help="use the first N test images only, to try it out; README stays as it is"
    )
    args = parser.parse_args(argv)
    few = ["--limit_test", args.limit_test] if args.limit_test else []
    rows = []
    for name, script, checkpoint, flags in RUNS:
        print(f"\n$ python {script.__name__}.py --pretrained_snn {checkpoint.relative_to(HERE)} {flags}", flush=True)
        shared = ["--pretrained_snn", str(checkpoint), "--output_dir", str(OUTPUT), "--overwrite"]
        records = script.main([*shared, *few, *flags.split()])
        rows += [row_of(name, record) for record in records]
    write_whole(OUTPUT / "results.json", lambda file: file.write(json.dumps(rows, indent=1).encode()))
    if not few:
        put_into_readme(table(rows))


def row_of(name, record):
    """A row of results.json from an evaluation record."""
    feedback = "wFeedback" in record["model"]
    keys = ("dataset", "seed", "epsilon", "timesteps", "accuracy", "mean_steps", "reconstruction_error", "open_share", "spikes")
    return {
        "name": name if feedback else "feedforward twin",
        "plan": record["model"],
        "feedback": feedback,
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
