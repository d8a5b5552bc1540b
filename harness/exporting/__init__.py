"""How does a trained network get into other people's programs?"""
