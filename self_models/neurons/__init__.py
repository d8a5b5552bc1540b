"""The equations of neurons, their surrogate gradients, and norms."""
