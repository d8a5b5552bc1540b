"""What a run costs, in spikes, operations and energy."""
