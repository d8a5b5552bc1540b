"""How good is a model, and what do its figures say?"""
