#!/usr/bin/env python3
"""Writes beside itself architecture.svg, the network and the order within a timestep, updates.svg, the three updates of a
neuron, and rooms.svg, the folders of the code and what is held against what.

Boxes have white words on colour, words outside are grey: both can be read on a white and on a dark page.
`python docs/pictures/architecture.py`
"""

# ruff: noqa: RUF001  (Greek letters)

from html import escape
from pathlib import Path

WIDTH = 1000
GREY = "#767c86"  # of lines and words: contrast 4.2 on white, 4.5 on #0d1117
INPUT, ENCODER, DECODER, CLASSIFIER, CONTROL = (
    "#4477aa",
    "#228833",
    "#857200",
    "#aa3377",
    "#5f6b7a",
)
KEY = (
    (False, True, "first spikes that the input of timestep 1 can cause (phased: of phase 1)"),
    (True, False, "charges, cannot fire"),
)
LAYERS = ("input", "layer 1", "layer 2", "layer 3")
T = 2  # of the phased network in the picture
UPDATES = {  # name -> what a layer computes, when a layer charges and when it fires, by its number from 0, the input
    "immediate": (
        ("1. charge  V′ = λV + I", "2. fire  s = H(V′/θ − 1)", "3. reset  V = V′ − θs"),
        lambda layer: (),
        lambda layer: (1,),
    ),
    "delayed": (
        ("1. fire  s = H(V/θ − 1)", "2. charge and reset", "    V = λV + I − θs"),
        lambda layer: (),
        lambda layer: (1 + layer,),
    ),
    "phased, T = 2": (
        (
            "phase of charging  V = V + I",
            "next phase: fire  s = H(V/θ − 1)",
            "    and reset  V = V − θs",
        ),
        lambda layer: range((layer - 1) * T + 1, layer * T + 1) if layer else (),
        lambda layer: range(layer * T + 1, (layer + 1) * T + 1),
    ),
}


def main():
    write("architecture", 296, "The network in one timestep", network())
    write("updates", 298, "Updates of a spiking layer", neurons())
    write("rooms", 372, "The rooms of the code, and what is held against what", rooms())


def write(name, height, title, parts):
    look = f'viewBox="0 0 {WIDTH} {height}" font-family="DejaVu Sans, Verdana, sans-serif"'
    head = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5.5" markerHeight="5.5" orient="auto"'
    arrow = f'<defs><marker id="a" {head}><path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {look}>'
    words = "\n".join([begin, f"<title>{title}</title>", arrow, *parts, "</svg>\n"])
    Path(__file__).with_name(f"{name}.svg").write_text(words, encoding="utf-8")


def text(x, y, words, size=13, colour=GREY, anchor="middle", weight="normal"):
    look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {look} xml:space="preserve">{escape(words)}</text>'


def box(x, y, width, height, colour, title, *lines, number=None):
    """A box whose corner is (x, y), with a title, lines below it, and its place in the order of a timestep."""
    yield f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{colour}"/>'
    first = y + height / 2 - 8.5 * len(lines) + 5
    yield text(x + width / 2, first, title, 14, "#ffffff", weight="bold")
    for place, line in enumerate(lines, 1):
        yield text(x + width / 2, first + 17 * place, line, 12, "#ffffff")
    if number:
        yield from badge(x, y, number)


def badge(x, y, number):
    yield f'<circle cx="{x}" cy="{y}" r="11" fill="#ffffff" stroke="{GREY}" stroke-width="1.5"/>'
    yield text(x, y + 4.5, str(number), 12, "#20262e", weight="bold")


def line(*points, arrow=True, dashed=False):
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    look = ' marker-end="url(#a)"' * arrow + ' stroke-dasharray="6 4"' * dashed
    return f'<path d="{path}" fill="none" stroke="{GREY}" stroke-width="2"{look}/>'


def network():
    yield text(
        10,
        24,
        "The network in timestep t: the numbers are the order of computation",
        16,
        anchor="start",
        weight="bold",
    )
    yield from box(10, 60, 84, 76, INPUT, "Image", "x")
    yield from box(126, 60, 116, 76, CONTROL, "Gate", "view", "model.gate", number=1)
    yield from box(278, 60, 116, 76, INPUT, "Encoding", "input spikes", "model.encoding", number=2)
    yield from box(430, 60, 130, 76, ENCODER, "Encoder", "up to the fork", "features", number=3)
    yield from box(626, 60, 130, 76, ENCODER, "Encoder", "after the fork", "features", number=4)
    yield from box(792, 60, 110, 76, CLASSIFIER, "Classifier", "outputs O", "classifier", number=5)
    for begin, end in ((94, 124), (242, 276), (394, 428), (560, 624), (756, 790)):
        yield line((begin, 98), (end, 98))
    yield line((902, 98), (934, 98))
    yield text(938, 103, "class", 13, anchor="start")
    yield line((847, 136), (847, 204))
    yield from box(
        782, 206, 130, 66, CONTROL, "Stopping rule", "evaluation only", "model.rule", number=9
    )
    yield f'<circle cx="592" cy="98" r="5" fill="{GREY}"/>'
    yield text(592, 84, "fork", 13)
    yield line((592, 98), (592, 239), (562, 239))
    yield from box(430, 206, 130, 66, DECODER, "Decoder", "every timestep", "generate", number=6)
    yield line((430, 239), (396, 239))
    yield from box(
        264, 206, 130, 66, DECODER, "Read-out", "R, prediction p", "model.readout", number=7
    )
    yield line((264, 239), (184, 239), (184, 138), dashed=True)
    yield from badge(184, 239, 8)
    yield text(184, 272, "compare p with x:", 13)
    yield text(184, 290, "view of timestep t + 1", 13)


def neurons():
    """One spiking layer in a timestep, and when each of three layers charges and can first fire."""
    yield text(
        10,
        24,
        "Update of a spiking layer, and when each layer can first fire",
        16,
        anchor="start",
        weight="bold",
    )
    for place, (name, (equations, charges, fires)) in enumerate(UPDATES.items()):
        left, count = 10 + 320 * place, 8 if place == 2 else 4
        yield text(left, 54, name, 14, anchor="start", weight="bold")
        for number, words in enumerate(equations):
            yield text(left, 80 + 22 * number, words, 13, anchor="start")
        for layer, words in enumerate(LAYERS):
            y = 154 + 26 * layer
            yield text(left + 52, y + 4, words, 12, anchor="end")
            for step in range(1, count + 1):
                yield from dot(
                    left + 74 + 28 * (step - 1), y, step in charges(layer), step in fires(layer)
                )
        for step in range(1, count + 1):
            yield text(left + 74 + 28 * (step - 1), 257, str(step), 12)
        yield text(left + 58, 257, "timestep", 12, anchor="end")
    for x, (charging, firing, words) in zip((10, 500), KEY, strict=True):
        yield from dot(x + 8, 284, charging, firing)
        yield text(x + 22, 288, words, 12, anchor="start")


def rooms():
    """The folders, each above what it imports; beside them: which results must be equal, bit for bit."""
    yield text(10, 24, "Imports go sideways and down, never up", 16, anchor="start", weight="bold")
    yield text(
        560, 24, "Tests hold these equal, spike for spike", 16, anchor="start", weight="bold"
    )
    floors = (
        (
            CONTROL,
            ("scripts", "in the root"),
            ("command_line", "flags, recipes"),
            ("building", "models of settings"),
        ),
        (
            CONTROL,
            ("training, runs", "epochs, logs, ranks"),
            ("drawing, measuring", "pictures, tables"),
            ("exporting", "NIR, C, PyTorch"),
        ),
        (
            CLASSIFIER,
            ("guests", "what extends the core"),
            ("engines/event", "by events, in C"),
            ("engines/dense", "whole layers"),
        ),
        (
            DECODER,
            ("assembly", "names of both"),
            ("loading, conversion", "load(), thresholds"),
            ("counting, data", "operations, images"),
        ),
        (
            ENCODER,
            ("vgg_wFeedback_...", "step(): equations"),
            ("objectives", "gates, rules"),
            ("config", "settings"),
        ),
        (
            ENCODER,
            ("runtime", "graph, loop, draws"),
            ("layers", "neurons, stages"),
            ("basics", "images, checkpoints"),
        ),
    )
    for floor, (colour, *names) in enumerate(floors):
        for place, (name, about) in enumerate(names):
            yield from box(10 + 172 * place, 44 + 54 * floor, 164, 46, colour, name, about)
    yield from box(700, 44, 140, 56, DECODER, "step()", "plain PyTorch")
    engines = (
        ("engines/dense", "whole layers"),
        ("engines/event", "by events, in C"),
        ("quantize", "weights of 8 bits"),
    )
    for place, ((name, about), test) in enumerate(
        zip(engines, ("test_engines", "test_kernel", "test_integers"), strict=True)
    ):
        x = 570 + 140 * place
        yield from box(x, 158, 124, 56, ENCODER, name, about)
        yield line((x + 62, 156), (770 if place == 1 else 730 + 40 * place, 102))
        yield text(x + 62, 234, test, 12)
    yield from box(640, 272, 124, 56, CONTROL, "C folder", "--to c, the page")
    yield from box(784, 272, 124, 56, CONTROL, "simulators", "through NIR")
    yield line((704, 270), (752, 240))
    yield line((846, 270), (792, 240))
    yield text(702, 348, "test_c_export", 12)
    yield text(846, 348, "test_graph, test_like", 12)


def dot(x, y, charges, fires):
    yield f'<circle cx="{x}" cy="{y}" r="8" fill="{ENCODER if fires else "none"}" stroke="{GREY}" stroke-width="1.5"/>'
    if charges:
        yield f'<circle cx="{x}" cy="{y}" r="3.5" fill="{GREY}"/>'


if __name__ == "__main__":
    main()
