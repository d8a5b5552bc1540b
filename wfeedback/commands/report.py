"""Write an HTML page that shows one run or compares several.

It has results, spikes, curves over epochs, flags that differ, and the pictures that the
runs drew.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

from pathlib import Path

from self_models.settings import Setting
from wfeedback.command_line.parser import Parser, add_output_flag
from wfeedback.command_line.scripts import module_of
from wfeedback.drawing.page import save_page
from wfeedback.measuring.read_logs import find_runs


def build_parser() -> Parser:
    """Return the parser."""
    parser = Parser(__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help=(
            "path of a run's .jsonl log, or a run's name in --output_dir (both its ANN and its "
            "SNN, where both are there)"
        ),
    )
    add_output_flag(
        parser,
        "--output",
        "the page; an earlier report is replaced",
        ".html",
        ".htm",
        default="report.html",
    )
    parser.add_argument(
        "--output_dir", default=".", metavar="PATH", help="folder that holds logs/"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --output even if no report wrote it"
    )
    return parser


def declared_flags() -> dict[str, Setting]:
    """Return the declared flags of all scripts that train or evaluate, by name.

    Of a flag that several scripts have, what evaluations say counts: training selects
    an epoch by ``--holdout``, and they choose their images by it.
    """
    flags = {}
    for name in ("ann", "snn", "analysis"):
        flags |= module_of(name).build_parser([]).settings
    return flags


def main(argv: list[str] | None = None) -> None:
    """Write the page."""
    args = build_parser().parse_args(argv)
    runs = find_runs(args.runs, args.output_dir)
    save_page(Path(args.output), runs, args.overwrite, declared_flags())
    print(f"wrote {args.output}: {', '.join(run.name for run in runs)}")
