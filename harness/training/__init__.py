"""How does a model learn from images?"""
