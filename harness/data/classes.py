"""Classes: their names, and the first images of each."""

import torch
import torch.nn.functional as F

NAMES = {
    "FashionMNIST": ["T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"],
    "CIFAR10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}


def class_names(dataset, count):
    """The names of a data set's classes, a list of `count`; their numbers where they have no names."""
    return NAMES.get(dataset) or [str(number) for number in range(count)]


def first_of_each_class(labels, count):
    """Positions of the first image of class 0, 1, …, then the second of each and so on, `count` in all; labels (N,) int64."""
    classes = int(labels.max()) + 1
    number = F.one_hot(labels, classes).cumsum(0).gather(1, labels[:, None])[:, 0]  # 1 for the first of its class
    return torch.argsort(number * classes + labels)[:count]
