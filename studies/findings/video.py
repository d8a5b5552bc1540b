"""How much prediction saves on a sensor's link on real films, and what a network adds.

Runs the arms of studies/notebook/video.md over five clips, and writes a row for each
clip, arm and condition. Rows that the file has already are not measured again, so a run
that was stopped goes on where it was.

    python -m studies.findings.video --clips FOLDER --part choices table
    python -m studies.findings.video --clips FOLDER --part epsilons robustness
    python -m studies.findings.video --summary results/video.jsonl
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from self_models.running.draws import seed_for
from studies.findings.video_summary import print_summary
from studies.link import (
    PLACES,
    RUNGS,
    BestShift,
    LearnedSynapses,
    LinkCount,
    Motion,
    MotionPredictor,
    SendOnDelta,
    motion_on_rung,
    read_film,
    run_link,
)
from studies.link.learned import Example, train_synapses
from studies.link.matching import match_costs
from studies.link.shifts import GREY_LEVELS
from wfeedback.command_line.scripts import run_script

MOST_FRAMES = 200
EPSILON = 0.1
EPSILONS = (0.03, 0.05, 0.075, 0.15)  # beside EPSILON
SEEDS = (0, 1, 2, 3, 4)
NOISE = 0.02  # standard deviation, in the trial of robustness
EXAMPLES = 50  # frames to learn from, at most
PRICES = (0.0, 1.0, 2.0, 4.0)  # of a change at the receiver, in events
COUPLINGS = (0.0, 0.1, 0.25, 0.5)
RECRUITMENTS = (0.0, 0.25, 0.5, 1.0)
METHODS = ("matching", "coupling", "competition")
PARTS = ("choices", "table", "epsilons", "robustness", "traps")


@dataclass
class Clip:
    """A film of the study.

    Attributes
    ----------
    name : str
    file : str
    reduce_by : int
        How many times shorter each side becomes.
    """

    name: str
    file: str
    reduce_by: int


CLIPS = (
    Clip("car park", "intel_person-bicycle-car-detection.gif", 2),
    Clip("car", "intel_car-detection.mp4", 3),
    Clip("motorway", "bgs_video02.avi", 2),
    Clip("cockatoo", "cockatoo.mp4", 4),
    Clip("carphone", "carphone_pristine.mp4", 1),
)


@dataclass(frozen=True)
class Condition:
    """Under what a half of a clip is sent.

    Attributes
    ----------
    epsilon : float
    every : int
        Only every so many frames are used.
    noise : float
        Standard deviation of what is added to each pixel.
    reach : int
        Largest shift, in pixels.
    """

    epsilon: float = EPSILON
    every: int = 1
    noise: float = 0.0
    reach: int = 6


# --- the films


def read_halves(folder: Path, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two halves (T, H, W) of a clip."""
    frames = read_film(folder / clip.file, clip.reduce_by, MOST_FRAMES)
    middle = len(frames) // 2
    return frames[:middle], frames[middle:]


def under_condition(frames: torch.Tensor, condition: Condition, clip: Clip) -> torch.Tensor:
    """Leave out frames, and add noise, as a condition says."""
    frames = frames[:: condition.every]
    if condition.noise:
        generator = torch.Generator().manual_seed(seed_for(0, f"noise on {clip.name}"))
        noise = condition.noise * torch.randn(frames.shape, generator=generator)
        frames = ((frames + noise).clamp(0, 1) * GREY_LEVELS).round() / GREY_LEVELS
    return frames


# --- measuring


def send_film(predictor: object, frames: torch.Tensor, epsilon: float) -> LinkCount:
    """Send frames (T, H, W) over a link, and count."""
    count = LinkCount(predictor)
    steps = run_link(predictor, frames[None], epsilon)
    for step, frame in zip(steps, frames[2:], strict=True):
        count.add(step, frame[None])
    return count


def events_on(motion: Motion, frames: torch.Tensor) -> float:
    """Return the events per frame of a motion predictor at epsilon 0.1."""
    count = send_film(MotionPredictor(motion, EPSILON), frames, EPSILON)
    return count.figures().events_per_frame()


def best_of(motions: list[Motion], frames: torch.Tensor) -> Motion:
    """Return what sends the fewest events; of equal ones the first."""
    return min(motions, key=lambda motion: events_on(motion, frames))


def choose_motion(at_sender: bool, frames: torch.Tensor) -> dict[str, Motion]:
    """Choose price, coupling and recruitment on a first half, one after another.

    Returns
    -------
    dict of str to Motion
        Method -> the motion on the rung "held"; under "price with 4 to 16" one that has
        the price for blocks of several sizes: with a price of 0 the smallest blocks
        would always be taken.
    """
    motion = Motion("matching", at_sender)
    if not at_sender:
        motion = best_of([replace(motion, price=price) for price in PRICES], frames)
    chosen = {"matching": motion}

    by_size = motion
    if not at_sender:
        sizes = [motion_on_rung(replace(motion, price=price), "4 to 16") for price in PRICES]
        by_size = best_of(sizes, frames)
    chosen["price with 4 to 16"] = by_size

    motion = replace(motion, method="coupling")
    motion = best_of([replace(motion, coupling=coupling) for coupling in COUPLINGS], frames)
    chosen["coupling"] = motion

    motion = replace(motion, method="competition")
    motions = [replace(motion, recruitment=recruitment) for recruitment in RECRUITMENTS]
    chosen["competition"] = best_of(motions, frames)
    return chosen


def learning_examples(motion: Motion, frames: torch.Tensor) -> list[Example]:
    """Return what the wired competition sees at the receiver, and what followed."""
    predictor = MotionPredictor(motion, EPSILON)
    examples = []
    earlier = None
    held = None
    for step, frame in zip(run_link(predictor, frames[None], EPSILON), frames[2:], strict=True):
        if earlier is not None:
            following = match_costs(predictor.shifts, step.seen[0, 0], frame, EPSILON)
            examples.append(Example(predictor.found, earlier, held, following.costs))
        earlier = predictor.found
        held = predictor.chosen
    stride = -(-len(examples) // EXAMPLES)
    return examples[::stride]


def learn_synapses(motion: Motion, frames: torch.Tensor, seed: int) -> LearnedSynapses:
    """Train the synapses of a competition at the receiver on a first half."""
    examples = learning_examples(motion, frames)
    torch.manual_seed(seed_for(seed, "synapses"))
    synapses = LearnedSynapses((4, 8, 16), motion.price, motion.coupling)
    train_synapses(synapses, examples, MotionPredictor(motion, EPSILON).shifts, seed)
    return synapses.requires_grad_(False)


# --- rows


class Rows:
    """The rows of a file, and those that are added to it.

    Parameters
    ----------
    path : Path
    """

    KEYS = ("part", "clip", "arm", "place", "rung", "seed", "epsilon", "every", "noise", "reach")

    def __init__(self, path: Path):
        self.path = path
        self.rows = []
        if path.exists():
            self.rows = [json.loads(line) for line in path.read_text().splitlines()]

    def key_of(self, row: dict) -> tuple:
        """Return what tells a row from others."""
        return tuple(row.get(key) for key in self.KEYS)

    def have(self, row: dict) -> bool:
        """Return whether a row with these keys has been measured."""
        return any(self.key_of(other) == self.key_of(row) for other in self.rows)

    def add(self, row: dict) -> None:
        """Write a row."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


@dataclass
class Arm:
    """An arm on one rung.

    Attributes
    ----------
    name : str
        Of the method.
    place : str or None
        "receiver" or "sender".
    rung : str or None
    seed : int or None
        Of learned synapses.
    """

    name: str
    place: str | None = None
    rung: str | None = None
    seed: int | None = None


def arms_of_table() -> Iterator[Arm]:
    """Yield all arms."""
    yield Arm("send-on-delta")
    yield Arm("best shift")
    for rung in RUNGS:
        for place in PLACES:
            for method in METHODS:
                yield Arm(method, place, rung)
        for seed in SEEDS:
            yield Arm("learned", "receiver", rung, seed)


def main_arms(rungs: tuple[str, ...]) -> Iterator[Arm]:
    """Yield the arms of the further conditions."""
    yield Arm("send-on-delta")
    for rung in rungs:
        for place in PLACES:
            for method in ("matching", "competition"):
                yield Arm(method, place, rung)


def jobs_of(part: str, rungs: tuple[str, ...]) -> Iterator[tuple[Arm, Condition]]:
    """Yield the arms of a part with their conditions.

    Parameters
    ----------
    part : str
        One of ``PARTS``.
    rungs : tuple of str
        On which rungs other conditions than that of the table are measured.
    """
    if part == "table":
        for arm in arms_of_table():
            yield arm, Condition()
    for condition in other_conditions(part):
        for arm in main_arms(rungs):
            yield arm, condition
    if part == "robustness" and "held" in rungs:
        for arm in main_arms(("held",)):
            yield arm, Condition(reach=9)


def other_conditions(part: str) -> list[Condition]:
    """Return the conditions of a part, beside that of the table."""
    if part == "epsilons":
        return [Condition(epsilon=epsilon) for epsilon in EPSILONS]
    if part == "robustness":
        return [Condition(every=2), Condition(every=4), Condition(noise=NOISE)]
    return []


# --- traps


def frame_changes(frames: torch.Tensor) -> dict[str, float]:
    """Describe how frames (T, H, W) differ from those before them."""
    changes = (frames[1:] - frames[:-1]).abs()
    changed_shares = (changes >= EPSILON).float().mean((1, 2))
    return {
        "median_difference": float(changes.median()) * GREY_LEVELS,
        "frames": len(changes),
        "nearly_repeated": int((changed_shares < 0.001).sum()),
        "cuts": [number + 1 for number in (changed_shares > 0.3).nonzero().flatten().tolist()],
    }


def border_share(predictor: object, frames: torch.Tensor, width: int = 8) -> float:
    """Return the share of the sent pixels that lie near a border of the frame."""
    total = 0
    inside = 0
    for step in run_link(predictor, frames[None], EPSILON):
        total += int(step.events.sum())
        inside += int(step.events[0, width:-width, width:-width].sum())
    return 1 - inside / max(total, 1)


class Study:
    """Measures the rows of one clip.

    Parameters
    ----------
    folder : Path
        Of the clips.
    clip : Clip
    rows : Rows
    """

    def __init__(self, folder: Path, clip: Clip, rows: Rows):
        self.clip = clip
        self.rows = rows
        self.first, self.second = read_halves(folder, clip)
        self.synapses = {}  # seed -> LearnedSynapses

    def choose(self) -> None:
        """Choose on the first half what the plan leaves open."""
        for place in PLACES:
            row = {"part": "choices", "clip": self.clip.name, "place": place}
            if self.rows.have(row):
                continue
            chosen = choose_motion(place == "sender", self.first)
            for method, motion in chosen.items():
                row[method] = asdict(motion)
            self.rows.add(row)

    def chosen_motion(self, method: str, place: str) -> Motion:
        """Return what was chosen on the first half."""
        for row in self.rows.rows:
            if (row["part"], row["clip"], row["place"]) == ("choices", self.clip.name, place):
                found = Motion(**row[method])
                return replace(found, sides=tuple(found.sides))
        raise LookupError(f"nothing has been chosen for {self.clip.name}: --part choices")

    def predictor(self, arm: Arm, condition: Condition) -> object:
        """Return a new predictor of an arm."""
        if arm.name == "send-on-delta":
            return SendOnDelta()
        if arm.name == "best shift":
            return BestShift(condition.epsilon, condition.reach)
        method = "competition" if arm.name == "learned" else arm.name
        wired = self.chosen_motion(method, arm.place)
        motion = replace(motion_on_rung(wired, arm.rung), reach=condition.reach)
        if len(motion.sides) > 1:
            price = self.chosen_motion("price with 4 to 16", arm.place).price
            motion = replace(motion, price=price)
        if arm.name != "learned":
            return MotionPredictor(motion, condition.epsilon)
        if arm.seed not in self.synapses:
            self.synapses[arm.seed] = learn_synapses(wired, self.first, arm.seed)
        motion = replace(motion, method="learned")
        return MotionPredictor(motion, condition.epsilon, self.synapses[arm.seed])

    def measure(self, part: str, arm: Arm, condition: Condition) -> None:
        """Measure an arm on the second half, unless its row is there."""
        row = {
            "part": part,
            "clip": self.clip.name,
            "arm": arm.name,
            "place": arm.place,
            "rung": arm.rung,
            "seed": arm.seed,
            **asdict(condition),
        }
        if self.rows.have(row):
            return
        frames = under_condition(self.second, condition, self.clip)
        predictor = self.predictor(arm, condition)
        with torch.no_grad():
            figures = send_film(predictor, frames, condition.epsilon).figures()
        self.rows.add(row | asdict(figures))

    def look_at_traps(self, folder: Path) -> None:
        """Measure what could make the figures mislead: see the plan."""
        row = {"part": "traps", "clip": self.clip.name}
        if self.rows.have(row):
            return
        row |= frame_changes(self.second)
        height, width = self.second.shape[1:]
        row["border_of_area"] = 1 - (height - 16) * (width - 16) / (height * width)
        arms = [Arm("send-on-delta")]
        arms += [Arm("matching", place, "held") for place in PLACES]
        with torch.no_grad():
            for arm in arms:
                name = f"border_of_{arm.place or arm.name}"
                row[name] = border_share(self.predictor(arm, Condition()), self.second)

            # Half the size again: motion becomes fractional, or no longer is.
            smaller = replace(self.clip, reduce_by=2 * self.clip.reduce_by)
            _, frames = read_halves(folder, smaller)
            for arm in main_arms(("held", "half pixels")):
                name = " ".join([arm.name, arm.place or "", arm.rung or ""]).strip()
                count = send_film(self.predictor(arm, Condition()), frames, EPSILON)
                row[f"half the size: {name}"] = count.figures().events_per_frame()
        self.rows.add(row)


def main(argv: list[str] | None = None) -> None:
    """Run what the flags ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="where the clips are")
    parser.add_argument("--only", nargs="*", help="names of clips (default: all)")
    parser.add_argument(
        "--part",
        nargs="*",
        choices=PARTS,
        default=list(PARTS),
    )
    parser.add_argument(
        "--rungs",
        nargs="*",
        choices=tuple(RUNGS),
        default=["held", "half pixels"],
        help="of the parts epsilons and robustness",
    )
    parser.add_argument("--rows", type=Path, default=Path("runs/video.jsonl"))
    parser.add_argument("--summary", type=Path, metavar="ROWS", help="print the tables of rows")
    args = parser.parse_args(argv)
    if args.summary:
        print_summary(Rows(args.summary).rows)
        return
    if args.clips is None:
        parser.error("--clips FOLDER: say where the clips are")
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.rows)
    for clip in CLIPS:
        if args.only and clip.name not in args.only:
            continue
        study = Study(args.clips, clip, rows)
        for part in args.part:
            if part == "choices":
                study.choose()
            if part == "traps":
                study.look_at_traps(args.clips)
            for arm, condition in tqdm(
                list(jobs_of(part, tuple(args.rungs))), f"{clip.name}, {part}"
            ):
                study.measure(part, arm, condition)


if __name__ == "__main__":
    run_script(main)
