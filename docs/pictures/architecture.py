#!/usr/bin/env python3
"""Writes architecture.svg beside itself: the network, the order within a time step, and the two updates of a neuron.

Boxes have white words on colour, words outside are grey: both can be read on a white and on a dark page.
`python docs/pictures/architecture.py`
"""

# ruff: noqa: RUF001  (Greek letters)

from html import escape
from pathlib import Path

SIZE = 1000, 716
GREY = "#767c86"  # of lines and words: contrast 4.2 on white, 4.5 on #0d1117
INPUT, ENCODER, DECODER, CLASSIFIER, CONTROL = "#4477aa", "#228833", "#857200", "#aa3377", "#5f6b7a"
UPDATES = {"immediate": 0, "delayed": 1}  # name -> steps that a spiking layer takes
CHARGES = {
    "immediate": ("charge  V′ = λV + I", "fire  s = H(V′/θ − 1)", "reset  V = V′ − θs"),
    "delayed": ("fire  s = H(V/θ − 1)", "charge and reset  V = λV + I − θs"),
}


def main():
    parts = [*network(), *order(), *neurons()]
    Path(__file__).with_suffix(".svg").write_text(svg(parts), encoding="utf-8")


def svg(parts):
    look = f'viewBox="0 0 {SIZE[0]} {SIZE[1]}" font-family="DejaVu Sans, Verdana, sans-serif"'
    head = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5.5" markerHeight="5.5" orient="auto"'
    arrow = f'<defs><marker id="a" {head}><path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>'
    begin = f'<svg xmlns="http://www.w3.org/2000/svg" {look}>'
    return "\n".join([begin, "<title>Architecture and one time step</title>", arrow, *parts, "</svg>\n"])


def text(x, y, words, size=13, colour=GREY, anchor="middle", weight="normal"):
    look = f'font-size="{size}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x}" y="{y}" {look} xml:space="preserve">{escape(words)}</text>'


def box(x, y, width, height, colour, title, *lines, number=None):
    """A box whose corner is (x, y), with a title, lines below it, and its place in the order of a step."""
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
    yield text(10, 24, "The network in time step t", 16, anchor="start", weight="bold")
    yield from box(10, 60, 84, 76, INPUT, "Image", "x")
    yield from box(126, 60, 116, 76, CONTROL, "Gate", "view of step t", "model.gate", number=1)
    yield from box(278, 60, 116, 76, INPUT, "Encoding", "input spikes", "model.encoding", number=2)
    yield from box(430, 60, 130, 76, ENCODER, "Encoder", "up to the fork", "features", number=3)
    yield from box(626, 60, 130, 76, ENCODER, "Encoder", "after the fork", "features", number=4)
    yield from box(792, 60, 110, 76, CLASSIFIER, "Classifier", "outputs O", "classifier", number=5)
    for begin, end in ((94, 124), (242, 276), (394, 428), (560, 624), (756, 790)):
        yield line((begin, 98), (end, 98))
    yield line((902, 98), (934, 98))
    yield text(938, 103, "class", 13, anchor="start")
    yield line((847, 136), (847, 204))
    yield from box(782, 206, 130, 66, CONTROL, "Stopping rule", "evaluation only", "model.rule", number=9)
    yield f'<circle cx="592" cy="98" r="5" fill="{GREY}"/>'
    yield text(592, 84, "fork", 13)
    yield line((592, 98), (592, 239), (562, 239))
    yield text(600, 180, "sum of K steps", 13, anchor="start")
    yield from box(430, 206, 130, 66, DECODER, "Decoder", "every K-th step", "generate", number=6)
    yield line((430, 239), (396, 239))
    yield from box(264, 206, 130, 66, DECODER, "Read-out", "R, prediction p", "model.readout", number=7)
    yield line((264, 239), (184, 239), (184, 138), dashed=True)
    yield from badge(184, 239, 8)
    yield text(184, 272, "compare p with x:", 13)
    yield text(184, 290, "view of step t + 1", 13)


def order():
    """What step() does, one after the other."""
    yield text(10, 334, "The order within one step", 16, anchor="start", weight="bold")
    rows = (
        ("view of step t", "1 if u ≤ |view|", "up to the fork", "after the fork", "O = μO + drive"),
        ("runs on the sum", "R = ρR + d", "|p − x| < ε: block", "margin large: stop"),
    )
    colours = ((CONTROL, INPUT, ENCODER, ENCODER, CLASSIFIER), (DECODER, DECODER, CONTROL, CONTROL))
    names = (("Gate", "Encoding", "Encoder", "Encoder", "Classifier"), ("Decoder", "Read-out", "Gate", "Stopping rule"))
    number = 0
    for row, (words, tints, titles) in enumerate(zip(rows, colours, names, strict=True)):
        y = 358 + 94 * row
        for column, (title, said, tint) in enumerate(zip(titles, words, tints, strict=True)):
            number, x = number + 1, 22 + 196 * column
            yield from box(x, y, 164, 52, tint, title, said, number=number)
            if column < len(titles) - 1:
                yield line((x + 164, y + 26), (x + 194, y + 26))
    yield line((968, 384), (984, 384), (984, 426), (4, 426), (4, 478), (20, 478))
    yield line((774, 478), (806, 478))
    yield text(812, 483, "step t + 1", 13, anchor="start")


def neurons():
    """One spiking layer in a step, and when each of three layers can first spike for an input of step 1."""
    title = "Update of a spiking layer, and when each layer can first answer an input of step 1"
    yield text(10, 566, title, 16, anchor="start", weight="bold")
    for place, (name, delay) in enumerate(UPDATES.items()):
        left = 10 + 500 * place
        yield text(left, 594, name, 14, anchor="start", weight="bold")
        for number, words in enumerate(CHARGES[name]):
            yield text(left, 620 + 24 * number, f"{number + 1}. {words}", 13, anchor="start")
        for layer in range(3):
            y = 626 + 26 * layer
            yield text(left + 320, y + 5, f"layer {layer + 1}", 12, anchor="end")
            for step in range(4):
                sends, x = step == layer * delay + delay, left + 344 + 36 * step
                yield (
                    f'<circle cx="{x}" cy="{y}" r="8" fill="{ENCODER if sends else "none"}" stroke="{GREY}" stroke-width="1.5"/>'
                )
        for step in range(4):
            yield text(left + 344 + 36 * step, 708, str(step + 1), 12)
        yield text(left + 320, 708, "step", 12, anchor="end")


if __name__ == "__main__":
    main()
