#!/usr/bin/env python3
"""How fast is training on a GPU, ours and the peers', and does it send the spikes that the CPU sends? Two tables.

Each row of the table is a process of its own, `train_step.py --only` (all with the same weights, input spikes, loss and
optimiser): median seconds of a step, and the peak of the GPU's memory. Then each network of tests/golden/ runs with the same
images and draws on the CPU and on the GPU, without TF32: spikes, by how many the counts of a layer and image differ (rounding may
bring a few about), and the largest difference of an output. Any difference in spikes ends with status 1.
Without a GPU it ends with one line and status 2. docs/training_speed.md says what was found. `python benchmarks/speed/gpu.py`:
nobody has timed it yet.
"""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness import UserError  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.parser import Parser, typed
from harness.command_line.scripts import run_script
from self_models.basics.settings import COUNT
from tests.test_golden import SNN_FILES, load, spiking  # their one place

import torch

ROWS = (("ours", "float32"), ("ours", "bfloat16"), ("snntorch", "float32"), ("spikingjelly", "float32"))
STEP = Path(__file__).with_name("train_step.py")


def main(argv=None):
    args = build_parser().parse_args(argv)
    if not torch.cuda.is_available():
        raise UserError("there is no GPU here that PyTorch can use (CUDA), and this measures nothing else")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, batch {args.batch_size}, width {args.fc_width}\n")
    print(table(args.timesteps, lambda *row: step(args, *row)), flush=True)
    print("\n| network | spikes | differ | logits differ by |\n| --- | --- | --- | --- |")
    found = {name: compared(name, "cuda") for name in SNN_FILES}
    for name, figures in found.items():
        print("| {} | {:,.0f} | {:,.0f} | {:.1e} |".format(name, *figures))
    sys.exit(any(differ for _, differ, _ in found.values()))


def build_parser():
    parser = Parser(__doc__)
    parser.add_argument("--timesteps", type=typed(COUNT), nargs="+", default=[10, 50], metavar="T", help="steps per image")
    parser.add_argument("--batch_size", type=typed(COUNT), default=64, metavar="B", help="images of a step")
    parser.add_argument("--fc_width", type=typed(COUNT), default=4096, metavar="N", help="of the classifier's hidden layers")
    parser.add_argument("--rounds", type=typed(COUNT), default=10, metavar="N", help="timed steps of each row")
    return parser


def table(timesteps, measure):
    """The rows in Markdown. measure: (network, precision, T) -> (seconds, GB), or the reason why there are none."""
    lines = ["| network | precision | T | seconds | peak GB |", "| --- | --- | --- | --- | --- |"]
    for steps in timesteps:
        for network, precision in ROWS:
            found = measure(network, precision, steps)
            figures = f"not run: {found} |" if isinstance(found, str) else f"{found[0]:.4f} | {found[1]:.2f}"
            lines.append(f"| {network} | {precision} | {steps} | {figures} |")
    return "\n".join(lines)


def step(args, network, precision, steps):
    """(seconds, GB) of a row, or why there are none: a package that is missing, memory that is full."""
    command = [sys.executable, STEP, "--device", "cuda", "--only", network, "--precision", precision, "--timesteps", str(steps)]
    for name in ("batch_size", "fc_width", "rounds"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1].removeprefix("error: ")
    found = json.loads(done.stdout.splitlines()[-1])
    return found[f"{network}_s"], found["peak_gb"]


@torch.no_grad()
def compared(name, device):
    """(spikes on the CPU, by how many the device's differ, summed over layers and images, largest difference of an output)"""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    data = load(name)
    x, u = (torch.from_numpy(data[key]) for key in ("x", "u"))
    here, there = (spiking(data).to(place)(x.to(place), u.to(place)) for place in ("cpu", device))
    spikes = sum(count.sum().item() for count in here.spikes.values())
    differ = sum((count - there.spikes[layer].cpu()).abs().sum().item() for layer, count in here.spikes.items())
    return spikes, differ, (here.logits - there.logits.cpu()).abs().max().item()


if __name__ == "__main__":
    run_script(main)
