#!/usr/bin/env python3
"""What could a decoder of the first layer save, and what would it cost? Decoders trained alone, on a network of gate once.

A decoder gets the first layer's spikes, summed over the steps so far, while pixels have still their turn to come, and corrects
the blind interpolation; network and images do not change. One JSON object per line: `surprises`, values sent after the first
grid, with the decoder and `blind`, without it; `spikes`, what the first layer sends in those steps. `scale`: what its threshold
is multiplied by, since it fires too little to tell much. `decoder`: linear, one 5x5 convolution; hidden, 32 rectified units
before it (5x5, not spiking); from the image, these with the interpolated image itself in place of spikes.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.facts import check_fits
from harness.data.sets import load_data
from self_models.basics.settings import COUNT, WHOLE, Number
from self_models.loading import load
from self_models.network.stages import list_layers, run_stage
from self_models.running.draws import shuffled

import torch
from torch import nn


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--pretrained_snn", required=True, metavar="PATH", help="checkpoint of a network of gate once")
    parser.add_argument("--dataset", required=True, metavar="NAME|FOLDER")
    parser.add_argument("--grid", type=typed(COUNT), default=None, help="of the first step; default: the network's")
    parser.add_argument("--epsilons", type=typed(Number(float)), nargs="+", default=[0.1, 0.15, 0.2])
    parser.add_argument("--scales", type=typed(Number(float)), nargs="+", default=[1.0, 0.5, 0.25, 0.125])
    parser.add_argument("--images", type=typed(COUNT), default=8000, metavar="N", help="the first N training images")
    parser.add_argument("--held_out", type=typed(COUNT), default=1000, metavar="N", help="measured on the last N of them all")
    parser.add_argument("--epochs", type=typed(COUNT), default=10)
    parser.add_argument("-s", "--seed", type=typed(WHOLE), default=0)
    return parser


def new_decoder(kind, inputs, outputs):
    """It begins with an output of 0, as if there were none."""
    last = nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)
    layers = [last]
    if kind != "linear":
        last = nn.Conv2d(32, outputs, 5, padding=2, bias=False)
        layers = [nn.Conv2d(inputs, 32, 5, padding=2, bias=False), nn.ReLU(), last]
    nn.init.zeros_(last.weight)
    return nn.Sequential(*layers)


def looked_at(model, images, decoder, from_image):
    """The steps of a run in which the decoder is asked. Returns its loss; surprises and spikes of the first layer, per image."""
    gate, view, memory, seen, loss, surprises, spikes = model.gate, model.gate.start(images), {}, 0, 0, 0, 0
    while gate.grid_at(view.known.step) > 1:
        with torch.no_grad():
            sent = run_stage("features", list_layers(model.features)[:2], view.image[None], memory)[0]
        spikes, seen = spikes + sent.sum(), view.image if from_image else seen + sent
        guess = gate.complete(decoder(seen) if decoder else torch.zeros_like(images), view)
        turn = gate.turn(view.known, gate.grid_at(view.known.step + 1))
        wrong = (images - guess)[turn]
        loss = loss + 3 * wrong.abs().mean() + (wrong**2).mean()  # the absolute error follows the surprises more closely
        view = gate.next_view(images, guess, view)
        surprises = surprises + view.events.sum()
    return loss, surprises.item() / len(images), spikes.item() / len(images)


def trained(model, train, kind, args):
    from_image = kind == "from the image"
    inputs = model.image_shape[0] if from_image else model.features[0].out_channels
    torch.manual_seed(args.seed)
    decoder = new_decoder(kind, inputs, model.image_shape[0])
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * -(-args.images // 64))
    for epoch in range(args.epochs):
        for index in shuffled(args.images, args.seed, epoch).split(64):
            optimizer.zero_grad()
            looked_at(model, train.batch(index).images, decoder, from_image)[0].backward()
            optimizer.step()
            schedule.step()
    return decoder


def cases(args):
    """(decoder, scale of the threshold)"""
    yield "from the image", 1.0
    for kind in ("linear", "hidden"):
        for scale in args.scales:
            yield kind, scale


def main(argv=None):
    args = build_parser().parse_args(argv)
    grid = {} if args.grid is None else {"grid": args.grid}
    model = load(args.pretrained_snn, engine="dense", gate="once", guess="prediction", epsilon=args.epsilons[0], **grid)
    train, held, _ = load_data(args.dataset, "", None, None, args.held_out, model.image_shape)
    check_fits(train, model)
    images, first = held.whole().images, model.features[1]
    threshold = first.threshold.item()
    for kind, scale in cases(args):
        first.threshold.data.fill_(scale * threshold)
        model.change(epsilon=args.epsilons[0])  # what it is trained with, whatever the case before was measured with
        began = time.perf_counter()
        decoder = trained(model, train, kind, args)
        seconds = time.perf_counter() - began
        for epsilon in args.epsilons:
            model.change(epsilon=epsilon)
            with torch.no_grad():
                (_, surprises, spikes), (_, blind, _) = (
                    looked_at(model, images, each, kind == "from the image") for each in (decoder, None)
                )
            row = {"decoder": kind, "scale": scale, "epsilon": epsilon, "grid": model.gate.grid, "images": len(images)}
            row |= {"surprises": surprises, "blind": blind, "spikes": spikes, "seconds": round(seconds)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    run_script(main)
