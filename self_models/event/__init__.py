"""The event engine: a run that costs what its spikes cost."""
