#!/usr/bin/env python3
"""Does an exported network send the same spikes elsewhere? The NIR file of an SNN, gate open, read by sinabs and by snnTorch.

One JSON object per line: spikes per image of each spiking layer, `differing`, the share of all neurons' spike counts that are not
ours, and `same_class`, the share of images of the same class. `as read`: what the simulator makes of the file; `corrected`: with
its neurons set to ours, which is what to copy from here. Needs the packages nir, nirtorch, sinabs and snntorch (docs/export.md).
`python benchmarks/robustness/other_simulators.py`: 6 seconds.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.command_line.parser import Parser, typed  # noqa: I001  (harness before torch, see harness/__init__.py)
from benchmarks.shared import watch
from harness.command_line.scripts import run_script
from harness.data.sets import load_data
from harness.exporting.layers import conventions, forward_layers
from harness.exporting.nir_file import nir_bytes
from self_models.basics.settings import COUNT, WHOLE
from self_models.loading import load
from self_models.running.draws import draws_for
import torch
from torch import nn


def in_sinabs(graph, signals, corrected=True):
    """Run a NIR graph in sinabs. signals: input spikes (T, B, C, H, W). Returns the spikes of each neuron over all steps, layer
    -> (B, ...), and the sum of the output (B, labels)."""
    import sinabs.nir
    from sinabs.activation import MembraneSubtract, SingleSpike

    network = sinabs.nir.from_nir(graph, batch_size=signals.shape[1])
    neurons = {name.replace("_", "."): module for name, module in network.named_modules() if hasattr(module, "spike_threshold")}
    for neuron in neurons.values() if corrected else ():
        threshold = neuron.spike_threshold.data
        neuron.spike_fn, neuron.min_v_mem = SingleSpike, None  # one spike per step, no floor under V
        neuron.reset_fn = MembraneSubtract(threshold.flatten()[0].item())
        neuron.spike_threshold.data = torch.nextafter(threshold, threshold + 1)  # it fires where V >= threshold, we above
    counts = watch(neurons, lambda spikes: spikes.unflatten(0, signals.shape[1::-1]).sum(1))  # time runs fastest there
    output, _ = network(signals.transpose(0, 1).flatten(0, 1))
    return counts, output.unflatten(0, signals.shape[1::-1]).sum(1)


def in_snntorch(graph, signals, corrected=True):
    """The same in snnTorch, whose network takes one step at a time. leak: 1. Uncorrected, only what stops it is set."""
    import snntorch
    from snntorch.import_nir import import_from_nir

    with contextlib.redirect_stdout(io.StringIO()):  # it talks
        network = import_from_nir(graph)
    neurons = {name.replace("_", "."): module for name, module in network.named_modules() if isinstance(module, snntorch.Leaky)}
    for module in network.modules():
        if isinstance(module, nn.Flatten):
            module.start_dim = 1  # else the batch is flattened, too
    for neuron in neurons.values():
        neuron.init_hidden = True  # else it hands a pair to the next layer
        if corrected:
            neuron.beta.fill_(1)
            neuron.reset_delay = True
    counts = watch(neurons, lambda spikes: spikes)
    return counts, sum(network(signal)[0] for signal in signals)


@torch.no_grad()
def here(model, images, seed):
    """The same by the model itself, and the spikes that its input neurons send (T, B, C, H, W). model: gate open."""
    draws = draws_for(images, seed=seed)
    signals = model.encoding.send(images, draws.uniforms(model.timesteps, model.image_shape))
    neurons = {name: module for name, module in model.neurons().items() if not name.startswith("generate")}
    counts = watch(neurons, lambda output: output[0].unflatten(0, (-1, len(images))).sum(0))
    return counts, model(images, draws=draws).logits, signals


def compared(counts, logits, ours, our_logits):
    """What a record says of one simulator; counts and ours: layer -> spikes of each neuron (B, ...)."""
    differing = sum((counts[name] != ours[name]).sum().item() for name in ours) / sum(own.numel() for own in ours.values())
    return {
        "differing": differing,
        "same_class": (logits.argmax(1) == our_logits.argmax(1)).float().mean().item(),
        "spikes": {name: round(counts[name].sum().item() / len(logits), 1) for name in ours},
    }


@torch.no_grad()
def main(argv=None):
    parser = Parser(__doc__)
    parser.add_argument("--pretrained_snn", default="trained_models/snn/snn_feedback.pth", metavar="PATH", help="checkpoint")
    parser.add_argument("--images", type=typed(COUNT), default=100, metavar="N", help="the first N test images")
    parser.add_argument("-s", "--seed", type=typed(WHOLE), default=0, help="of the input spikes")
    args = parser.parse_args(argv)
    import nir

    model = load(args.pretrained_snn, engine="dense", gate="open", rule="never")
    images = load_data(model.settings["dataset"])[2].part(0, args.images).whole("cpu").images
    file = nir_bytes(forward_layers(model), conventions(model))
    ours, our_logits, signals = here(model, images, args.seed)
    print(json.dumps({"simulator": "this one", **compared(ours, our_logits, ours, our_logits)}))
    for run in (in_sinabs, in_snntorch):
        for corrected in (False, True):
            found = compared(*run(nir.read(io.BytesIO(file)), signals, corrected), ours, our_logits)
            record = {"simulator": run.__name__[3:], "neurons": "corrected" if corrected else "as read", **found}
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    run_script(main)
