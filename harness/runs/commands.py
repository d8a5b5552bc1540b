"""The scripts as commands: the one that started this program, those that are told to a user, the one that goes on with a run."""

import os
import re
import shlex
import sys
from pathlib import Path

COMMANDS = {  # of `wfeedback`, once the package is installed -> the script
    "ann": "ann_wFeedback",
    "snn": "snn_wFeedback",
    "analysis": "snn_wFeedback_posthoc_model_analysis",
    "obj1": "snn_wFeedback_posthoc_model_inference_obj1",
    "obj2": "snn_wFeedback_posthoc_model_inference_obj2",
    "obj3": "snn_wFeedback_posthoc_model_inference_obj3",
    "stream": "snn_wFeedback_posthoc_model_stream",
    "compare": "compare",
    "report": "report",
    "energy": "energy",
    "export": "export",
    "nir": "run_nir",
    "results": "results",
    "demo": "demo",
}
PREFIX = "wfeedback"  # what sys.argv[0] begins with where that command started the script


def program(name):
    """The words that start a script of COMMANDS: wfeedback NAME where this one was started so, else python and its file."""
    return [PREFIX, name] if sys.argv[0].startswith(f"{PREFIX} ") else ["python", f"{COMMANDS[name]}.py"]


def command_line():
    """The command that started this program, as typed."""
    return f"{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".rstrip()


def resume_command():
    """The command that goes on with this training run: the same flags and --resume, by torchrun if torchrun started it."""
    by_name = sys.argv[0].startswith(f"{PREFIX} ")
    script, launcher = sys.argv[0].split() if by_name else sys.argv[:1], [] if by_name else ["python"]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        nodes = os.environ.get("GROUP_WORLD_SIZE", "1")
        several = ["--nnodes", nodes, "--node_rank", "...", "--rdzv_endpoint", "..."] if nodes != "1" else []
        processes = ["--nproc_per_node", os.environ.get("LOCAL_WORLD_SIZE", "1")]
        launcher = ["torchrun", *several, *processes, *["--no-python"] * by_name]
    flags = re.sub(r"\0--(overwrite|resume)(=[^\0]*|\0(?!-)[^\0]*)?(?=\0|$)", "", "\0".join(["", *sys.argv[1:]])).split("\0")
    return shlex.join([*launcher, *script, *flags[1:], "--resume"])
