"""Train a residual network in PyTorch, convert it with from_ann, compare: python -m examples.residual, three minutes on a CPU."""

import copy
import time

import torch
from torch import nn

from self_models import from_ann, load_data
from self_models.layers.norms import QCFS


class Block(nn.Module):
    """y = relu(x + conv(relu(conv(x))))"""

    def __init__(self, width):
        super().__init__()
        new = lambda: nn.Sequential(  # noqa: E731
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.first, self.relu, self.second, self.out = new(), nn.ReLU(), new(), nn.ReLU()

    def forward(self, x):
        return self.out(x + self.second(self.relu(self.first(x))))


@torch.enable_grad()
def trained(train, width=16, epochs=3):
    torch.manual_seed(0)
    begin = (
        nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    ann = nn.Sequential(*begin, Block(width), Block(width), nn.AvgPool2d(2), Block(width), *end)
    optimizer = torch.optim.Adam(ann.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-2, total_steps=epochs * -(-len(train) // 64)
    )
    for batch in (batch for _ in range(epochs) for batch in train.batches(64)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(ann(batch.images), batch.labels).backward()
        optimizer.step(), schedule.step()
    return ann.eval()


def quantised(ann, snn):
    """The ANN with QCFS of T + 1 values, up to the SNN's thresholds, in place of its ReLUs."""
    ann, bounds = copy.deepcopy(ann), iter(snn.thresholds)
    for parent in [*ann.modules()]:
        for name in [
            name for name, module in parent.named_children() if isinstance(module, nn.ReLU)
        ]:
            setattr(parent, name, QCFS(snn.timesteps, next(bounds)))
    return ann


@torch.no_grad()
def main(limit=None, timesteps=(1, 2, 4, 8), calibration_images=500):
    """Print the table, a row for each T; limit: how many images are trained on, and tested."""
    train, _, test = load_data("MNIST")
    train = train.part(0, limit or len(train))
    test = test.part(0, limit or len(test)).whole()
    ann = trained(train)
    few = train.images[:calibration_images]

    def run(model):
        """(class of each image, accuracy in %, spikes and milliseconds of an image, of an SNN)"""
        began, outputs = time.process_time(), [model(part) for part in test.images.split(100)]
        took = 1000 * (time.process_time() - began) / len(test.labels)
        found = torch.cat([getattr(output, "logits", output) for output in outputs]).argmax(1)
        spikes = sum(
            sum(output.spikes.values()).sum().item()
            for output in outputs
            if hasattr(output, "spikes")
        )
        return (
            found,
            f"{100 * (found == test.labels).double().mean():.2f}",
            f"{spikes / len(found):,.0f}",
            f"{took:.2f}",
        )

    print(f"ANN: {run(ann)[1]} %\n")
    print(
        "| T | quantised ANN, % | SNN, % | other class | calibrated, % | spikes | events, ms | dense, ms |"
    )
    print("| --- " * 8 + "|")
    for steps in timesteps:
        plain = from_ann(ann, few, steps, "phased", calibrate=False, dataset="MNIST")
        snn = from_ann(ann, few, steps, "phased", dataset="MNIST")
        wanted, found, events = run(quantised(ann, plain)), run(plain), run(snn)
        snn.engine = None
        differ = f"{(wanted[0] != found[0]).sum()}"
        print(
            "|",
            " | ".join([str(steps), wanted[1], found[1], differ, *events[1:], run(snn)[3]]),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
