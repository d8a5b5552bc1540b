"""Run a trained SNN on a stream of frames: prediction, spikes and open input after each frame."""  # noqa: W505

import wfeedback.idle_threads  # noqa: F401  (before torch)

from pathlib import Path
from statistics import fmean

import numpy as np

from self_models.checkpoints.files import load_checkpoint
from self_models.data.sets import ImageSet
from self_models.errors import UserError
from self_models.running.outputs import PARTS
from self_models.settings import COUNT, POSITIVE
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN
from wfeedback.arguments import Arguments
from wfeedback.building.models import lines_on_flags, new_snn, use_engine
from wfeedback.building.start import LEAKING, forgetting
from wfeedback.command_line.flags import add_baseline_flag
from wfeedback.command_line.parser import Parser, SwitchAction, flag_type
from wfeedback.command_line.posthoc import (
    choose_images,
    end_run,
    load_weights,
    open_baseline,
    open_evaluated,
    open_run,
    posthoc_parser,
)
from wfeedback.data.scenes import SCENES, make_scene
from wfeedback.drawing.film import save_gif
from wfeedback.drawing.reel import Reel, save_stream
from wfeedback.runs.run import Run, counted

EPSILON = 0.2  # of a scene's flicker, 1 being a pixel's range, for a network without one


def build_parser(argv: list[str] | None = None) -> Parser:
    """Return the parser. argv may have a --model, whose settings are flags, too."""
    # A stream has no last timestep.
    parser = posthoc_parser(__doc__, argv, InputBlockingSNN, without=("timesteps", "rule"))
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--frames",
        default="",
        metavar="PATH",
        help=(
            "a folder of images, a GIF or video, or an array (N, C, H, W) or (N, H, W) in .npy "
            "or .npz: no data set is needed then"
        ),
    )
    group.add_argument(
        "--scene",
        choices=list(SCENES),
        default=None,
        help="instead, a synthetic stream of test images",
    )
    group.add_argument(
        "--scene_frames",
        type=flag_type(COUNT),
        default=200,
        metavar="N",
        help="frames of a scene",
    )
    add_baseline_flag(group, "the baseline's answers and spikes")
    group.add_argument(
        "--steps_per_frame",
        type=flag_type(COUNT),
        default=None,
        metavar="K",
        help="default: 4, or 1 for a scene",
    )
    group.add_argument(
        "--invert", action=SwitchAction, default=False, help="swap dark and bright in --frames"
    )
    group.add_argument(
        "--frame_seconds",
        type=flag_type(POSITIVE),
        default=0.1,
        help="seconds per frame of the GIF",
    )
    return parser


def main(argv: list[str] | None = None) -> list[dict]:
    """Show a network a stream; return the records of each frame, and of the stream."""
    args = build_parser(argv).parse_args(argv)
    if bool(args.frames) == bool(args.scene):
        raise UserError(f"give --frames PATH, or --scene with one of {', '.join(SCENES)}")

    # --- the checkpoint, the network, and its images
    start = open_evaluated(args, streams=True)
    if start.settings.get("recorded_frames"):
        raise UserError(
            "this script shows one image at a time, and the network takes recordings: "
            "the other post-hoc scripts do"
        )
    model = new_snn(args, InputBlockingSNN)
    notes = list(lines_on_flags(args, model, start))
    images = choose_images(args, model, start)
    engine_line = use_engine(model, args)
    run = open_run(args, "_posthoc_stream")
    run.say(*notes, *images.notes, engine_line)
    load_weights(model, start, images, args, run)
    baseline = None
    if args.baseline:
        settings = load_checkpoint(args.baseline).get("settings", {})
        leaks = forgetting(settings, blocks=False)
        baseline = open_baseline(args, model, **leaks)
        described = ", ".join(f"{name} {leak}" for name, leak in leaks.items())
        run.say(f"baseline {Path(args.baseline).stem}: {described}")

    # --- the frames
    frames = images.test
    what = args.frames
    if args.scene:
        what = f"scene {args.scene}"
        scene = make_scene(
            args.scene, images.test, 1, args.scene_frames, args.seed, flicker_of(model)
        )
        names = tuple(model.classes)
        frames = ImageSet(what, scene.frames[:, 0], scene.labels[:, 0], names=names)

    # --- the stream, and its tables and pictures
    title = f"{Path(start.path).stem}: {what}"
    reel, records, lines = show_frames(model, frames, args, run, title)
    baseline_reel = None
    if baseline:
        baseline_reel, _, baseline_lines = show_frames(
            baseline, frames, args, run, "", "baseline "
        )
        lines += [f"baseline: {line}" for line in baseline_lines]
    run.result(*lines)
    pictures = [run.picture(".png")]
    save_stream(pictures[0], reel, baseline_reel)
    film = reel.film()
    if film:
        pictures.append(run.picture(".gif"))
        save_gif(pictures[1], film, args.frame_seconds)
    end_run(args, run, records, pictures)
    return records


def flicker_of(model: VGG_SNN_STDB_wFeedback) -> float:
    """Return by how much a scene may flicker: by less than the network's epsilon.

    1 is the range of a pixel, which is 2 on the scale of colour images.
    """
    epsilon = model.settings.get("epsilon", 0.0)
    if model.image_shape[0] > 1:
        epsilon = epsilon / 2
    return epsilon or EPSILON


def show_frames(
    model: VGG_SNN_STDB_wFeedback,
    frames: ImageSet,
    args: Arguments,
    run: Run,
    title: str,
    which: str = "",
) -> tuple[Reel, list[dict], list[str]]:
    """Show a network one frame after the other, and record what it says of each.

    A frame's line is printed where the answer changes, and else is in the log only.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
    frames : ImageSet
    args : Arguments
    run : Run
    title : str
        Of the pictures.
    which : {"", "baseline "}
        Which network it is.

    Returns
    -------
    reel : Reel
        What pictures show.
    records : list of dict
        One of each frame, and one of the stream.
    lines : list of str
        Figures of the stream, for the reader.
    """
    timesteps = args.steps_per_frame
    if timesteps is None:
        timesteps = 1 if args.scene else 4
    event = which.replace(" ", "_")
    device = next(model.parameters()).device
    reel = Reel(model, timesteps * len(frames), title)
    stream = model.stream(args.seed)
    run.begin()
    records = []
    for number, batch in enumerate(frames.batches(1, device)):
        figures = reel.add(batch, stream(batch.images, timesteps))
        record, line = describe_frame(figures, model.classes)
        is_same_answer = bool(records) and records[-1]["answer"] == record["answer"]
        record = {"event": f"{event}frame", "frame": number} | record
        records.append(record)
        run.record(**record)
        line = f"{which}frame {number}: {line}"
        if is_same_answer:
            run.note(line)
        else:
            run.say(line)

    summary, lines = describe_stream(records, timesteps)
    settings = {name: model.settings[name] for name in LEAKING}
    summary = {"event": f"{event}stream", **settings, **summary}
    records.append(summary)
    run.record(**summary)
    return reel, records, lines


def describe_frame(
    figures: dict[str, np.ndarray], names: list[str]
) -> tuple[dict[str, object], str]:
    """Return the record of a frame, and its line.

    Parameters
    ----------
    figures : dict of {str: ndarray of shape (T,)}
        Of the frame's T timesteps: "answer", "label", "sure", "open", and the spikes of
        each part. The last timestep counts; spikes are summed.
    names : list of str
        Of the classes.
    """
    answer = figures["answer"][-1].item()
    label = figures["label"][-1].item()
    certainty = figures["sure"][-1].item()
    open_share = figures["open"][-1].item()
    spikes = {part: figures[part].sum().item() for part in PARTS.values()}
    spikes["total"] = sum(spikes.values())
    answered = names[answer] if answer >= 0 else None
    right = names[label] if label >= 0 else None

    verdict = ""
    if right is not None and answered == right:
        verdict = ", right"
    elif right is not None:
        verdict = f", wrong: {right}"
    said = "no answer"
    if answered is not None:
        said = f"{answered} (certainty {100 * certainty:.0f} %){verdict}"
    count = counted(round(spikes["total"]), "spike")
    line = f"{said}; {count}, {100 * open_share:.1f} % of the input open"
    record = {
        "answer": answered,
        "label": right,
        "sure": certainty,
        "spikes": spikes,
        "open_share": open_share,
    }
    return record, line


def describe_stream(records: list[dict], timesteps: int) -> tuple[dict[str, object], list[str]]:
    """Return the figures of a whole stream, and lines on them.

    Parameters
    ----------
    records : list of dict
        One of each frame.
    timesteps : int
        Of each frame.
    """
    spikes = [record["spikes"]["total"] for record in records]
    labelled = [record for record in records if record["label"] is not None]
    figures = {
        "frames": len(records),
        "steps_per_frame": timesteps,
        "spikes_per_step": fmean(spikes) / timesteps,
        "silent_frames": spikes.count(0) / len(records),
    }
    lines = [
        f"{figures['spikes_per_step']:,.1f} spikes per timestep; no spike in "
        f"{100 * figures['silent_frames']:.0f} % of {counted(len(records), 'frame')} of "
        f"{counted(timesteps, 'timestep')}"
    ]
    if labelled:
        figures["accuracy"] = fmean(record["answer"] == record["label"] for record in labelled)
        count = counted(len(labelled), "frame")
        accuracy = 100 * figures["accuracy"]
        lines.insert(0, f"accuracy {accuracy:.1f} %, over the {count} with a label")
    return figures, lines
