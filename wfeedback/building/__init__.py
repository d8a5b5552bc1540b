"""How flags and checkpoints become a network, and an ANN an SNN."""
