"""Measure how long a training step of VGG5_wFeedback takes, here and elsewhere.

Elsewhere is in snnTorch and in SpikingJelly (multi-step). One JSON object is printed.
All three have the same weights, input spikes, loss and optimiser; loss and gradient of
the first training step are printed, to show that the networks are the same. Each trains
in a process of its own that keeps the memory it frees (run_script). Dropout is off.

Medians: *_s of wall time, *_cpu_s of processor time, which depends less on other
programs. products_share: the share that convolutions and matrix products take of our
training step, by PyTorch's profiler. *_gb: the process's peak memory.
`OMP_NUM_THREADS=2 python -m studies.speed.train_step --rounds 3`: a minute; see
docs/explanation/performance.md.
"""

import wfeedback.idle_threads  # noqa: F401  (before torch)

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import snntorch
import torch
from snntorch.surrogate import custom_surrogate
from spikingjelly.activation_based.neuron import IFNode
from spikingjelly.activation_based.surrogate import PiecewiseQuadratic
from torch import nn
from torch.profiler import ProfilerActivity, profile

from self_models.conversion import balance_thresholds
from self_models.data.sets import load_data
from self_models.errors import UserError
from self_models.feedback.encoders import poisson
from self_models.networks.architectures import PLANS
from self_models.running.draws import Draws
from self_models.running.outputs import SNNOutput
from self_models.settings import COUNT
from self_models.vgg_wFeedback import PRECISIONS
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from snn_wFeedback import compute_losses
from studies.speed.peers import reset, stage_of
from wfeedback.command_line.parser import Parser, flag_type
from wfeedback.command_line.scripts import run_script
from wfeedback.training.optimizers import make_optimizer

PEERS = {"snntorch": False, "spikingjelly": True}  # name -> by layer (multi-step), or by step
BLOCKS = {
    "gate": "block",
    "epsilon": 0.2,
    "latch": True,
    "readout": "membrane_linear",
    "readout_slew": 0.38,
}
# Convolutions and matrix products: operators by their names
PRODUCTS = r"^aten::(.*conv.*|(add|b|)mm|im2col|col2im)$"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the record of one network, or of all, each in a process of its own."""
    args = build_parser().parse_args(argv)
    if args.gate == "block" and args.only != "ours":
        raise UserError("--gate block is ours alone: add --only ours")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no GPU here")
    if args.only:
        found = measured(args, args.only)
    else:
        found = measured_in_children(sys.argv[1:] if argv is None else argv)
    record = {**found, "threads": torch.get_num_threads(), **vars(args)}
    print(json.dumps(record))


def measured_in_children(argv: Sequence[str]) -> dict:
    """Run this script once for each network, and compare what they have measured."""
    found = {}
    for name in ("ours", *PEERS):
        command = [sys.executable, "-m", "studies.speed.train_step", *argv, "--only", name]
        child = subprocess.run(command, stdout=subprocess.PIPE)
        if child.returncode:
            sys.exit(child.returncode)
        found |= json.loads(child.stdout)
    for kind in ("s", "cpu_s"):
        fastest = min(found[f"{name}_{kind}"] for name in PEERS)
        found[f"ratio_to_fastest_peer_{kind}"] = round(fastest / found[f"ours_{kind}"], 3)
    return found


def measured(args: argparse.Namespace, name: str) -> dict:
    """Measure a network's training steps.

    Parameters
    ----------
    args : Namespace
        Of the command line.
    name : str
        "ours", or one of PEERS.

    Returns
    -------
    dict
        Seconds, peak memory, and loss and gradient of the first training step.
    """
    torch.manual_seed(0)
    batch = next(load_data("MNIST")[0].batches(args.batch_size))
    model = network(args, batch.images).to(args.device)
    images = batch.images.to(args.device)
    labels = batch.labels.to(args.device)
    model.set_bptt_segments("auto" if args.bptt_segments == "auto" else int(args.bptt_segments))
    model.precision = args.precision  # which it sees to itself; the others run under autocast
    under_autocast = False
    if name != "ours":
        # Ours is let go, else the other's peak of memory would have it, too.
        model = Peer(model, name, PEERS[name]).to(args.device)
        under_autocast = args.precision == "bfloat16"
    optimizer = make_optimizer("Adam", model, 1e-5, weight_decay=5e-4, amsgrad=True)
    draws = Draws(0, 1, batch.index).uniforms(
        args.timesteps, tuple(batch.images.shape[1:]), args.device
    )
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(args.device, torch.bfloat16, enabled=under_autocast):
            output = model(images, draws)
        loss = compute_losses(output, None, labels, 0.01, "linear_over_t")["total"]
        loss.backward()
        optimizer.step()
        return loss

    first_loss = step().item()
    first_gradient = next(model.parameters()).grad.norm().item()
    wall_seconds = []
    cpu_seconds = []
    for _ in range(args.rounds):
        wall_before, cpu_before = now(args.device)
        step()
        wall_after, cpu_after = now(args.device)
        wall_seconds.append(wall_after - wall_before)
        cpu_seconds.append(cpu_after - cpu_before)
    found = {
        f"{name}_s": round(statistics.median(wall_seconds), 4),
        f"{name}_cpu_s": round(statistics.median(cpu_seconds), 4),
        f"{name}_gb": round(peak_gb(args.device), 2),
    }
    if args.device == "cpu" and name == "ours":
        found["products_share"] = round(products_share(step), 3)
    found[f"{name}_first_loss_and_gradient"] = [first_loss, first_gradient]
    return found


def products_share(step: Callable[[], object]) -> float:
    """Return the share of a step's time in convolutions and matrix products.

    Those of the forward and of the backward pass, over three calls.
    """
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        began = time.perf_counter()
        for _ in range(3):
            step()
        microseconds = 1e6 * (time.perf_counter() - began)
    microseconds_of_products = 0
    for event in profiled.key_averages():
        if re.search(PRODUCTS, event.key):
            microseconds_of_products += event.self_cpu_time_total
    return microseconds_of_products / microseconds


def now(device: str) -> tuple[float, float]:
    """Return wall and processor time in seconds, after the device has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def peak_gb(device: str) -> float:
    """Return the peak of memory so far: of tensors on a GPU, else of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # on Linux in KiB


def build_parser() -> Parser:
    """Return the parser of the command line."""
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


def network(args: argparse.Namespace, images: torch.Tensor) -> VGG_SNN_STDB_wFeedback:
    """Make our network, without dropout.

    Its weights are scaled so that all layers spike at thresholds of 1. Its surrogate
    gradient is SpikingJelly's, max(0, 1 - |v|).
    """
    settings = {
        "timesteps": args.timesteps,
        "fc_width": args.fc_width,
        "dropout": 0.0,
        "fc_dropout": 0.0,
        "update": "immediate",
    }
    if args.gate == "block":
        settings |= BLOCKS
    else:
        settings["readout"] = "membrane"
    model = VGG_SNN_STDB_wFeedback(args.architecture, **settings)
    few = images[:8]
    draw = torch.Generator().manual_seed(0)
    thresholds = balance_thresholds(model, few, lambda t: torch.rand(few.shape, generator=draw), 4)
    for (name, neuron), threshold in zip(model.neurons().items(), thresholds, strict=True):
        stage, position = name.split(".")
        layer = getattr(model, stage)[int(position) - 1]  # its weights stand before it
        layer.weight.data /= 0.7 * threshold
        neuron.surrogate = neuron.surrogate._replace(scale=1.0)
    model.set_thresholds([1.0] * len(thresholds))
    return model.train()


class Peer(nn.Module):
    """The same stages with another simulator's neurons, in its usual memory format.

    They have our surrogate gradient, max(0, 1 - |v|).

    Parameters
    ----------
    ours : VGG_SNN_STDB_wFeedback
        Our network. It stays as it is.
    simulator : str
        One of PEERS.
    by_layer : bool
        Whether each layer takes all T timesteps, as SpikingJelly's multi-step mode
        does; else all layers of a stage take one.
    """

    def __init__(self, ours: VGG_SNN_STDB_wFeedback, simulator: str, by_layer: bool):
        super().__init__()
        self.by_layer = by_layer
        for name in ("features", "generate", "classifier"):
            stage = stage_of(getattr(ours, name), simulator, by_layer)
            setattr(self, name, stage.to(memory_format=torch.contiguous_format))
        for module in self.modules():
            if isinstance(module, snntorch.Leaky):
                module.spike_grad = custom_surrogate(triangle_gradient)
            elif isinstance(module, IFNode):
                module.detach_reset = True
                module.surrogate_function = PiecewiseQuadratic()

    def forward(self, x: torch.Tensor, draws: torch.Tensor) -> SNNOutput:
        """Run images (B, C, H, W) with draws (T, B, C, H, W) of the input encoding."""
        reset(self)
        encoded = self.over_time(self.features, poisson(x, draws))
        # Under autocast both stages give bfloat16.
        logits = self.over_time(self.classifier, encoded.flatten(2)).sum(0).float()
        decoded = self.over_time(self.generate, encoded).float()
        predictions = decoded.cumsum(0).sigmoid()
        return SNNOutput(logits, predictions, (x - predictions) ** 2, {}, None)

    def over_time(self, stage: nn.Sequential, signals: torch.Tensor) -> torch.Tensor:
        """Run a stage on the signals (T, B, ...) of all timesteps."""
        if self.by_layer:
            return stage(signals)
        return torch.stack([stage(signal) for signal in signals])


def triangle_gradient(
    v: torch.Tensor, gradient: torch.Tensor, spikes: torch.Tensor
) -> torch.Tensor:
    """Return the gradient through a spike, in the form that snnTorch asks for."""
    return gradient * (1 - v.abs()).clamp(min=0)


if __name__ == "__main__":
    run_script(main)
