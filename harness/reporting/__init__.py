"""How do runs compare? Logs read, and one page made of them."""
