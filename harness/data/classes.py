"""The first images of each class."""

import torch
import torch.nn.functional as F


def first_of_each_class(labels, count):
    """Positions of the first image of class 0, 1, …, then the second of each and so on, `count` in all; labels (N,) int64."""
    classes = int(labels.max()) + 1
    number = F.one_hot(labels, classes).cumsum(0).gather(1, labels[:, None])[:, 0]  # 1 for the first of its class
    return torch.argsort(number * classes + labels)[:count]
