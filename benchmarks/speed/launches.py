#!/usr/bin/env python3
"""How many operations does a step dispatch, ours and those of a minimal loop? JSON objects, one per line and `case`.

On a GPU each operation is a kernel that Python must launch, and what is small waits for launches. `ours`: of the dense engine per
further step, what a run of 2 T steps has more than one of T, by T; `draws`, those of them that make random numbers. They are made
by operations on tensors, as on a GPU: this program notes a reason against compiled code, so that the CPU's is not taken, as
many steps are taken at once as on a GPU, and nobody looks which images send nothing.
`minimal`: the same of a loop of plain PyTorch for the same network, weights and thresholds, with torch.rand, without figures per
step; its logits and gradients are ours where the draws are. `whole_run`: both with what happens once, a run of T steps by T. In
training a run is forward, loss, backward and a step of fused Adam, without dropout. Counted with TorchDispatchMode; `not_counted`
are views, and what only makes room. `python benchmarks/speed/launches.py`: 20 seconds.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from benchmarks.shared import OPTIMIZER
from harness.command_line.scripts import run_script
from harness.training.losses import Criterion
from harness.training.schedules import make_optimizer
from self_models import load
from self_models.fast.batched.stages import LOOKING
from self_models.fast.compiling import WHY_NOT
from self_models.basics.settings import COUNT
from self_models.network.neurons import HeldDropout, SpikingNeuron
from self_models.running.chunks import AT_ONCE
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import SNNOutput

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

COMMITTED = Path(__file__).resolve().parents[2] / "trained_models/snn"
NETWORKS = {"baseline": ("snn_baseline.pth", {}), "blocking": ("snn_feedback.pth", {"gate": "block", "epsilon": 0.2})}
NOT_COUNTED = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach", "alias")


def main(argv=None):
    args = build_parser().parse_args(argv)
    torch.manual_seed(0)  # what is not sent is not computed, so images and draws count
    WHY_NOT.append("as on a GPU")
    AT_ONCE["cpu"] = AT_ONCE["cuda"]
    LOOKING.clear()
    for mode, run in (("evaluation", evaluate), ("training", train)):
        steps = getattr(args, f"{mode}_timesteps")
        for name, (file, settings) in NETWORKS.items():
            model = load(COMMITTED / file, engine="dense", timesteps=steps, **settings).train(run is train)
            x = torch.rand(args.batch_size, *model.image_shape)
            about = {"timesteps": steps, "batch": args.batch_size, "not_counted": ["views", *NOT_COUNTED]}
            print(json.dumps({"case": f"{mode}, {name}", **counted(run, model, x), **about}), flush=True)


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--evaluation_timesteps", type=typed(COUNT), default=50, metavar="T", help="steps of an evaluation")
    parser.add_argument("--training_timesteps", type=typed(COUNT), default=6, metavar="T", help="steps of training")
    parser.add_argument("--batch_size", type=typed(COUNT), default=64, metavar="B", help="images")
    return parser


# --- counting


class Counter(TorchDispatchMode):
    """Counts what is dispatched while it is entered."""

    count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        self.count += not (operation.is_view or operation.overloadpacket.__name__ in NOT_COUNTED)
        return operation(*arguments, **named or {})


def counted(run, model, x):
    """What a record says. run(network, x, uniforms): a run of T steps, uniforms being its draws, None where it makes them."""
    steps, minimal, counts = model.timesteps, Minimal(model), {"ours": [], "not drawn": [], "minimal": []}
    for timesteps in (steps, 2 * steps):
        model.change(timesteps=timesteps)
        for name in counts:
            uniforms = torch.rand(timesteps, *x.shape) if name == "not drawn" else None
            with Counter() as counter:
                run(minimal if name == "minimal" else model, x, uniforms)
            counts[name].append(counter.count)
    further = {name: (more - count) / steps for name, (count, more) in counts.items()}
    return {
        **{name: round(further[name], 2) for name in ("ours", "minimal")},
        "draws": round(further["ours"] - further["not drawn"], 2),
        "whole_run": {name: round(counts[name][0] / steps, 2) for name in ("ours", "minimal")},
    }


@torch.no_grad()
def evaluate(network, x, uniforms):
    return network(x, uniforms, draws=Draws(0, EVALUATION, torch.arange(len(x))))


def train(network, x, uniforms):
    for module in network.modules():
        if isinstance(module, HeldDropout):
            module.p = 0.0
    optimizer = make_optimizer(network, OPTIMIZER)
    optimizer.zero_grad(set_to_none=True)
    output = network(x, uniforms, draws=Draws(0, 1, torch.arange(len(x))))
    Criterion(0.01, "linear_over_t")(output, torch.arange(len(x)) % output.logits.shape[1])["total"].backward()
    optimizer.step()
    return output


# --- the minimal loop


class Minimal(nn.Module):
    """A network of ours, `immediate`, without leak, on grey images, gate open or block, as one would write it for this alone."""

    def __init__(self, model):
        super().__init__()
        self.model, self.settings = model, model.settings
        self.encoder, self.classifier = (list(pairs(stage)) for stage in (model.features, model.classifier))
        self.decoder = [layer for layer, _ in pairs(model.generate)] if model.gate.reacts else []

    def forward(self, x, uniforms=None, draws=None):
        """As the model's, but that torch.rand draws where no uniforms are given."""
        fire = charge_and_fire if torch.is_grad_enabled() else charge_and_fire_in_place
        potentials, logits, readout_sum, is_open, predictions = (
            {},
            0,
            torch.zeros_like(x),
            torch.ones_like(x, dtype=torch.bool),
            [],
        )
        for t in range(self.model.timesteps):
            drawn = torch.rand(x.shape) if uniforms is None else uniforms[t]
            codes = through(self.encoder, (drawn < (x * is_open if self.decoder else x)).to(x.dtype), potentials, fire)
            if self.decoder:
                readout_sum, is_open = self.predict(x, codes, readout_sum, is_open)
                predictions.append(readout_sum)
            logits = logits + through(self.classifier, codes.flatten(1), potentials, fire)
        predictions = torch.stack(predictions) if self.decoder else None
        return SNNOutput(logits, predictions, None if predictions is None else (x - predictions) ** 2, {}, None)

    def predict(self, x, codes, readout_sum, is_open):
        """Decoder, read-out (slew and latch), comparison: (prediction, which pixels are still open)."""
        for layer in self.decoder:
            codes = layer(codes)
        slew = self.settings["readout_slew"]
        readout_sum = torch.where(is_open, torch.add(readout_sum, torch.tanh(codes / slew), alpha=slew), readout_sum)
        return readout_sum, is_open & ((readout_sum.clamp(0, 1) - x).abs() >= self.settings["epsilon"])


def pairs(stage):
    """Each layer of a stage with threshold and surrogate's scale of the neurons after it, or None."""
    modules = [module for module in stage if not isinstance(module, HeldDropout)]
    for layer, after in zip(modules, [*modules[1:], None], strict=True):
        if not isinstance(layer, SpikingNeuron):
            yield layer, ((after.threshold.item(), after.surrogate.scale) if isinstance(after, SpikingNeuron) else None)


def through(layers, signal, potentials, fire):
    """One step of a stage. potentials: layer -> V, changed."""
    for layer, neurons in layers:
        signal = layer(signal)
        if neurons:
            signal, potentials[layer] = fire(signal, potentials.get(layer, 0), *neurons)
    return signal


def charge_and_fire_in_place(drive, v, theta, scale):
    """(spikes, V)"""
    v = drive.add_(v)
    spikes = torch.gt(v, theta, out=torch.empty_like(v))
    return spikes, v.sub(spikes, alpha=theta)


def charge_and_fire(drive, v, theta, scale):
    v = v + drive
    spikes = Spike.apply(v, theta, scale)
    return spikes, torch.sub(v, spikes.detach(), alpha=theta)


class Spike(torch.autograd.Function):
    """1 where v is above theta; backward the surrogate of the committed networks, scale max(0, 1 - |v/theta - 1|)."""

    @staticmethod
    def forward(ctx, v, theta, scale):
        ctx.save_for_backward(v)
        ctx.theta, ctx.scale = theta, scale
        return (v > theta).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad * (1 - (v / ctx.theta - 1).abs()).clamp(min=0) * (ctx.scale / ctx.theta), None, None


if __name__ == "__main__":
    run_script(main)
