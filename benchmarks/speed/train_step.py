#!/usr/bin/env python3
"""How long does a training step of VGG5_wFeedback take here, in snnTorch and in SpikingJelly (multi-step)? One JSON object.

All three have the same weights, input spikes, loss and optimiser; loss and gradient of the first training step are printed, to
show that the networks are the same. Each trains in a process of its own that keeps the memory it frees (run_script). Dropout is
off. Medians: *_s of wall time, *_cpu_s of processor time, which depends less on other programs. products_share: the share that
convolutions and matrix products take of our training step, by PyTorch's profiler. *_gb: the process's peak memory.
`OMP_NUM_THREADS=2 python benchmarks/speed/train_step.py --rounds 3`: a minute; see docs/explanation/performance.md.
"""

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import harness.idle_threads  # noqa: F401  (before torch)

import snntorch
import torch
from snntorch.surrogate import custom_surrogate
from spikingjelly.activation_based.neuron import IFNode
from spikingjelly.activation_based.surrogate import PiecewiseQuadratic
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.peers import reset, stage_of
from harness import UserError
from harness.command_line.parser import Parser, flag_type
from harness.command_line.scripts import run_script
from harness.training.optimizers import make_optimizer
from self_models.basics.settings import COUNT
from self_models.conversion import balance_thresholds
from self_models.data.sets import load_data
from self_models.layers.architectures import PLANS
from self_models.objectives.encoders import poisson
from self_models.runtime.draws import Draws
from self_models.runtime.outputs import SNNOutput
from self_models.vgg_wFeedback import PRECISIONS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from snn_wFeedback import compute_losses

PEERS = {"snntorch": False, "spikingjelly": True}  # by layer, that is multi-step, or by step
BLOCKS = {
    "gate": "block",
    "epsilon": 0.2,
    "latch": True,
    "readout": "membrane_linear",
    "readout_slew": 0.38,
}
PRODUCTS = r"^aten::(.*conv.*|(add|b|)mm|im2col|col2im)$"  # convolutions and matrix products, operators by their names


def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.gate == "block" and args.only != "ours":
        raise UserError("--gate block is ours alone: add --only ours")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here")
    if args.only:
        found = measured(args, args.only)
    else:
        command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv), "--only"]
        found = {}
        for name in ("ours", *PEERS):
            child = subprocess.run([*command, name], stdout=subprocess.PIPE)
            if child.returncode:
                sys.exit(child.returncode)
            found |= json.loads(child.stdout)
        for kind in ("s", "cpu_s"):
            fastest = min(found[f"{name}_{kind}"] for name in PEERS)
            found[f"ratio_to_fastest_peer_{kind}"] = round(fastest / found[f"ours_{kind}"], 3)
    print(
        json.dumps(
            found
            | {"threads": torch.get_num_threads()}
            | {name: getattr(args, name) for name in vars(args)}
        )
    )


def measured(args, name):
    """Seconds of a network's training steps, peak memory, loss and gradient of its first training step."""
    torch.manual_seed(0)
    batch = next(load_data("MNIST")[0].batches(args.batch_size))
    ours = network(args, batch.images).to(args.device)
    batch = batch._replace(
        images=batch.images.to(args.device), labels=batch.labels.to(args.device)
    )
    ours.set_bptt_segments("auto" if args.bptt_segments == "auto" else int(args.bptt_segments))
    ours.precision = args.precision  # which it sees to itself; the others run under autocast
    model = ours if name == "ours" else Peer(ours, name, PEERS[name]).to(args.device)
    del ours  # else another's peak would have it, too
    optimizer = make_optimizer("Adam", model, 1e-5, weight_decay=5e-4, amsgrad=True)
    draws = Draws(0, 1, batch.index).uniforms(
        args.timesteps, tuple(batch.images.shape[1:]), args.device
    )
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            args.device, torch.bfloat16, enabled=name != "ours" and args.precision == "bfloat16"
        ):
            output = model(batch.images, draws)
        loss = compute_losses(output, None, batch.labels, 0.01, "linear_over_t")["total"]
        loss.backward()
        optimizer.step()
        return loss

    first = [step().item(), next(model.parameters()).grad.norm().item()]
    times = []
    for _ in range(args.rounds):
        began = now(args.device)
        step()
        times.append(
            [after - before for before, after in zip(began, now(args.device), strict=True)]
        )
    medians = [round(statistics.median(each), 4) for each in zip(*times, strict=True)]
    found = {
        f"{name}_s": medians[0],
        f"{name}_cpu_s": medians[1],
        f"{name}_gb": round(peak_gb(args.device), 2),
    }
    if args.device == "cpu" and name == "ours":
        found["products_share"] = round(products_share(step), 3)
    return found | {f"{name}_first_loss_and_gradient": first}


def products_share(step):
    """The share of step()'s time in convolutions and matrix products, forward and backward; over three calls."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        for _ in range(3):
            step()
        microseconds = 1e6 * (time.perf_counter() - began)
    of_products = [
        event.self_cpu_time_total
        for event in profiled.key_averages()
        if re.search(PRODUCTS, event.key)
    ]
    return sum(of_products) / microseconds


def now(device):
    """Wall and processor time in seconds, after the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def peak_gb(device):
    """Peak memory so far: of tensors on a GPU, else of this process (Linux)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("-a", "--architecture", default="VGG5_wFeedback", choices=list(PLANS))
    parser.add_argument("--fc_width", type=flag_type(COUNT), default=4096)
    parser.add_argument("--timesteps", type=flag_type(COUNT), default=10)
    parser.add_argument("--batch_size", type=flag_type(COUNT), default=64)
    parser.add_argument(
        "--rounds",
        type=flag_type(COUNT),
        default=5,
        help="timed steps of each network, after one that is not timed",
    )
    parser.add_argument("--only", choices=["ours", *PEERS], help="one of them alone")
    parser.add_argument(
        "--gate",
        choices=["open", "block"],
        default="open",
        help="block: as trained here, --only ours",
    )
    parser.add_argument(
        "--bptt_segments",
        choices=["0", "auto"],
        default="0",
        help="of ours: auto keeps few steps in memory",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), default="float32", help="of the matrix products"
    )
    return parser


def network(args, images):
    """Ours, without dropout, with weights scaled so that all layers spike at thresholds of 1, and SpikingJelly's surrogate
    gradient max(0, 1 - |v|)."""
    settings = {
        "timesteps": args.timesteps,
        "fc_width": args.fc_width,
        "dropout": 0.0,
        "fc_dropout": 0.0,
        "update": "immediate",
    }
    settings |= BLOCKS if args.gate == "block" else {"readout": "membrane"}
    model = VGG_SNN_STDB_wFeedback(args.architecture, **settings)
    draw = torch.Generator().manual_seed(0)
    thresholds = balance_thresholds(
        model, images[:8], lambda t: torch.rand(images[:8].shape, generator=draw), 4
    )
    for (name, neuron), threshold in zip(model.neurons().items(), thresholds, strict=True):
        stage, position = name.split(".")
        getattr(model, stage)[int(position) - 1].weight.data /= 0.7 * threshold
        neuron.surrogate = neuron.surrogate._replace(scale=1.0)
    model.set_thresholds([1.0] * len(thresholds))
    return model.train()


class Peer(nn.Module):
    """The same stages with another simulator's neurons and our surrogate gradient, max(0, 1 - |v|), in its usual memory format.
    by_layer: each layer takes all T timesteps, as SpikingJelly's multi-step mode does; else all layers of a stage take one."""

    def __init__(self, ours, simulator, by_layer):
        super().__init__()
        self.by_layer = by_layer
        for name in ("features", "generate", "classifier"):
            stage = stage_of(getattr(ours, name), simulator, by_layer)
            setattr(self, name, stage.to(memory_format=torch.contiguous_format))
        for module in self.modules():
            if isinstance(module, snntorch.Leaky):
                module.spike_grad = custom_surrogate(
                    lambda v, grad, spikes: grad * (1 - v.abs()).clamp(min=0)
                )
            elif isinstance(module, IFNode):
                module.detach_reset, module.surrogate_function = True, PiecewiseQuadratic()

    def forward(self, x, draws):
        reset(self)
        encoded = self.over_time(self.features, poisson(x, draws))
        logits = self.over_time(self.classifier, encoded.flatten(2)).sum(0).float()
        predictions = (
            self.over_time(self.generate, encoded).float().cumsum(0).sigmoid()
        )  # under autocast both come in bfloat16
        return SNNOutput(logits, predictions, (x - predictions) ** 2, {}, None)

    def over_time(self, stage, signals):
        return stage(signals) if self.by_layer else torch.stack([*map(stage, signals)])


if __name__ == "__main__":
    run_script(main)
