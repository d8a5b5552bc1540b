"""How long training is, what is said of that, the optimiser, and the learning rate over time."""

from dataclasses import replace
from math import ceil, cos, pi

import torch

LEAST = 50  # updates of an epoch, where --updates counts
FEW = 300  # updates below which a network from scratch or from a conversion hardly learns


def length_of(train, args):
    """(the ImageSet of an epoch, its updates, the Configuration). With --updates an epoch has LEAST updates or more, and `epochs`
    becomes the number of them."""
    if args.updates:
        train = replace(train, passes=ceil(LEAST * args.batch_size / len(train)))
        args = args.having("found", epochs=ceil(args.updates / ceil(len(train) / args.batch_size)))
    return train, ceil(len(train) / args.batch_size), args


def plan_lines(model, train, updates, args):
    """Lines on the network, how long it trains on this ImageSet, and how large its checkpoint is; a warning if that is short."""
    weights = sum(value.numel() for value in model.state_dict().values())
    total, passes = args.epochs * updates, f"{train.passes} times each of " * (train.passes > 1)
    yield (
        f"training {args.architecture}, {weights:,} weights: {counted(total, 'update')} in {counted(args.epochs, 'epoch')} of "
        f"{passes}{counted(len(train.images), 'image')}; checkpoint {4e-6 * weights:.1f} MB"
    )
    if total < FEW:
        yield (
            f"warning: {counted(total, 'update')} {'is' if total == 1 else 'are'} few: most networks need {FEW} or more, however "
            "few their images; --updates N sets how many, instead of --epochs"
        )


def counted(number, word):
    """'1 update', '1,200 updates'"""
    return f"{number:,} {word}{'s' * (number != 1)}"


def make_optimizer(model, args):
    """Adam or SGD as the flags say, PyTorch's fused ones, which pass over the weights once. Only weights decay."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    biases = [trained.pop(name) for name in list(trained) if name.endswith(".bias")]
    weights, others = ([one for one in trained.values() if (one.dim() > 1) == many] for many in (True, False))
    groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    if biases:
        groups.append({"params": biases, "weight_decay": 0.0, "lr": args.learning_rate * args.bias_lr_factor})
    common = {"lr": args.learning_rate, "weight_decay": args.weight_decay, "fused": True}
    if args.optimizer == "SGD":
        return torch.optim.SGD(groups, momentum=args.momentum, nesterov=args.nesterov and args.momentum > 0, **common)
    return torch.optim.Adam(groups, amsgrad=args.amsgrad, **common)


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
        return (1 + cos(pi * past / whole)) / 2 if args.lr_schedule == "cosine" else 1 - past / whole

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def set_rates(optimizer, schedule):
    """Bring the learning rates to what the schedule says for its present step, which a raised --epochs changes."""
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = base * factor(schedule.last_epoch)
