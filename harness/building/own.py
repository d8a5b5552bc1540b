"""A network of somebody's own, or a part of one: --model FILE.py:CLASS, or FILE.py alone for what it registers."""

import functools
import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path

from harness import UserError
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import meant
from self_models.loading import kind_of


def class_for(word, cls):
    """The class that a --model names, cls where it names none. Raises UserError where it is no network of the kind of cls."""
    own, kind = named(word), kind_of(cls)
    if own and not issubclass(own, kind):
        raise UserError(f"--model {word}: {own.__name__} is not derived from {kind.__name__}, which this script needs")
    return own or cls


def named(word):
    """The class that a --model names, None where it names none. Its file is imported."""
    file, name = parts_of(word)
    if not file:
        return None
    module = imported(file)
    if not name:
        return None
    if name not in module.classes:
        known = ", ".join(module.classes) or "none"
        raise UserError(f"--model {word}: there is no class {name}; {meant(name, module.classes)}it has {known}")
    try:
        kind_of(module.classes[name])
    except ModelError as error:
        raise UserError(f"--model {word}: {error}") from None
    return module.classes[name]


def parts_of(word):
    """(path of the file, name of the class or '') of a --model; (None, '') where there is none."""
    file, _, name = word.rpartition(":") if not word.endswith(".py") else (word, "", "")
    if word and not (file.endswith(".py") and (name.isidentifier() or not name)):
        raise UserError(f"--model {word}: give FILE.py:CLASS, or FILE.py alone for what it registers")
    return Path(file).resolve() if word else None, name


def word_for(word, path):
    """--model for the network of a checkpoint: FILE.py:CLASS where the file has the class that it names, else FILE.py."""
    if not word or not Path(path).is_file():  # who reads it says what is missing
        return word
    file, name = parts_of(word)[0], str(load_checkpoint(path).get("model"))
    return f"{file}:{name}" if name in imported(file).classes else str(file)


def lines_on_own(word):
    """A line on the file of a --model, if there is one: its digest, and the classes that it defines."""
    if word:
        module = imported(parts_of(word)[0])
        yield f"--model: {Path(module.__file__).name}, digest {module.digest}, classes: {', '.join(module.classes) or 'none'}"


@functools.cache
def imported(path):
    """The module of a file, imported once; digest: of the file's bytes; classes: name -> class of those that it defines. Raises
    UserError for one that is not there, and with the file's line for what it raises itself."""
    if not path.is_file():
        raise UserError(f"--model {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # of what it imports itself
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (path, *lines[-1:])
        raise UserError(f"--model {':'.join(map(str, where))}: {type(error).__name__}: {error}") from None
    module.digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    module.classes = {cls.__name__: cls for cls in own}
    return module
