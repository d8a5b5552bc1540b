"""From the command line to settings, and from an error to one line."""
