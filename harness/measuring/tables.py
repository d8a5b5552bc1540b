"""Tables of text for a terminal."""

from itertools import zip_longest


def aligned(rows):
    """Rows of text, of which some may be shorter, as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
