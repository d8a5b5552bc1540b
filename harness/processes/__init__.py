"""How do several processes share work and files, and heed signals?"""
