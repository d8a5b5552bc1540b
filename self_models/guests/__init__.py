"""What extends the core, and what the core does not know: each adds one thing."""
