"""The scripts as commands: the one that started this program, those that are told to a user."""

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
