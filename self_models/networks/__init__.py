"""What a network is made of beside its neurons: plans, stages, and kinds of nodes."""
