"""The command that started this program, and the one that goes on with its run."""

import os
import re
import shlex
import sys
from pathlib import Path


def command_line():
    """The command that started this program, as typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def resume_command():
    """The command that goes on with this training run: the same flags and --resume, by torchrun if torchrun started it."""
    launcher = ["python"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        nodes = os.environ.get("GROUP_WORLD_SIZE", "1")
        several = ["--nnodes", nodes, "--node_rank", "...", "--rdzv_endpoint", "..."] if nodes != "1" else []
        launcher = ["torchrun", *several, "--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
    words = re.sub(r"\0--(overwrite|resume)(=[^\0]*|\0(?!-)[^\0]*)?(?=\0|$)", "", "\0".join(sys.argv)).split("\0")
    return shlex.join([*launcher, *words, "--resume"])
