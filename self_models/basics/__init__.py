"""What does every room build on: what is a setting, an image, a checkpoint, a compiled function?"""
