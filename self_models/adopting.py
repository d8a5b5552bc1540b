"""A trained ANN of somebody's own, with ReLUs, as a network of ours that sends with spikes: from_ann()."""

import copy
from itertools import takewhile, zip_longest
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from self_models.basics import ModelError
from self_models.basics.images import CLASSES, ELSEWHERE, IMAGE_SHAPES, background, checked_images, tensor_of
from self_models.conversion import biases_of, calibrate_biases, fit_biases, fit_levels, fit_thresholds, units
from self_models.loading import on_engine
from self_models.network.neurons import HeldDropout, SpikingNeuron
from self_models.network.norms import QCFS
from self_models.network.plans import as_tokens
from self_models.network.stages import POOLS
from self_models.network.tracing import NONLINEARITIES, traced, with_worths
from self_models.running.draws import Draws
from self_models.running.outputs import INPUT
from self_models.traced import TracedSNN, rows_of
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

ORDER = "convolution, ReLU, pools or 2x2 convolutions of stride 2, …, Flatten, Linear, ReLU, …, Linear"
CLOSE = 1e-3  # how far logits of the traced network may be from the model's, of the largest


@torch.no_grad()
def from_ann(ann, images, timesteps=32, update="immediate", decoder="", engine="auto", seed=0, calibrate=True, **settings):
    """An SNN in eval mode that sends with spikes, in `timesteps` steps, what a trained ANN computes.

    ann: a module that returns logits (B, classes), of what torch.fx traces and network/tracing.py takes: convolutions, nn.Linear,
    batch norms, which are folded, ReLU, ReLU6, QCFS, pools, sums, torch.cat. One in a row as a plan has it (network/plans.py)
    becomes a VGG_SNN_STDB_wFeedback, any other a TracedSNN. Biases become currents. Thresholds are fitted to activations on the
    images, a few hundred of the training images, (N, C, H, W) as the model takes them, see fit_levels; a QCFS has its own. Unless
    update is delayed, or calibrate False, biases are then calibrated on them, see calibrate_if_better. decoder: of a network in a
    row, its tokens, a text or list: it is new, and its thresholds fit its random weights. engine: see load(). seed: of the draws
    with encoding poisson. settings: the model's others; if not given encoding is direct, max_pool count and initial_potential
    0.5, and without dataset it is MNIST where image shape and classes are MNIST's, else a folder's, which scripts ask for. Raises
    ModelError for what would not run the same here, with its layer or line, and for images that the model does not take.
    """
    if not isinstance(ann, nn.Module):
        raise ModelError(f"give an nn.Module, not a {type(ann).__name__}")
    images = tensor_of(images)
    own = {"encoding": "direct", "max_pool": "count", "initial_potential": 0.5, **settings}
    own |= {"timesteps": timesteps, "update": update}
    if "image_shape" not in settings and settings.get("dataset") not in IMAGE_SHAPES:
        own["image_shape"] = tuple(images.shape[-3:])
    taken = SimpleNamespace(image_shape=own.get("image_shape") or IMAGE_SHAPES[own["dataset"]], image_dtype=torch.float32)
    images = checked_images(images, taken, own.get("recorded_frames", 0)).cpu()
    ann, shown = copy.deepcopy(ann).eval().cpu().float(), images.mean(1) if images.dim() > 4 else images
    layers, last = traced(ann, shown)
    model, wanted = in_a_row(layers, decoder, own), ann(shown.clone())
    with tqdm(total=2 * sum(isinstance(layer.module, NONLINEARITIES) for layer in layers), desc="from_ann", unit=" layers",
              disable=None, leave=False) as bar:  # fmt: skip
        if model:
            rates, logits, unit = fitted(model, images, bar.update)
        else:
            model, rates, logits, unit = graph_of(layers, last, images, own | {"labels": wanted.shape[1]}, bar.update)
        check_traced(logits, wanted)
        if "dataset" not in settings and (model.image_shape, model.classes) != (IMAGE_SHAPES["MNIST"], [*CLASSES["MNIST"]]):
            model.settings |= {"dataset": f"{ELSEWHERE}images", "image_shape": model.image_shape}
            model.background = background(model.settings)
        exact = update == "phased" and all(isinstance(layer.module, QCFS) for layer in layers if is_nonlinear(layer))
        if update != "delayed" and calibrate and not exact:
            calibrate_if_better(model, rates, logits, unit, images, Draws(seed, 0, torch.arange(len(images))), bar.update)
    return on_engine(model, engine)


def is_nonlinear(layer):
    return isinstance(layer.module, NONLINEARITIES)


def calibrate_if_better(model, rates, logits, unit, images, draws, on_layer=None):
    """calibrate_biases, undone where on the images the model's answers were nearer to the ANN's before (cross-entropy of their
    softmaxes): a channel's mean rate may fit while its neurons are further off. rates, logits: see fit_levels; unit: of the
    model's logits, see units; on_layer: called after each."""

    def off():
        return F.cross_entropy(model(images, draws=draws, frames=False).logits * unit / model.timesteps, logits.softmax(1))

    before, biases = off(), {name: value.clone() for name, value in model.state_dict().items() if name.endswith(".bias")}
    on_layer = on_layer or (lambda: None)
    calibrate_biases(model, rates, images, lambda t: draws.at_step(t, model.image_shape, "cpu"), lambda *_: on_layer())
    if off() > before:
        model.load_state_dict(biases, strict=False)


# --- layers as they are


def graph_of(layers, last, images, settings, on_layer):
    """(the TracedSNN of these Layers, rates and logits as of fit_levels, the unit of its logits)"""
    layers, scaled = with_worths(layers, last)
    model = TracedSNN(nodes=rows_of(layers), **settings).eval()
    for layer in layers:
        if not is_nonlinear(layer):
            model.network[layer.name].load_state_dict(layer.module.state_dict())
    activations = {f"network.{layer.name}": layer.module for layer in layers if is_nonlinear(layer)}
    rates, logits = fit_levels(model, images, activations, on_layer)
    for name, sender in scaled.items():
        module = model.network[name]
        (module.scale if hasattr(module, "scale") else module.weight).mul_(model.network[sender].threshold)
    return model, rates, logits, 1.0


def check_traced(logits, wanted):
    """Raises ModelError where the traced network, still without spikes, computes something else than the model."""
    far = (logits - wanted).abs().amax(1) > CLOSE * wanted.abs().max()
    if far.float().mean() > 0.5:  # a few may lie at a step of QCFS
        raise ModelError("what was traced computes other logits than the model: is there a hook, or a ReLU in place of a signal "
                         "that is used again? inplace=False does")  # fmt: skip


# --- layers in a row, as plans have them


def in_a_row(layers, decoder, settings):
    """A VGG_SNN_STDB_wFeedback with the weights of these Layers, or None where they make none and no decoder is asked for. Raises
    ModelError where they make none that a decoder could be added to."""
    given, before = [(layer.where, layer.module) for layer in layers], INPUT
    try:
        for layer in layers:
            if layer.sources != (before,):
                raise ModelError(f"{layer.where} takes what does not stand right before it: with a decoder give {ORDER}")
            before = layer.name
        model = VGG_SNN_STDB_wFeedback(**settings | settings_of(given, decoder)).eval()
        copy_layers(model, given)
    except ModelError:
        if decoder:
            raise
        return None
    return model


def fitted(model, images, on_layer):
    """(rates, logits as of fit_levels, the unit of the model's logits) of a model with the weights and biases of its ANN, which
    then has its thresholds, and biases in the unit of what drives each layer."""
    biases, (rates, logits) = biases_of(model), fit_levels(model, images, on_layer=on_layer)
    fit_thresholds(model)
    fit_biases(model, biases)
    return rates, logits, next(unit for link, unit in units(model) if link.target == "output")


def settings_of(given, decoder):
    """The settings of a network with the architecture of these (name, module) pairs, and a decoder of these tokens. Raises
    ModelError where they make none; numbers of channels are compared later, with all else."""
    linears = [module for _, module in given if isinstance(module, nn.Linear)]
    if not linears or not isinstance(given[0][1], nn.Conv2d):
        raise ModelError(f"{given[0][0] if given else 'the model'} begins no network with a decoder, of this order: {ORDER}")
    encoder, kernels = [], []
    for module in takewhile(lambda module: not isinstance(module, nn.Flatten), (module for _, module in given)):
        encoder += [token for token, pool in POOLS.items() if isinstance(module, pool)]
        if isinstance(module, nn.Conv2d):
            halves = tuple(module.kernel_size) == (2, 2)
            encoder.append("D" if halves else module.out_channels)
            kernels += [] if halves else [module.kernel_size[0]]
    return {
        "plan": [encoder, as_tokens(decoder) if isinstance(decoder, str) else decoder], "vgg_name": "VGG5_wFeedback",
        "kernel_size": (kernels or [3])[0], "fc_layers": len(linears) - 1, "fc_width": linears[0].out_features,
        "labels": linears[-1].out_features, "output_bias": linears[-1].bias is not None, "bias": True, "default_threshold": 1.0,
    }  # fmt: skip


@torch.no_grad()
def copy_layers(model, given):
    """Fill the model from the (where, module) pairs given, and compare each with the model's layer, ReLUs in the place of spiking
    neurons, on noise, since on images a layer that is silent would hide a difference. Raises ModelError at the first layer that
    computes something else."""
    ours = [module for module in (*model.features, nn.Flatten(), *model.classifier) if not isinstance(module, HeldDropout)]
    shape, noise, end = model.image_shape, torch.Generator().manual_seed(0), (f"what follows {given[-1][0]}", None)
    for module, (where, theirs) in zip_longest(ours, given, fillvalue=end):
        module, is_neuron = None if module is end else module, isinstance(module, SpikingNeuron)
        same = nn.ReLU() if is_neuron else nn.MaxPool2d(2) if isinstance(module, nn.MaxPool2d) else module
        try:
            if is_neuron and type(theirs) is not nn.ReLU:
                raise TypeError
            signal = torch.randn(2, *shape, generator=noise).double()
            shape = compared(same, theirs, signal).shape[1:]
        except Exception as error:  # whatever a module raises on what is not for it
            is_ours = "nothing" if module is None else "neuron" if is_neuron else module
            raise ModelError(f"{where} stands where a network with a decoder has {is_ours}, of this order: {ORDER}") from error


def compared(ours, theirs, signal):
    """What their layer makes of a signal, in float64, after its parameters are copied to ours. Raises an error unless ours makes
    the same."""
    theirs = copy.deepcopy(theirs)
    for name, value in ours.named_parameters():
        if getattr(theirs, name, None) is not None:
            value.copy_(getattr(theirs, name))
    found = theirs.double()(signal)
    torch.testing.assert_close(copy.deepcopy(ours).double()(signal), found, equal_nan=True)
    return found
