"""What a network's spikes and operations cost in energy, and tables of it."""
