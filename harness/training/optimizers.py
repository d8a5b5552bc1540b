"""How training changes the weights: an optimiser of torch.optim, and its learning rate at each update."""

import inspect
from math import cos, pi

import torch

from harness import UserError
from self_models.basics.settings import choices

FUSED = ("Adam", "AdamW", "SGD")  # PyTorch has kernels of these for every device
UNFIT = {  # optimisers of torch.optim that cannot train the networks here -> why
    "Optimizer": "is what the optimisers are derived from, and itself changes no weights",
    "SparseAdam": "takes sparse gradients only, and those of the networks here are dense",
    "Muon": "takes matrices only, and the networks here have convolutions and thresholds, too",
}
# flags, beside --learning_rate, whose arguments only some optimisers have
OPTIONAL = ("weight_decay", "momentum", "nesterov", "amsgrad")


def optimizer_classes():
    """Find the optimisers that PyTorch has, in the order of their names.

    Returns
    -------
    dict of {str: type}
        Every class of ``torch.optim`` that is an optimiser, whether or not it fits here.
    """
    classes = {}
    for name in sorted(vars(torch.optim), key=str.lower):
        value = getattr(torch.optim, name)
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer):
            classes[name] = value
    return classes


def parameters_of(function):
    """Return the parameters of a function or class: name -> ``inspect.Parameter``."""
    return inspect.signature(function).parameters


def why_unfit(name, cls):
    """Say why an optimiser cannot train a network here; an empty text if it can."""
    if name in UNFIT:
        return UNFIT[name]
    closure = parameters_of(cls.step).get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return (
            "computes the loss several times in a step, by a closure, and training here does once"
        )
    return ""


def checked_optimizer(name):
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


def make_optimizer(model, args):
    """Make the optimiser that the flags name, with those flags that it has.

    Weights decay; biases, thresholds, leaks and gains do not. Biases have a learning rate of
    their own, ``--bias_lr_factor`` times that of the weights.

    Parameters
    ----------
    model : nn.Module
        What is trained: its parameters that require gradients.
    args : Configuration
        Flags of the run.

    Returns
    -------
    torch.optim.Optimizer
        PyTorch's fused one where there is one, which passes over the weights once.

    Raises
    ------
    UserError
        If there is no such optimiser, or it does not take these flags or parameters.
    """
    try:
        cls = getattr(torch.optim, checked_optimizer(args.optimizer))
    except ValueError as error:  # a checkpoint of another version of PyTorch may name it
        raise UserError(f"--optimizer: {error}") from None
    options = options_for(cls, args)
    groups = parameter_groups(model, args, has_decay="weight_decay" in options)
    try:
        return cls(groups, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"--optimizer {args.optimizer}: {error}") from None


def options_for(cls, args):
    """Collect the arguments of an optimiser: what the flags say, as far as it has them."""
    has = parameters_of(cls)
    options = {"lr": args.learning_rate}
    for name in OPTIONAL:
        if name in has:
            options[name] = getattr(args, name)
    if "nesterov" in options:  # PyTorch refuses it without momentum
        options["nesterov"] = options["nesterov"] and options["momentum"] > 0
    if cls.__name__ in FUSED:
        options["fused"] = True
    return options


def parameter_groups(model, args, has_decay):
    """Divide the parameters that are trained into weights, others, and biases if there are any.

    Parameters
    ----------
    model : nn.Module
        What is trained.
    args : Configuration
        Flags of the run.
    has_decay : bool
        Whether the optimiser knows a weight decay, which only the first group then has.

    Returns
    -------
    list of dict
        Groups as ``torch.optim`` takes them.
    """
    weights, others, biases = [], [], []
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
        rate = args.learning_rate * args.bias_lr_factor
        groups.append({"params": biases, **no_decay, "lr": rate})
    return groups


def flags_without_effect(args):
    """Name the flags that the chosen optimiser does not have, or has no use for.

    Parameters
    ----------
    args : Configuration
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


def optimizer_line(optimizer):
    """Say in a line what an optimiser is called, and what it was made with."""
    made_with = [f"learning_rate={optimizer.defaults['lr']:g}"]
    for name in OPTIONAL:
        if name in optimizer.defaults:
            made_with.append(f"{name}={optimizer.defaults[name]}")
    return f"optimiser: {type(optimizer).__name__}, {', '.join(made_with)}"


def make_schedule(optimizer, args, updates):
    """Learning rate at each update; updates: of an epoch. step: divided by lr_reduce after each part lr_interval of the epochs.
    cosine, triangle: rises linearly over the first part warm_up of all updates, then falls to 0 as half a cosine, or linearly."""
    total, warm_up = args.epochs * updates, args.warm_up

    def factor(step):
        if args.lr_schedule == "step":
            return args.lr_reduce ** -sum(step >= part * total for part in args.lr_interval)
        done = step / max(total, 1)
        if done < warm_up:
            return (step + 1) / (warm_up * total + 1)
        past, whole = done - warm_up, 1 - warm_up
        return (
            (1 + cos(pi * past / whole)) / 2 if args.lr_schedule == "cosine" else 1 - past / whole
        )

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
