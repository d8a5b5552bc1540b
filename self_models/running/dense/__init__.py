"""The dense engine: many timesteps of a layer as one product, with its own gradient."""
