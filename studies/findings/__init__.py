"""Studies behind the findings."""
