#!/usr/bin/env python3
"""What is feedback worth in a streaming network whose input changes? Scenes of test images, with controls.

One JSON object per scene, pair of networks and case; then, by scene and control, how feedback differs from the control, paired by
seed: [mean, half of the 95 % interval], in points for accuracy, else in percent. Cases:

- feedback: blocks what it predicts, resets on change.
- ramp: the same with a blind ramp in the decoder's place (dense engine).
- baseline: always on; its outputs and membranes leak.
- send-on-delta: the baseline; a pixel's value is sent again after it has changed by epsilon or more.
- detector: a frame with such a change wakes the baseline. It starts from rest, stops at margin 1 or after its trained T, and
  sleeps. Its answer is that of its last finished run; during the first run, the answer so far.

Elsewhere an answer is held while no class is ahead. Per timestep and stream: accuracy (of timesteps with a label), spikes by part
(of send-on-delta: the values sent instead of input spikes), energies; at_rest: spikes after 20 timesteps without a changed frame;
accuracy_since: accuracy by timesteps since the label last changed (1: the first). within_6: of the changes of the label that last
6 timesteps or more the share after which the answer is right by the 6th timestep and stays right.
"""

import argparse
import json
import sys
from functools import partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import numpy as np
import torch

from benchmarks.findings.controls import RampSNN
from harness.command_line.parser import flag_type
from harness.command_line.scripts import run_script
from harness.data.scenes import SCENES, make_scene
from harness.measuring.comparing import difference
from harness.runs.run import numbered
from self_models import load
from self_models.assembly import ENGINE_NAMES
from self_models.basics.images import scale_pixels
from self_models.basics.settings import COUNT, WHOLE
from self_models.counting.operations import OperationCounter, energies, energy_joules
from self_models.data.sets import load_data
from self_models.objectives.stopping import output_gap
from self_models.runtime.outputs import PARTS, by_part

STEPS = {"switch": 160, "watch": 560, "part": 120, "drift": 120, "noise": 160}  # a frame each
EPSILON = 0.2
FEEDBACK = {
    "gate": "block",
    "blocking": "dynamic",
    "latch": True,
    "epsilon": EPSILON,
    "surprise": 2.0,
}
BASELINE = {"output_leak": 0.8, "membrane_floor": 0.0, "leak": 0.9}
SURE = {"rule": "confidence", "gap_bound": 1.0}
ENERGIES = ("energy_joules", "energy_event_joules")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    pair = [f"trained_models/snn/accurate_{kind}.pth" for kind in ("feedback", "baseline")]
    parser.add_argument(
        "--pair",
        nargs=2,
        default=pair,
        metavar="PATH",
        help="of seed 0; of seed 1 they end in _1.pth, …",
    )
    parser.add_argument(
        "--seeds",
        type=flag_type(WHOLE),
        nargs="+",
        default=[0, 1, 2],
        help="of the pairs, and of their scenes",
    )
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--streams", type=flag_type(COUNT), default=200, metavar="N")
    parser.add_argument(
        "--engine",
        choices=ENGINE_NAMES,
        default="auto",
        help="of all but the ramp, which is dense",
    )
    parser.add_argument(
        "--steps",
        type=flag_type(COUNT),
        default=None,
        metavar="T",
        help="default: 120 to 560, as the scene wants",
    )
    args, images, found = parser.parse_args(argv), load_data("MNIST")[2], {}
    for name, seed in product(args.scenes, args.seeds):
        scene = make_scene(name, images, args.streams, args.steps or STEPS[name], seed, EPSILON)
        for case, run in CASES.items():
            path = Path(args.pair[case not in OF_FEEDBACK])
            row = {"scene": name, "case": case, "seed": seed, "streams": args.streams}
            row |= run(path.with_stem(numbered(path.stem, seed)), scene, seed, args.engine)
            found.setdefault((name, case), {})[seed] = row
            print(json.dumps(row), flush=True)
    for line in differences(found):
        print(json.dumps(line), flush=True)


def differences(found):
    """How feedback differs from each control, paired by seed. found: (scene, case) -> seed -> row."""
    for name, case in found:
        if case != "feedback" and (name, "feedback") in found:
            ours, theirs = found[name, "feedback"], found[name, case]
            apart = {
                figure: difference(figure, ours, theirs)[:2]
                for figure in ("accuracy", "spikes", *ENERGIES)
            }
            yield {"scene": name, "feedback against": case, "pairs": len(ours), **apart}


# --- cases: (path of the checkpoint, Scene, seed, engine) -> figures


def streamed(settings, path, scene, seed, engine):
    return figures(
        scene,
        *left_on(load(path, **{"engine": engine} | settings), scale_pixels(scene.frames), seed),
    )


def send_on_delta(path, scene, seed, engine):
    frames = scale_pixels(scene.frames)
    held, sent = sent_and_held(frames)
    answers, spikes, joules = left_on(load(path, engine, **BASELINE), held, seed)
    spikes["input"] = sent
    return figures(scene, answers, spikes, joules, compared=frames[0, 0].numel())


def sent_and_held(frames):
    """(the frame that is known at each timestep, values sent (T, B)) of frames (T, B, C, H, W), where a value is sent if it is
    EPSILON or more from what was known before, at first black."""
    held, sent = [torch.zeros_like(frames[0])], []
    for frame in frames:
        misses = (held[-1] - frame).abs() >= EPSILON
        held.append(torch.where(misses, frame, held[-1]))
        sent.append(misses.flatten(1).sum(1).double())
    return held[1:], torch.stack(sent)


def detector(path, scene, seed, engine):
    model, frames = load(path, engine, **SURE), scale_pixels(scene.frames)
    steps, streams = scene.labels.shape
    answers, joules = torch.full((steps, streams), -1), np.zeros(2)
    spikes = {part: torch.zeros(steps, streams).double() for part in PARTS.values()}
    begins, runs = (
        torch.zeros(streams, dtype=torch.int64),
        torch.arange(streams),
    )  # of those that wake: when, and which
    while len(runs):
        images, is_first = frames[begins, runs], begins == 0
        with OperationCounter(model) as counter:
            output = model(images, seed=seed, frames=False)
        joules += len(runs) * joules_of(counter, len(runs), output.comparisons)
        ends = begins + output.steps
        for step in range(int(output.steps.max())):
            now, some = begins + step, (output.steps > step) & (begins + step < steps)
            for part, counts in by_part(output.spikes_by_step).items():
                if part in spikes and isinstance(counts, torch.Tensor):
                    spikes[part][now[some], runs[some]] += counts[step, some].double()
            shown = some & is_first
            answers[now[shown], runs[shown]] = output.logits_by_step[step, shown].argmax(1)
        wakes = torch.full_like(begins, steps)
        for number, (stream, end) in enumerate(zip(runs.tolist(), ends.tolist(), strict=True)):
            answers[end - 1 :, stream] = output.logits[number].argmax()
            if len(later := (differs(frames[end:, stream], images[number])).nonzero()):
                wakes[number] = end + later[0]
        begins, runs = wakes[wakes < steps], runs[wakes < steps]
    joules = dict(zip(ENERGIES, joules / answers.numel(), strict=True))
    return figures(scene, answers, spikes, joules, compared=images[0].numel())


def differs(frames, image):
    """Which frames (N, C, H, W) have a pixel that is EPSILON or more from the image's."""
    return ((frames - image).abs() >= EPSILON).flatten(1).any(1)


CASES = {
    "feedback": partial(streamed, FEEDBACK),
    "ramp": partial(streamed, FEEDBACK | {"engine": "dense", "model": RampSNN}),
    "baseline": partial(streamed, BASELINE),
    "send-on-delta": send_on_delta,
    "detector": detector,
}
OF_FEEDBACK = ("feedback", "ramp")


# --- what they share


def left_on(model, frames, seed):
    """Answers (T, B), spikes, part -> (T, B), and energies per timestep and stream. An answer is held while no class is ahead;
    before one is, it is -1."""
    answers, spikes, comparisons, answer = [], {}, 0, -1
    stream = model.stream(seed)
    with OperationCounter(model) as counter:
        for frame in frames:
            output = stream(frame, 1, frames=False)
            answer = torch.where(output_gap(output.logits) > 0, output.logits.argmax(1), answer)
            answers.append(answer)
            comparisons += output.comparisons.double().mean()
            for part, count in by_part(
                {name: each[0].double() for name, each in output.spikes_by_step.items()}
            ).items():
                spikes.setdefault(part, []).append(
                    count + torch.zeros(len(frame), dtype=torch.float64)
                )
    answers = torch.stack(answers)
    joules = dict(
        zip(ENERGIES, joules_of(counter, answers.numel(), comparisons / len(answers)), strict=True)
    )
    return (
        answers,
        {part: torch.stack(counts) for part, counts in spikes.items() if part != "total"},
        joules,
    )


def joules_of(counter, images, comparisons):
    """Energies per image (of a stream: per timestep), layer by layer and event-driven."""
    found = energies(counter.result(images), float(comparisons.double().mean()))
    return np.array([found[name] for name in ENERGIES])


def figures(scene, answers, spikes, joules, compared=0):
    """The figures of a case, see above. compared: pixels that are compared in each timestep, an accumulate each."""
    labels = scene.labels
    since = steps_since(changed(labels)) + 1  # steps with this label, with this one
    known, right = labels >= 0, answers == labels
    total = sum(spikes.values())
    parts = {part: count.mean().item() for part, count in spikes.items()}
    row = {
        "accuracy": right[known].double().mean().item(),
        "spikes": {**parts, "total": sum(parts.values())},
    }
    row |= {name: value + energy_joules(compared, 0) for name, value in joules.items()}
    row["at_rest"] = mean_of(total, steps_since(changed(scene.frames.flatten(2)).any(-1)) >= 20)
    row["accuracy_since"] = [
        mean_of(right.double(), known & (since == step)) for step in range(1, 41)
    ]
    settled = settling(labels, right)
    return row | {"within_6": float((settled <= 6).mean()) if len(settled) else None}


def changed(values):
    """Where values (N, ...) differ from those before them, bool (N, ...); True in the first."""
    return torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values[1:] != values[:-1]])


def steps_since(happens):
    """Timesteps since it last happened (T, B). happens: bool (T, B), True in the first."""
    number = torch.arange(len(happens))[:, None]
    return number - torch.where(happens, number, 0).cummax(0).values


def mean_of(values, where):
    return values[where].mean().item() if where.any() else None


def settling(labels, right):
    """Of each label that lasts 6 timesteps or more, except a stream's first: the timestep from which the answer stays right, inf
    if it is wrong at the end, (N,)."""
    found = []
    for column, answers in zip(labels.T.numpy(), right.T.numpy(), strict=True):
        starts = np.flatnonzero(np.diff(column, prepend=-2))
        for first, end in zip(starts, np.append(starts[1:], len(column)), strict=True):
            if first > 0 and column[first] >= 0 and end - first >= 6:
                wrong = np.flatnonzero(~answers[first:end])
                step = 1 if not len(wrong) else wrong[-1] + 2
                found.append(step if step <= end - first else np.inf)
    return np.array(found)


if __name__ == "__main__":
    run_script(main)
