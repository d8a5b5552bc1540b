"""A trained ANN of somebody's own, with ReLUs, as a network of ours that sends with spikes: from_ann()."""

import copy
from itertools import takewhile, zip_longest
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from self_models.basics import ModelError
from self_models.basics.images import (
    CLASSES,
    ELSEWHERE,
    IMAGE_SHAPES,
    background,
    checked_images,
    tensor_of,
)
from self_models.conversion import (
    biases_of,
    calibrate_biases,
    fit_biases,
    fit_levels,
    fit_thresholds,
    units,
)
from self_models.guests.from_ann.traced_snn import TracedSNN
from self_models.guests.from_ann.tracing import NotTraceable, traced, with_scales
from self_models.layers.architectures import as_tokens
from self_models.layers.neurons import HeldDropout, SpikingNeuron
from self_models.layers.norms import QCFS
from self_models.layers.stages import POOLS
from self_models.loading import on_engine
from self_models.runtime.chains import AxisReach
from self_models.runtime.draws import Draws
from self_models.runtime.outputs import INPUT
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

ORDER = (
    "convolution, ReLU, pools or 2x2 convolutions of stride 2, …, Flatten, Linear, ReLU, …, Linear"
)
CLOSE = 1e-3  # how far logits of the traced network may be from the model's, of the largest


@torch.no_grad()
def from_ann(
    ann,
    images,
    timesteps=32,
    update="immediate",
    decoder="",
    engine="auto",
    seed=0,
    calibrate=True,
    **settings,
):
    """An SNN in eval mode that sends with spikes, in `timesteps` steps, what a trained ANN computes.

    ann: a module that returns logits (B, classes), of what torch.fx traces and guests/from_ann/tracing.py takes: convolutions, nn.Linear,
    batch norms, which are folded, ReLU, ReLU6, QCFS, pools, sums, torch.cat. One in a row as a plan has it (layers/architectures.py)
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
    taken = SimpleNamespace(
        image_shape=own.get("image_shape") or IMAGE_SHAPES[own["dataset"]],
        image_dtype=torch.float32,
    )
    images = checked_images(images, taken, own.get("recorded_frames", 0)).cpu()
    ann, shown = (
        copy.deepcopy(ann).eval().cpu().float(),
        images.mean(1) if images.dim() > 4 else images,
    )
    layers = traced_layers(ann, shown)
    wanted = ann(shown.clone())
    try:
        model = in_a_row(layers, decoder, own)
    except ModelError:
        if decoder:
            raise
        layers = with_scales(
            layers
        )  # where spikes of several layers meet each needs a worth of its own
        model = TracedSNN.of_layers(layers, **own, labels=wanted.shape[1])
    nonlinear = [layer for layer in layers if layer.is_nonlinear]
    with tqdm(
        total=2 * len(nonlinear), desc="from_ann", unit=" layers", disable=None, leave=False
    ) as bar:
        activations = {f"network.{layer.name}": layer.module for layer in nonlinear}
        biases, (rates, logits) = (
            biases_of(model),
            fit_levels(model, images, activations, bar.update),
        )
        off = (logits - wanted).abs().amax(1) > CLOSE * wanted.abs().max()
        has_steps = any(isinstance(layer.module, QCFS) for layer in nonlinear)
        most = 0.5 if has_steps else 0.0  # activations of a few images may lie at a step of QCFS
        if off.float().mean() > most:
            raise ModelError(
                "what was traced computes other logits than the model: is there a hook, or a ReLU in place of a "
                "signal that is used again? inplace=False does"
            )
        if isinstance(
            model, TracedSNN
        ):  # a link's unit would be that of all layers whose spikes meet before it
            scale_by_thresholds(model)
            unit = 1.0
        else:
            fit_thresholds(model)
            fit_biases(model, biases)
            unit = next(unit for link, unit in units(model) if link.target == "output")
        # scripts must not take images of another data set for those that the network knows
        if "dataset" not in settings and (model.image_shape, model.classes) != (
            IMAGE_SHAPES["MNIST"],
            [*CLASSES["MNIST"]],
        ):
            model.settings |= {"dataset": f"{ELSEWHERE}images", "image_shape": model.image_shape}
            model.background = background(model.settings)
        is_exact = update == "phased" and all(
            isinstance(layer.module, QCFS) for layer in nonlinear
        )
        if update != "delayed" and calibrate and not is_exact:
            calibrate_if_better(
                model,
                rates,
                logits,
                unit,
                images,
                Draws(seed, 0, torch.arange(len(images))),
                bar.update,
            )
    return on_engine(model, engine)


def traced_layers(ann, images):
    """Trace an ANN, and say what to use for one of this package, whose forward cannot be traced.

    Parameters
    ----------
    ann : nn.Module
        The ANN, in evaluation.
    images : Tensor of shape (B, C, H, W)
        Some that it takes.

    Returns
    -------
    list of Layer
        What ``traced`` returns.

    Raises
    ------
    ModelError
        If the network has what a network here does not have, or is one of this package.
    """
    try:
        return traced(ann, images)
    except NotTraceable:
        if any(isinstance(module, VGG_SNN_STDB_wFeedback) for module in ann.modules()):
            raise ModelError("this network sends with spikes already: give an ANN") from None
        if any(isinstance(module, VGG_wFeedback) for module in ann.modules()):
            raise ModelError(
                "from_ann is for networks of other origin: an ANN of this package is converted "
                "from its checkpoint, with its decoder, by `wfeedback snn --pretrained_ann PATH`"
            ) from None
        raise


def scale_by_thresholds(model):
    """Multiply the first weights that each layer's spikes meet by its threshold: so they bring the ANN's activation, times T."""
    graph, neurons, scaled = model.graph, model.neurons(), set()
    for link in graph.links:
        sender, weights = graph.before_pools(link.source), None
        for module in link.modules:
            weights = (
                getattr(module, "weight", getattr(module, "scale", weights))
                if weights is None
                else weights
            )
        if sender != INPUT and weights is not None and weights not in scaled:
            weights.mul_(neurons[sender].threshold)
            scaled.add(weights)


def calibrate_if_better(model, rates, logits, unit, images, draws, on_layer):
    """calibrate_biases, undone where on the images the model's answers were nearer to the ANN's before (cross-entropy of their
    softmaxes): a channel's mean rate may fit while its neurons are further off. rates, logits: see fit_levels; unit: of the
    model's logits; on_layer: called after each.
    """

    def off():
        return F.cross_entropy(
            model(images, draws=draws, frames=False).logits * unit / model.timesteps,
            logits.softmax(1),
        )

    before, biases = (
        off(),
        {
            name: value.clone()
            for name, value in model.state_dict().items()
            if name.endswith(".bias")
        },
    )
    calibrate_biases(
        model,
        rates,
        images,
        lambda t: draws.at_step(t, model.image_shape, "cpu"),
        lambda *_: on_layer(),
    )
    if off() > before:
        model.load_state_dict(biases, strict=False)


# --- layers in a row, as plans have them


@torch.no_grad()
def in_a_row(layers, decoder, settings):
    """A VGG_SNN_STDB_wFeedback with the weights of these Layers, and a decoder of these tokens. Raises ModelError, with the first
    layer that does not fit, where they make none.
    """
    for layer, before in zip(layers, (INPUT, *(layer.name for layer in layers)), strict=False):
        if layer.sources != (before,):
            raise ModelError(
                f"{layer.where} takes what does not stand right before it: with a decoder give {ORDER}"
            )
    settings = settings | settings_of(layers, decoder)

    def built():
        model = VGG_SNN_STDB_wFeedback(**settings).eval()
        modules = (*model.features, nn.Flatten(), *model.classifier)
        return model, [module for module in modules if not isinstance(module, HeldDropout)]

    with torch.device("meta"):  # a network that does not fit may be larger than the memory
        _, ours = built()
    for module, layer in zip_longest(ours, layers):
        is_same = layer is not None and form_of(module) == form_of(layer.module)
        if not is_same or (has_bias(layer.module) and module.bias is None):
            where = layer.where if layer else f"what follows {layers[-1].where}"
            wanted = "neuron" if isinstance(module, SpikingNeuron) else module or "nothing"
            raise ModelError(
                f"{where} stands where a network with a decoder has {wanted}, of this order: {ORDER}"
            )
    model, ours = built()
    for module, layer in zip(ours, layers, strict=True):
        for name, value in module.named_parameters() if hasattr(module, "weight") else ():
            value.copy_(getattr(layer.module, name))
    return model


def form_of(module):
    """What two modules that do the same with the same weights have in common."""
    cls = next(
        (cls for cls in (SpikingNeuron, nn.MaxPool2d) if isinstance(module, cls)), type(module)
    )
    steps = (
        [AxisReach.along(module, axis) for axis in (-2, -1)]
        if hasattr(module, "kernel_size")
        else []
    )
    names = (
        "in_channels",
        "out_channels",
        "groups",
        "in_features",
        "out_features",
        "divisor_override",
    )
    return (
        nn.ReLU if cls is SpikingNeuron else cls,
        steps,
        [getattr(module, name, None) for name in names],
    )


def settings_of(layers, decoder):
    """The settings of a network with the architecture of these Layers, and a decoder of these tokens. Raises ModelError where
    they make none; numbers of channels are compared later, with all else.
    """
    modules = [layer.module for layer in layers]
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    if not linears or not isinstance(modules[0], nn.Conv2d):
        raise ModelError(
            f"{layers[0].where} begins no network with a decoder, of this order: {ORDER}"
        )
    encoder, kernels = [], []
    for module in takewhile(lambda module: not isinstance(module, nn.Flatten), modules):
        encoder += [token for token, pool in POOLS.items() if isinstance(module, pool)]
        if isinstance(module, nn.Conv2d):
            halves = tuple(module.kernel_size) == (2, 2)
            encoder.append("D" if halves else module.out_channels)
            kernels += [] if halves else [module.kernel_size[0]]
    return {
        "plan": [encoder, as_tokens(decoder) if isinstance(decoder, str) else decoder],
        "vgg_name": "VGG5_wFeedback",
        "kernel_size": (kernels or [3])[0],
        "fc_layers": len(linears) - 1,
        "fc_width": linears[0].out_features,
        "labels": linears[-1].out_features,
        "output_bias": has_bias(linears[-1]),
        "bias": True,
        "default_threshold": 1.0,
    }


def has_bias(module):
    return getattr(module, "bias", None) is not None and bool(module.bias.any())
