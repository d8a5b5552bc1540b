"""What a training run will take, said at its start."""

import time

import torch

BY_ADAM, BY_AMSGRAD, BY_SGD = 2, 3, 1  # what an optimiser keeps of each weight, in weights
LOOKED_AT = 5  # steps from which an epoch's time is foretold, after one that is slower
QUICK = "--preset quick_feedback"  # the recipe that takes minutes
SHORT, LONG = 60, 2 * 3600  # seconds of training below which nothing is foretold, and above which a shorter way is shown


def plan_line(model, images, steps, args):
    """One line: the network, its data, and how large the checkpoints are."""
    weights = sum(value.numel() for value in model.state_dict().values())
    size = sum(value.nbytes for value in model.state_dict().values())
    kept = BY_SGD if args.optimizer == "SGD" else BY_AMSGRAD if args.amsgrad else BY_ADAM
    return (
        f"training {args.architecture}, {weights:,} weights, for {args.epochs} epochs of {images:,} images, {steps:,} steps "
        f"each; checkpoints: {megabytes(size)}, and twice {megabytes(size * (1 + kept))} to go on from"
    )


def slow_precision_line(precision, device):
    """A warning where a CPU without bfloat16 arithmetic is to use it, else None."""
    features = getattr(torch.cpu, "get_capabilities", dict)()
    if (
        precision != "bfloat16"
        or device.type != "cpu"
        or not features
        or any(features[name] for name in features if "bf16" in name)
    ):
        return None
    return "warning: this CPU computes bfloat16 by emulation, about eight times slower: --precision float32 is faster here"


class Forecast:
    """Foretells, from the first steps of this process, how long an epoch will take. say: called with the line."""

    def __init__(self, steps, epochs, say):
        self.steps, self.epochs, self.say, self.seen, self.began = steps, epochs, say, 0, 0.0

    def after_step(self):
        """To be called after each step."""
        self.seen += 1
        if self.seen == 1:
            self.began = time.perf_counter()
        elif self.seen == 1 + LOOKED_AT:
            epoch = self.steps * (time.perf_counter() - self.began) / LOOKED_AT
            if self.epochs * epoch > SHORT:
                self.say(f"an epoch will take about {duration(epoch)}" + self.rest(epoch))

    def rest(self, epoch):
        """The line's end: all epochs, where there are several, and a shorter way, where they take hours."""
        total = self.epochs * epoch
        words = f", all {self.epochs} about {duration(total)}" if self.epochs > 1 else ""
        return words + (f"; {QUICK} takes minutes" if total > LONG else "")


def duration(seconds):
    """'40 s', '12 min', '3.5 hours', '12 days'"""
    for unit, length in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * length:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 10 or unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s"


def megabytes(size):
    """'345 MB' of a number of bytes."""
    return f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
