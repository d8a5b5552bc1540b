"""Studies: programs that measure something in order to answer a question of ours.

The findings rest on them, and no user needs one. README.md beside this file says which
study belongs to which finding, and how it is run.
"""
