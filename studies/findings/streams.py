"""Measure what feedback is worth in a streaming network whose input changes.

Scenes of test images are shown to a network with feedback and to controls. There is one
JSON object per scene, pair of networks and case; then, by scene and control, how
feedback differs from the control, paired by seed: [mean, half of the 95 % interval], in
points for accuracy, else in percent. Cases:

- feedback: blocks what it predicts, resets on change.
- ramp: the same with a blind ramp in the decoder's place (dense engine).
- baseline: always on; its outputs and membranes leak.
- send-on-delta: the baseline; a pixel's value is sent again after it has changed by
  epsilon or more.
- detector: a frame with such a change wakes the baseline. It starts from rest, stops at
  margin 1 or after its trained T, and sleeps. Its answer is that of its last finished
  run; during the first run, the answer so far.

Elsewhere an answer is held while no class is ahead. Per timestep and stream there are:

- accuracy: of timesteps with a label.
- spikes: by part (of send-on-delta: the values sent instead of input spikes).
- energy_joules, energy_event_joules.
- at_rest: spikes after 20 timesteps without a changed frame.
- accuracy_since: accuracy by timesteps since the label last changed (1: the first).
- within_6: of the changes of the label that last 6 timesteps or more the share after
  which the answer is right by the 6th timestep and stays right.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch

from self_models import load
from self_models.data.images import scale_pixels
from self_models.data.sets import load_data
from self_models.evaluation.operations import OperationCounter, energies, energy_joules
from self_models.feedback.stopping import output_gap
from self_models.plugins import ENGINE_NAMES
from self_models.running.outputs import PARTS, by_part
from self_models.settings import COUNT, WHOLE
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from studies.findings.controls import RampSNN
from wfeedback.command_line.parser import flag_type
from wfeedback.command_line.scripts import run_script
from wfeedback.data.scenes import SCENES, Scene, make_scene
from wfeedback.measuring.comparing import difference
from wfeedback.runs.run import numbered

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

REST_STEPS = 20  # a stream is at rest after so many timesteps without a changed frame
CURVE_STEPS = 40  # accuracy is told for so many timesteps after a change of the label
SETTLED_BY = 6  # the timestep by which an answer should be right, see within_6


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
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
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the rows of all scenes, seeds and cases, then the differences."""
    args = build_parser().parse_args(argv)
    images = load_data("MNIST")[2]
    feedback_path, baseline_path = map(Path, args.pair)
    found = {}  # (scene, case) -> seed -> row
    for name, seed in product(args.scenes, args.seeds):
        scene = make_scene(name, images, args.streams, args.steps or STEPS[name], seed, EPSILON)
        for case, run in CASES.items():
            path = feedback_path if case in CASES_WITH_FEEDBACK else baseline_path
            seed_path = path.with_stem(numbered(path.stem, seed))
            result = run(seed_path, scene, seed, args.engine)
            row = {"scene": name, "case": case, "seed": seed, "streams": args.streams}
            row |= figures(scene, result)
            found.setdefault((name, case), {})[seed] = row
            print(json.dumps(row), flush=True)
    for line in differences(found):
        print(json.dumps(line), flush=True)


def differences(found: Mapping[tuple[str, str], Mapping[int, dict]]) -> Iterator[dict]:
    """Tell how feedback differs from each control, paired by seed.

    found: (scene, case) -> seed -> row.
    """
    for scene, case in found:
        if case == "feedback" or (scene, "feedback") not in found:
            continue
        ours = found[scene, "feedback"]
        theirs = found[scene, case]
        row = {"scene": scene, "feedback against": case, "pairs": len(ours)}
        for figure in ("accuracy", "spikes", *ENERGIES):
            change = difference(figure, ours, theirs)
            row[figure] = change[:2]  # mean and half of the interval
        yield row


# --- cases: (path of the checkpoint, Scene, seed, engine) -> CaseResult


@dataclass
class CaseResult:
    """What a case has answered and spent in T timesteps of B streams.

    Attributes
    ----------
    answers : Tensor of shape (T, B), int64
        Classes; -1 before the first answer.
    spikes : dict of {str: Tensor of shape (T, B)}
        Spikes of each part of the network.
    joules : dict of {str: float}
        Energies per timestep and stream.
    compared : int
        Pixels that are compared in each timestep, an accumulate each, which the
        energies do not have yet.
    """

    answers: torch.Tensor
    spikes: dict[str, torch.Tensor]
    joules: dict[str, float]
    compared: int = 0


def streamed(settings: dict, path: Path, scene: Scene, seed: int, engine: str) -> CaseResult:
    """Leave a network with these settings on."""
    model = load(path, **{"engine": engine, **settings})
    return leave_on(model, scale_pixels(scene.frames), seed)


def send_on_delta(path: Path, scene: Scene, seed: int, engine: str) -> CaseResult:
    """Leave the baseline on, and show it the frames that follow from what is sent."""
    frames = scale_pixels(scene.frames)
    held, sent = sent_and_held(frames)
    result = leave_on(load(path, engine, **BASELINE), held, seed)
    result.spikes["input"] = sent
    result.compared = frames[0, 0].numel()
    return result


def sent_and_held(frames: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Send what has changed by EPSILON or more from what was sent last, at first black.

    Parameters
    ----------
    frames : Tensor of shape (T, B, C, H, W)

    Returns
    -------
    held : list of T Tensors of shape (B, C, H, W)
        The frame that is known at each timestep.
    sent : Tensor of shape (T, B)
        How many values are sent.
    """
    known = torch.zeros_like(frames[0])
    held = []
    sent = []
    for frame in frames:
        misses = (known - frame).abs() >= EPSILON
        known = torch.where(misses, frame, known)
        held.append(known)
        sent.append(misses.flatten(1).sum(1).double())
    return held, torch.stack(sent)


def detector(path: Path, scene: Scene, seed: int, engine: str) -> CaseResult:
    """Wake the baseline at each change, and let it sleep when it has answered."""
    model = load(path, engine, **SURE)
    frames = scale_pixels(scene.frames)
    steps, streams = scene.labels.shape
    answers = torch.full((steps, streams), -1)
    spikes = {part: torch.zeros(steps, streams).double() for part in PARTS.values()}
    joules = np.zeros(2)

    # The streams that are awake, and the timestep at which each has woken. All wake at
    # first; a turn of the loop runs each of them until it sleeps.
    awake = torch.arange(streams)
    woken_at = torch.zeros(streams, dtype=torch.int64)
    while len(awake):
        images = frames[woken_at, awake]
        with OperationCounter(model) as counter:
            output = model(images, seed=seed, frames=False)
        joules += len(awake) * joules_of(counter, len(awake), output.comparisons)
        add_spikes(spikes, output, awake, woken_at)
        show_first_answers(answers, output, awake, woken_at)

        asleep_at = woken_at + output.steps
        wakes_at = torch.full_like(woken_at, steps)  # steps: never again
        for number, stream in enumerate(awake.tolist()):
            end = int(asleep_at[number])
            answers[end - 1 :, stream] = output.logits[number].argmax()
            later_changes = differs(frames[end:, stream], images[number]).nonzero()
            if len(later_changes):
                wakes_at[number] = end + later_changes[0]
        wakes = wakes_at < steps
        awake = awake[wakes]
        woken_at = wakes_at[wakes]

    per_timestep = joules / answers.numel()
    return CaseResult(
        answers,
        spikes,
        dict(zip(ENERGIES, per_timestep, strict=True)),
        compared=images[0].numel(),
    )


def add_spikes(
    spikes: Mapping[str, torch.Tensor],
    output: object,
    awake: torch.Tensor,
    woken_at: torch.Tensor,
) -> None:
    """Add the spikes of a run to those of the timesteps in which it took place.

    Parameters
    ----------
    spikes : mapping of {str: Tensor of shape (T, B)}
        Spikes of each part, which are changed.
    output : SNNOutput
        Of a run of n streams.
    awake, woken_at : Tensor of shape (n,), int64
        Which streams these are, and the timestep at which each has begun.
    """
    steps = len(next(iter(spikes.values())))
    counts_by_part = by_part(output.spikes_by_step)
    for step in range(int(output.steps.max())):
        now = woken_at + step
        runs = (output.steps > step) & (now < steps)
        for part, counts in counts_by_part.items():
            # "total" is no part; a part without layers has no Tensor.
            if part in spikes and isinstance(counts, torch.Tensor):
                spikes[part][now[runs], awake[runs]] += counts[step, runs].double()


def show_first_answers(
    answers: torch.Tensor, output: object, awake: torch.Tensor, woken_at: torch.Tensor
) -> None:
    """Write the answers so far into (T, B), where a stream runs for the first time.

    The other arguments are those of `add_spikes`.
    """
    is_first = woken_at == 0
    for step in range(int(output.steps.max())):
        now = woken_at + step
        shown = is_first & (output.steps > step) & (now < len(answers))
        answers[now[shown], awake[shown]] = output.logits_by_step[step, shown].argmax(1)


def differs(frames: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Return which frames (N, C, H, W) differ by EPSILON or more in a pixel, (N,)."""
    return ((frames - image).abs() >= EPSILON).flatten(1).any(1)


CASES = {
    "feedback": partial(streamed, FEEDBACK),
    "ramp": partial(streamed, FEEDBACK | {"engine": "dense", "model": RampSNN}),
    "baseline": partial(streamed, BASELINE),
    "send-on-delta": send_on_delta,
    "detector": detector,
}
CASES_WITH_FEEDBACK = ("feedback", "ramp")


# --- what they share


def leave_on(
    model: VGG_SNN_STDB_wFeedback, frames: Sequence[torch.Tensor], seed: int
) -> CaseResult:
    """Show frames (B, C, H, W) to a network that is left on, a timestep each.

    An answer is held while no class is ahead. Before one is, it is -1.
    """
    answers = []
    spikes = {}  # part -> counts (B,) of each timestep
    comparisons = 0
    answer = -1
    stream = model.stream(seed)
    with OperationCounter(model) as counter:
        for frame in frames:
            output = stream(frame, 1, frames=False)
            is_ahead = output_gap(output.logits) > 0
            answer = torch.where(is_ahead, output.logits.argmax(1), answer)
            answers.append(answer)
            comparisons += output.comparisons.double().mean()
            counts_of_layers = {
                name: counts[0].double() for name, counts in output.spikes_by_step.items()
            }
            no_spikes = torch.zeros(len(frame), dtype=torch.float64)
            for part, counts in by_part(counts_of_layers).items():
                # A part without layers has the number 0.0, which becomes a Tensor here.
                spikes.setdefault(part, []).append(counts + no_spikes)
    answers = torch.stack(answers)
    joules = joules_of(counter, answers.numel(), comparisons / len(answers))
    del spikes["total"]
    return CaseResult(
        answers,
        {part: torch.stack(counts) for part, counts in spikes.items()},
        dict(zip(ENERGIES, joules, strict=True)),
    )


def joules_of(counter: OperationCounter, images: int, comparisons: torch.Tensor) -> np.ndarray:
    """Return both energies per image (of a stream: per timestep), as in ENERGIES."""
    found = energies(counter.result(images), float(comparisons.double().mean()))
    return np.array([found[name] for name in ENERGIES])


def figures(scene: Scene, result: CaseResult) -> dict:
    """Return the figures of a case. The docstring of this file lists them."""
    labels = scene.labels
    steps_with_label = steps_since(changed(labels)) + 1  # 1 at the first
    is_labelled = labels >= 0
    is_right = result.answers == labels
    spikes = {part: counts.mean().item() for part, counts in result.spikes.items()}

    row = {
        "accuracy": is_right[is_labelled].double().mean().item(),
        "spikes": {**spikes, "total": sum(spikes.values())},
    }
    for name, joules in result.joules.items():
        row[name] = joules + energy_joules(result.compared, 0)
    frame_changes = changed(scene.frames.flatten(2)).any(-1)
    is_at_rest = steps_since(frame_changes) >= REST_STEPS
    row["at_rest"] = mean_of(sum(result.spikes.values()), is_at_rest)
    row["accuracy_since"] = []
    for step in range(1, CURVE_STEPS + 1):
        at_this_step = is_labelled & (steps_with_label == step)
        row["accuracy_since"].append(mean_of(is_right.double(), at_this_step))
    settled = settling(labels, is_right)
    row["within_6"] = None
    if len(settled):
        row["within_6"] = float((settled <= SETTLED_BY).mean())
    return row


def changed(values: torch.Tensor) -> torch.Tensor:
    """Return where values (N, ...) differ from those before them; True in the first."""
    first = torch.ones_like(values[:1], dtype=torch.bool)
    return torch.cat([first, values[1:] != values[:-1]])


def steps_since(happens: torch.Tensor) -> torch.Tensor:
    """Return how many timesteps ago something has happened last, (T, B).

    happens: bool (T, B), True in the first timestep.
    """
    step = torch.arange(len(happens))[:, None]
    last_step = torch.where(happens, step, 0).cummax(0).values
    return step - last_step


def mean_of(values: torch.Tensor, where: torch.Tensor) -> float | None:
    """Return the mean of the values where this holds, None if it holds nowhere."""
    return values[where].mean().item() if where.any() else None


def settling(labels: torch.Tensor, right: torch.Tensor) -> np.ndarray:
    """Find how fast the answer settles after each change of the label.

    Parameters
    ----------
    labels : Tensor of shape (T, B), int64
        -1 where nothing is to be answered.
    right : Tensor of shape (T, B), bool
        Whether the answer is the label.

    Returns
    -------
    array of shape (changes,)
        Of each label that lasts `SETTLED_BY` timesteps or more, except a stream's
        first: the timestep, from 1, from which the answer stays right; inf if it is
        wrong at the end.
    """
    found = []
    for stream_labels, stream_right in zip(labels.T.numpy(), right.T.numpy(), strict=True):
        starts = np.flatnonzero(np.diff(stream_labels, prepend=-2))
        ends = np.append(starts[1:], len(stream_labels))
        for start, end in zip(starts, ends, strict=True):
            is_change = start > 0 and stream_labels[start] >= 0
            if not is_change or end - start < SETTLED_BY:
                continue
            wrong = np.flatnonzero(~stream_right[start:end])
            if not len(wrong):
                found.append(1)
            elif wrong[-1] == end - start - 1:
                found.append(np.inf)
            else:
                found.append(wrong[-1] + 2)  # from 1, and one after the last wrong answer
    return np.array(found)


if __name__ == "__main__":
    run_script(main)
