"""Train a residual network in PyTorch, convert it with from_ann, and compare the two.

    python -m examples.residual

It takes three minutes on a CPU.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from self_models import from_ann, load_data
from self_models.neurons.norms import QCFS

COLUMNS = [
    "T",
    "quantised ANN, %",
    "SNN, %",
    "other class",
    "calibrated, %",
    "spikes",
    "events, ms",
    "dense, ms",
]


def conv_and_norm(width: int) -> nn.Sequential:
    """Return a 3 x 3 convolution of as many channels, and its normalisation."""
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))


class Block(nn.Module):
    """A residual block: y = relu(x + conv(relu(conv(x))))."""

    def __init__(self, width: int):
        super().__init__()
        self.first = conv_and_norm(width)
        self.relu = nn.ReLU()
        self.second = conv_and_norm(width)
        self.out = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y for x of shape (B, width, H, W)."""
        return self.out(x + self.second(self.relu(self.first(x))))


@torch.enable_grad()
def trained(train, width: int = 16, epochs: int = 3) -> nn.Sequential:
    """Train a residual network.

    Parameters
    ----------
    train : ImageSet
        What it learns from: images of shape (1, 28, 28) in ten classes.
    width : int
        Channels of each layer.
    epochs : int
        How often it sees each image.

    Returns
    -------
    nn.Sequential
        The network, in evaluation mode.
    """
    torch.manual_seed(0)
    stem = [
        nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    blocks = [Block(width), Block(width), nn.AvgPool2d(2), Block(width)]
    ann = nn.Sequential(*stem, *blocks, *head)

    batch_size = 64
    updates_per_epoch = -(-len(train) // batch_size)  # rounded up
    optimizer = torch.optim.Adam(ann.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=epochs * updates_per_epoch
    )
    for _ in range(epochs):
        for batch in train.batches(batch_size):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(ann(batch.images), batch.labels)
            loss.backward()
            optimizer.step()
            schedule.step()
    return ann.eval()


def quantised(ann: nn.Module, snn: nn.Module) -> nn.Module:
    """Quantise an ANN's activations as the SNN that was made from it does.

    Parameters
    ----------
    ann : nn.Module
        The ANN. It stays as it is.
    snn : nn.Module
        What `from_ann` has made of it: its T and its thresholds are taken.

    Returns
    -------
    nn.Module
        A copy of the ANN with a staircase of T + 1 values, from 0 to the threshold, in
        place of each ReLU.
    """
    ann = copy.deepcopy(ann)
    thresholds = iter(snn.thresholds)
    for parent in list(ann.modules()):  # a list, because modules are replaced meanwhile
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.ReLU):
                setattr(parent, name, QCFS(snn.timesteps, next(thresholds)))
    return ann


@dataclass
class TestRun:
    """How a network has done on the test images.

    Attributes
    ----------
    classes : Tensor of shape (images,), int64
        The class that it gives to each image.
    accuracy : float
        Share of the images that are classified correctly, in %.
    spikes : float
        Spikes per image; 0 for an ANN.
    milliseconds : float
        Processor time per image.
    """

    classes: torch.Tensor
    accuracy: float
    spikes: float
    milliseconds: float


def run_on(test, model: nn.Module) -> TestRun:
    """Run an ANN or an SNN on the test images, in batches of 100."""
    began = time.process_time()
    outputs = [model(images) for images in test.images.split(100)]
    seconds = time.process_time() - began

    logits = []
    spikes = 0
    for output in outputs:
        if isinstance(output, torch.Tensor):  # of an ANN
            logits.append(output)
        else:
            logits.append(output.logits)
            spikes += sum(output.spikes.values()).sum().item()
    classes = torch.cat(logits).argmax(1)
    images = len(test.labels)
    return TestRun(
        classes=classes,
        accuracy=100 * (classes == test.labels).double().mean().item(),
        spikes=spikes / images,
        milliseconds=1000 * seconds / images,
    )


@torch.no_grad()
def main(
    limit: int | None = None,
    timesteps: Sequence[int] = (1, 2, 4, 8),
    calibration_images: int = 500,
) -> None:
    """Train the ANN, and print a table with a row for each T.

    Parameters
    ----------
    limit : int, optional
        How many images are trained on, and tested. By default all of MNIST.
    timesteps : sequence of int
        The values of T.
    calibration_images : int
        How many training images the thresholds are chosen on, and the SNN is
        calibrated on.
    """
    train, _, test = load_data("MNIST")
    train = train.part(0, limit or len(train))
    test = test.part(0, limit or len(test)).whole()
    ann = trained(train)
    few = train.images[:calibration_images]

    print(f"ANN: {run_on(test, ann).accuracy:.2f} %\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("| --- " * len(COLUMNS) + "|")
    for steps in timesteps:
        plain_snn = from_ann(ann, few, steps, "phased", calibrate=False, dataset="MNIST")
        calibrated_snn = from_ann(ann, few, steps, "phased", dataset="MNIST")
        reference = run_on(test, quantised(ann, plain_snn))
        plain = run_on(test, plain_snn)
        calibrated = run_on(test, calibrated_snn)
        calibrated_snn.engine = None  # the dense engine, in place of the event engine
        dense = run_on(test, calibrated_snn)
        cells = [
            str(steps),
            f"{reference.accuracy:.2f}",
            f"{plain.accuracy:.2f}",
            f"{(reference.classes != plain.classes).sum()}",
            f"{calibrated.accuracy:.2f}",
            f"{calibrated.spikes:,.0f}",
            f"{calibrated.milliseconds:.2f}",
            f"{dense.milliseconds:.2f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
