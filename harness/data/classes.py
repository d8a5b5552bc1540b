"""The first images of each class."""

import torch


def first_of_each_class(labels, count):
    """Positions of the first image of class 0, 1, …, then the second of each and so on, `count` in all; labels (N,) int64."""
    by_class, sizes = labels.argsort(stable=True), labels.bincount()
    number = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]  # 0 for the first of its class
    return by_class[torch.argsort(number * len(sizes) + labels[by_class])][:count]
