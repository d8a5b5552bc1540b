"""Images: which there are, and what is done to them."""
