"""What happens in one image? Compiled code."""
