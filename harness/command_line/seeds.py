"""--seeds of the scripts that train: one run after the other, each as --seed starts it."""

import sys
from pathlib import Path

from harness import UserError
from harness.command_line.presets import STARTS
from harness.processes import ranks
from harness.runs.paths import is_numbered, numbered, run_name
from harness.training.state import Finished

OF_ONE_RUN = ("seed", "results_json")


def train_each(train, parser, argv, kind):
    """train(args) of what was typed; with --seeds of each seed in turn: NAME, NAME_1, NAME_2; then a list of what it returned. A
    checkpoint that is typed, PATH.pth, stands for PATH_1.pth with seed 1 where there is one. With --resume, runs that have had
    all their epochs are left as they are. kind: ann or snn. Raises UserError for flags that are of one run."""
    args = parser.parse_args(argv)
    if not args.seeds:
        return train(args)
    if one := [flag for flag in OF_ONE_RUN if flag in args.typed]:
        raise UserError(f"--{one[0]} is of one run, and --seeds makes several: leave out one of the two")
    if args.resume not in ("", "last"):
        raise UserError(f"--resume {args.resume} is one run's checkpoint: with --seeds say --resume alone")
    words, found = list(sys.argv[1:] if argv is None else argv), []
    for seed in dict.fromkeys(args.seeds):
        own = parser.parse_args([*words, "--seed", str(seed)])
        if not is_numbered(own):
            own = own.with_settled(run_name=numbered(run_name(kind, own), seed))
        said = [f"== seed {seed}: {own.run_name}"]
        for flag in STARTS:
            path = Path(getattr(own, flag, "") or ".")
            if flag in args.given and (sibling := path.with_stem(numbered(path.stem, seed))).is_file():
                own = own.with_settled(**{flag: str(sibling)})
                said.append(f"--{flag} {sibling}")
        if ranks.is_first():
            print("; ".join(said), flush=True)
        try:
            found.append(train(own))
        except Finished as done:
            if ranks.is_first():
                print(f"left as it is: {done}", flush=True)
    return found
