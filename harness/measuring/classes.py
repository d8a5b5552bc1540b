"""Which classes are read as which: figures of a confusion matrix, confusion[label][found] = images."""

MOST_CLASSES = 20  # of which the whole matrix is shown; of more the worst pairs are
WORST = 10  # of them


def accuracy_by_class(confusion):
    """Accuracy (0 to 1) on the images of each class, None where there are none."""
    return [row[label] / sum(row) if sum(row) else None for label, row in enumerate(confusion)]


def worst_pairs(confusion, most=WORST):
    """(label, found, how many images, share of the label's images) of the most frequent mistakes, most frequent first."""
    pairs = [
        (label, found, count, count / sum(row))
        for label, row in enumerate(confusion)
        for found, count in enumerate(row)
        if count and found != label
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]
