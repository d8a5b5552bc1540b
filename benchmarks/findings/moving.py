#!/usr/bin/env python3
"""Where does prediction pay? Digits that move, a sensor that sends events over a link, a receiver that rebuilds the frame.

For each seed trains the predictors and a classifier of single frames on scenes of training digits, then measures all arms on
scenes of test digits: one JSON object per seed, kind of scene and noise. docs/notebook/moving.md says what the figures mean,
docs/explanation/findings.md what came out. --folder keeps what is trained, which a second run reads, and rows.jsonl. --summary
PATH: the tables of such rows; results/moving.jsonl has ours.
"""

import argparse
import json
import sys
from collections import defaultdict
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from harness.data.scenes import KINDS, moving_scenes
from harness.data.sets import load_data
from harness.measuring.comparing import interval
from self_models.basics.settings import WHOLE
from self_models.counting.operations import conventions
from self_models.graph import GraphSNN
from self_models.network.graph import Graph
from self_models.network.neurons import SpikingNeuron
from self_models.network.surrogates import SURROGATES
from self_models.objectives.gates import Reconstruct
from self_models.running.draws import seed_for

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

FASTEST, SIZE, T = 2, 28, 16
VELOCITIES = [*product(range(-FASTEST, FASTEST + 1), repeat=2)]  # down, right
N = len(VELOCITIES)
TRAINED_ON = [("two", 0.0), ("one", 0.0), ("two", 0.01), ("two", 0.0), ("one", 0.01), ("turn", 0.0), ("two", 0.0), ("bar", 0.0)]
TESTED_ON = [(kind, noise) for kinds in (["one", "two"], ["turn", "bar", "still"]) for noise in (0.0, 0.01) for kind in kinds]
SINCE, TRAINING, SCENES = 5, 55_000, 100  # frames after news; digits, the others being for choices; per kind, noise and seed
GENERATIONS, UPDATES = 15, {"float": 3000, "plain": 3000, "classifier": 4000}  # of the search; of what gradients train
GATE = Reconstruct(epsilon=0.5)


# --- the predictor


def wrapped(x, margin):
    """Signals (..., C, H, W) on a torus, with a margin of what lies beyond each border."""
    return F.pad(x, (margin,) * 4, mode="circular")


class Predictor(nn.Module):
    """(B, 2, 28, 28), the last frame and the one before, -> a sum for each pixel of the next (B, 28, 28), white above 0; and what
    each layer sends, name -> (B, ...). In spikes, during T timesteps; else with ReLU, in one pass.

    D: two maps for each of 25 velocities, on blocks of 4 x 4 pixels: they spike where the block has more, or fewer, white pixels
    than it would had it moved so. V: in each block a race of the velocities, which D, in the 3 x 3 blocks around, holds back; the
    first to spike silence the others. M: white pixels that were there a frame ago, moved by a velocity that has won. The decoder
    moves M on. In spikes all this is wired by hand, but for eight numbers.
    """

    START = (0.0, 0.3, 0.2, 1.3, 0.9, 0.5, 0.44, 6.5)  # of wire; chosen on scenes of the last 5,000 training digits
    STEPS = (0.04, 0.04, 0.04, 0.1, 0.1, 0.1, 0.05, 0.5)  # of the search, at first

    def __init__(self, spiking=True):
        super().__init__()
        self.spiking = spiking
        self.to_d, self.to_v = nn.Conv2d(2, 2 * N, 8, 4), nn.Conv2d(2 * N, N, 3, groups=N)
        self.race, self.to_pixels = nn.Conv2d(N, N, 1, bias=False), nn.ConvTranspose2d(N, N, 4, 4, groups=N, bias=False)
        self.to_m, self.decoder = (nn.Conv2d(*of, 5, bias=not spiking) for of in ((2, N), (N, 1)))
        surrogate = SURROGATES["Triangle"](0, 0)
        self.d, self.v, self.m = (SpikingNeuron(surrogate, "immediate", *of) for of in ((1.0, 0.0), (1.0, 1.0), (2.5, 1.0)))
        if spiking:
            self.wire(*self.START)

    @torch.no_grad()
    def wire(self, corner, side, difference, around, beside, aslant, rate, silence):
        """Set all synapses. corner, side: weights of a block's pixels in D, the middle ones 1; difference: D's threshold; around,
        beside, aslant: of the block itself and its neighbours in V; rate: by which V rises in a timestep; silence: by which a
        spike of V holds back all."""
        for module in (self.to_d, self.to_m, self.decoder):
            module.weight.zero_()
        pixels, blocks = torch.full((4, 4), side), torch.full((3, 3), beside)
        pixels[1:3, 1:3], blocks[1, 1], pixels[::3, ::3], blocks[::2, ::2] = 1, around, corner, aslant
        for number, velocity in enumerate(VELOCITIES):
            row, column = (FASTEST - each for each in velocity)  # where what moved so comes from
            for map_, sign in ((2 * number, 1), (2 * number + 1, -1)):
                self.to_d.weight[map_, 0, 2:6, 2:6] = sign * pixels
                self.to_d.weight[map_, 1, row : row + 4, column : column + 4] = -sign * pixels
            self.to_m.weight[number, 0, FASTEST, FASTEST] = self.to_m.weight[number, 1, row, column] = 1
            self.decoder.weight[0, number, row, column] = 1
        self.to_d.bias.fill_(1 - max(difference, 0.01))
        self.to_v.weight[:] = -blocks
        self.to_v.bias.fill_(rate)
        self.race.weight.fill_(-silence)
        self.to_pixels.weight.fill_(1)

    def forward(self, frames):
        current, pixels = self.to_d(wrapped(frames, 2)), self.to_m(wrapped(frames, 2))
        d = self.d(current)[0] if self.spiking else current.relu()
        current, state, v = self.to_v(wrapped(d, 1)), None, []
        for _ in range(T if self.spiking else 0):
            now, state = self.v(current, state)
            v.append(now)
            current = self.to_v.bias.view(1, -1, 1, 1) + self.race(now)
        v = sum(v) if self.spiking else current.relu()
        pixels = pixels + self.to_pixels(v)  # at most one spike of M for each pixel: the sum stays below twice the threshold
        m = self.m(pixels)[0] if self.spiking else pixels.relu()
        return self.decoder(wrapped(m, 2))[:, 0] - 0.5 * self.spiking, {"D": d, "V": v, "M": m}

    def as_graph(self, engine="auto"):
        """The same as a GraphSNN, which takes in the first of T timesteps the frames with a margin of 10 pixels: what lies near
        its borders stands twice. Its logits are white above 0.5."""
        crop, to_pixels = nn.ConvTranspose2d(2, 2, 1, padding=6, bias=False), nn.ConvTranspose2d(N, N, 4, 4, 2, bias=False)
        crop.weight.data = torch.eye(2)[..., None, None]
        to_pixels.weight.data = self.to_pixels.weight * torch.eye(N)[..., None, None]
        modules = dict(self.named_children()) | {"crop": crop, "to_pixels": to_pixels}
        paths = "input to_d d to_v v to_pixels m decoder", "input crop to_m m", "v race v"
        edges = [edge for path in paths for edge in pairwise(path.split())]
        return GraphSNN(Graph(modules, edges, (2, SIZE + 20, SIZE + 20), {"output": "decoder"}), engine=engine).eval()


class Plain(nn.Module):
    """The trial's network: as Predictor, of two layers without a wired one; one timestep."""

    def __init__(self, maps=64):
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(2, maps, 5), nn.Conv2d(maps, 1, 5)
        self.neuron = SpikingNeuron(SURROGATES["Triangle"](0, 0), "immediate")

    def forward(self, frames):
        spikes = self.neuron(self.encoder(wrapped(frames, 2)) + 1)[0]
        return self.decoder(wrapped(spikes, 2))[:, 0], {"encoder": spikes}


# --- training, on digits that no test scene shows


def frames_of(scene):
    """(the last frame and the one before (N, T - 2, 2, 28, 28), the next frame (N, T - 2, 28, 28)), 0 and 1, of a Moving."""
    x = (scene.frames > 127).float()
    return torch.stack([x[:, 1:-1], x[:, :-2]], 2), x[:, 2:]


def drawn(digits, seed, kind, noise, scenes, frames):
    """frames_of such scenes, flat, without the frames after a change, which nobody foresees."""
    scene = moving_scenes(kind, digits, scenes, frames, seed, noise)
    foreseen = ~scene.changed[:, 2:].flatten()
    return [each.flatten(0, 1)[foreseen] for each in frames_of(scene)]


@torch.no_grad()
def search(model, digits, seed, price=0.02, candidates=12):
    """Wires a Predictor by an evolution strategy: normal draws around the mean of its numbers, in mirrored pairs; the better half
    moves the mean and the widths. What falls: events per frame, and `price` times the spikes inside."""
    random, mean, width = np.random.default_rng(seed_for(seed, "search")), np.array(model.START), np.array(model.STEPS)
    weight = np.log(candidates / 2 + 0.5) - np.log(np.arange(1, candidates // 2 + 1))
    weight /= weight.sum()
    for generation in range(GENERATIONS):
        batches = [drawn(digits, seed_for(seed, f"{generation} {i}"), *of, 4, 12) for i, of in enumerate(TRAINED_ON)]
        normal = random.normal(size=(candidates // 2, len(mean)))
        normal, costs = np.concatenate([normal, -normal]), []
        for each in normal:
            model.wire(*(mean + width * each))
            costs.append(0.0)
            for frames, following in batches:
                sums, sent = model(frames)
                costs[-1] += (((sums > 0) != following).sum() + price * sum(map(torch.sum, sent.values()))).item()
        best = normal[np.argsort(costs)[: candidates // 2]]
        mean = mean + width * (weight @ best)
        width = width * np.exp(0.15 * (weight @ best**2 - 1))
    model.wire(*mean)


def descend(model, loss_of, name, rate):
    """UPDATES of this name by Adam; loss_of: number of the update, kind of scene, noise -> loss."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES[name])
    for update in range(UPDATES[name]):
        optimizer.zero_grad()
        loss_of(update, *TRAINED_ON[update % len(TRAINED_ON)]).backward()
        optimizer.step()
        schedule.step()


def train_predictor(model, digits, seed, name, rate, penalty=0.0):
    """Trains by gradients; penalty: per spike, beside the cross-entropy of all pixels."""

    def loss_of(update, kind, noise):
        frames, following = drawn(digits, seed_for(seed, f"update {update}"), kind, noise, 12, 6)
        sums, sent = model(frames)
        loss = F.binary_cross_entropy_with_logits(sums, following, reduction="sum")
        return (loss + penalty * sum(map(torch.sum, sent.values()))) / len(sums)

    descend(model, loss_of, name, rate)


class Classifier(nn.Sequential):
    """Frames (B, 28, 28) -> a logit for each of ten classes, on a torus."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 16, 5, 2), nn.Conv2d(16, 48, 5, 2), nn.Conv2d(48, 48, 3), nn.Linear(48, 10))

    def forward(self, frames):
        *convolutions, last = self
        x = frames[:, None]
        for module, margin in zip(convolutions, (2, 2, 1), strict=True):
            x = module(wrapped(x, margin)).relu()
        return last(x.amax((2, 3)))


def train_classifier(model, digits, seed, labels):
    def loss_of(update, kind, noise):
        scene = moving_scenes(kind, digits, 64, 1, seed_for(seed, f"classifier {update}"), noise)
        seen = F.one_hot(labels[scene.digits[:, 0]], 10).amax(1).float()
        return F.binary_cross_entropy_with_logits(model((scene.frames[:, 0] > 127).float()), seen)

    descend(model, loss_of, "classifier", 4e-3)


def models(seed, folder, train):
    """Name -> model of this seed, from the folder or trained."""
    found = {}
    for name, build, fit in (
        ("ours", Predictor, search),
        ("float", partial(Predictor, spiking=False), partial(train_predictor, name="float", rate=1e-2)),
        ("plain", Plain, partial(train_predictor, name="plain", rate=2e-3, penalty=3e-4)),
        ("classifier", Classifier, partial(train_classifier, labels=train.labels[:TRAINING])),
    ):
        torch.manual_seed(seed_for(seed, name))
        path, model = folder / f"{name}_{seed}.pth", build()
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
        else:
            fit(model, train.images[:TRAINING, 0], seed)
            torch.save(model.state_dict(), path)
            print(path, file=sys.stderr, flush=True)
        found[name] = model.eval()
    return found


# --- the arms: (frames of a scene (N, 2, 28, 28), the last and the one before) -> the prediction (N, 28, 28), 0 or 1


def best_shift(frames, block=SIZE):
    """The last frame, each block of it moved as the last two frames agree best."""
    now, before = frames.unbind(1)
    misses = torch.stack([(before.roll(by, (1, 2)) != now).float() for by in VELOCITIES])
    misses = F.avg_pool2d(misses, block).argmin(0).repeat_interleave(block, 1).repeat_interleave(block, 2)
    return torch.stack([now.roll(by, (1, 2)) for by in VELOCITIES]).gather(0, misses[None])[0]


@torch.no_grad()
def measured(scene, labels, found):
    """The figures of a Moving, means per frame from the third on. events: of each arm over the link: in all, within SINCE frames
    from a change on, elsewhere. accuracy: on the frames, which each arm rebuilds."""
    arms = {
        "all pixels": lambda frames: torch.zeros_like(frames[:, 0]),
        "send-on-delta": lambda frames: frames[:, 0],
        "best shift": best_shift,
        "block matching": lambda frames: best_shift(frames, 7),
        "float network": lambda frames: found["float"](frames)[0] > 0,
        "trained from a random start": lambda frames: found["plain"](frames)[0] > 0,
        "ours": lambda frames: found["ours"](frames)[0] > 0,
    }
    events, inside, (frames, following) = defaultdict(list), defaultdict(list), frames_of(scene)
    for seen, true in zip(frames, following, strict=True):
        for name, predict in arms.items():
            view = GATE.next_view(true[:, None], predict(seen)[:, None].float(), None)
            assert torch.equal(view.image[:, 0], true)  # who receives the events rebuilds the frame
            events[name].append(view.events.sum((1, 2, 3)).double())
        for name, signal in found["ours"](seen)[1].items():
            inside[name].append(signal.sum((1, 2, 3)))
        # one for each synapse that a spike, or a white pixel, reaches; and V's neurons rise in each timestep
        white, (d, v, m) = seen.sum((1, 2, 3)), (inside[name][-1] for name in "DVM")
        inside["additions"].append(3 * N * white + 9 * d + (N + 16) * v + m + T * N * (SIZE // 4) ** 2)
        inside["plain"].append(found["plain"](seen)[1]["encoder"].sum((1, 2, 3)))
    news = F.pad(scene.changed[:, 1:], (SINCE, 0)).unfold(1, SINCE, 1).any(-1)[:, 2:]  # all is new in the first: no change
    events = {name: torch.stack(counts) for name, counts in events.items()}
    classes = F.one_hot(labels[scene.digits[:, 2:]], 10).amax(2)
    ranks = torch.stack([*map(found["classifier"], following)]).argsort(-1, descending=True).argsort(-1)
    right = ((ranks < classes.sum(-1, keepdim=True)) == (classes > 0)).all(-1)
    waits = waiting(right, (scene.digits[:, 2:] != scene.digits[:, 1:-1]).any(-1))
    return {
        "events": {name: [round(e.mean().item(), 3) for e in (each, each[news], each[~news])] for name, each in events.items()},
        "inside": {name: round(torch.cat(counts).double().mean().item(), 1) for name, counts in inside.items()},
        "accuracy": right.double().mean().item(),
        "frames_until_right": fmean(waits) if waits else None,
    }


def waiting(right, becomes):
    """Of each change of a digit: how many frames until the answer is right, 1 for at once; those that the next change, or the
    end, comes before are left out. right, becomes: bool (N, T)."""
    found = []
    for answers, changes in zip(right, becomes, strict=True):
        for begun, ended in pairwise([*changes.nonzero().flatten().tolist(), len(changes)]):
            found += (answers[begun:ended].nonzero()[:1, 0] + 1).tolist()
    return found


# --- what the rows say together


def in_words(values, form):
    if None in values:
        return "-"
    mean, half, _ = interval(values)
    return f"{mean:{form}}" + (f" ± {half:{form}}" if half is not None else "")


def computing(row):
    """nJ per frame of two predictors, at arithmetic_45nm."""
    return 2 * row["inside"]["additions"] * conventions()["arithmetic_45nm"].picojoules["add"] / 1000


def price(row):
    """nJ of an event at which ours and send-on-delta cost the same, None where ours sends more."""
    fewer = row["events"]["send-on-delta"][0] - row["events"]["ours"][0]
    return computing(row) / fewer if fewer > 0 else None


def by_kind(rows, noise=0.0):
    """Kind of scene -> its rows with this noise."""
    return {kind: [row for row in rows if (row["kind"], row["noise"]) == (kind, noise)] for kind in KINDS}


def summary(rows, noise):
    """The table of the rows with this noise: arms, then what else is measured, by kind of scene."""
    kinds = by_kind(rows, noise)
    yield "| | " + " | ".join(kinds) + " |"
    yield "| --- |" + " --- |" * len(kinds)
    for name, form, figure in (
        *((arm, ".1f", lambda row, arm=arm: row["events"][arm][0]) for arm in rows[0]["events"]),
        ("ours, after news", ".1f", lambda row: row["events"]["ours"][1]),
        ("ours, elsewhere", ".1f", lambda row: row["events"]["ours"][2]),
        ("send-on-delta : ours", ".2f", lambda row: row["events"]["send-on-delta"][0] / row["events"]["ours"][0]),
        ("best shift - ours", ".1f", lambda row: row["events"]["best shift"][0] - row["events"]["ours"][0]),
        ("spikes inside, ours", ".0f", lambda row: sum(row["inside"][name] for name in "DVM")),
        ("spikes inside, random start", ".0f", lambda row: row["inside"]["plain"]),
        ("additions, ours, thousands", ".1f", lambda row: row["inside"]["additions"] / 1000),
        ("price of an event, nJ", ".2f", price),
        ("accuracy, %", ".1f", lambda row: 100 * row["accuracy"]),
        ("frames until right", ".2f", lambda row: row["frames_until_right"]),
    ):
        yield f"| {name} | " + " | ".join(in_words([figure(row) for row in of], form) for of in kinds.values()) + " |"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=typed(WHOLE), nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/moving"))
    parser.add_argument("--summary", type=Path, metavar="PATH")
    asked = parser.parse_args(argv)
    if asked.summary:
        for noise in (0.0, 0.01):
            print(*summary(rows_of(asked.summary), noise), "", sep="\n")
        return
    train, _, test = load_data("MNIST")
    asked.folder.mkdir(parents=True, exist_ok=True)
    found = {seed: models(seed, asked.folder, train) for seed in asked.seeds}
    with (asked.folder / "rows.jsonl").open("w") as file:
        for (kind, noise), seed in product(TESTED_ON, asked.seeds):
            scene = moving_scenes(kind, test.images[:, 0], SCENES, 60, seed_for(seed, "test"), noise)
            row = {"kind": kind, "noise": noise, "seed": seed, "scenes": SCENES}
            print(json.dumps(row | measured(scene, test.labels, found[seed])), file=file, flush=True)


if __name__ == "__main__":
    run_script(main)
