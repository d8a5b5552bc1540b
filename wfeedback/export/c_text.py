"""Texts of C: arrays, structs, strings and comments."""

import textwrap

import numpy as np


def c_array(kind: str, name: str, values, width: int = 16) -> str:
    """Return the definition of an array.

    Parameters
    ----------
    kind : str
        Type of its numbers.
    name : str
        Name of the array.
    values : array-like
        Numbers, float32 or whole.
    width : int
        Numbers of a line.
    """
    values = np.asarray(values).ravel()
    if values.dtype.kind == "f":
        texts = [f"{text}f" for text in values.astype(str).tolist()]
    else:
        texts = [str(value) for value in values.tolist()]
    lines = [", ".join(texts[i : i + width]) for i in range(0, len(texts), width)]
    return f"const {kind} {name}[] = {{\n" + ",\n".join(lines) + "\n};\n"


def c_struct(values: dict[str, object]) -> str:
    """Return the initialiser of a struct.

    values: name of a field -> number, or name of an array.
    """
    texts = []
    for name, value in values.items():
        if isinstance(value, float):
            texts.append(f".{name} = {value!r}f")
        else:
            texts.append(f".{name} = {value}")
    return "{" + ", ".join(texts) + "}"


def c_string(text: str) -> str:
    """Return a string literal of this text, in UTF-8."""
    characters = []
    for code in text.encode(errors="surrogateescape"):
        is_plain = 32 <= code < 127 and code not in b'"?\\'
        characters.append(chr(code) if is_plain else f"\\{code:03o}")
    return '"' + "".join(characters) + '"'


def c_comment(text: str) -> str:
    """Return a comment of this text."""
    return f"/* {wrap(text, 110, '   ')} */"


def wrap(text: str, width: int, indent: str = "") -> str:
    """Return the text in lines of this width; flags and names stay whole.

    indent: of the second line and later ones.
    """
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def size_text(num_bytes: float) -> str:
    """Return a number of bytes in words, in MB or kB."""
    if num_bytes >= 1e6:
        return f"{num_bytes / 1e6:.2f} MB"
    return f"{num_bytes / 1e3:.0f} kB"
