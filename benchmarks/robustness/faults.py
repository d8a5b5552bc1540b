#!/usr/bin/env python3
"""Do the tests notice faults that were written by hand? Each is a patch in faults/ and names the tests that should notice it.

One line for each fault: noticed, and by which tests; not noticed; or does not apply. The tests run in a copy of the repository,
once without the fault and once with it. The exit status is 1 unless every fault is noticed.
"""

import argparse
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).with_suffix("")


def main(argv=None):
    names = sorted(path.stem for path in FAULTS.glob("*.patch"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of a patch; default: all. {', '.join(names)}")
    chosen = parser.parse_args(argv).names or names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"there is no fault {unknown[0]}: choose from {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        copy_to(tree := Path(folder) / "tree")
        missed = [name for name in chosen if not is_noticed(name, tree)]
    sys.exit(1 if missed else 0)


def copy_to(tree):
    """Copy what git tracks, or would track, to a folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / name)


def is_noticed(name, tree):
    """Whether a test fails with this fault and passes without it; prints a line."""
    (fault, tests), by, words = said_of(name), set(), "does not apply"
    if applies(name, tree, "--check"):
        before = failing_before(tests, tree)
        applies(name, tree)
        by = failing(tests, tree) - before
        applies(name, tree, "--reverse")
        words = f"noticed by {', '.join(sorted(by))}" if by else "not noticed"
    print(f"{name}: {words} ({fault})", flush=True)
    return bool(by)


def said_of(name):
    """(description of the fault, pytest's arguments that run its tests), from the head of a patch."""
    head = (FAULTS / f"{name}.patch").read_text(encoding="utf-8").splitlines()[:2]
    said = dict(line.split(": ", 1) for line in head)
    return said["fault"], tuple(shlex.split(said["tests"]))


def applies(name, tree, *how):
    """Whether git applies a patch to a tree. how: flags, such as --check."""
    alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}  # in no repository that may lie above
    return not subprocess.run(["git", "apply", *how, FAULTS / f"{name}.patch"], cwd=tree, env=alone).returncode


def failing(tests, tree):
    """Names of the tests that fail."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfE", *tests]
    own = {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(tree.parent / "cache"), "COLUMNS": "500"}
    plain = os.environ | own  # compiled code would be taken for that of the fault, and kernels with faults would be kept
    said = subprocess.run(command, cwd=tree, env=plain, capture_output=True, text=True).stdout
    return set(re.findall(r"^(?:FAILED|ERROR) \S+?::(\w+)", said, re.MULTILINE))


failing_before = functools.cache(failing)  # without a fault, whichever comes then


if __name__ == "__main__":
    main()
