"""The images that a run sees: what a network knows of them, NIR files, scenes."""
