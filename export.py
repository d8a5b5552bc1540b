#!/usr/bin/env python3
"""Write a trained SNN's encoder and classifier for other programs (nir, torch), or a checkpoint of half the size (half)."""

from harness.building.own import named
from harness.command_line.parser import Parser, SwitchAction
from harness.command_line.scripts import run_script
from harness.exporting.files import FORMATS, export


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="of an SNN; for half, of an ANN, too")
    help_text = "nir: needs the package nir; torch: layers and weights; half: the checkpoint with weights of 16 bits"
    parser.add_argument("--to", choices=list(FORMATS), required=True, help=help_text)
    help_text = "default: beside the checkpoint, NAME.nir, NAME_torch.pt or NAME_half.pth"
    parser.add_argument("--output", default="", metavar="PATH", help=help_text)
    parser.add_argument("--model", default="", metavar="FILE.py:CLASS", help="of a network of your own")
    parser.add_argument("--overwrite", action=SwitchAction, default=False, help="replace a file that is there already")
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    for line in export(args.checkpoint, args.to, args.output, args.overwrite, named(args.model)):
        print(line)


if __name__ == "__main__":
    run_script(main)
