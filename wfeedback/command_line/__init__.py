"""What the command line asks for, and how a script opens and fails."""
