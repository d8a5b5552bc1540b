"""`python -m wfeedback` is the command `wfeedback`."""

from wfeedback.command_line.scripts import wfeedback

wfeedback()
