#!/usr/bin/env python3
"""Where does prediction pay? Digits that move, a sensor that sends events over a link, a receiver that rebuilds the frame.

For each seed trains the predictors and a classifier of single frames on scenes of training digits, then measures all arms on
scenes of test digits: one JSON object per seed, kind of scene and noise. docs/notebook/moving.md says what the figures mean,
docs/explanation/motion.md what came out. --grey: grey scenes, by epsilon, an object for each arm and epsilon. --folder keeps
what is trained, which a second run reads, and the rows. --summary PATH: the tables of rows; results/moving*.jsonl are ours.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from functools import partial
from itertools import pairwise, product, takewhile
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.command_line.parser import flag_type
from harness.command_line.scripts import run_script
from harness.data.scenes import KINDS, moving_scenes
from harness.measuring.comparing import interval
from self_models.basics.settings import WHOLE
from self_models.counting.operations import conventions
from self_models.data.sets import load_data
from self_models.guests.nir.graph_snn import GraphSNN
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.surrogates import SURROGATES
from self_models.objectives.gates import Reconstruct
from self_models.runtime.draws import seed_for
from self_models.runtime.graph import Graph

FASTEST, SIZE, T = 2, 28, 16
VELOCITIES = [*product(range(-FASTEST, FASTEST + 1), repeat=2)]  # down, right
N = len(VELOCITIES)
TRAINED_ON = [
    ("two", 0.0),
    ("one", 0.0),
    ("two", 0.01),
    ("two", 0.0),
    ("one", 0.01),
    ("turn", 0.0),
    ("two", 0.0),
    ("bar", 0.0),
]
TESTED_ON = [
    (kind, noise)
    for kinds in (["one", "two"], ["turn", "bar", "still"])
    for noise in (0.0, 0.01)
    for kind in kinds
]
SINCE, TRAINING = 5, 55_000  # frames after news; digits, the others being for choices
SCENES = 100  # per kind, noise and seed
FRAMES = 60  # of a test scene
GENERATIONS, UPDATES = (
    15,
    {"float": 3000, "plain": 3000, "classifier": 4000, "grey_float": 1500},
)  # of search, by gradients
GATE = Reconstruct(epsilon=0.5)
EPSILONS, LEVELS, LOST = (
    (0.05, 0.1, 0.2, 0.3, 0.4),
    15,
    0.3,
)  # in grey; of a spike, above 0; at most, points of accuracy


# --- the predictor


def wrapped(x, margin):
    """Signals (..., C, H, W) on a torus, with a margin of what lies beyond each border."""
    return F.pad(x, (margin,) * 4, mode="circular")


def moved(maps):
    """A map for each velocity (N, B, H, W), or one for all (B, H, W), moved by it on a torus: (N, B, H, W)."""
    return torch.stack(
        [
            of.roll(by, (1, 2))
            for of, by in zip(maps.expand(N, *maps.shape[-3:]), VELOCITIES, strict=True)
        ]
    )


class Predictor(nn.Module):
    """(B, 2, 28, 28), the last frame and the one before, -> a sum for each pixel of the next (B, 28, 28), white above 0; and what
    each layer sends, name -> (B, ...). In spikes, during T timesteps; else with ReLU, in one pass.

    D: two maps for each of 25 velocities, on blocks of 4 x 4 pixels: they spike where the block has more, or fewer, white pixels
    than it would had it moved so. V: in each block a race of the velocities, which D, in the 3 x 3 blocks around, holds back; the
    first to spike silence the others. M: white pixels that were there a frame ago, moved by a velocity that has won. The decoder
    moves M on. In spikes all this is wired by hand, but for eight numbers.

    graded, in grey: (B, 2, 28, 28), 0 to 1, -> the next frame. M sends the smaller of its two pixels, in LEVELS, as one graded
    spike, or a train of one for each level; the decoder shows the largest that arrives. In black and white, the same as above.
    Not in spikes: a sigmoid of the sums.
    """

    START = (
        0.0,
        0.3,
        0.2,
        1.3,
        0.9,
        0.5,
        0.44,
        6.5,
    )  # of wire; chosen on scenes of the last 5,000 training digits
    STEPS = (0.04, 0.04, 0.04, 0.1, 0.1, 0.1, 0.05, 0.5)  # of the search, at first

    def __init__(self, spiking=True, graded=False):
        super().__init__()
        self.spiking, self.graded = spiking, graded
        self.to_d, self.to_v = nn.Conv2d(2, 2 * N, 8, 4), nn.Conv2d(2 * N, N, 3, groups=N)
        self.race, self.to_pixels = (
            nn.Conv2d(N, N, 1, bias=False),
            nn.ConvTranspose2d(N, N, 4, 4, groups=N, bias=False),
        )
        self.to_m, self.decoder = (nn.Conv2d(*of, 5, bias=not spiking) for of in ((2, N), (N, 1)))
        surrogate = SURROGATES["Triangle"](0, 0)
        self.d, self.v, self.m = (
            SpikingNeuron(surrogate, "immediate", *of)
            for of in ((1.0, 0.0), (1.0, 1.0), (2.5, 1.0))
        )
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
        pixels[1:3, 1:3], blocks[1, 1], pixels[::3, ::3], blocks[::2, ::2] = (
            1,
            around,
            corner,
            aslant,
        )
        for number, velocity in enumerate(VELOCITIES):
            row, column = (FASTEST - each for each in velocity)  # where what moved so comes from
            for map_, sign in ((2 * number, 1), (2 * number + 1, -1)):
                self.to_d.weight[map_, 0, 2:6, 2:6] = sign * pixels
                self.to_d.weight[map_, 1, row : row + 4, column : column + 4] = -sign * pixels
            self.to_m.weight[number, 0, FASTEST, FASTEST] = self.to_m.weight[
                number, 1, row, column
            ] = 1
            self.decoder.weight[0, number, row, column] = 1
        self.to_d.bias.fill_(1 - max(difference, 0.01))
        self.to_v.weight[:] = -blocks
        self.to_v.bias.fill_(rate)
        self.race.weight.fill_(-silence)
        self.to_pixels.weight.fill_(1)

    def forward(self, frames):
        current = self.to_d(wrapped(frames, 2))
        d = self.d(current)[0] if self.spiking else current.relu()
        current, state, v = self.to_v(wrapped(d, 1)), None, []
        for _ in range(T if self.spiking else 0):
            now, state = self.v(current, state)
            v.append(now)
            current = self.to_v.bias.view(1, -1, 1, 1) + self.race(now)
        v = sum(v) if self.spiking else current.relu()
        if self.graded and self.spiking:
            now, before = frames.unbind(1)
            m = torch.minimum(now, moved(before)) * (self.to_pixels(v).transpose(0, 1) > 0)
            m = (LEVELS * m).round() / LEVELS
            return moved(m).amax(0), {"D": d, "V": v, "M": m.transpose(0, 1)}
        pixels = self.to_m(wrapped(frames, 2)) + self.to_pixels(v)
        m = (
            self.m(pixels)[0] if self.spiking else pixels.relu()
        )  # one spike at most: pixels stay below twice the threshold
        sums = self.decoder(wrapped(m, 2))[:, 0] - 0.5 * self.spiking
        return sums.sigmoid() if self.graded else sums, {"D": d, "V": v, "M": m}

    def as_graph(self, engine="auto"):
        """The same as a GraphSNN, which takes in the first of T timesteps the frames with a margin of 10 pixels: what lies near
        its borders stands twice. Its logits are white above 0.5."""
        crop, to_pixels = (
            nn.ConvTranspose2d(2, 2, 1, padding=6, bias=False),
            nn.ConvTranspose2d(N, N, 4, 4, 2, bias=False),
        )
        crop.weight.data = torch.eye(2)[..., None, None]
        to_pixels.weight.data = self.to_pixels.weight * torch.eye(N)[..., None, None]
        modules = dict(self.named_children()) | {"crop": crop, "to_pixels": to_pixels}
        paths = "input to_d d to_v v to_pixels m decoder", "input crop to_m m", "v race v"
        edges = [edge for path in paths for edge in pairwise(path.split())]
        return GraphSNN(
            Graph(modules, edges, (2, SIZE + 20, SIZE + 20), {"output": "decoder"}), engine=engine
        ).eval()


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
    x = scene.frames / 255
    return torch.stack([x[:, 1:-1], x[:, :-2]], 2), x[:, 2:]


def drawn(digits, seed, kind, noise, scenes, frames):
    """frames_of such scenes, flat, without the frames after a change, which nobody foresees."""
    scene = moving_scenes(kind, digits, scenes, frames, seed, noise)
    foreseen = ~scene.changed[:, 2:].flatten()
    return [each.flatten(0, 1)[foreseen] for each in frames_of(scene)]


def drawn_in_grey(digits, seed, kind, noise, scenes, frames):
    """Such scenes (B, T, 28, 28), 0 to 1, and one of EPSILONS for each, (B, 1, 1, 1)."""
    epsilon = np.random.default_rng(seed).choice(np.float32(EPSILONS), (scenes, 1, 1, 1))
    return moving_scenes(
        kind, digits, scenes, frames, seed, noise, grey=True
    ).frames / 255, torch.from_numpy(epsilon)


def rebuilt_in_turn(predict, frames, epsilon):
    """Of each frame from the third on, of scenes (B, T, 28, 28): the last two as they were rebuilt, what predict makes of them,
    the receiver's View. The first two frames come whole. No gradient goes through what is rebuilt."""
    gate, seen = Reconstruct(epsilon=epsilon), frames[:, [1, 0]]
    for true in frames[:, 2:].unbind(1):
        prediction, sent = predict(seen)
        view = gate.next_view(true[:, None], prediction.detach()[:, None].clamp(0, 1), None)
        yield seen, prediction, sent, view
        seen = torch.cat([view.image, seen[:, :1]], 1)


def cost(model, digits, seed, generation, price=0.02):
    """Of a Predictor on 32 scenes of this generation: events, and `price` times the spikes inside."""
    found = 0.0
    for i, of in enumerate(TRAINED_ON):
        frames, following = drawn(digits, seed_for(seed, f"{generation} {i}"), *of, 4, 12)
        sums, sent = model(frames)
        found += (
            ((sums > 0) != following).sum() + price * sum(map(torch.sum, sent.values()))
        ).item()
    return found


def cost_in_the_loop(model, digits, seed, generation, price=0.02):
    """The same in grey, of one that sees what it has rebuilt. A graded spike is one."""
    drawn = (
        drawn_in_grey(digits, seed_for(seed, f"{generation} {i}"), *of, 4, 12)
        for i, of in enumerate(TRAINED_ON)
    )
    found = rebuilt_in_turn(model, *map(torch.cat, zip(*drawn, strict=True)))
    return sum(
        (view.events.sum() + price * sum(map(torch.count_nonzero, sent.values()))).item()
        for _, _, sent, view in found
    )


@torch.no_grad()
def search(model, digits, seed, cost=cost, candidates=12):
    """Wires a Predictor by an evolution strategy: normal draws around the mean of its numbers, in mirrored pairs; the better half
    moves the mean and the widths. What falls: cost(model, digits, seed, generation)."""
    random, mean, width = (
        np.random.default_rng(seed_for(seed, "search")),
        np.array(model.START),
        np.array(model.STEPS),
    )
    weight = np.log(candidates / 2 + 0.5) - np.log(np.arange(1, candidates // 2 + 1))
    weight /= weight.sum()
    for generation in range(GENERATIONS):
        normal = random.normal(size=(candidates // 2, len(mean)))
        normal, costs = np.concatenate([normal, -normal]), []
        for each in normal:
            model.wire(*(mean + width * each))
            costs.append(cost(model, digits, seed, generation))
        best = normal[np.argsort(costs)[: candidates // 2]]
        mean = mean + width * (weight @ best)
        width = width * np.exp(0.15 * (weight @ best**2 - 1))
    model.wire(*mean)


def descend(model, digits, seed, loss, name, rate, purpose="update", after=None):
    """UPDATES of this name by Adam. loss: model, digits, seed of the update, kind of scene, noise -> what falls. after: name ->
    model, of which the float network is the start."""
    if after:
        model.load_state_dict(after["float"].state_dict())
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES[name])
    for update in range(UPDATES[name]):
        optimizer.zero_grad()
        loss(
            model,
            digits,
            seed_for(seed, f"{purpose} {update}"),
            *TRAINED_ON[update % len(TRAINED_ON)],
        ).backward()
        optimizer.step()
        schedule.step()


def loss_of_pixels(model, digits, seed, *of, penalty=0.0):
    """The cross-entropy of all pixels, and `penalty` times the spikes."""
    frames, following = drawn(digits, seed, *of, 12, 6)
    sums, sent = model(frames)
    loss = F.binary_cross_entropy_with_logits(sums, following, reduction="sum")
    return (loss + penalty * sum(map(torch.sum, sent.values()))) / len(sums)


def loss_in_the_loop(model, digits, seed, *of):
    """In grey, log(1 + error / 0.1) of all pixels, of a network that sees what it has rebuilt."""
    frames, epsilon = drawn_in_grey(digits, seed, *of, 5, 7)
    found = zip(rebuilt_in_turn(model, frames, epsilon), frames[:, 2:].unbind(1), strict=True)
    return (
        sum((10 * (prediction - true).abs()).log1p().sum() for (_, prediction, *_), true in found)
        / 25
    )


class Classifier(nn.Sequential):
    """Frames (B, 28, 28) -> a logit for each of ten classes, on a torus."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 5, 2),
            nn.Conv2d(16, 48, 5, 2),
            nn.Conv2d(48, 48, 3),
            nn.Linear(48, 10),
        )

    def forward(self, frames):
        *convolutions, last = self
        x = frames[:, None]
        for module, margin in zip(convolutions, (2, 2, 1), strict=True):
            x = module(wrapped(x, margin)).relu()
        return last(x.amax((2, 3)))


def loss_of_classes(model, digits, seed, kind, noise, labels, grey=False):
    scene = moving_scenes(kind, digits, 64, 1, seed, noise, grey)
    seen = F.one_hot(labels[scene.digits[:, 0]], 10).amax(1).float()
    return F.binary_cross_entropy_with_logits(model(scene.frames[:, 0] / 255), seen)


def models(seed, folder, train, grey=False):
    """Name -> model of this seed, from the folder or trained."""
    classes, found = partial(loss_of_classes, labels=train.labels[:TRAINING], grey=grey), {}
    to_classify = partial(
        descend, loss=classes, name="classifier", rate=4e-3, purpose="classifier"
    )
    to_grey = partial(descend, loss=loss_in_the_loop, name="grey_float", rate=5e-3, after=found)
    in_black_and_white = (
        ("ours", Predictor, search),
        (
            "float",
            partial(Predictor, spiking=False),
            partial(descend, loss=loss_of_pixels, name="float", rate=1e-2),
        ),
        (
            "plain",
            Plain,
            partial(descend, loss=partial(loss_of_pixels, penalty=3e-4), name="plain", rate=2e-3),
        ),
        ("classifier", Classifier, to_classify),
    )
    in_grey = (
        ("grey_ours", partial(Predictor, graded=True), partial(search, cost=cost_in_the_loop)),
        in_black_and_white[1],  # the float network, from which that in grey begins
        ("grey_float", partial(Predictor, spiking=False, graded=True), to_grey),
        ("grey_classifier", Classifier, to_classify),
    )
    for name, build, fit in in_grey if grey else in_black_and_white:
        torch.manual_seed(seed_for(seed, name))
        path, model = folder / f"{name}_{seed}.pth", build()
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
        else:
            fit(model, train.images[:TRAINING, 0], seed)
            torch.save(model.state_dict(), path)
            print(path, file=sys.stderr, flush=True)
        found[name.removeprefix("grey_")] = model.eval()
    return found


# --- the arms: (frames of a scene (N, 2, 28, 28), the last and the one before) -> the prediction (N, 28, 28)


def best_shift(frames, block=SIZE):
    """The last frame, each block of it moved as the last two frames agree best."""
    now, before = frames.unbind(1)
    misses = (moved(before) - now).abs()
    misses = (
        F.avg_pool2d(misses, block)
        .argmin(0)
        .repeat_interleave(block, 1)
        .repeat_interleave(block, 2)
    )
    return moved(now).gather(0, misses[None])[0]


UNTRAINED = {
    "all pixels": lambda frames: torch.zeros_like(frames[:, 0]),
    "send-on-delta": lambda frames: frames[:, 0],
    "best shift": best_shift,
    "block matching": partial(best_shift, block=7),
}


def right_answers(scene, frames, labels, classifier):
    """Where its best are the classes seen in a Moving, and no other: bool (N, T - 2), of frames (N, T - 2, 28, 28)."""
    classes = F.one_hot(labels[scene.digits[:, 2:]], 10).amax(2)
    ranks = torch.stack([*map(classifier, frames)]).argsort(-1, descending=True).argsort(-1)
    return ((ranks < classes.sum(-1, keepdim=True)) == (classes > 0)).all(-1)


def by_news(events, scene):
    """Means of events per frame of a Moving (N, T - 2): of all, within SINCE frames from a change on, elsewhere."""
    news = (
        F.pad(scene.changed[:, 1:], (SINCE, 0)).unfold(1, SINCE, 1).any(-1)[:, 2:]
    )  # all is new in the first: no change
    return [round(each.mean().item(), 3) for each in (events, events[news], events[~news])]


def counted(seen, sent, grey=False):
    """Of a Predictor, in all, on frames (B, 2, 28, 28): spikes of D, V and M; additions, one for each synapse that a spike, or a
    pixel, reaches, as V's neurons rise in each timestep, too. In grey a pixel is multiplied in D, and M has trains of spikes."""
    pixels, (d, v, m) = (
        seen.count_nonzero().item(),
        (sent[name].count_nonzero().item() for name in "DVM"),
    )
    to_d, additions = (
        2 * N * pixels,
        N * pixels + 9 * d + (N + 16) * v + m + len(seen) * T * N * (SIZE // 4) ** 2,
    )
    of_grey = (
        {"multiply_adds": to_d, "trains": round(LEVELS * sent["M"].sum().item())} if grey else {}
    )
    return {"D": d, "V": v, "M": m, "additions": additions + to_d * (not grey)} | of_grey


@torch.no_grad()
def measured(scene, labels, found):
    """Of a Moving, means per frame from the third on. accuracy: on the frames, which every arm rebuilds."""
    trained = {"float network": "float", "trained from a random start": "plain", "ours": "ours"}
    arms = {
        arm: lambda frames, name=name: found[name](frames)[0] > 0 for arm, name in trained.items()
    }
    events, inside, (frames, following) = defaultdict(list), Counter(), frames_of(scene)
    for seen, true in zip(frames, following, strict=True):
        for name, predict in (UNTRAINED | arms).items():
            view = GATE.next_view(true[:, None], predict(seen)[:, None].float(), None)
            assert torch.equal(
                view.image[:, 0], true
            )  # who receives the events rebuilds the frame
            events[name].append(view.events.sum((1, 2, 3)).double())
        inside.update(counted(seen, found["ours"](seen)[1]))
        inside["plain"] += int(found["plain"](seen)[1]["encoder"].sum())
    right = right_answers(scene, following, labels, found["classifier"])
    waits = waiting(right, (scene.digits[:, 2:] != scene.digits[:, 1:-1]).any(-1))
    yield {
        "events": {name: by_news(torch.stack(counts), scene) for name, counts in events.items()},
        "inside": {name: round(count / right.numel(), 1) for name, count in inside.items()},
        "accuracy": right.double().mean().item(),
        "frames_until_right": fmean(waits) if waits else None,
    }


@torch.no_grad()
def measured_in_grey(scene, labels, found):
    """Of each arm and epsilon, in a loop of its own: events, as above, and the accuracy on the frames that its receiver rebuilds;
    of_true: on the true ones."""
    arms = {
        name: lambda seen, predict=predict: (predict(seen), {})
        for name, predict in UNTRAINED.items()
    }
    arms |= {"float network": found["float"], "ours": found["ours"]}
    frames, right = (
        scene.frames / 255,
        partial(right_answers, scene, labels=labels, classifier=found["classifier"]),
    )
    of_true = right(frames[:, 2:]).double().mean().item()
    for (name, predict), epsilon in product(arms.items(), EPSILONS):
        events, rebuilt, inside = [], [], Counter()
        for seen, _, sent, view in rebuilt_in_turn(predict, frames, epsilon):
            events.append(view.events.sum((1, 2, 3)).double())
            rebuilt.append(view.image[:, 0])
            inside.update(counted(seen, sent, grey=True) if name == "ours" else {})
        inside = {
            name: round(count / scene.changed[:, 2:].numel(), 1) for name, count in inside.items()
        }
        row = {
            "arm": name,
            "epsilon": epsilon,
            "events": by_news(torch.stack(events, 1), scene),
            "inside": inside,
        }
        accuracy = right(torch.stack(rebuilt, 1)).double().mean().item()
        yield row | {
            "accuracy": accuracy,
            "of_true": of_true,
            "points_lost": 100 * (of_true - accuracy),
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
    price, inside = conventions()["arithmetic_45nm"].picojoules, row["inside"]
    return (
        2
        * (
            inside["additions"] * price["add"]
            + inside.get("multiply_adds", 0) * price["multiply_add"]
        )
        / 1000
    )


def price(row):
    """nJ of an event at which ours and send-on-delta cost the same, None where ours sends more."""
    fewer = row["events"]["send-on-delta"][0] - row["events"]["ours"][0]
    return computing(row) / fewer if fewer > 0 else None


def by_kind(rows, noise=0.0):
    """Kind of scene -> its rows with this noise."""
    return {
        kind: [row for row in rows if (row["kind"], row["noise"]) == (kind, noise)]
        for kind in KINDS
    }


def summary(columns):
    """The table of rows, by column: arms, then what else is measured, where it is."""
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    for name, form, figure in (
        *(
            (arm, ".1f", lambda row, arm=arm: row["events"][arm][0])
            for arm in next(iter(columns.values()))[0]["events"]
        ),
        ("ours, within 5 frames of a change", ".1f", lambda row: row["events"]["ours"][1]),
        ("ours, in other frames", ".1f", lambda row: row["events"]["ours"][2]),
        (
            "send-on-delta divided by ours",
            ".2f",
            lambda row: row["events"]["send-on-delta"][0] / row["events"]["ours"][0],
        ),
        (
            "best shift less ours",
            ".1f",
            lambda row: row["events"]["best shift"][0] - row["events"]["ours"][0],
        ),
        ("predictor spikes, ours", ".0f", lambda row: sum(row["inside"][name] for name in "DVM")),
        ("predictor spikes, random start", ".0f", lambda row: row["inside"].get("plain")),
        ("M's spikes as trains", ".0f", lambda row: row["inside"].get("trains")),
        ("additions, ours, thousands", ".1f", lambda row: row["inside"]["additions"] / 1000),
        ("multiply-adds, ours", ".0f", lambda row: row["inside"].get("multiply_adds")),
        ("price of an event, nJ", ".2f", price),
        ("accuracy, %", ".1f", lambda row: 100 * row["accuracy"]),
        ("frames until right", ".2f", lambda row: row.get("frames_until_right")),
    ):
        cells = [in_words([figure(row) for row in of], form) for of in columns.values()]
        at = [of[0].get("epsilon", {}).get(name) for of in columns.values()]
        if {*cells} != {"-"}:
            yield f"| {name} | {' | '.join(cell + f' ({one})' * bool(one) for cell, one in zip(cells, at, strict=True))} |"


def curve(rows, arm):
    """Of rows in grey: epsilon -> those of an arm."""
    return {
        epsilon: [row for row in rows if (row["arm"], row["epsilon"]) == (arm, epsilon)]
        for epsilon in EPSILONS
    }


def at_equal_accuracy(columns):
    """Of rows in grey, by column, such as those in black and white: of each arm the rows of the largest epsilon up to which it
    loses at most LOST points, in the mean over seeds; an arm that loses more is left out."""
    found = defaultdict(list)
    for column, rows in columns.items():
        curves = [curve(rows, arm).values() for arm in dict.fromkeys(row["arm"] for row in rows)]
        within = [
            [*takewhile(lambda of: fmean(row["points_lost"] for row in of) <= LOST, each)]
            for each in curves
        ]
        for of in zip(*(each[-1] for each in within if each), strict=True):
            by_arm = {
                figure: {row["arm"]: row[figure] for row in of} for figure in ("events", "epsilon")
            }
            found[column].append(
                by_arm | {"accuracy": of[-1]["of_true"], "inside": of[-1]["inside"]}
            )
    return found


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=flag_type(WHOLE), nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/moving"))
    parser.add_argument("--grey", action="store_true")
    parser.add_argument("--summary", type=Path, metavar="PATH")
    asked = parser.parse_args(argv)
    if asked.summary:
        for noise in (0.0, 0.01):
            columns = by_kind(rows_of(asked.summary), noise)
            print(*summary(at_equal_accuracy(columns) if asked.grey else columns), "", sep="\n")
        return
    train, _, test = load_data("MNIST")
    asked.folder.mkdir(parents=True, exist_ok=True)
    found = {seed: models(seed, asked.folder, train, asked.grey) for seed in asked.seeds}
    measure, tested_on, scenes = (
        (measured_in_grey, TESTED_ON[:4], SCENES // 3)
        if asked.grey
        else (measured, TESTED_ON, SCENES)
    )
    with (asked.folder / ("grey_rows.jsonl" if asked.grey else "rows.jsonl")).open("w") as file:
        for (kind, noise), seed in product(tested_on, asked.seeds):
            scene = moving_scenes(
                kind, test.images[:, 0], scenes, FRAMES, seed_for(seed, "test"), noise, asked.grey
            )
            for figures in measure(scene, test.labels, found[seed]):
                print(
                    json.dumps(
                        {"kind": kind, "noise": noise, "seed": seed, "scenes": scenes} | figures
                    ),
                    file=file,
                    flush=True,
                )


if __name__ == "__main__":
    run_script(main)
