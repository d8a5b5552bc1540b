"""What does a run cost, in spikes, operations and energy?"""
