#!/usr/bin/env python3
"""Look at a trained SNN's predictions over time: a GIF with one frame per step, and a PNG of selected steps."""

from harness import UserError
from harness.command_line.flags import add_picture_flags, posthoc_parser
from harness.command_line.parser import typed
from harness.command_line.posthoc import open_posthoc
from harness.command_line.scripts import run_script
from harness.drawing.figures import film_of, save_contact_sheet, save_gif
from harness.drawing.plots import save_spikes_over_time
from harness.measuring.evaluation import spikes_over_time
from self_models.basics.settings import COUNT
from self_models.counting.spikes import by_part
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def build_parser():
    parser = posthoc_parser(__doc__, InputBlockingSNN)
    group = add_picture_flags(parser)
    group.add_argument("--chart_images", type=typed(COUNT), default=200, metavar="N", help="chart spikes of the first N")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    posthoc = open_posthoc(args, InputBlockingSNN, "_posthoc_analysis")
    model, run = posthoc.model, posthoc.run
    if not model.has_feedback:
        raise UserError(f"{args.architecture} has no decoder, so it predicts nothing: choose a plan named ..._wFeedback")
    batch = posthoc.shown()
    output, guesses, titles = posthoc.watch(batch)
    film = film_of(batch.images, output, guesses, titles, args.epsilon)
    save_gif(run.place.picture(".gif"), film, args.frame_seconds)
    save_contact_sheet(run.place.picture(".png"), film)
    many = posthoc.test.part(0, args.chart_images).whole(posthoc.device)
    spikes, open_share = spikes_over_time(model, many, args.seed)
    save_spikes_over_time(run.place.picture("_spikes.png"), spikes, open_share)
    for t in range(model.timesteps):
        error = (guesses[t] - batch.images).square().sum((1, 2, 3)).mean().item()
        blocked = film.blocked_share(t)
        run.say(f"step {t + 1}: squared error {error:.2f} per image, {100 * blocked:.1f} % of active pixels blocked")
        run.record(event="step", step=t + 1, squared_error=error, blocked_share=float(blocked), epsilon=args.epsilon)
    parts = by_part({name: count.mean().item() for name, count in output.spikes.items()})
    run.say("spikes per image: " + ", ".join(f"{part} {count:,.0f}" for part, count in parts.items()))
    for ending in (".gif", ".png", "_spikes.png"):
        run.say(f"wrote {run.place.picture(ending)}")
    posthoc.finish()


if __name__ == "__main__":
    run_script(main)
