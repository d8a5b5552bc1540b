"""What happens in a run: its random numbers, its state, its timesteps, its output."""
