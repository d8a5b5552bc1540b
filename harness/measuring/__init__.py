"""Measures: how good a model is, and what its figures say."""
