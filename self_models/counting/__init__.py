"""What a run costs: spikes, operations, energy."""
