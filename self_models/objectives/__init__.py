"""What does a network see next, when does it stop, and how does it predict?"""
