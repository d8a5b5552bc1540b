#!/usr/bin/env python3
"""How long does a training step of VGG5_wFeedback take here, in snnTorch and in SpikingJelly (multi-step)? One JSON object.

All three have the same weights, input spikes, loss and optimiser; loss and gradient of the first step show that they are the
same network. They take turns, one step each, so that a busy machine slows all of them down; *_s are medians. Dropout is off,
since the three hold their masks differently. products_share: what convolutions and matrix products take of our step, by PyTorch's
profiler. peak_gb: the largest resident memory of the process, everything included (weights, gradients, optimiser, PyTorch);
of one network with --only. `OMP_NUM_THREADS=2 python benchmarks/speed/train_step.py --rounds 3`: a minute; see
docs/training_speed.md.
"""

import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness import UserError  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.building.conversion import balance_thresholds
from benchmarks.shared import OPTIMIZER, products_share, resident_gb
from benchmarks.speed.peers import stage_of
from harness.data.sets import load_data
from harness.command_line.parser import Parser, typed
from harness.command_line.scripts import run_script
from harness.training.losses import Criterion
from harness.training.schedules import make_optimizer
from self_models.basics.settings import COUNT
from self_models.network.plans import PLANS
from self_models.objectives.encoders import poisson
from self_models.network.neurons import HeldDropout
from self_models.running.draws import Draws
from self_models.running.outputs import SNNOutput
from self_models.vgg_wFeedback import PRECISIONS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

import snntorch
import torch
from spikingjelly.activation_based import functional, layer, surrogate
from spikingjelly.activation_based.neuron import IFNode
from torch import nn


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here")
    print(json.dumps(measured(args)))


def measured(args):
    """The record: seconds of each network's steps, the peak of memory, what its first step says."""
    torch.manual_seed(0)
    batch = next(load_data("MNIST")[0].batches(args.batch_size))
    ours = network(args, batch.images).to(args.device)
    batch = batch._replace(images=batch.images.to(args.device), labels=batch.labels.to(args.device))
    ours.set_bptt_segments("auto" if args.bptt_segments == "auto" else int(args.bptt_segments))
    ours.precision = args.precision  # which it sees to itself; the others run under autocast
    makers = {"ours": lambda ours: ours, "snntorch": SnnTorch, "spikingjelly": SpikingJelly}
    models = {name: make(ours) for name, make in makers.items() if args.only in (None, name)}
    del ours  # else another's peak would have it, too
    optimizers = {name: make_optimizer(model, OPTIMIZER) for name, model in models.items()}
    draws = Draws(0, 1, batch.index).uniforms(args.timesteps, tuple(batch.images.shape[1:]), args.device)
    seconds, checks = {name: [] for name in models}, {}
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step(name):
        optimizers[name].zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=name != "ours" and args.precision == "bfloat16"):
            output = models[name](batch.images, draws)
        loss = Criterion(0.01, "linear_over_t")(output, batch.labels)["total"]
        loss.backward()
        optimizers[name].step()
        return loss

    for _ in range(args.rounds + 1):
        for name, model in models.items():
            began = now(args.device)
            loss = step(name)
            seconds[name].append(now(args.device) - began)
            checks.setdefault(name, [loss.item(), next(model.parameters()).grad.norm().item()])
    found = {f"{name}_s": round(statistics.median(times[1:]), 4) for name, times in seconds.items()}
    if not args.only:
        found["ratio_to_fastest_peer"] = round(min(found["snntorch_s"], found["spikingjelly_s"]) / found["ours_s"], 3)
    found["peak_gb"] = round(peak_gb(args.device), 2)
    if args.device == "cpu" and "ours" in models:
        found["products_share"] = round(products_share(lambda: step("ours")), 3)
    settings = {name: value for name, value in vars(args).items() if name not in ("given", "typed")}
    return {**found, "first_loss_and_gradient": checks, "threads": torch.get_num_threads(), **settings}


def now(device):
    """Seconds, when the device has done what was asked of it."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gb(device):
    """The most memory so far: of tensors on a GPU, else of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resident_gb("VmHWM")


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("-a", "--architecture", default="VGG5_wFeedback", choices=list(PLANS))
    parser.add_argument("--fc_width", type=typed(COUNT), default=4096)
    parser.add_argument("--timesteps", type=typed(COUNT), default=10)
    parser.add_argument("--batch_size", type=typed(COUNT), default=64)
    parser.add_argument("--rounds", type=typed(COUNT), default=5, help="timed steps of each network, after one that is not timed")
    parser.add_argument("--only", choices=["ours", "snntorch", "spikingjelly"], help="one of them alone, for its peak_gb")
    parser.add_argument("--bptt_segments", choices=["0", "auto"], default="0", help="of ours: auto keeps few steps in memory")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="float32", help="of the matrix products")
    return parser


def network(args, images):
    """Ours, without dropout, with weights scaled so that all layers spike at thresholds of 1, and the surrogate gradient that
    SpikingJelly has too, max(0, 1 - |v|)."""
    settings = {"timesteps": args.timesteps, "fc_width": args.fc_width, "update": "immediate", "readout": "membrane"}
    model = VGG_SNN_STDB_wFeedback(args.architecture, dropout=0.0, **settings)
    draw = torch.Generator().manual_seed(0)
    thresholds = balance_thresholds(model, images[:8], lambda t: torch.rand(images[:8].shape, generator=draw), 4)
    for (name, neuron), threshold in zip(model.neurons().items(), thresholds, strict=True):
        stage, position = name.split(".")
        getattr(model, stage)[int(position) - 1].weight.data /= 0.7 * threshold
        neuron.surrogate = neuron.surrogate._replace(scale=1.0)
    model.set_thresholds([1.0] * len(thresholds))
    for module in model.modules():
        if isinstance(module, HeldDropout):
            module.p = 0.0
    return model.train()


class Peer(nn.Module):
    """The same stages with another library's neurons; copies of the weights, in that library's usual memory format."""

    def __init__(self, ours):
        super().__init__()
        for name in ("features", "generate", "classifier"):
            stage = stage_of(getattr(ours, name), lambda _: self.neuron(), self.linear)
            setattr(self, name, stage.to(memory_format=torch.contiguous_format))

    def output(self, x, logits, trace):
        predictions = trace.sigmoid()
        return SNNOutput(logits, predictions, (x - predictions) ** 2, {}, None)


class SnnTorch(Peer):
    """As in snnTorch's tutorials: all layers of a step, then the next step; a Leaky with beta 1 has no leak."""

    linear = staticmethod(lambda layer: layer)

    def neuron(self):
        def triangle(v, grad, spikes):
            return grad * (1 - v.abs()).clamp(min=0)

        return snntorch.Leaky(beta=1.0, spike_grad=snntorch.surrogate.custom_surrogate(triangle), init_hidden=True)

    def forward(self, x, draws):
        for module in self.modules():
            if isinstance(module, snntorch.Leaky):
                module.reset_mem()
        encoded = [self.features(poisson(x, draw)) for draw in draws]
        logits = sum(self.classifier(codes.flatten(1)) for codes in encoded)
        return self.output(x, logits, torch.stack([self.generate(codes) for codes in encoded]).cumsum(0))


class SpikingJelly(Peer):
    """Multi-step: each layer takes all T steps as one batch, each neuron goes through them."""

    linear = layer.SeqToANNContainer

    def neuron(self):
        return IFNode(v_reset=None, detach_reset=True, step_mode="m", surrogate_function=surrogate.PiecewiseQuadratic())

    def forward(self, x, draws):
        functional.reset_net(self)
        encoded = self.features(poisson(x, draws))
        return self.output(x, self.classifier(encoded.flatten(2)).sum(0), self.generate(encoded).cumsum(0))


if __name__ == "__main__":
    run_script(main)
