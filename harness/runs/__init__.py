"""What does a run write, and how does it survive?"""
