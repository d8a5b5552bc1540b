"""What findings rest on, and no user calls. See README.md beside this file."""
