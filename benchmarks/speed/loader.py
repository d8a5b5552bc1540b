#!/usr/bin/env python3
"""What do batches and draws cost beside a training step? One JSON object: seconds per batch, and their share of a step.

products_share: what convolutions and matrix products take of a step, by PyTorch's profiler; neurons, read-out and gate are the
rest. The network is make demo's (VGG5_wFeedback_linear, fc_width 256, T = 8, batch 64), the smallest one that is trained here.
`OMP_NUM_THREADS=2 python benchmarks/speed/loader.py`: 10 seconds.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from harness.command_line.scripts import run_script
from benchmarks.shared import products_share
from harness.data.sets import augmented, load_data
from harness.training.losses import Criterion
from self_models.basics.settings import COUNT
from self_models.running.draws import Draws, shuffled
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN


def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--batches", type=typed(COUNT), default=20, metavar="N", help="to take the mean over")
    count = parser.parse_args(argv).batches
    settings = {"timesteps": 8, "fc_width": 256, "readout": "membrane_linear", "update": "immediate", "dropout": 0.0}
    model = InputBlockingSNN("VGG5_wFeedback_linear", readout_slew=0.38, latch=True, epsilon=0.2, **settings)
    train, criterion = load_data("MNIST")[0], Criterion(0.01, "linear_over_t")
    seconds = {"batch": 0.0, "augment": 0.0, "draws": 0.0, "step": 0.0}
    batches = train.part(0, 64 * count).batches(64, order=shuffled(64 * count, 0, 1))
    augmented(train.part(0, 1).whole(), 0, 1)  # compiles the draws, or reads them from disk: half a second, once
    for _ in range(count):
        batch = timed(seconds, "batch", lambda: next(batches))
        timed(seconds, "augment", lambda: augmented(batch, 0, 1))  # noqa: B023
        draws = timed(seconds, "draws", lambda: Draws(0, 1, batch.index).uniforms(8, model.image_shape))  # noqa: B023
        step = lambda: criterion(model(batch.images, draws), batch.labels)["total"].backward()  # noqa: B023, E731
        timed(seconds, "step", step)
    per_batch = {f"{name}_s": round(value / count, 5) for name, value in seconds.items()}
    share = round((seconds["batch"] + seconds["draws"]) / seconds["step"], 4)
    print(json.dumps({**per_batch, "loader_share": share, "products_share": round(products_share(step), 3)}))


def timed(seconds, name, work):
    began = time.perf_counter()
    result = work()
    seconds[name] += time.perf_counter() - began
    return result


if __name__ == "__main__":
    run_script(main)
