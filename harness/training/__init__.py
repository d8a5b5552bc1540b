"""How do flags and images become a trained model?"""
