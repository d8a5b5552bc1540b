"""Images, their order, and what is done to them."""
