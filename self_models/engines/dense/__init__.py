"""The dense engine: how are many timesteps of a layer one product, with a gradient written by hand?"""
