#!/usr/bin/env python3
"""Run a trained SNN on a stream of frames: prediction, spikes and open input after each frame."""

import harness.idle_threads  # noqa: F401  (before torch)

from pathlib import Path
from statistics import fmean

from harness import UserError
from harness.building.start import LEAKING, forgetting
from harness.command_line.flags import add_baseline_flag, posthoc_parser
from harness.command_line.parser import SwitchAction, typed
from harness.command_line.posthoc import open_posthoc, resolve_evaluation
from harness.command_line.scripts import run_script
from harness.data.scenes import SCENES, make_scene
from harness.drawing.film import save_gif
from harness.drawing.reel import Reel, save_stream
from harness.runs.run import counted
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import COUNT, POSITIVE
from self_models.data.sets import ImageSet
from self_models.runtime.outputs import PARTS
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

EPSILON = 0.2  # of a scene's flicker, 1 being a pixel's range, for a network without one


def build_parser(argv=None):
    parser = posthoc_parser(
        __doc__, argv, InputBlockingSNN, without=("timesteps", "rule")
    )  # there is no last step
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--frames",
        default="",
        metavar="PATH",
        help="a folder of images, a GIF or video, or an array (N, C, H, "
        "W) or (N, H, W) in .npy or .npz: no data set is needed then",
    )
    group.add_argument(
        "--scene",
        choices=list(SCENES),
        default=None,
        help="instead, a synthetic stream of test images",
    )
    group.add_argument(
        "--scene_frames", type=typed(COUNT), default=200, metavar="N", help="frames of a scene"
    )
    add_baseline_flag(group, "the baseline's answers and spikes")
    group.add_argument(
        "--steps_per_frame",
        type=typed(COUNT),
        default=None,
        metavar="K",
        help="default: 4, or 1 for a scene",
    )
    group.add_argument(
        "--invert", action=SwitchAction, default=False, help="swap dark and bright in --frames"
    )
    group.add_argument(
        "--frame_seconds", type=typed(POSITIVE), default=0.1, help="seconds per frame of the GIF"
    )
    return parser


def main(argv=None):
    args = build_parser(argv).parse_args(argv)
    if bool(args.frames) == bool(args.scene):
        raise UserError(f"give --frames PATH, or --scene with one of {', '.join(SCENES)}")
    args, start = resolve_evaluation(args)
    if start.settings.get("recorded_frames"):
        raise UserError(
            "this script shows one image at a time, and the network takes recordings: the other post-hoc scripts do"
        )
    posthoc, beside, more = (
        open_posthoc(args, start, InputBlockingSNN, "_posthoc_stream"),
        None,
        [],
    )
    leaks = (
        forgetting(load_checkpoint(args.baseline).get("settings", {}), blocks=False)
        if args.baseline
        else {}
    )
    if baseline := posthoc.baseline(**leaks):
        posthoc.run.say(
            f"baseline {Path(args.baseline).stem}: {', '.join(f'{name} {leak}' for name, leak in leaks.items())}"
        )
    frames, what, model = posthoc.test, args.frames, posthoc.model
    if args.scene:  # it flickers by less than the network's epsilon
        epsilon = (
            model.settings.get("epsilon", 0.0) / (2 if model.image_shape[0] > 1 else 1) or EPSILON
        )
        scene, what = (
            make_scene(args.scene, frames, 1, args.scene_frames, args.seed, epsilon),
            f"scene {args.scene}",
        )
        frames = ImageSet(what, scene.frames[:, 0], scene.labels[:, 0], names=tuple(model.classes))
    reel, lines = watched(posthoc, frames, f"{Path(start.path).stem}: {what}")
    if baseline:
        beside, more = watched(baseline, frames, "", "baseline ")
    posthoc.run.result(*lines, *(f"baseline: {line}" for line in more))
    posthoc.draw(".png", save_stream, reel, beside)
    if film := reel.film():
        posthoc.draw(".gif", save_gif, film, args.frame_seconds)
    return posthoc.finish()


def watched(posthoc, frames, title, which=""):
    """(the Reel of a network on these frames, figures of the whole stream as lines). Each frame has a record and a line, which is
    printed where the answer changes. which: of the networks, '' or 'baseline '."""
    model, args, run, records = posthoc.model, posthoc.args, posthoc.run, posthoc.records
    steps, event = args.steps_per_frame or (1 if args.scene else 4), which.replace(" ", "_")
    reel, stream = Reel(model, steps * len(frames), title), model.stream(args.seed)
    run.begin()
    for number, batch in enumerate(frames.batches(1, posthoc.device)):
        record, line = of_frame(reel.add(batch, stream(batch.images, steps)), model.classes)
        say = run.note if records and records[-1]["answer"] == record["answer"] else run.say
        posthoc.keep({"event": f"{event}frame", "frame": number} | record)
        say(f"{which}frame {number}: {line}")
    spikes = [record["spikes"]["total"] for record in records]
    right = [
        record["answer"] == record["label"] for record in records if record["label"] is not None
    ]
    whole = {
        "event": f"{event}stream",
        **{name: model.settings[name] for name in LEAKING},
        "frames": len(frames),
    }
    whole |= {
        "steps_per_frame": steps,
        "spikes_per_step": fmean(spikes) / steps,
        "silent_frames": spikes.count(0) / len(frames),
    }
    lines = [
        f"{whole['spikes_per_step']:,.1f} spikes per timestep; no spike in {100 * whole['silent_frames']:.0f} % of "
        f"{counted(len(frames), 'frame')} of {counted(steps, 'timestep')}"
    ]
    if right:
        whole["accuracy"] = fmean(right)
        lines.insert(
            0,
            f"accuracy {100 * whole['accuracy']:.1f} %, over the {counted(len(right), 'frame')} with a label",
        )
    posthoc.keep(whole)
    return reel, lines


def of_frame(figures, names):
    """(record, line) of what has come of a frame. figures: name -> (T,), of its steps; names: of the classes."""
    answer, label, sure, is_open = (
        figures[name][-1].item() for name in ("answer", "label", "sure", "open")
    )
    spikes = {part: figures[part].sum().item() for part in PARTS.values()}
    spikes["total"] = sum(spikes.values())
    answered, right = names[answer] if answer >= 0 else None, names[label] if label >= 0 else None
    verdict = "" if right is None else ", right" if answered == right else f", wrong: {right}"
    said = (
        "no answer" if answered is None else f"{answered} (certainty {100 * sure:.0f} %){verdict}"
    )
    record = {
        "answer": answered,
        "label": right,
        "sure": sure,
        "spikes": spikes,
        "open_share": is_open,
    }
    return (
        record,
        f"{said}; {counted(round(spikes['total']), 'spike')}, {100 * is_open:.1f} % of the input open",
    )


if __name__ == "__main__":
    run_script(main)
