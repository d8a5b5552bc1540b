"""Pictures of what networks do, and of how they compare."""
