"""What happens in a run: its random numbers, its state, its timesteps, its output.

The folder ``dense`` computes many timesteps of a layer at once, and ``phased`` has
networks whose layers fire one after the other.
"""
