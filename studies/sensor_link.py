"""Would prediction save events on your camera's link? Try it on a film of your own.

    python -m studies.sensor_link FILM

A sensor sends the pixels that a predictor misses by epsilon or more, and a receiver
rebuilds the film from them. This compares several predictors: it prints a table, and
makes a GIF and a plot. FILM is a video, an animated image or a folder of images. It is
used in grey, and reduced to --height.

docs/how_to/sensor_link.md explains what comes out.
"""

import argparse
from pathlib import Path
from textwrap import fill

import imageio.v3 as imageio
import matplotlib

matplotlib.use("Agg")  # no window

import matplotlib.pyplot as plt
import numpy as np
import torch
from tqdm import tqdm

from self_models.errors import ModelError, UserError
from self_models.evaluation.operations import conventions
from studies.link import (
    LinkCount,
    LinkFigures,
    Motion,
    MotionPredictor,
    SendOnDelta,
    price_that_pays,
    read_film,
    reduction_to,
    run_link,
)
from wfeedback.command_line.scripts import run_script

OTHER_EPSILONS = (0.05, 0.15, 0.2)  # of the plot, beside --epsilon

# How each arm finds the motion of blocks of 8 x 8 pixels. At the receiver, both sides
# find it from the frames before, so that nothing but missed pixels is sent. At the
# sender it is found in the frame itself, and each new shift of a block is an event.
MOTIONS = {
    "block matching at the receiver": Motion("matching", at_sender=False),
    "spiking competition at the receiver": Motion(
        "competition", at_sender=False, coupling=0.25, recruitment=0.25
    ),
    "block matching at the sender": Motion("matching", at_sender=True),
    "spiking competition at the sender": Motion(
        "competition", at_sender=True, coupling=0.1, recruitment=0.25
    ),
    "block matching as in a video codec": Motion(
        "matching", at_sender=True, sides=(4, 8, 16), half_pixels=True
    ),
}
SEND_ON_DELTA = "send-on-delta"
SHOWN = "spiking competition at the sender"  # whose prediction the GIF shows
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))


def new_predictor(arm: str, epsilon: float) -> SendOnDelta | MotionPredictor:
    """Return a predictor for one film."""
    if arm == SEND_ON_DELTA:
        return SendOnDelta()
    return MotionPredictor(MOTIONS[arm], epsilon)


def send_film(arm: str, frames: torch.Tensor, epsilon: float, bar: tqdm) -> tuple:
    """Send a film (T, H, W) over the link.

    Returns
    -------
    figures : LinkFigures
    predictions : list of Tensors of shape (H, W)
        Of each frame from the third on.
    sent : list of Tensors of shape (H, W), bool
        The pixels that were sent.
    """
    predictor = new_predictor(arm, epsilon)
    count = LinkCount(predictor)
    predictions = []
    sent = []
    steps = run_link(predictor, frames[None], epsilon)
    for step, frame in zip(steps, frames[2:], strict=True):
        count.add(step, frame[None])
        predictions.append(step.prediction[0])
        sent.append(step.events[0])
        bar.update()
    return count.figures(), predictions, sent


def computing(figures: LinkFigures) -> float:
    """Return what a predictor computes per frame, in joules, without memory."""
    price = conventions()["arithmetic_45nm"].picojoules
    return figures.computing_joules(price["add"] * 1e-12, price["multiply_add"] * 1e-12)


def print_table(results: dict[str, LinkFigures]) -> None:
    """Print a line for each arm."""
    none = results[SEND_ON_DELTA]
    print(f"{'':38} {'events':>8} {'of these':>9} {'times':>6} {'kbit':>6} {'pays above':>11}")
    print(f"{'per frame':38} {'':>8} {'shifts':>9} {'fewer':>6} {'':>6} {'nJ an event':>11}")
    for arm, figures in results.items():
        events = figures.events_per_frame()
        shifts = sum(figures.vectors) / len(figures.vectors)
        fewer = none.events_per_frame() / events if events else float("inf")
        price = price_that_pays(computing(figures), events, 0.0, none.events_per_frame())
        pays = "never"
        if price is not None:
            pays = f"{price * 1e9:.1f}"
        if arm == SEND_ON_DELTA:
            pays = ""
        kilobits = figures.entropy_bits / 1000
        print(f"{arm:38} {events:8.0f} {shifts:9.0f} {fewer:6.2f} {kilobits:6.1f} {pays:>11}")


def draw_gif(path: Path, frames: torch.Tensor, predictions: list, sent: dict[str, list]) -> None:
    """Draw each frame, its prediction, and the pixels that each arm sends of it."""
    panels = ["the film", f"predicted by {SHOWN}", *sent]
    columns = 4
    rows = -(-len(panels) // columns)
    height, width = frames.shape[1:]
    size = (2.4 * columns, (2.4 * height / width + 0.45) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", dpi=80)
    axes = axes.flatten()
    for axis in axes:
        axis.axis("off")
    pictures = []
    for number, prediction in enumerate(predictions):
        shown = [frames[number + 2], prediction]
        shown += [arm_sent[number].float() for arm_sent in sent.values()]
        for axis, title, pixels in zip(axes, panels, shown, strict=False):
            axis.clear()
            axis.axis("off")
            axis.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
            if title in sent:
                title = f"{title}: {int(pixels.sum())} pixels"
            axis.set_title(fill(title, 30), fontsize=8)
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())
    plt.close(figure)
    imageio.imwrite(path, pictures, duration=120, loop=0)


def draw_plot(path: Path, curves: dict[str, dict[float, float]]) -> None:
    """Plot the events of each arm against epsilon."""
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for (arm, curve), style in zip(curves.items(), LINE_STYLES, strict=True):
        epsilons = sorted(curve)
        events = [curve[epsilon] for epsilon in epsilons]
        axis.plot(epsilons, events, marker="o", markersize=4, linestyle=style, label=arm)
    axis.set_yscale("log")
    axis.set_ylim(top=axis.get_ylim()[1] * 4)  # room for the legend
    axis.set_xlabel("epsilon: tolerated error of a pixel (1 = black to white)")
    axis.set_ylabel("events over the link per frame")
    axis.legend(fontsize=8, frameon=False, ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("film", type=Path, help="a video, an animated image, or a folder")
    parser.add_argument("--frames", type=int, default=60, help="how many are used (60)")
    parser.add_argument("--height", type=int, default=144, help="at most, in pixels (144)")
    parser.add_argument("--epsilon", type=float, default=0.1, help="tolerance, 0 to 1 (0.1)")
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("sensor_link"),
        help="of GIF and plot (sensor_link)",
    )
    args = parser.parse_args(argv)
    if args.frames < 3:
        raise UserError(f"--frames {args.frames}: 3 or more are needed")
    if args.height < 16:
        raise UserError(f"--height {args.height}: 16 or more are needed")
    if not 0 < args.epsilon < 1:
        raise UserError(f"--epsilon {args.epsilon}: give a number between 0 and 1")
    return args


def main(argv: list[str] | None = None) -> None:
    """Send the film by each arm, and show what came out."""
    args = parse_arguments(argv)
    gif_path = args.output_dir / f"{args.film.stem}.gif"
    plot_path = args.output_dir / f"{args.film.stem}.png"
    for path in (gif_path, plot_path):
        if path.exists():
            raise UserError(f"{path} exists: move it away, or give another --output_dir")
    if not args.film.exists():
        raise UserError(f"{args.film}: there is no such file or folder")
    try:
        frames = read_film(args.film, reduction_to(args.film, args.height), args.frames)
    except ModelError as error:
        raise UserError(f"{args.film}: {error}") from None
    num_frames, height, width = frames.shape
    print(f"{args.film}: {num_frames} frames, in grey, {width} x {height}")

    arms = [SEND_ON_DELTA, *MOTIONS]
    epsilons = sorted({args.epsilon, *OTHER_EPSILONS})
    results = {}
    curves = {arm: {} for arm in arms}
    predictions = {}
    sent = {}
    with torch.no_grad(), tqdm(total=len(arms) * len(epsilons) * (num_frames - 2)) as bar:
        for arm in arms:
            bar.set_description(arm)
            for epsilon in epsilons:
                figures, predicted, pixels = send_film(arm, frames, epsilon, bar)
                curves[arm][epsilon] = figures.events_per_frame()
                if epsilon == args.epsilon:
                    results[arm] = figures
                    predictions[arm] = predicted
                    sent[arm] = pixels

    print_table(results)
    print(
        "An event costs about 0.02 to 0.07 nJ between chips of a board, 160 nJ or more by radio."
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    draw_gif(gif_path, frames, predictions[SHOWN], sent)
    draw_plot(plot_path, curves)
    print(f"{gif_path}, {plot_path}")


if __name__ == "__main__":
    run_script(main)
