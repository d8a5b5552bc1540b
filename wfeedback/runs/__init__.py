"""Runs: what a run writes, and how it survives."""
