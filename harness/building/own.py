"""A network of somebody's own, or a part of one: --model FILE.py:CLASS, or FILE.py alone for what it registers."""

import functools
import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path

from harness import UserError
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import meant
from self_models.loading import kind_of

WORD = re.compile(r"(?P<file>.+\.py)(?::(?P<name>\w+))?")


def class_for(word, cls):
    """The class that a --model names, cls where it names none. The file is imported. Raises UserError where that cannot be, or
    where what it names is no network of the kind of cls."""
    own, kind = named(word), kind_of(cls)
    if own and not issubclass(own, kind):
        raise UserError(f"--model {word}: {own.__name__} is not derived from {kind.__name__}, which this script needs")
    return own or cls


def module_of(word):
    """The module of a --model's file, which is imported, once; None without a --model."""
    if not word:
        return None
    if not (parts := WORD.fullmatch(word)):
        raise UserError(f"--model {word}: give FILE.py:CLASS, or FILE.py alone for what it registers")
    return imported(Path(parts["file"]).resolve())


def classes_in(module):
    """name -> class of those that a module defines."""
    return {
        name: value for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__
    }


def named(word):
    """The class that a --model names, None where it names none. Its file is imported, once."""
    module = module_of(word)
    if module is None or not (name := WORD.fullmatch(word)["name"]):
        return None
    found = classes_in(module)
    if name not in found:
        raise UserError(f"--model {word}: there is no class {name}; {meant(name, found)}it has {', '.join(found) or 'none'}")
    try:
        kind_of(found[name])
    except ModelError as error:
        raise UserError(f"--model {word}: {error}") from None
    return found[name]


def word_for(word, path):
    """--model for the network of a checkpoint: FILE.py:CLASS with the class that the checkpoint names, if the file has it, else
    FILE.py."""
    if not word or not Path(path).is_file():  # who reads it says what is missing
        return word
    file, name = WORD.fullmatch(word)["file"], str(load_checkpoint(path).get("model"))
    return f"{file}:{name}" if name in classes_in(module_of(word)) else file


def lines_on_own(word):
    """A line on the file of a --model, if there is one: its digest, and the classes that it defines."""
    if module := module_of(word):
        classes = ", ".join(classes_in(module)) or "none"
        yield f"--model: {Path(module.__file__).name}, digest {module.digest}, classes: {classes}"


@functools.cache
def imported(path):
    """The module of a file; digest: of the file's bytes. Raises UserError for one that is not there, and with the file's line for
    what it raises itself."""
    if not path.is_file():
        raise UserError(f"--model {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # of what it imports itself
    try:
        module.digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (path, *lines[-1:])
        raise UserError(f"--model {':'.join(map(str, where))}: {type(error).__name__}: {error}") from None
    return module
