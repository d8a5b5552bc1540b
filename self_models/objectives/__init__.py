"""What a network is told to do: which input it sends, when it stops, how its decoder predicts."""
