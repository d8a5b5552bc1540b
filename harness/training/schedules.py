"""How long training is, the optimiser, and the learning rate over time."""

from dataclasses import replace
from math import ceil, cos, pi

import torch

WARM_UP = 0.05  # of all updates, for the cosine schedule
LEAST = 50  # updates of an epoch, where --updates counts


def length_of(train, args):
    """(the ImageSet of an epoch, its updates). With --updates an epoch has each image as often as gives LEAST updates, and
    args.epochs becomes the number of epochs that has so many updates, or more."""
    if args.updates:
        train = replace(train, passes=ceil(LEAST * args.batch_size / len(train)))
        args.epochs = ceil(args.updates / ceil(len(train) / args.batch_size))
    return train, ceil(len(train) / args.batch_size)


def make_optimizer(model, args):
    """Adam or SGD as the flags say, PyTorch's fused ones, which pass over the weights once. Thresholds, leaks and the gains
    of a normalisation have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() > 1]},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    common = {"lr": args.learning_rate, "weight_decay": args.weight_decay, "fused": True}
    if args.optimizer == "SGD":
        return torch.optim.SGD(groups, momentum=args.momentum, **common)
    return torch.optim.Adam(groups, amsgrad=args.amsgrad, **common)


def make_schedule(optimizer, args, updates):
    """Learning rate at each update; updates: of an epoch.

    step: divided by lr_reduce after each part lr_interval of the epochs. cosine: rises linearly over the first 5 % of all
    updates, then falls to 0 as half a cosine.
    """
    total = args.epochs * updates

    def step_factor(step):
        return args.lr_reduce ** -sum(step >= part * total for part in args.lr_interval)

    def cosine_factor(step):
        done = step / total
        return (step + 1) / (WARM_UP * total + 1) if done < WARM_UP else (1 + cos(pi * (done - WARM_UP) / (1 - WARM_UP))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, {"step": step_factor, "cosine": cosine_factor}[args.lr_schedule])


def set_rates(optimizer, schedule):
    """Bring the learning rates to what the schedule says for its present step, which a raised --epochs changes."""
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * factor(schedule.last_epoch)
