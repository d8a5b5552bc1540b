"""A network of somebody's own, or a part of one: --model FILE.py:CLASS, or FILE.py alone for what it registers."""

import functools
import importlib.util
import re
import sys
import traceback
from pathlib import Path

from harness import UserError
from harness.training.losses import LOSSES
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.errors import ModelError
from self_models.basics.settings import meant
from self_models.loading import CLASSES, MODELS, kind_of
from self_models.network.plans import PLANS
from self_models.network.surrogates import SURROGATES
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES

REGISTRIES = (GATES, RULES, READOUTS, ENCODINGS, SURROGATES, PLANS, LOSSES)
WORD = re.compile(r"(?P<file>.+\.py)(?::(?P<name>\w+))?")


def class_for(word, cls):
    """The class that a --model names, made of cls where that only adds an objective's defaults; cls itself where it names none.
    The file is imported. Raises UserError where that cannot be, or where what it names is no network of the kind of cls."""
    own, kind = named(word), kind_of(cls)
    if own is None or issubclass(own, cls):
        return own or cls
    if not issubclass(own, kind):
        raise UserError(f"--model {word}: {own.__name__} is not derived from {kind.__name__}, as this script wants")
    return of_objective(own, cls)


@functools.cache
def of_objective(own, cls):
    """A class of one's own with the defaults of cls, an objective's, where it has none itself; of the same name."""
    return type(own.__name__, (own, cls), {"__module__": own.__module__, "__doc__": own.__doc__})


def named(word):
    """The class that a --model names, None where it names none. Its file is imported, once."""
    if not word:
        return None
    if not (parts := WORD.fullmatch(word)):
        raise UserError(f"--model {word}: give FILE.py:CLASS, or FILE.py alone for what it registers")
    module, name = imported(Path(parts["file"]).resolve()), parts["name"]
    if name is None:
        return None
    found = [each for each, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__]
    if name not in found:
        raise UserError(f"--model {word}: there is no class {name}; {meant(name, found)}it has {', '.join(found) or 'none'}")
    own = getattr(module, name)
    try:
        kind_of(own)
    except ModelError as error:
        raise UserError(f"--model {word}: {error}") from None
    return own


def check_used(word):
    """Raises UserError for a typed --model FILE.py that registers nothing and has networks, which nothing would use."""
    if word and (parts := WORD.fullmatch(word)) and not parts["name"]:
        module = imported(Path(parts["file"]).resolve())
        own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
        if not module.registers and (networks := [one.__name__ for one in own if issubclass(one, CLASSES[:2])]):
            raise UserError(f"--model {word} registers nothing, and a network is named: --model {word}:{networks[-1]}")


@functools.cache
def imported(path):
    """The module of a file; `registers`: whether it has registered something. Raises UserError for one that is not there, and
    with the file's line for what it raises itself."""
    if not path.is_file():
        raise UserError(f"--model {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # of what it imports itself
    before = [set(registry) for registry in REGISTRIES]
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (path, *lines[-1:])
        raise UserError(f"--model {':'.join(map(str, where))}: {type(error).__name__}: {error}") from None
    module.registers = before != [set(registry) for registry in REGISTRIES]
    return module


def as_saved(word, path):
    """The --model with which a checkpoint is what it says, where the word's file has that: FILE.py of an ordinary one."""
    if not word or not (parts := WORD.fullmatch(word)):
        return word
    saved = load_checkpoint(path)
    return parts["file"] + ("" if "settings" not in saved or saved.get("model") in MODELS else f":{saved['model']}")
