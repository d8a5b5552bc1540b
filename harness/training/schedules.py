"""The optimiser and the learning rate over time."""

from math import cos, pi

import torch

WARM_UP = 0.05  # of all steps, for the cosine schedule


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


def make_schedule(optimizer, args, steps_per_epoch):
    """Learning rate per optimiser step.

    step: divided by lr_reduce after each part lr_interval of the epochs. cosine: rises linearly over the first 5 % of all
    steps, then falls to 0 as half a cosine.
    """
    total = args.epochs * steps_per_epoch

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
