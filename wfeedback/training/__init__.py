"""How a model learns from images."""
