"""How good a model is, and what its figures say: evaluations, logs, tables."""
