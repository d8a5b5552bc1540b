"""The commands of `wfeedback` that are no scripts at the top, a file for each."""
