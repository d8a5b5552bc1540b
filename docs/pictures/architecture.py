#!/usr/bin/env python3
"""Draw three pictures of the model and of the code, beside this file.

architecture.svg: the network, and the order within a timestep; updates.svg: the three
updates of a neuron; rooms.svg: the folders of the code, and what is held against what.
Boxes have white words on colour, words outside are grey: both can be read on a white
and on a dark page. `python docs/pictures/architecture.py`
"""

# ruff: noqa: RUF001  (Greek letters)

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

WIDTH = 1000
GREY = "#767c86"  # of lines and words: contrast 4.2 on white, 4.5 on #0d1117
INPUT = "#4477aa"
ENCODER = "#228833"
DECODER = "#857200"
CLASSIFIER = "#aa3377"
CONTROL = "#5f6b7a"
LAYERS = ("input", "layer 1", "layer 2", "layer 3")
PHASE = 2  # timesteps of a phase of the phased network in the picture


@dataclass(frozen=True)
class Update:
    """An update of a neuron, and when the layers of the picture charge and fire.

    Attributes
    ----------
    name : str
    equations : tuple of str
        What a layer computes in a timestep.
    charges, fires : tuple of range
        For each of LAYERS the timesteps in which it only charges, and in which it can
        fire first.
    steps : int
        How many timesteps are drawn.
    """

    name: str
    equations: tuple[str, ...]
    charges: tuple[range, ...]
    fires: tuple[range, ...]
    steps: int


NEVER = range(0)
UPDATES = (
    Update(
        "immediate",
        ("1. charge  V′ = λV + I", "2. fire  s = H(V′/θ − 1)", "3. reset  V = V′ − θs"),
        charges=(NEVER,) * len(LAYERS),
        fires=(range(1, 2),) * len(LAYERS),
        steps=4,
    ),
    Update(
        "delayed",
        ("1. fire  s = H(V/θ − 1)", "2. charge and reset", "    V = λV + I − θs"),
        charges=(NEVER,) * len(LAYERS),
        fires=tuple(range(1 + layer, 2 + layer) for layer in range(len(LAYERS))),
        steps=4,
    ),
    Update(
        f"phased, T = {PHASE}",
        (
            "phase of charging  V = V + I",
            "next phase: fire  s = H(V/θ − 1)",
            "    and reset  V = V − θs",
        ),
        # The input does not charge; each layer charges while the one before it fires.
        charges=(NEVER, range(1, 3), range(3, 5), range(5, 7)),
        fires=(range(1, 3), range(3, 5), range(5, 7), range(7, 9)),
        steps=8,
    ),
)

Parts = Iterator[str]  # elements of an SVG


def main() -> None:
    """Draw all three."""
    write("architecture", 296, "The network in one timestep", network())
    write("updates", 298, "Updates of a spiking layer", neurons())
    write("rooms", 584, "The rooms of the code, and what is held against what", rooms())


def write(name: str, height: int, title: str, parts: Parts) -> None:
    """Write an SVG of these parts."""
    look = f'viewBox="0 0 {WIDTH} {height}" font-family="DejaVu Sans, Verdana, sans-serif"'
    head = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5.5" markerHeight="5.5" orient="auto"'
    arrow = f'<defs><marker id="a" {head}><path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {look}>'
    words = "\n".join([begin, f"<title>{title}</title>", arrow, *parts, "</svg>\n"])
    Path(__file__).with_name(f"{name}.svg").write_text(words, encoding="utf-8")


# --- parts


def text(
    x: float,
    y: float,
    words: str,
    size: int = 13,
    colour: str = GREY,
    anchor: str = "middle",
    weight: str = "normal",
) -> str:
    """Return words that stand at (x, y)."""
    look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {look} xml:space="preserve">{escape(words)}</text>'


def heading(x: float, words: str) -> str:
    """Return the heading of a picture, or of its part from x on."""
    return text(x, 24, words, 16, anchor="start", weight="bold")


def box(
    corner: tuple[float, float],
    size: tuple[float, float],
    colour: str,
    title: str,
    *lines: str,
    number: int | None = None,
) -> Parts:
    """Draw a box with a title, lines below it, and its number in a timestep's order."""
    x, y = corner
    width, height = size
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{colour}"/>'
    middle = x + width / 2
    first = y + height / 2 - 8.5 * len(lines) + 5
    yield text(middle, first, title, 14, "#ffffff", weight="bold")
    for place, line_words in enumerate(lines, 1):
        yield text(middle, first + 17 * place, line_words, 12, "#ffffff")
    if number:
        yield from badge(x, y, number)


def badge(x: float, y: float, number: int) -> Parts:
    """Draw a number in a circle."""
    yield f'<circle cx="{x}" cy="{y}" r="11" fill="#ffffff" stroke="{GREY}" stroke-width="1.5"/>'
    yield text(x, y + 4.5, str(number), 12, "#20262e", weight="bold")


def line(*points: tuple[float, float], dashed: bool = False) -> str:
    """Return an arrow through these points."""
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    look = ' marker-end="url(#a)"'
    if dashed:
        look += ' stroke-dasharray="6 4"'
    return f'<path d="{path}" fill="none" stroke="{GREY}" stroke-width="2"{look}/>'


def dot(x: float, y: float, charges: bool, fires: bool) -> Parts:
    """Draw a layer's timestep: filled where it fires, with a point where it charges."""
    inside = ENCODER if fires else "none"
    yield f'<circle cx="{x}" cy="{y}" r="8" fill="{inside}" stroke="{GREY}" stroke-width="1.5"/>'
    if charges:
        yield f'<circle cx="{x}" cy="{y}" r="3.5" fill="{GREY}"/>'


# --- pictures


def network() -> Parts:
    """Draw the network, and the order of computation in a timestep."""
    yield heading(10, "The network in timestep t: the numbers are the order of computation")
    yield from box((10, 60), (84, 76), INPUT, "Image", "x")
    yield from box((126, 60), (116, 76), CONTROL, "Gate", "view", "model.gate", number=1)
    yield from box(
        (278, 60), (116, 76), INPUT, "Encoding", "input spikes", "model.encoding", number=2
    )
    yield from box(
        (430, 60), (130, 76), ENCODER, "Encoder", "up to the fork", "features", number=3
    )
    yield from box(
        (626, 60), (130, 76), ENCODER, "Encoder", "after the fork", "features", number=4
    )
    yield from box(
        (792, 60), (110, 76), CLASSIFIER, "Classifier", "outputs O", "classifier", number=5
    )
    for begin, end in ((94, 124), (242, 276), (394, 428), (560, 624), (756, 790)):
        yield line((begin, 98), (end, 98))
    yield line((902, 98), (934, 98))
    yield text(938, 103, "class", 13, anchor="start")
    yield line((847, 136), (847, 204))
    yield from box(
        (782, 206), (130, 66), CONTROL, "Stopping rule", "evaluation only", "model.rule", number=9
    )
    yield f'<circle cx="592" cy="98" r="5" fill="{GREY}"/>'
    yield text(592, 84, "fork", 13)
    yield line((592, 98), (592, 239), (562, 239))
    yield from box(
        (430, 206), (130, 66), DECODER, "Decoder", "every timestep", "generate", number=6
    )
    yield line((430, 239), (396, 239))
    yield from box(
        (264, 206), (130, 66), DECODER, "Read-out", "R, prediction p", "model.readout", number=7
    )
    yield line((264, 239), (184, 239), (184, 138), dashed=True)
    yield from badge(184, 239, 8)
    yield text(184, 272, "compare p with x:", 13)
    yield text(184, 290, "view of timestep t + 1", 13)


def neurons() -> Parts:
    """Draw the updates, and when each of three layers charges and can first fire."""
    yield heading(10, "Update of a spiking layer, and when each layer can first fire")
    for place, update in enumerate(UPDATES):
        yield from draw_update(update, left=10 + 320 * place)
    yield from dot(18, 284, charges=False, fires=True)
    first_spikes = "first spikes that the input of timestep 1 can cause (phased: of phase 1)"
    yield text(32, 288, first_spikes, 12, anchor="start")
    yield from dot(508, 284, charges=True, fires=False)
    yield text(522, 288, "charges, cannot fire", 12, anchor="start")


def draw_update(update: Update, left: float) -> Parts:
    """Draw the equations of an update, and below them a dot per layer and timestep."""
    yield text(left, 54, update.name, 14, anchor="start", weight="bold")
    for number, words in enumerate(update.equations):
        yield text(left, 80 + 22 * number, words, 13, anchor="start")
    steps = range(1, update.steps + 1)
    for layer, name in enumerate(LAYERS):
        y = 154 + 26 * layer
        yield text(left + 52, y + 4, name, 12, anchor="end")
        for step in steps:
            charges = step in update.charges[layer]
            fires = step in update.fires[layer]
            yield from dot(left + 74 + 28 * (step - 1), y, charges, fires)
    for step in steps:
        yield text(left + 74 + 28 * (step - 1), 257, str(step), 12)
    yield text(left + 58, 257, "timestep", 12, anchor="end")


# Package and its colour, then floors of its folders, which import those below them
PACKAGES = {
    ("studies: what findings rest on", CLASSIFIER): (
        (("findings", "what they rest on"), ("link", "sensor, receiver"), ("speed", "how fast")),
    ),
    ("wfeedback: what one does with the networks", CONTROL): (
        (
            ("commands", "and scripts"),
            ("command_line", "flags, recipes"),
            ("building", "models of settings"),
        ),
        (
            ("training", "epochs, losses"),
            ("drawing, measuring", "pictures, tables"),
            ("export", "C, a page, NIR"),
        ),
        (
            ("energy, data", "ledgers, scenes"),
            ("nir", "others' networks"),
            ("event", "by events, in C"),
        ),
        (
            ("streams", "images that change"),
            ("runs", "logs, ranks"),
            ("arguments", "values of flags"),
        ),
    ),
    ("self_models: the method", ENCODER): (
        (
            ("traced", "anybody's ANN"),
            ("checkpoints", "load()"),
            ("conversion", "thresholds"),
        ),
        (
            ("evaluation", "spikes, operations"),
            ("vgg_wFeedback_...", "step(): equations"),
            ("config", "settings"),
        ),
        (
            ("feedback", "gates, rules"),
            ("data", "images, recordings"),
            ("running", "loop, dense engine"),
        ),
        (
            ("networks", "layers in order"),
            ("neurons", "equations"),
            ("plugins", "asks for the rest"),
        ),
    ),
}
ENGINES = (  # name, how it computes, the test that holds it against step()
    ("running/dense", "whole layers", "test_engines"),
    ("event", "by events, in C", "test_kernel"),
    ("quantize", "weights of 8 bits", "test_integers"),
)
ARROW_ENDS = (730, 770, 810)  # of the arrows from the engines to step()


def rooms() -> Parts:
    """Draw the folders, each above what it imports, and which results must be equal."""
    yield heading(10, "Imports go sideways and down, never up")
    yield heading(560, "Tests hold these equal, spike for spike")
    y = 58
    for (package, colour), floors in PACKAGES.items():
        yield text(10, y, package, 13, anchor="start", weight="bold")
        for floor in floors:
            for place, (name, about) in enumerate(floor):
                yield from box((10 + 172 * place, y + 10), (164, 42), colour, name, about)
            y += 48
        y += 34
    yield from box((700, 44), (140, 56), DECODER, "step()", "plain PyTorch")
    for place, (name, about, test) in enumerate(ENGINES):
        x = 570 + 140 * place
        yield from box((x, 158), (124, 56), ENCODER, name, about)
        yield line((x + 62, 156), (ARROW_ENDS[place], 102))
        yield text(x + 62, 234, test, 12)
    yield from box((640, 272), (124, 56), CONTROL, "C folder", "--to c, the page")
    yield from box((784, 272), (124, 56), CONTROL, "simulators", "through NIR")
    yield line((704, 270), (752, 240))
    yield line((846, 270), (792, 240))
    yield text(702, 348, "test_c_export", 12)
    yield text(846, 348, "test_graph, test_like", 12)


if __name__ == "__main__":
    main()
