"""Train a small network on recordings in SpikingJelly, and write it as NIR.

    python examples/train_nir.py FOLDER network.nir
    wfeedback nir network.nir data/nmnist

FOLDER has the recordings of each class in a folder of its own: FOLDER/CLASS/*. Training
takes minutes on a CPU. This has written nmnist.nir, beside it, from 500 recordings of
N-MNIST that are not in data/nmnist.
"""

import sys
from pathlib import Path

# So that it also runs as a file, from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nir
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.nir_exchange import export_to_nir
from torch import nn

from self_models.data.events import rows_in
from self_models.data.folders import labelled_recordings
from self_models.errors import ModelError, UserError
from wfeedback.command_line.parser import Parser
from wfeedback.command_line.scripts import run_script

SECONDS_PER_STEP = 0.01
STEPS = 30  # later events are left out; a recording of N-MNIST lasts about 0.3 s
SHAPE = (2, 34, 34)  # polarity, height and width of N-MNIST
EPOCHS = 30
CLASSES = 10  # of the network


def read_recordings(folder: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Read all recordings of a folder as frames.

    Parameters
    ----------
    folder : str
        A folder with CLASS/*. The classes are numbered in order of their names.

    Returns
    -------
    frames : Tensor of shape (STEPS, recordings, 2, 34, 34)
        How many events each pixel has in each timestep.
    labels : Tensor of shape (recordings,), int64
        The number of each recording's class.

    Raises
    ------
    UserError
        If there are none, one cannot be read, or there are more than ten classes.
    """
    frames = []
    labels = []
    recordings = labelled_recordings(folder)
    if len(recordings) > CLASSES:
        raise UserError(
            f"{folder} has {len(recordings)} classes, and this network tells {CLASSES} apart"
        )
    for label, paths in enumerate(recordings.values()):
        for path in paths:
            try:
                rows, _ = rows_in(path, SHAPE, SECONDS_PER_STEP)
            except ModelError as error:
                message = str(error).removeprefix(f"{path}: ")
                raise UserError(f"{path}: {message}") from None
            events = torch.from_numpy(rows).long()  # timestep, polarity, row, column of each
            events = events[events[:, 0] < STEPS]
            counts = torch.zeros(STEPS, *SHAPE)
            # An event adds 1 to its pixel. Without accumulate, two would count once.
            counts.index_put_(tuple(events.T), torch.ones(()), accumulate=True)
            frames.append(counts)
            labels.append(label)
    return torch.stack(frames, 1), torch.tensor(labels)


def new_neurons() -> neuron.IFNode:
    """Return a layer of neurons without leak, which a spike resets to 0."""
    return neuron.IFNode(surrogate_function=surrogate.ATan(), v_reset=0.0)


def new_network() -> nn.Sequential:
    """Return an untrained network for ten classes, which runs timestep by timestep."""
    return nn.Sequential(
        layer.Conv2d(2, 8, 5, stride=2, padding=2),
        new_neurons(),
        layer.Conv2d(8, 16, 3, stride=2, padding=1),
        new_neurons(),
        layer.Flatten(),
        layer.Linear(16 * 9 * 9, CLASSES),
        new_neurons(),
    )


def train(net: nn.Sequential, frames: torch.Tensor, labels: torch.Tensor) -> None:
    """Train a network on frames (STEPS, recordings, ...) with labels (recordings,)."""
    functional.set_step_mode(net, "m")  # a call runs all timesteps
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(20):
            rates = net(frames[:, batch]).mean(0)  # (recordings, 10), 0 to 1
            # The factor lets the softmax tell rates apart, which differ by at most 1.
            loss = nn.functional.cross_entropy(10 * rates, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            functional.reset_net(net)
        schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    functional.set_step_mode(net, "s")  # a call runs one timestep, which NIR describes


def main(argv: list[str] | None = None) -> None:
    """Train on the folder that the command line names, and write the other file."""
    parser = Parser(__doc__.splitlines()[0])
    parser.usage = "%(prog)s FOLDER FILE.nir"
    parser.add_argument("folder", metavar="FOLDER", help="recordings, FOLDER/CLASS/*")
    parser.add_argument("path", type=Path, metavar="FILE.nir", help="is written")
    args = parser.parse_args(argv)
    # Before the training, which takes minutes.
    if args.path.is_dir() or not args.path.parent.is_dir():
        raise UserError(f"{args.path}: give a file in a folder that is there")
    torch.manual_seed(0)
    frames, labels = read_recordings(args.folder)
    net = new_network()
    train(net, frames, labels)
    graph = export_to_nir(net, frames[0, :1], dt=SECONDS_PER_STEP)
    graph.metadata["seconds_per_step"] = SECONDS_PER_STEP
    nir.write(args.path, graph)


if __name__ == "__main__":
    run_script(main)
