"""How much code there is, in lines as `wc -l` counts them. A limit is lowered to what stands once something has gone."""

import subprocess
from collections import Counter
from pathlib import Path

from conftest import REPOSITORY

LIMITS = {  # what is counted -> most lines
    "self_models and harness, Python": 14_420,
    "C": 2_575,
    "tests": 9_870,
    "benchmarks": 2_369,
    "scripts": 1_485,
}
FILES = 94  # of self_models and harness, Python


def counted_as(path):
    """Which of LIMITS a file counts for, None for no code."""
    rooms = {"tests": "tests", "benchmarks": "benchmarks", "self_models": "self_models and harness, Python",
             "harness": "self_models and harness, Python", path.name: "scripts"}  # fmt: skip
    return {".py": rooms.get(path.parts[0]), ".c": "C", ".h": "C"}.get(path.suffix)


def test_code_stays_within_its_limits():
    listed = subprocess.run(["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    lines, files, rooms = Counter(), 0, Counter()
    for path in filter(counted_as, map(Path, filter(None, listed.split("\0")))):
        count = (REPOSITORY / path).read_bytes().count(b"\n")
        lines[counted_as(path)] += count
        if path.suffix == ".py" and path.parts[0] in ("self_models", "harness"):
            files += 1
            rooms["/".join(path.parts[:2])] += count
    for name, limit in LIMITS.items():
        assert lines[name] <= limit, f"{name}: {lines[name]} lines, {limit} at most; by room: {rooms.most_common()}"
    assert files <= FILES, f"{files} files of self_models and harness, {FILES} at most"
