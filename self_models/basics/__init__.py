"""What every room builds on: errors, settings, compiled functions."""
