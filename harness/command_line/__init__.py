"""What was asked for on the command line, and how does a script open and fail?"""
