"""Scripts that measure how fast this program and others are."""
