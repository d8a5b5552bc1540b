"""What a training run will take, said at its start."""

import time

import torch

LOOKED_AT = 5  # steps from which an epoch's time is foretold, after one that is slower
QUICK = "--preset quick_feedback"  # the recipe that takes minutes
FEW = 300  # updates below which a network from scratch or from a conversion hardly learns, see docs/how_to/own_images.md
SHORT, LONG = 60, 2 * 3600  # seconds of training below which nothing is foretold, and above which a shorter way is shown


def plan_lines(model, train, updates, args):
    """The network, how long it trains, and how large the checkpoints are; and a warning where that is short. train: the ImageSet
    of an epoch, of so many updates."""
    weights = sum(value.numel() for value in model.state_dict().values())
    states = 1 if args.optimizer == "SGD" else 2 + args.amsgrad  # numbers that the optimiser has of each weight
    states += args.average_weights != "none"
    small, large = (4e-6 * weights * numbers for numbers in (1, 1 + states))
    total, passes = args.epochs * updates, f"{train.passes} times each of " * (train.passes > 1)
    yield (
        f"training {args.architecture}, {weights:,} weights: {counted(total, 'update')} in {counted(args.epochs, 'epoch')} of "
        f"{passes}{counted(len(train.images), 'image')}; checkpoints: {small:.1f} MB, and twice {large:.1f} MB to go on from"
    )
    if total < FEW:
        yield (
            f"warning: {counted(total, 'update')} of the weights {'is' if total == 1 else 'are'} few: a network may need {FEW} "
            "and more, however few its images are; --updates N sets the length so, in place of --epochs"
        )


def counted(number, word):
    """'1 update', '1,200 updates'"""
    return f"{number:,} {word}{'s' * (number != 1)}"


def slow_precision_line(precision, device):
    """A warning where a CPU without bfloat16 arithmetic is to use it, else None."""
    features = getattr(torch.cpu, "get_capabilities", dict)()
    has_it = not features or any(features[name] for name in features if "bf16" in name)
    if precision != "bfloat16" or device.type != "cpu" or has_it:
        return None
    return "warning: this CPU computes bfloat16 by emulation, about eight times slower: --precision float32 is faster here"


def forecast(steps, epochs, say):
    """A function to be called after each step of a run of so many steps an epoch. It says, once, how long an epoch will take."""
    ends = []

    def after_step():
        if len(ends) > LOOKED_AT:
            return
        ends.append(time.perf_counter())
        epoch = steps * (ends[-1] - ends[0]) / LOOKED_AT
        if len(ends) > LOOKED_AT and epochs * epoch > SHORT:
            hint = f"; {QUICK} takes minutes" if epochs * epoch > LONG else ""
            each, all_of_them = duration(epoch), duration(epochs * epoch)
            say(f"an epoch will take about {each}" + f", all {epochs} about {all_of_them}" * (epochs > 1) + hint)

    return after_step


def duration(seconds):
    """'40 s', '12 min', '35.2 hours'"""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
