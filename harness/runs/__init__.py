"""What a run writes, and how it survives."""
