"""Data sets, folders of images, and recordings of event cameras."""
