"""What is a network made of?"""
