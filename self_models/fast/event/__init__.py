"""How can a run cost only what its spikes cost?"""
