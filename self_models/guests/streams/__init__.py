"""Networks whose images change while they run."""
