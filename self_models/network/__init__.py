"""What a network is made of: plans, stages, neurons, surrogate gradients."""
