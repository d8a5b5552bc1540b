"""Which images are there, and what is done to them?"""
