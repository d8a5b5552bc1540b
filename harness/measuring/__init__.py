"""Evaluations, their figures, and what they say."""
