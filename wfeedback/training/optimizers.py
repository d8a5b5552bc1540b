"""How training changes the weights: an optimiser, and its rate at each update."""

import inspect
from collections.abc import Callable
from math import cos, pi

import torch
from torch import nn

from self_models.errors import UserError
from self_models.settings import choices

FUSED = ("Adam", "AdamW", "SGD")  # PyTorch has kernels of these for every device
UNFIT = {  # optimisers of torch.optim that cannot train the networks here -> why
    "Optimizer": "is what the optimisers are derived from, and itself changes no weights",
    "SparseAdam": "takes sparse gradients only, and those of the networks here are dense",
    "Muon": "takes matrices only, and the networks here have convolutions and thresholds, too",
}
# flags, beside --learning_rate, whose arguments only some optimisers have
OPTIONAL = ("weight_decay", "momentum", "nesterov", "amsgrad")


def optimizer_classes() -> dict[str, type]:
    """Find the optimisers that PyTorch has, in the order of their names.

    Returns
    -------
    dict of {str: type}
        Every class of ``torch.optim`` that is an optimiser, whether or not it fits
        here.
    """
    classes = {}
    for name in sorted(vars(torch.optim), key=str.lower):
        value = getattr(torch.optim, name)
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer):
            classes[name] = value
    return classes


def parameters_of(function: object) -> dict:
    """Return the parameters of a function or class: name -> ``inspect.Parameter``."""
    return inspect.signature(function).parameters


def why_unfit(name: str, cls: type) -> str:
    """Say why an optimiser cannot train a network here; an empty text if it can."""
    if name in UNFIT:
        return UNFIT[name]
    closure = parameters_of(cls.step).get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return (
            "computes the loss several times in a step, by a closure, and training here does once"
        )
    return ""


def checked_optimizer(name: str) -> str:
    """Check the name of an optimiser, as ``--optimizer`` takes it.

    Parameters
    ----------
    name : str
        Name of a class of ``torch.optim``.

    Returns
    -------
    str
        The same name.

    Raises
    ------
    ValueError
        If ``torch.optim`` has no such class, or one that cannot train a network here.
    """
    classes = optimizer_classes()
    usable = [each for each, cls in classes.items() if not why_unfit(each, cls)]
    if name in usable:
        return name
    if name in classes:
        reason = why_unfit(name, classes[name])
        raise ValueError(f"{name} {reason}: choose from {', '.join(usable)}")
    alike = [each for each in usable if each.lower() == str(name).lower()]
    meant = alike[0] if alike else name
    raise ValueError(f"torch.optim has no optimiser {name!r}: {choices(meant, usable)}")


def make_optimizer(
    name: str,
    model: nn.Module,
    learning_rate: float,
    bias_lr_factor: float = 1.0,
    **options,
) -> torch.optim.Optimizer:
    """Make an optimiser of ``torch.optim``, with those options that it has.

    Weights decay; biases, thresholds, leaks and gains do not.

    Parameters
    ----------
    name : str
        Name of its class.
    model : nn.Module
        What is trained: its parameters that require gradients.
    learning_rate : float
    bias_lr_factor : float
        Learning rate of biases, as a multiple of that of the weights.
    **options
        Values of ``OPTIONAL``, of which each optimiser has some.

    Returns
    -------
    torch.optim.Optimizer
        PyTorch's fused one where there is one, which passes over the weights once.

    Raises
    ------
    UserError
        If there is no such optimiser, or it does not take these options or parameters.
    """
    try:
        cls = getattr(torch.optim, checked_optimizer(name))
    except ValueError as error:  # a checkpoint of another version of PyTorch may name it
        raise UserError(f"--optimizer: {error}") from None
    options = options_for(cls, learning_rate, options)
    has_decay = "weight_decay" in options
    groups = parameter_groups(model, learning_rate * bias_lr_factor, has_decay)
    try:
        return cls(groups, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"--optimizer {name}: {error}") from None


def options_for(cls: type, learning_rate: float, options: dict) -> dict:
    """Collect the arguments of an optimiser: those of the options that it has."""
    has = parameters_of(cls)
    chosen = {"lr": learning_rate}
    for name in OPTIONAL:
        if name in has and name in options:
            chosen[name] = options[name]
    if "nesterov" in chosen:  # PyTorch refuses it without momentum
        chosen["nesterov"] = chosen["nesterov"] and chosen["momentum"] > 0
    if cls.__name__ in FUSED:
        chosen["fused"] = True
    return chosen


def parameter_groups(model: nn.Module, bias_learning_rate: float, has_decay: bool) -> list[dict]:
    """Divide the trained parameters into weights, others, and biases if there are any.

    Parameters
    ----------
    model : nn.Module
        What is trained.
    bias_learning_rate : float
        Of the group of biases.
    has_decay : bool
        Whether the optimiser knows a weight decay, which only the first group then has.

    Returns
    -------
    list of dict
        Groups as ``torch.optim`` takes them.
    """
    weights = []
    others = []
    biases = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith(".bias"):
            biases.append(parameter)
        elif parameter.dim() > 1:
            weights.append(parameter)
        else:
            others.append(parameter)
    no_decay = {"weight_decay": 0.0} if has_decay else {}
    groups = [{"params": weights}, {"params": others, **no_decay}]
    if biases:
        groups.append({"params": biases, **no_decay, "lr": bias_learning_rate})
    return groups


def flags_without_effect(args: object) -> set[str]:
    """Name the flags that the chosen optimiser does not have, or has no use for.

    Parameters
    ----------
    args : Arguments
        Flags of the run.

    Returns
    -------
    set of str
        Some of ``OPTIONAL``.
    """
    has = parameters_of(getattr(torch.optim, args.optimizer, torch.optim.Optimizer))
    idle = {name for name in OPTIONAL if name not in has}
    if "nesterov" in has and not args.momentum:
        idle.add("nesterov")
    return idle


def optimizer_line(optimizer: torch.optim.Optimizer, flag: str) -> str:
    """Say in a line what an optimiser is called, and what it was made with.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    flag : str
        What ``--optimizer`` says. A copy of the script may have another one.
    """
    defaults = dict(optimizer.defaults)
    made_with = [f"learning_rate={defaults.pop('lr'):g}"]
    name = type(optimizer).__name__
    is_of_flag = name == flag
    shown = OPTIONAL if is_of_flag else defaults  # the flags say nothing of another one
    made_with += [f"{each}={defaults[each]}" for each in shown if each in defaults]
    line = f"optimiser: {name}, {', '.join(made_with)}"
    if not is_of_flag:
        line += f" (in place of --optimizer {flag})"
    return line


def learning_rate_factor(
    schedule: str,
    total: int,
    lr_interval: list[float],
    lr_reduce: float,
    warm_up: float,
) -> Callable[[int], float]:
    """Return the factor on the learning rate at each update, for ``LambdaLR``.

    Parameters
    ----------
    schedule : {"step", "cosine", "triangle"}
        ``step``: divided by ``lr_reduce`` after each part ``lr_interval`` of the
        updates. ``cosine``, ``triangle``: it rises linearly over the first part
        ``warm_up``, and then falls to 0 as half a cosine, or linearly.
    total : int
        Updates of the whole training.
    lr_interval : list of float, 0 to 1
    lr_reduce : float
    warm_up : float, 0 to below 1

    Returns
    -------
    callable
        Number of an update, from 0 on -> the factor.
    """

    def factor(step: int) -> float:
        if schedule == "step":
            drops = sum(step >= part * total for part in lr_interval)
            return lr_reduce**-drops
        done = step / max(total, 1)
        if done < warm_up:
            return (step + 1) / (warm_up * total + 1)
        share = (done - warm_up) / (1 - warm_up)
        if schedule == "cosine":
            return (1 + cos(pi * (done - warm_up) / (1 - warm_up))) / 2
        return 1 - share

    return factor
