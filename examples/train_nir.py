"""Train a small network on recordings in SpikingJelly and write it as NIR.

    pip install spikingjelly
    python -m examples.train_nir FOLDER network.nir      # FOLDER/CLASS/*, as run_nir.py takes it; minutes on a CPU
    python run_nir.py network.nir data/nmnist

It wrote nmnist.nir, beside it, from 500 recordings of N-MNIST that are not in data/nmnist.
"""

import sys

import nir
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.nir_exchange import export_to_nir
from torch import nn

from harness.data.events import rows_in
from harness.data.folders import labelled_recordings

DT, STEPS, SHAPE, EPOCHS = 0.01, 30, (2, 34, 34), 30


def frames(path):
    """Counts of events (T, 2, H, W)."""
    rows = torch.from_numpy(rows_in(path, SHAPE, DT)[0]).long()
    return torch.zeros(STEPS, *SHAPE).index_put(tuple(rows[rows[:, 0] < STEPS].T), torch.ones(()), accumulate=True)


torch.manual_seed(0)
folder, written = sys.argv[1:]
recordings = [(frames(path), label) for label, paths in enumerate(labelled_recordings(folder).values()) for path in paths]
images, labels = torch.stack([image for image, _ in recordings], 1), torch.tensor([label for _, label in recordings])


def fires():
    return neuron.IFNode(surrogate_function=surrogate.ATan(), v_reset=0.0)


net = nn.Sequential(
    layer.Conv2d(2, 8, 5, stride=2, padding=2), fires(), layer.Conv2d(8, 16, 3, stride=2, padding=1), fires(),
    layer.Flatten(), layer.Linear(16 * 9 * 9, 10), fires(),
)  # fmt: skip
functional.set_step_mode(net, "m")
optimizer = torch.optim.Adam(net.parameters(), 2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
for epoch in range(EPOCHS):
    right = 0
    for index in torch.randperm(len(labels)).split(20):
        rates = net(images[:, index]).mean(0)
        loss = nn.functional.cross_entropy(10 * rates, labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
        right += (rates.argmax(1) == labels[index]).sum().item()
    schedule.step()
    print(f"epoch {epoch + 1}: {100 * right / len(labels):.1f} % of the training recordings right", flush=True)

functional.set_step_mode(net, "s")
graph = export_to_nir(net, images[0, :1], dt=DT)
graph.metadata["seconds_per_step"] = DT
nir.write(written, graph)
