"""What happens in a run: its draws, what one step hands to the next, what comes out."""
