"""What networks are built of: neurons, surrogates, norms, stages of architectures."""
