"""Files of trained networks: reading them, and making networks of them."""
