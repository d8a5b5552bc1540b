"""Which classes are read as which: figures and lines from a confusion matrix, confusion[label][found] = images."""

from harness.measuring.tables import aligned

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


def class_lines(confusion, names):
    """Lines for a reader: accuracy by class, and the matrix; of many classes the worst of both."""
    accuracies = [(share, name) for share, name in zip(accuracy_by_class(confusion), names, strict=True) if share is not None]
    if len(names) > MOST_CLASSES:
        worst = ", ".join(f"{name} {100 * share:.1f} %" for share, name in sorted(accuracies)[:WORST])
        yield f"accuracy by class, the lowest of {len(names)}: {worst}"
        pairs = (f"{names[label]} as {names[found]} {count:,}" for label, found, count, _ in worst_pairs(confusion))
        yield f"read wrong most often, images: {', '.join(pairs) or 'none'}"
        return
    yield "accuracy by class: " + ", ".join(f"{name} {100 * share:.1f} %" for share, name in accuracies)
    yield "images by class (rows) and by what they were read as (columns):"
    yield from aligned(
        [["", *names], *([name, *(f"{count:,}" for count in row)] for name, row in zip(names, confusion, strict=True))]
    )
