"""A network of somebody's own, or a part of one: --model FILE.py:CLASS, or FILE.py alone for what it registers."""

import functools
import hashlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path

from harness import UserError
from harness.training.losses import LOSSES
from self_models.basics import ModelError
from self_models.basics.checkpoints import load_checkpoint
from self_models.basics.settings import meant
from self_models.loading import CLASSES, MODELS, kind_of
from self_models.network.neurons import UPDATES, SpikingNeuron
from self_models.network.plans import PLANS
from self_models.network.stages import INITS
from self_models.network.surrogates import SURROGATES
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES

REGISTRIES = {"gate": GATES, "rule": RULES, "readout": READOUTS, "encoding": ENCODINGS, "activation": SURROGATES, "loss": LOSSES,
              "architecture": PLANS, "update": UPDATES, "init": INITS}  # what is chosen -> from what  # fmt: skip
WORD = re.compile(r"(?P<file>.+\.py)(?::(?P<name>\w+))?")


def class_for(word, cls):
    """The class that a --model names, made of cls where that only adds an objective's defaults; cls itself where it names none.
    The file is imported. Raises UserError where that cannot be, or where what it names is no network of the kind of cls."""
    own, kind = named(word), kind_of(cls)
    if own is None or issubclass(own, cls):
        return own or cls
    if not issubclass(own, kind):
        raise UserError(f"--model {word}: {own.__name__} is not derived from {kind.__name__}, which this script needs")
    return of_objective(own, cls)


@functools.cache
def of_objective(own, cls):
    """A class of one's own with the defaults of cls, an objective's, where it has none itself; of the same name."""
    return type(own.__name__, (own, cls), {"__module__": own.__module__, "__doc__": own.__doc__})


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


def check_used(word):
    """Raises UserError for a typed --model FILE.py that registers nothing and has networks, which nothing would use."""
    if word and (parts := WORD.fullmatch(word)) and not parts["name"]:
        module = module_of(word)
        networks = [name for name, one in classes_in(module).items() if issubclass(one, CLASSES[:2])]
        if not module.registered and networks:
            raise UserError(f"--model {word} registers nothing, and a network is named: --model {word}:{networks[-1]}")


def parts_in_use(args, model):
    """(what the model, and a loss in training, use of the file of --model, what they do not), lists of words."""
    module, own = module_of(args.model), named(args.model)
    chosen = {**model.settings, "architecture": model.settings["vgg_name"]}
    used, idle = [f"class {own.__name__}"] if own else [], []
    for kind, name in module.registered:
        weighs, is_rule = kind == "loss" and getattr(args, f"{name}_weight", 0), kind == "rule"
        counts = chosen.get(kind) == name or (weighs and not args.test_only) or (is_rule and name in getattr(args, "rules", ()))
        why = "not chosen" if kind != "loss" else "of training" if args.test_only else "weight 0"
        (used if counts else idle).append(f"{kind} {name}" + f" ({why})" * (not counts))
    for name, cls in classes_in(module).items():
        if issubclass(cls, SpikingNeuron) and hasattr(model, "neurons"):
            layers = [layer for layer, neuron in model.neurons().items() if isinstance(neuron, cls)]
            (used if layers else idle).append(f"neurons {name} ({'in ' + ', '.join(layers) if layers else 'in no layer'})")
    return used, idle


def lines_on_own(args, model, saved=None, path=""):
    """Lines on the file of --model: what is in use of it, and whether it is another than the one of which something was in use
    when a checkpoint (saved, of this path) was trained."""
    if not args.model:
        return
    (used, idle), ours = parts_in_use(args, model), file_of(args.model)
    if used:
        yield f"in use of {ours['name']}: {', '.join(used)}" + f"; not in use: {', '.join(idle)}" * bool(idle)
    else:
        yield f"note: nothing of {ours['name']} is in use: {', '.join(idle) or 'it registers nothing'}"
    was = (saved or {}).get("model_file")
    if isinstance(was, dict) and was.get("digest") != ours["digest"]:
        is_same = was.get("name") == ours["name"]
        which = f"another version of {ours['name']}" if is_same else f"{was.get('name')}, not with {ours['name']}"
        yield f"note: {path} was trained with {which}: its own parts may compute something else now"


def file_of(word):
    """Name and digest of a --model's file, as it was imported."""
    module = module_of(word)
    return {"name": Path(module.__file__).name, "digest": module.digest}


@functools.cache
def imported(path):
    """The module of a file; registered: (kind, name) of what it has registered; digest: of the file's bytes. Raises UserError for
    one that is not there, and with the file's line for what it raises itself."""
    if not path.is_file():
        raise UserError(f"--model {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.parent))  # of what it imports itself
    before = {kind: dict(registry) for kind, registry in REGISTRIES.items()}
    try:
        module.digest = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (path, *lines[-1:])
        raise UserError(f"--model {':'.join(map(str, where))}: {type(error).__name__}: {error}") from None
    module.registered = [(kind, name) for kind, registry in REGISTRIES.items() for name, part in registry.items()
                         if before[kind].get(name) is not part]  # fmt: skip
    return module


def as_saved(word, path):
    """The --model with which a checkpoint is what it says, where the word's file has that; of an ordinary network FILE.py, or ''
    where that registers nothing."""
    if not word or not (parts := WORD.fullmatch(word)) or not Path(path).is_file():  # who reads it says what is missing
        return word
    saved = load_checkpoint(path)
    if "settings" not in saved or saved.get("model") in MODELS:
        return parts["file"] if module_of(word).registered else ""
    return f"{parts['file']}:{saved['model']}"
