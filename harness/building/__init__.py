"""How do flags and checkpoints become a model, and an ANN an SNN?"""
