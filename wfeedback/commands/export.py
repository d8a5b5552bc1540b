"""Export a trained SNN: to NIR, PyTorch, a web page, C, or an Arduino library.

nir and torch have its encoder and classifier; block, page, c and arduino have all of
it.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

from dataclasses import replace

from wfeedback.building.models import named
from wfeedback.command_line.flags import borrowed_flags
from wfeedback.command_line.parser import Parser, SwitchAction
from wfeedback.command_line.reading import add_reading_flags, reading_of
from wfeedback.export.formats import FORMATS, export

# Flags, of the images that a page or a folder of C comes with.
DATA = ("dataset", "data_dir", "skip_bad")


def build_parser() -> Parser:
    """Return the parser."""
    parser = Parser(__doc__)
    flags = borrowed_flags(DATA)
    settings = {name: flags[name] for name in DATA}  # --help has them in this order
    settings["dataset"] = replace(
        settings["dataset"],
        default="",
        help=(
            "of page, c and arduino: its test images are tried, and written; default: the "
            "network's; a folder as in training"
        ),
    )
    for name, declared in settings.items():
        parser.add_setting(name, declared)
    parser.add_argument(
        "network",
        metavar="NETWORK",
        help=(
            "checkpoint of an SNN, or the name of one that came with the program, "
            "such as quick_feedback; for block and c, a NIR file (.nir), too"
        ),
    )
    parser.add_argument(
        "--to",
        choices=list(FORMATS),
        required=True,
        help=(
            "nir: needs the package nir; torch: layers and weights; block: a file that "
            "C programs open; page: an HTML file in which one draws digits and watches the "
            "network, with its decoder; c: a folder of C99 that runs it and checks itself; "
            "arduino: a library with an example"
        ),
    )
    parser.add_argument(
        "--weights",
        choices=["float32", "int8", "int8_folded"],
        default="float32",
        help=(
            "block, page, c, arduino: float32 (stored as 16 bits in a page), int8 (integer "
            "arithmetic, exact, less memory), or int8_folded (a strided convolution and the one "
            "behind it are one: more weights, fewer additions)"
        ),
    )
    parser.add_argument(
        "--output",
        default="",
        metavar="PATH",
        help=(
            "file or folder; default: beside the checkpoint: NAME, .nir, _torch.pt, .snn, .html, "
            "_c or _arduino"
        ),
    )
    parser.add_argument(
        "--model", default="", metavar="FILE.py:CLASS", help="class of a network of your own"
    )
    parser.add_argument(
        "--overwrite",
        action=SwitchAction,
        default=False,
        help="replace a file that is there already",
    )
    add_reading_flags(parser.add_argument_group("reading a NIR file, for block and c"))
    return parser


def main(argv: list[str] | None = None) -> None:
    """Write the network in another format, and say what was written."""
    args = build_parser().parse_args(argv)
    data = {name: getattr(args, name) for name in args.typed if name in DATA}
    lines = export(
        args.network,
        args.to,
        args.output,
        args.overwrite,
        own=named(args.model),
        weights=args.weights,
        reading=reading_of(args),
        **data,
    )
    for line in lines:
        print(line)
