"""How does a network run faster than its equations are written? Whole layers over many timesteps."""
