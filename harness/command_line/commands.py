"""The command that started this program, and the one that goes on with its run."""

import os
import shlex
import sys
from pathlib import Path


def command_line():
    """The command that started this program, as typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def resume_command():
    """The command that goes on with this training run: the same flags and --resume, by torchrun if torchrun started it."""
    return shlex.join([*_launcher(), sys.argv[0], *_without(sys.argv[1:], "--overwrite", "--resume"), "--resume"])


def _launcher():
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ["python"]
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    several = ["--nnodes", str(nodes), "--node_rank", "...", "--rdzv_endpoint", "..."] if nodes > 1 else []
    return ["torchrun", *several, "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1")]


def _without(words, *flags):
    """The words without these flags and the value that may follow each."""
    kept, dropping = [], False
    for word in words:
        is_flag = word.split("=")[0] in flags
        if not is_flag and (not dropping or word.startswith("-")):
            kept.append(word)
            dropping = False
        else:
            dropping = is_flag and "=" not in word
    return kept
