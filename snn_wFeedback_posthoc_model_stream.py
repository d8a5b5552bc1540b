#!/usr/bin/env python3
"""Run a trained SNN on a stream of frames: prediction, spikes and open input after each frame."""

from pathlib import Path
from statistics import fmean

import torch

from harness import UserError
from harness.building.start import LEAKING
from harness.command_line.flags import add_baseline_flag, posthoc_parser
from harness.command_line.parser import SwitchAction, typed
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.scripts import run_script
from harness.data.scenes import SCENES, make_scene
from harness.data.sets import ImageSet
from harness.drawing.film import save_gif
from harness.drawing.reel import Reel, save_stream
from harness.runs.run import counted
from self_models.basics.settings import COUNT, POSITIVE
from self_models.running.outputs import PARTS
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

EPSILON = 0.2  # of a scene's flicker, 1 being a pixel's range, for a network without one


def build_parser(argv=None):
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN, without=("timesteps", "rule"))  # there is no last step
    group = parser.add_argument_group("stream")
    group.add_argument("--frames", default="", metavar="PATH", help="a folder of images, a GIF or video, or an array (N, C, H, "
                       "W) or (N, H, W) in .npy or .npz: no data set is needed then")  # fmt: skip
    group.add_argument("--scene", choices=list(SCENES), default=None, help="instead, a synthetic stream of test images")
    group.add_argument("--scene_frames", type=typed(COUNT), default=200, metavar="N", help="frames of a scene")
    add_baseline_flag(group, "the baseline's answers and spikes")
    group.add_argument("--steps_per_frame", type=typed(COUNT), default=None, metavar="K", help="default: 4, or 1 for a scene")
    group.add_argument("--invert", action=SwitchAction, default=False, help="swap dark and bright in --frames")
    group.add_argument("--frame_seconds", type=typed(POSITIVE), default=0.1, help="seconds per frame of the GIF")
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    if bool(args.frames) == bool(args.scene):
        raise UserError(f"give --frames PATH, or --scene with one of {', '.join(SCENES)}")
    args, start = resolve_evaluation(args)
    if start.settings.get("recorded_frames"):
        raise UserError("this script shows one image at a time, and the network takes recordings: the other post-hoc scripts do")
    if args.update == "phased":
        raise UserError("update phased answers one image after the other: a streaming network needs immediate, or delayed")
    posthoc = open_posthoc(args, start, InputBlockingSNN, "_posthoc_stream")
    run, baseline = posthoc.run, baseline_of(posthoc)
    what, frames = (f"scene {args.scene}", scene_of(posthoc)) if args.scene else (args.frames, posthoc.test)
    reel, lines = watched(posthoc, frames, f"{Path(start.path).stem}: {what}")
    beside, more = watched(baseline, frames, "", "baseline") if baseline else (None, ())
    run.result(*lines, *more)
    save_stream(run.picture(".png"), reel, beside)
    posthoc.wrote(".png")
    if film := reel.film():
        save_gif(run.picture(".gif"), film, args.frame_seconds)
        posthoc.wrote(".gif")
    return posthoc.finish()


def baseline_of(posthoc):
    """The Posthoc of the network of --baseline, None without the flag. One that was not trained to forget leaks. Raises UserError
    for one with a decoder."""
    if not (baseline := posthoc.baseline()):
        return None
    path = posthoc.args.baseline
    if baseline.model.has_feedback:
        raise UserError(f"--baseline {path} has a decoder: give a network without one; --pretrained_snn streams this one")
    if baseline.model.settings["output_leak"] == 1:
        baseline = posthoc.baseline(**LEAKING)
    posthoc.run.say(f"baseline {Path(path).stem}: " + ", ".join(f"{name} {baseline.model.settings[name]}" for name in LEAKING))
    return baseline


def scene_of(posthoc):
    """An ImageSet of the frames of one scene, which flickers by less than the network's epsilon."""
    args, model = posthoc.args, posthoc.model
    epsilon = model.settings.get("epsilon", 0.0) / (2 if model.image_shape[0] > 1 else 1) or EPSILON
    scene = make_scene(args.scene, posthoc.test, 1, args.scene_frames, args.seed, epsilon)
    return ImageSet(f"scene {args.scene}", scene.frames[:, 0], scene.labels[:, 0], names=tuple(model.classes))


def watched(posthoc, frames, title, which=""):
    """(the Reel of a network on these frames, figures of the whole stream as lines). What has come of each frame is said and
    recorded; which: of the networks, '' or 'baseline'."""
    model, args = posthoc.model, posthoc.args
    steps = args.steps_per_frame or (1 if args.scene else 4)
    reel, stream = Reel(model, steps * len(frames), title), model.stream(args.seed)
    for number in range(len(frames)):
        batch = frames.batch(torch.tensor([number]), posthoc.device)
        figures = reel.add(batch, stream(batch.images, steps))
        posthoc.run.begin()
        tell(posthoc, number, figures, which)
    return reel, conclude(posthoc, steps, which)


def tell(posthoc, number, figures, which):
    """What has come of a frame, as a line and as a record. figures: name -> (T,), of its steps."""
    run, records, names = posthoc.run, posthoc.records, posthoc.model.classes
    answer, label, sure, is_open = (figures[name][-1].item() for name in ("answer", "label", "sure", "open"))
    spikes = {part: figures[part].sum().item() for part in PARTS.values()}
    spikes["total"] = total = sum(spikes.values())
    answered, right = names[answer] if answer >= 0 else None, names[label] if label >= 0 else None
    record = {"event": f"{which}_frame".strip("_"), "frame": number, "answer": answered, "label": right, "sure": sure}
    record |= {"spikes": spikes, "open_share": is_open}
    changed = number == 0 or records[-1]["answer"] != answered
    records.append(record)
    run.record(**record)
    verdict = "" if right is None else ", right" if answered == right else f", wrong: {right}"
    said = "no answer" if answered is None else f"{answered} (certainty {100 * sure:.0f} %){verdict}"
    line = f"{said}; {total:,.0f} spike{'' if total == 1 else 's'}, {100 * is_open:.1f} % of the input open"
    (run.say if changed else run.note)(f"{which} frame {number}: {line}".strip())


def conclude(posthoc, steps, which):
    """The figures of the whole stream: lines of them, and a record. steps: of each frame."""
    rows, settings = posthoc.records, posthoc.model.settings
    spikes = [row["spikes"]["total"] for row in rows]
    silent, known = spikes.count(0) / len(rows), [row["answer"] == row["label"] for row in rows if row["label"] is not None]
    record = {"event": f"{which}_stream".strip("_"), **{name: settings[name] for name in LEAKING}}
    record |= {"frames": len(rows), "steps_per_frame": steps, "spikes_per_step": fmean(spikes) / steps, "silent_frames": silent}
    lines = [f"{record['spikes_per_step']:,.1f} spikes per timestep; no spike in {100 * silent:.0f} % of "
             f"{counted(len(rows), 'frame')} of {counted(steps, 'timestep')}"]  # fmt: skip
    if known:
        record["accuracy"] = fmean(known)
        lines.insert(0, f"accuracy {100 * record['accuracy']:.1f} %, over the {counted(len(known), 'frame')} with a label")
    posthoc.run.record(**record)
    posthoc.records.append(record)
    return [f"{which}: {line}".removeprefix(": ") for line in lines]


if __name__ == "__main__":
    run_script(main)
