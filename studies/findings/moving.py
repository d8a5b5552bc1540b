"""Where does prediction pay? Digits that move, seen by a sensor with a link.

The sensor sends events over the link, and a receiver rebuilds the frame. For each seed
this trains the predictors and a classifier of single frames on scenes of training
digits. Then it measures all arms on scenes of test digits, and writes a JSON object for
each seed, kind of scene and noise. studies/notebook/moving.md says what the figures
mean, docs/explanation/motion.md what came out.

--grey: grey scenes, with an object for each arm and epsilon. --folder keeps what is
trained, which a second run reads, and the rows. --summary PATH prints the tables of
rows; results/moving*.jsonl are ours.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from self_models.data.sets import ImageSet, load_data
from self_models.feedback.gates import Reconstruct
from self_models.neurons.spiking import SpikingNeuron
from self_models.neurons.surrogates import SURROGATES
from self_models.running.draws import seed_for
from self_models.settings import WHOLE
from studies.findings.moving_summary import (
    LOST,
    at_equal_accuracy,
    by_kind,
    computing,
    curve,
    in_words,
    price,
    print_summary,
    rows_of,
    summary,
)
from studies.link import SendOnDelta, TorusMatching, VelocityNetwork, Wiring, run_link
from studies.link.torus import wrap_borders as wrapped
from studies.link.velocities import LEVELS, T, count_operations
from wfeedback.command_line.parser import flag_type
from wfeedback.command_line.scripts import run_script
from wfeedback.data.scenes import Moving, moving_scenes
from wfeedback.measuring.comparing import interval

# What tests and docs/pictures/moving.py take from here, though it is of other modules
Predictor = VelocityNetwork
__all__ = [
    "LOST",
    "Predictor",
    "T",
    "at_equal_accuracy",
    "by_kind",
    "computing",
    "curve",
    "in_words",
    "interval",
    "price",
    "rows_of",
    "summary",
    "wrapped",
]

Condition = tuple[str, float]  # kind of scene, noise
Sent = dict[str, torch.Tensor]  # name of a layer -> what it sends (B, ...)

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
    ("one", 0.0),
    ("two", 0.0),
    ("one", 0.01),
    ("two", 0.01),
    ("turn", 0.0),
    ("bar", 0.0),
    ("still", 0.0),
    ("turn", 0.01),
    ("bar", 0.01),
    ("still", 0.01),
]
TESTED_IN_GREY = 4  # of these, the first
TRAINING = 55_000  # training digits; the others were for choices
SINCE = 5  # frames that count as after a change
SCENES = 100  # per kind, noise and seed
FRAMES = 60  # of a test scene
GENERATIONS = 15  # of the search
UPDATES = {"float": 3000, "plain": 3000, "classifier": 4000, "grey_float": 1500}  # by gradients
EPSILONS = (0.05, 0.1, 0.2, 0.3, 0.4)  # of the link, in grey
IN_BLACK_AND_WHITE = Reconstruct(epsilon=0.5)
CANDIDATES = 12  # of a generation
SPIKE_PRICE = 0.02  # of a spike in the network, in events
# By how much the search varies each number of Wiring, at first
STEPS = (0.04, 0.04, 0.04, 0.1, 0.1, 0.1, 0.05, 0.5)


# --- networks beside ours


class Plain(nn.Module):
    """The trial's network of two layers without a wired one, for one timestep."""

    def __init__(self, maps: int = 64):
        super().__init__()
        self.encoder = nn.Conv2d(2, maps, 5)
        self.decoder = nn.Conv2d(maps, 1, 5)
        self.neuron = SpikingNeuron(SURROGATES["Triangle"](0, 0), "immediate")

    def forward(
        self, seen: torch.Tensor, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, Sent]:
        """Predict as `VelocityNetwork.forward` does: a sum for each pixel."""
        current = self.encoder(wrapped(seen, 2)) + 1
        spikes = self.neuron(current)[0]
        return self.decoder(wrapped(spikes, 2))[:, 0], {"encoder": spikes}


class Classifier(nn.Sequential):
    """Classifies single frames on a torus: which of ten digits are seen."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 16, 5, 2),
            nn.Conv2d(16, 48, 5, 2),
            nn.Conv2d(48, 48, 3),
            nn.Linear(48, 10),
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return a logit for each class, (B, 10), of frames (B, 28, 28)."""
        first, second, third, last = self
        x = first(wrapped(frames[:, None], 2)).relu()
        x = second(wrapped(x, 2)).relu()
        x = third(wrapped(x, 1)).relu()
        return last(x.amax((2, 3)))


# --- scenes, of digits that no test scene shows


def frames_of(scene: Moving) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a predictor sees of a scene, and the frames that follow, 0 to 1.

    Returns
    -------
    seen : Tensor of shape (N, T - 2, 2, 28, 28)
        The last frame and the one before.
    following : Tensor of shape (N, T - 2, 28, 28)
    """
    pixels = scene.frames / 255
    seen = torch.stack([pixels[:, 1:-1], pixels[:, :-2]], 2)
    return seen, pixels[:, 2:]


@dataclass
class SceneSize:
    """How many scenes are drawn, and how many frames each has."""

    scenes: int
    frames: int


def draw_frames(
    digits: torch.Tensor, seed: int, condition: Condition, size: SceneSize
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw what `frames_of` returns, the frames of all scenes in a row.

    Frames after a change are left out, since nobody can foresee them.
    """
    kind, noise = condition
    scene = moving_scenes(kind, digits, size.scenes, size.frames, seed, noise)
    can_be_foreseen = ~scene.changed[:, 2:].flatten()
    seen, following = frames_of(scene)
    return seen.flatten(0, 1)[can_be_foreseen], following.flatten(0, 1)[can_be_foreseen]


def draw_grey_frames(
    digits: torch.Tensor, seed: int, condition: Condition, size: SceneSize
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw grey scenes (B, T, 28, 28), and an epsilon for each, (B, 1, 1, 1)."""
    kind, noise = condition
    draw = np.random.default_rng(seed)
    epsilon = draw.choice(np.float32(EPSILONS), (size.scenes, 1, 1, 1))
    scene = moving_scenes(kind, digits, size.scenes, size.frames, seed, noise, grey=True)
    return scene.frames / 255, torch.from_numpy(epsilon)


# --- our network: a search for its eight numbers


def cost_on_frames(
    model: VelocityNetwork, digits: torch.Tensor, seed: int, generation: int
) -> float:
    """Return the events on scenes of this generation, plus a price for each spike."""
    total = 0.0
    for number, condition in enumerate(TRAINED_ON):
        scene_seed = seed_for(seed, f"{generation} {number}")
        seen, following = draw_frames(digits, scene_seed, condition, SceneSize(4, 12))
        sums, sent = model(seen)
        num_events = ((sums > 0) != following).sum()
        num_spikes = sum(signal.sum() for signal in sent.values())
        total += (num_events + SPIKE_PRICE * num_spikes).item()
    return total


def cost_in_the_loop(
    model: VelocityNetwork, digits: torch.Tensor, seed: int, generation: int
) -> float:
    """Return the same in grey, where the network sees what it has rebuilt.

    A graded spike counts as one.
    """
    frames = []
    epsilons = []
    for number, condition in enumerate(TRAINED_ON):
        scene_seed = seed_for(seed, f"{generation} {number}")
        drawn, epsilon = draw_grey_frames(digits, scene_seed, condition, SceneSize(4, 12))
        frames.append(drawn)
        epsilons.append(epsilon)
    total = 0.0
    for step in run_link(model, torch.cat(frames), torch.cat(epsilons)):
        sent = step.report
        num_spikes = sum(signal.count_nonzero() for signal in sent.values())
        total += (step.events.sum() + SPIKE_PRICE * num_spikes).item()
    return total


@torch.no_grad()
def search(
    model: VelocityNetwork,
    digits: torch.Tensor,
    seed: int,
    cost: Callable[[VelocityNetwork, torch.Tensor, int, int], float],
) -> None:
    """Wire our network by an evolution strategy.

    Candidates are drawn around a mean, in mirrored pairs. The better half of them moves
    the mean, and the widths of the draws. In the end the network has the mean.
    """
    draw = np.random.default_rng(seed_for(seed, "search"))
    mean = np.array(astuple(Wiring()))
    width = np.array(STEPS)
    num_best = CANDIDATES // 2
    # The best weighs most: the logarithms of ranks, as in CMA-ES
    weights = np.log(CANDIDATES / 2 + 0.5) - np.log(np.arange(1, num_best + 1))
    weights /= weights.sum()
    for generation in range(GENERATIONS):
        half = draw.normal(size=(num_best, len(mean)))
        normal = np.concatenate([half, -half])
        costs = []
        for offsets in normal:
            candidate = mean + width * offsets
            model.wire(Wiring(*candidate.tolist()))
            costs.append(cost(model, digits, seed, generation))
        best = normal[np.argsort(costs)[:num_best]]
        mean = mean + width * (weights @ best)
        width = width * np.exp(0.15 * (weights @ best**2 - 1))
    model.wire(Wiring(*mean.tolist()))


# --- all others: gradients


@dataclass
class PixelLoss:
    """The cross-entropy of all pixels, and a penalty for each spike, per frame."""

    digits: torch.Tensor
    penalty: float = 0.0

    def __call__(self, model: nn.Module, seed: int, condition: Condition) -> torch.Tensor:
        """Return the loss on scenes of this seed."""
        seen, following = draw_frames(self.digits, seed, condition, SceneSize(12, 6))
        sums, sent = model(seen)
        loss = F.binary_cross_entropy_with_logits(sums, following, reduction="sum")
        num_spikes = sum(signal.sum() for signal in sent.values())
        return (loss + self.penalty * num_spikes) / len(sums)


@dataclass
class LoopLoss:
    """In grey, log(1 + error / 0.1), added up over pixels: the mean over frames.

    The network sees what its own receiver has rebuilt.
    """

    digits: torch.Tensor

    def __call__(self, model: nn.Module, seed: int, condition: Condition) -> torch.Tensor:
        """Return the loss on scenes of this seed."""
        size = SceneSize(5, 7)
        frames, epsilon = draw_grey_frames(self.digits, seed, condition, size)
        loss = 0.0
        steps = run_link(model, frames, epsilon)
        for step, true in zip(steps, frames[:, 2:].unbind(1), strict=True):
            loss = loss + (10 * (step.prediction - true).abs()).log1p().sum()
        return loss / (size.scenes * (size.frames - 2))


@dataclass
class ClassLoss:
    """The cross-entropy of all classes, of single frames."""

    digits: torch.Tensor
    labels: torch.Tensor
    grey: bool

    def __call__(self, model: nn.Module, seed: int, condition: Condition) -> torch.Tensor:
        """Return the loss on scenes of this seed."""
        kind, noise = condition
        scene = moving_scenes(kind, self.digits, 64, 1, seed, noise, self.grey)
        labels_seen = self.labels[scene.digits[:, 0]]
        is_seen = F.one_hot(labels_seen, 10).amax(1).float()
        return F.binary_cross_entropy_with_logits(model(scene.frames[:, 0] / 255), is_seen)


@dataclass
class Descent:
    """How a network is trained by gradients.

    Attributes
    ----------
    loss : callable
        Takes the network, a seed and a condition of TRAINED_ON.
    updates : int
    rate : float
        Learning rate at first. It falls to 0 as a cosine.
    purpose : str
        Names the seeds of the updates.
    """

    loss: Callable[[nn.Module, int, Condition], torch.Tensor]
    updates: int
    rate: float
    purpose: str = "update"

    def run(self, model: nn.Module, seed: int) -> None:
        """Train a network by Adam."""
        optimizer = torch.optim.Adam(model.parameters(), self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.updates)
        for update in range(self.updates):
            condition = TRAINED_ON[update % len(TRAINED_ON)]
            optimizer.zero_grad()
            loss = self.loss(model, seed_for(seed, f"{self.purpose} {update}"), condition)
            loss.backward()
            optimizer.step()
            schedule.step()


def build(name: str) -> nn.Module:
    """Return a new network of this name."""
    match name:
        case "ours":
            return VelocityNetwork()
        case "grey_ours":
            return VelocityNetwork(graded=True)
        case "float":
            return VelocityNetwork(spiking=False)
        case "grey_float":
            return VelocityNetwork(spiking=False, graded=True)
        case "plain":
            return Plain()
        case _:  # "classifier" or "grey_classifier"
            return Classifier()


def fit(name: str, model: nn.Module, train: ImageSet, seed: int, found: dict) -> None:
    """Train a network, or search its wiring.

    Parameters
    ----------
    name : str
    model : Module
        The network, as `build` returns it.
    train : ImageSet
    seed : int
    found : dict of str to Module
        Those that are trained already.
    """
    digits = train.images[:TRAINING, 0]
    labels = train.labels[:TRAINING]
    match name:
        case "ours":
            search(model, digits, seed, cost_on_frames)
        case "grey_ours":
            search(model, digits, seed, cost_in_the_loop)
        case "float":
            Descent(PixelLoss(digits), UPDATES["float"], rate=1e-2).run(model, seed)
        case "grey_float":
            model.load_state_dict(found["float"].state_dict())  # goes on from there
            Descent(LoopLoss(digits), UPDATES["grey_float"], rate=5e-3).run(model, seed)
        case "plain":
            loss = PixelLoss(digits, penalty=3e-4)
            Descent(loss, UPDATES["plain"], rate=2e-3).run(model, seed)
        case _:  # "classifier" or "grey_classifier"
            loss = ClassLoss(digits, labels, grey=name == "grey_classifier")
            Descent(loss, UPDATES["classifier"], 4e-3, purpose="classifier").run(model, seed)


def load_or_train(seed: int, folder: Path, train: ImageSet, grey: bool) -> dict[str, nn.Module]:
    """Return the networks of a seed by name, from the folder or trained.

    Those in grey have the names of those in black and white.
    """
    if grey:
        names = ("grey_ours", "float", "grey_float", "grey_classifier")
    else:
        names = ("ours", "float", "plain", "classifier")
    found = {}
    for name in names:
        torch.manual_seed(seed_for(seed, name))
        model = build(name)
        path = folder / f"{name}_{seed}.pth"
        if path.exists():
            model.load_state_dict(torch.load(path, weights_only=True))
        else:
            fit(name, model, train, seed, found)
            torch.save(model.state_dict(), path)
            print(path, file=sys.stderr, flush=True)
        found[name.removeprefix("grey_")] = model.eval()
    return found


# --- the arms: each is a `predict` of run_link


def predict_black(seen: torch.Tensor, frame: torch.Tensor) -> tuple[torch.Tensor, None]:
    """Predict a black frame, so that all other pixels are sent."""
    return torch.zeros_like(seen[:, 0]), None


@dataclass
class WhiteAbove0:
    """Predicts a white pixel where a network's sum is above 0."""

    network: nn.Module

    def __call__(self, seen: torch.Tensor, frame: torch.Tensor) -> tuple[torch.Tensor, Sent]:
        """Return the frame, and what the network sends."""
        sums, sent = self.network(seen)
        return (sums > 0).float(), sent


def untrained_arms() -> dict[str, Callable]:
    """Return the arms that compute without a network."""
    return {
        "all pixels": predict_black,
        "send-on-delta": SendOnDelta(),
        "best shift": TorusMatching(),
        "block matching": TorusMatching(block=7),
    }


# --- measuring


def right_answers(
    scene: Moving, frames: torch.Tensor, labels: torch.Tensor, classifier: nn.Module
) -> torch.Tensor:
    """Return in which frames the classes that are seen have the largest logits.

    Parameters
    ----------
    scene : Moving
    frames : Tensor of shape (N, T - 2, 28, 28)
        Its frames from the third on, as the classifier sees them.
    labels : Tensor of shape (M,), int64
        Of all digits.
    classifier : Module

    Returns
    -------
    Tensor of shape (N, T - 2), bool
    """
    is_seen = F.one_hot(labels[scene.digits[:, 2:]], 10).amax(2)  # (N, T - 2, 10)
    logits = torch.stack([classifier(of_scene) for of_scene in frames])
    ranks = logits.argsort(-1, descending=True).argsort(-1)
    is_among_best = ranks < is_seen.sum(-1, keepdim=True)
    return (is_among_best == (is_seen > 0)).all(-1)


def means_by_news(events: torch.Tensor, scene: Moving) -> list[float]:
    """Return mean events: of all frames, of those after a change, of all others.

    Parameters
    ----------
    events : Tensor of shape (N, T - 2)
        Of each frame from the third on.
    scene : Moving
    """
    # Whether this frame, or one of the few before it, has a change. All is new in the
    # first one, but that is no change.
    padded = F.pad(scene.changed[:, 1:], (SINCE, 0))
    is_after_change = padded.unfold(1, SINCE, 1).any(-1)[:, 2:]
    means = []
    for chosen in (events, events[is_after_change], events[~is_after_change]):
        means.append(round(chosen.mean().item(), 3))
    return means


def count_inside(seen: torch.Tensor, sent: Sent, grey: bool) -> dict[str, int]:
    """Count spikes and operations of our network, on frames (B, 2, 28, 28) together."""
    counts = {name: sent[name].count_nonzero().item() for name in ("D", "V", "M")}
    operations = count_operations(seen, sent, grey)
    counts["additions"] = operations.additions
    if grey:
        counts["multiply_adds"] = operations.multiply_adds
        # Were each graded spike a train, of a spike for each level
        counts["trains"] = round(LEVELS * sent["M"].sum().item())
    return counts


def per_frame(counts: Counter, num_frames: int) -> dict[str, float]:
    """Divide counts by the number of frames."""
    return {name: round(count / num_frames, 1) for name, count in counts.items()}


@torch.no_grad()
def measure_black_and_white(
    scene: Moving, labels: torch.Tensor, found: dict[str, nn.Module]
) -> Iterator[dict[str, Any]]:
    """Yield the figures of scenes in black and white: one object for all arms.

    They are means per frame from the third on. Each arm rebuilds all frames as they
    are. So all see the same ones, and so does the classifier.
    """
    arms = untrained_arms()
    arms["float network"] = WhiteAbove0(found["float"])
    arms["trained from a random start"] = WhiteAbove0(found["plain"])
    arms["ours"] = WhiteAbove0(found["ours"])
    events = defaultdict(list)
    inside = Counter()
    all_seen, all_following = frames_of(scene)
    for seen, true in zip(all_seen, all_following, strict=True):
        reports = {}
        for name, predict in arms.items():
            prediction, reports[name] = predict(seen, true)
            view = IN_BLACK_AND_WHITE.next_view(true[:, None], prediction[:, None], None)
            assert torch.equal(view.image[:, 0], true)
            events[name].append(view.events.sum((1, 2, 3)).double())
        inside.update(count_inside(seen, reports["ours"], grey=False))
        spikes_of_plain = reports["trained from a random start"]["encoder"]
        inside["plain"] += int(spikes_of_plain.sum())

    right = right_answers(scene, all_following, labels, found["classifier"])
    is_new_digit = (scene.digits[:, 2:] != scene.digits[:, 1:-1]).any(-1)
    waits = waiting(right, is_new_digit)
    yield {
        "events": {
            name: means_by_news(torch.stack(counts), scene) for name, counts in events.items()
        },
        "inside": per_frame(inside, right.numel()),
        "accuracy": right.double().mean().item(),
        "frames_until_right": fmean(waits) if waits else None,
    }


@torch.no_grad()
def measure_in_grey(
    scene: Moving, labels: torch.Tensor, found: dict[str, nn.Module]
) -> Iterator[dict[str, Any]]:
    """Yield the figures of grey scenes: an object for each arm and epsilon.

    Each arm sees the frames that its own receiver has rebuilt. The accuracy is that of
    the classifier on these, and `of_true` that on the true ones.
    """
    arms = untrained_arms()
    arms["float network"] = found["float"]
    arms["ours"] = found["ours"]
    frames = scene.frames / 255
    classifier = found["classifier"]
    of_true = right_answers(scene, frames[:, 2:], labels, classifier).double().mean().item()
    for (name, predict), epsilon in product(arms.items(), EPSILONS):
        events = []
        rebuilt = []
        inside = Counter()
        for step in run_link(predict, frames, epsilon):
            events.append(step.events.sum((1, 2)).double())
            rebuilt.append(step.rebuilt)
            if name == "ours":
                inside.update(count_inside(step.seen, step.report, grey=True))
        right = right_answers(scene, torch.stack(rebuilt, 1), labels, classifier)
        accuracy = right.double().mean().item()
        yield {
            "arm": name,
            "epsilon": epsilon,
            "events": means_by_news(torch.stack(events, 1), scene),
            "inside": per_frame(inside, right.numel()),
            "accuracy": accuracy,
            "of_true": of_true,
            "points_lost": 100 * (of_true - accuracy),
        }


def waiting(right: torch.Tensor, becomes: torch.Tensor) -> list[int]:
    """Return after each change of a digit in how many frames the answer is right.

    1 means at once. Left out are changes after which it is not right before the next
    one, or the end, comes.

    Parameters
    ----------
    right : Tensor of shape (N, T), bool
    becomes : Tensor of shape (N, T), bool
        In which frames there is another digit.
    """
    waits = []
    for answers, changes in zip(right, becomes, strict=True):
        begins = changes.nonzero().flatten().tolist()
        for begin, end in pairwise([*begins, len(changes)]):
            places = answers[begin:end].nonzero().flatten().tolist()
            if places:
                waits.append(places[0] + 1)
    return waits


def write_rows(folder: Path, seeds: list[int], grey: bool) -> None:
    """Train what the folder does not have, measure all arms, and write the rows."""
    train, _, test = load_data("MNIST")
    folder.mkdir(parents=True, exist_ok=True)
    of_seeds = {seed: load_or_train(seed, folder, train, grey) for seed in seeds}
    if grey:
        path = folder / "grey_rows.jsonl"
        conditions = TESTED_ON[:TESTED_IN_GREY]
        num_scenes = SCENES // 3
        measure = measure_in_grey
    else:
        path = folder / "rows.jsonl"
        conditions = TESTED_ON
        num_scenes = SCENES
        measure = measure_black_and_white
    digits = test.images[:, 0]
    with path.open("w") as file:
        for (kind, noise), seed in product(conditions, seeds):
            scene_seed = seed_for(seed, "test")
            scene = moving_scenes(kind, digits, num_scenes, FRAMES, scene_seed, noise, grey)
            begin = {"kind": kind, "noise": noise, "seed": seed, "scenes": num_scenes}
            for figures in measure(scene, test.labels, of_seeds[seed]):
                print(json.dumps(begin | figures), file=file, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=flag_type(WHOLE), nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/moving"))
    parser.add_argument("--grey", action="store_true")
    parser.add_argument("--summary", type=Path, metavar="PATH")
    args = parser.parse_args(argv)
    if args.summary:
        print_summary(rows_of(args.summary), args.grey)
        return
    write_rows(args.folder, args.seeds, args.grey)


if __name__ == "__main__":
    run_script(main)
