"""Networks, images and timed runs of event_engine.py."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.data.sets import load_data  # noqa: I001  (harness before torch, see harness/__init__.py)
from self_models.basics.checkpoints import load_checkpoint, restore
from self_models.counting.operations import OperationCounter
from self_models.event.engine import EventEngine
from self_models.running.draws import EVALUATION, Draws
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

import torch

SMALL = Path(__file__).resolve().parents[1] / "trained_models/snn/snn_feedback.pth"
STEPS, EPSILON = 50, 0.2


def small_network(**settings):
    saved = load_checkpoint(SMALL)
    return loaded(saved, SMALL, **settings)


def full_network(args, **settings):
    """(name, model) of the full-width network."""
    if args.pretrained_snn:
        return "full, trained", loaded(load_checkpoint(args.pretrained_snn), args.pretrained_snn, **settings)
    return "full, widened", widened_network(**settings)


def loaded(saved, path, **settings):
    return restore(build(saved, **settings), saved, path).eval()


def build(saved, **settings):
    """The model of a checkpoint's settings, with blocking."""
    return InputBlockingSNN(**{**saved["settings"], "timesteps": STEPS, "epsilon": EPSILON, **settings})


@torch.no_grad()
def widened_network(**settings):
    """The small network with copies of its channels: a copy gets its share of what each channel gave."""
    saved, draw = load_checkpoint(SMALL), torch.Generator().manual_seed(0)
    model = build(saved, plan=[[64, "D", 128, 128, "D"], ["U", "U", "in"]], fc_width=4096, **settings)
    state = dict(saved["state_dict"])
    for name, wide in model.state_dict().items():
        weight = state[name]
        for dim in range(wide.dim()):
            copies = wide.shape[dim] // weight.shape[dim]
            if name == "classifier.0.weight" and dim == 1:  # channels, then places
                weight = weight.reshape(len(weight), 32, -1).repeat_interleave(copies, 1).flatten(1) / copies
            else:
                weight = weight.repeat_interleave(copies, dim)
                is_source = dim == (0 if "generate" in name else 1)  # transposed layers have the source first
                weight = weight / copies if is_source else weight
        vary = 1 + 0.1 * (2 * torch.rand(weight.shape, generator=draw) - 1) if weight.dim() > 1 else 1
        state[name] = weight * vary
    return restore(model, {"state_dict": state}, SMALL).eval()


def test_images(count):
    return load_data("MNIST")[2].part(0, count).whole()


def part(batch, begin, end):
    return batch._replace(images=batch.images[begin:end], labels=batch.labels[begin:end], index=batch.index[begin:end])


# --- runs and their time


def dense_run(model, batch):
    with torch.no_grad():
        return model.forward(batch.images, draws=Draws(0, EVALUATION, batch.index))


def event_run(model, batch):
    return model.engine(batch.images, draws=Draws(0, EVALUATION, batch.index), frames=False)


def timed(run, model, batch):
    began = time.perf_counter()
    output = run(model, batch)
    return time.perf_counter() - began, output


def with_engine(model):
    model.engine = EventEngine(model)
    event_run(model, test_images(2))  # compile, fold
    return model


def accumulates_of(model, batch):
    """Event-driven ACs and spikes per image."""
    with OperationCounter(model) as counter:
        output = event_run(model, batch)
    return counter.result(len(batch.images))["event_acs"], sum(count.mean().item() for count in output.spikes.values())
