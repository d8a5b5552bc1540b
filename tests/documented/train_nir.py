"""Train a small network on recordings (FOLDER/CLASS/*) in SpikingJelly and write it as NIR; minutes on a CPU:

    python -m examples.train_nir FOLDER network.nir && wfeedback nir network.nir data/nmnist

It wrote nmnist.nir, beside it, from 500 recordings of N-MNIST that are not in data/nmnist."""

import sys

import nir
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.nir_exchange import export_to_nir
from torch import nn

from harness.data.events import rows_in
from harness.data.folders import labelled_recordings

DT, STEPS, SHAPE, EPOCHS = 0.01, 30, (2, 34, 34), 30
torch.manual_seed(0)
frames, labels = [], []  # counts of events (T, 2, H, W)
for label, paths in enumerate(labelled_recordings(sys.argv[1]).values()):
    for rows in (torch.from_numpy(rows_in(path, SHAPE, DT)[0]).long() for path in paths):
        frames.append(torch.zeros(STEPS, *SHAPE))
        frames[-1].index_put_(tuple(rows[rows[:, 0] < STEPS].T), torch.ones(()), accumulate=True)
        labels.append(label)
images, labels = torch.stack(frames, 1), torch.tensor(labels)
neurons = [neuron.IFNode(surrogate_function=surrogate.ATan(), v_reset=0.0) for _ in range(3)]
net = nn.Sequential(
    layer.Conv2d(2, 8, 5, stride=2, padding=2),
    neurons[0],
    layer.Conv2d(8, 16, 3, stride=2, padding=1),
    neurons[1],
    layer.Flatten(),
    layer.Linear(16 * 9 * 9, 10),
    neurons[2],
)
functional.set_step_mode(net, "m")
optimizer = torch.optim.Adam(net.parameters(), 2e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
for epoch in range(EPOCHS):
    for index in torch.randperm(len(labels)).split(20):
        loss = nn.functional.cross_entropy(10 * net(images[:, index]).mean(0), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
    schedule.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
functional.set_step_mode(net, "s")
graph = export_to_nir(net, images[0, :1], dt=DT)
graph.metadata["seconds_per_step"] = DT
nir.write(sys.argv[2], graph)
