"""``from_ann``: a trained ANN of somebody's own as a network that sends with spikes."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from self_models.checkpoints.loading import on_engine
from self_models.conversion import (
    biases_of,
    calibrate_biases,
    fit_biases,
    fit_levels,
    fit_thresholds,
    iter_units,
)
from self_models.data.images import (
    CLASSES,
    ELSEWHERE,
    IMAGE_SHAPES,
    background,
    prepare_images,
    tensor_of,
)
from self_models.errors import ModelError
from self_models.networks.architectures import as_tokens
from self_models.networks.stages import POOLS
from self_models.neurons.norms import QCFS
from self_models.neurons.spiking import HeldDropout, SpikingNeuron
from self_models.running.chains import AxisReach
from self_models.running.draws import Draws
from self_models.running.outputs import INPUT
from self_models.traced.layers import Layer, add_scales
from self_models.traced.traced_snn import TracedSNN
from self_models.traced.tracing import NotTraceable, trace_layers
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

ORDER = (  # of the layers of a network with a decoder, in messages
    "convolution, ReLU, pools or 2x2 convolutions of stride 2, …, Flatten, Linear, ReLU, …, Linear"
)
LOGITS_TOLERANCE = 1e-3  # of logits of the traced network, as a share of the largest


@torch.no_grad()
def from_ann(  # noqa: PLR0913  (arguments that the pages document)
    ann: nn.Module,
    images: torch.Tensor,
    timesteps: int = 32,
    update: str = "immediate",
    decoder: str | list = "",
    engine: str = "auto",
    seed: int = 0,
    calibrate: bool = True,
    **settings: object,
) -> VGG_SNN_STDB_wFeedback:
    """Convert a trained ANN to an SNN, whose neurons send its activations as spikes.

    If the ANN's layers stand in a row, as in one of our architectures, the result is a
    VGG_SNN_STDB_wFeedback, otherwise a TracedSNN, which is used in the same way.
    Biases become currents. The threshold of each layer is fitted to the layer's
    activations on the images; a QCFS layer brings its own. Then the biases are
    calibrated on the images, that is shifted until each channel fires as often as the
    ANN's activation says.

    Parameters
    ----------
    ann : nn.Module
        The ANN, which returns logits (B, classes). It is not changed. It may have
        convolutions, nn.Linear, batch norms, ReLU, ReLU6, QCFS, pools, sums, torch.cat
        and a forward() that torch.fx can trace; docs/how_to/own_model.md has the list.
    images : Tensor of shape (N, C, H, W)
        A few hundred of the training images, as the ANN takes them.
    timesteps : int
        Timesteps T of the SNN. More of them make it slower, and usually more accurate.
    update : {"immediate", "delayed", "phased"}
        When a layer fires: in the timestep in which its input arrives, in the next one,
        or once all of its input has arrived.
    decoder : str or list
        Tokens of a decoder to add, for an ANN whose layers stand in a row. It has
        random weights, and thresholds that fit them.
    engine : str
        See ``load``.
    seed : int
        Seed of the input's random spikes, with the encoding "poisson".
    calibrate : bool
        Whether to calibrate the biases. With update "delayed" they are not. A change
        that makes the SNN worse on the images is undone.
    **settings
        Other settings of the SNN, see `SNNConfig`. Unless they are given, encoding is
        "direct", max_pool "count" and initial_potential 0.5. The dataset is MNIST if
        the shape of the images and the number of classes are MNIST's. Otherwise it is
        a folder of images, for which the scripts ask.

    Returns
    -------
    VGG_SNN_STDB_wFeedback
        In evaluation mode.

    Raises
    ------
    ModelError
        If a layer or a line of forward() has no equal in an SNN, which is then named,
        or if the ANN does not take the images.
    """
    if not isinstance(ann, nn.Module):
        raise ModelError(f"give an nn.Module, not a {type(ann).__name__}")
    images = tensor_of(images)
    snn_settings = complete_settings(settings, timesteps, update, images)
    images = check_images(images, snn_settings)
    # The ANN takes one image, so of a recording (B, T, C, H, W) the mean over time.
    mean_frames = images.mean(1) if images.dim() > 4 else images
    ann = copy.deepcopy(ann).eval().cpu().float()
    layers = trace_known_layers(ann, mean_frames)
    ann_logits = ann(mean_frames.clone())  # an operation in place must not change images
    model, layers = build_snn(layers, decoder, snn_settings, classes=ann_logits.shape[1])

    # Each nonlinearity becomes a layer of neurons, and the bar counts each of these
    # twice: its threshold is fitted, and its bias calibrated. Without calibration the
    # bar stops half-way.
    nonlinear = [layer for layer in layers if layer.is_nonlinear]
    bar = tqdm(
        total=2 * len(nonlinear), desc="from_ann", unit=" layers", disable=None, leave=False
    )
    with bar:
        target = fit_model(model, images, nonlinear, ann_logits, bar.update)
        # After the fit, which runs the model with the settings that it was built with
        if "dataset" not in settings:
            set_dataset(model)
        # A phased layer sends just the rounded activation of QCFS, so there is nothing
        # to calibrate. With update "delayed" nothing is calibrated either.
        has_only_qcfs = all(isinstance(layer.module, QCFS) for layer in nonlinear)
        is_exact = update == "phased" and has_only_qcfs
        if update != "delayed" and calibrate and not is_exact:
            draws = Draws(seed, 0, torch.arange(len(images)))
            calibrate_if_better(model, target, images, draws, bar.update)
    return on_engine(model, engine)


def complete_settings(
    settings: Mapping[str, object], timesteps: int, update: str, images: torch.Tensor
) -> dict[str, object]:
    """Return all settings of an SNN that differ from the defaults of `SNNConfig`.

    Parameters
    ----------
    settings : dict of {str: object}
        Those that the user has given, which win over the defaults of ``from_ann``.
    timesteps, update
        The arguments of ``from_ann``, which win over both.
    images : Tensor of shape (N, C, H, W) or (N, T, C, H, W)
        They give the shape of an image unless ``image_shape`` is given, or a dataset
        whose images have a known shape.
    """
    defaults = {"encoding": "direct", "max_pool": "count", "initial_potential": 0.5}
    completed = {**defaults, **settings, "timesteps": timesteps, "update": update}
    if "image_shape" not in settings and settings.get("dataset") not in IMAGE_SHAPES:
        completed["image_shape"] = tuple(images.shape[-3:])
    return completed


# --- the ANN


def check_images(images: torch.Tensor, settings: Mapping[str, object]) -> torch.Tensor:
    """Return images on the CPU as a network with these settings takes them.

    Raises
    ------
    ModelError
        If it does not take them.
    """
    image_shape = settings.get("image_shape") or IMAGE_SHAPES[settings["dataset"]]
    form = SimpleNamespace(image_shape=image_shape, image_dtype=torch.float32)
    return prepare_images(images, form, settings.get("recorded_frames", 0)).cpu()


def trace_known_layers(ann: nn.Module, images: torch.Tensor) -> list[Layer]:
    """Trace an ANN, and say what to use for one of this package, which it cannot.

    Parameters
    ----------
    ann : nn.Module
        The ANN, in evaluation.
    images : Tensor of shape (B, C, H, W)
        Some that it takes.

    Returns
    -------
    list of Layer
        What ``trace_layers`` returns.

    Raises
    ------
    ModelError
        If the network has what a network here does not have, or is one of this package.
    """
    try:
        return trace_layers(ann, images)
    except NotTraceable:
        if any(isinstance(module, VGG_SNN_STDB_wFeedback) for module in ann.modules()):
            raise ModelError("this network sends with spikes already: give an ANN") from None
        if any(isinstance(module, VGG_wFeedback) for module in ann.modules()):
            raise ModelError(
                "from_ann is for networks of other origin: an ANN of this package is converted "
                "from its checkpoint, with its decoder, by `wfeedback snn --pretrained_ann PATH`"
            ) from None
        raise


# --- the SNN


def build_snn(
    layers: Sequence[Layer],
    decoder: str | list,
    settings: Mapping[str, object],
    classes: int,
) -> tuple[VGG_SNN_STDB_wFeedback, Sequence[Layer]]:
    """Build an SNN with the weights of an ANN's layers.

    Parameters
    ----------
    layers : list of Layer
        The ANN.
    decoder : str or list
        Tokens of a decoder; none if it is empty.
    settings : dict of {str: object}
        Settings of the SNN.
    classes : int
        Number of logits.

    Returns
    -------
    model : VGG_SNN_STDB_wFeedback
        Its thresholds and biases are still the ANN's.
    layers : list of Layer
        The layers that it has: of a TracedSNN the scales between them, too.
    """
    try:
        return build_row(layers, decoder, settings), layers
    except ModelError:
        if decoder:
            raise
    layers = add_scales(layers)
    return TracedSNN.of_layers(layers, **settings, labels=classes), layers


class Target(NamedTuple):
    """What an SNN is to send, and to answer: both are what its ANN does.

    Attributes
    ----------
    rates : dict of {str: Tensor}
        Mean rates of the ANN's layers, see ``fit_levels``.
    logits : Tensor of shape (B, classes)
        Logits of the traced ANN.
    unit : float
        What the SNN's logits, divided by T, are multiplied by to be these logits.
    """

    rates: dict
    logits: torch.Tensor
    unit: float


def fit_model(
    model: VGG_SNN_STDB_wFeedback,
    images: torch.Tensor,
    nonlinear: Sequence[Layer],
    ann_logits: torch.Tensor,
    on_layer: Callable,
) -> Target:
    """Fit thresholds to an ANN's activations, and the network's units to these.

    Let theta be the threshold of a layer on the ANN's scale, that is its largest
    activation. Spikes in k of T timesteps stand for an activation of theta k / T. But a
    spike arrives as 1, not as theta, so the next layer gets a current that is too small
    by the factor 1 / theta. There are two ways to make up for that:

    - A network of an architecture has a *unit* for each layer, the product of the
      thresholds of all layers before it. Its current is the ANN's, divided by the unit,
      so its threshold and its bias are divided by it, too.
    - A TracedSNN has each threshold multiplied into the weights behind it. All its
      units are 1.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        With the ANN's weights and biases. Its thresholds are changed, and then its
        biases, or, of a TracedSNN, weights.
    images : Tensor of shape (B, C, H, W) or (B, T, C, H, W)
        Images, or recordings.
    nonlinear : list of Layer
        The ANN's nonlinearities.
    ann_logits : Tensor of shape (B, classes)
        What the ANN itself answers.
    on_layer : callable
        Called after each layer.

    Returns
    -------
    Target

    Raises
    ------
    ModelError
        If the traced ANN computes something else than the ANN.
    """
    activations = {f"network.{layer.name}": layer.module for layer in nonlinear}
    ann_biases = biases_of(model)
    # Sets thresholds, on the ANN's scale, and returns the layers' mean activations as
    # rates, and the logits. It runs the ANN, and so comes first, while all weights and
    # biases of the model are the ANN's.
    rates, logits = fit_levels(model, images, activations, on_layer)
    check_logits(logits, ann_logits, nonlinear)
    if isinstance(model, TracedSNN):
        # Spikes of several layers meet, so a link has no unit of its own.
        scale_by_thresholds(model)  # changes weights
        return Target(rates, logits, unit=1.0)
    # Thresholds before biases: the units follow from the thresholds as they then are.
    fit_thresholds(model)  # divides thresholds by units
    fit_biases(model, ann_biases)  # sets biases, to the ANN's divided by units
    return Target(rates, logits, output_unit(model))


def output_unit(model: VGG_SNN_STDB_wFeedback) -> float:
    """Return the unit of the logits: their current is the ANN's, divided by it."""
    return next(unit for link, unit in iter_units(model) if link.target == "output")


def check_logits(
    logits: torch.Tensor, ann_logits: torch.Tensor, nonlinear: Sequence[Layer]
) -> None:
    """Raise ModelError if a traced ANN computes other logits than the ANN itself.

    Torch.fx does not see hooks. And a ReLU in place changes a signal that another layer
    takes again, which the traced layers, none of them in place, do not do.

    Parameters
    ----------
    logits : Tensor of shape (B, classes)
        What the traced layers compute.
    ann_logits : Tensor of shape (B, classes)
        What the ANN computes for the same images.
    nonlinear : list of Layer
        The ANN's nonlinearities.
    """
    distance = (logits - ann_logits).abs().amax(1)  # (B,)
    differs = distance > LOGITS_TOLERANCE * ann_logits.abs().max()
    # Folded batch norms round otherwise than the ANN. That hardly moves what a ReLU
    # sends, but an activation at a step of QCFS by a whole step. A fault in the trace
    # concerns all images, as a rule, and rounding only those with such an activation,
    # so differences in up to a half of the images are taken for rounding.
    accepted_share = 0.0
    if any(isinstance(layer.module, QCFS) for layer in nonlinear):
        accepted_share = 0.5
    if differs.float().mean() > accepted_share:
        raise ModelError(
            "what was traced computes other logits than the model: is there a hook, or a ReLU "
            "in place of a signal that is used again? inplace=False does"
        )


@torch.no_grad()
def scale_by_thresholds(model: TracedSNN) -> None:
    """Multiply the first weights that each layer's spikes meet by its threshold.

    So these spikes, summed over T timesteps, bring the ANN's activation, times T.

    Parameters
    ----------
    model : TracedSNN
        Its weights and scales are changed in place. Its thresholds are fitted.
    """
    graph = model.graph
    neurons = model.neurons()
    scaled = set()  # a Parameter is the same one by identity, not by its values
    for link in graph.links:
        sender = graph.before_pools(link.source)  # the neurons that fire what it sends
        weights = first_weights(link.modules)
        # Pixels are no spikes. A link without weights leads from neurons to a pool, and
        # the weights come in the pool's own link.
        if sender == INPUT or weights is None:
            continue
        # Several links share weights if they part behind these, or meet before. All of
        # them come from the same neurons, since add_scales() lets spikes of different
        # neurons meet only behind weights of their own. So they are scaled once.
        if weights not in scaled:
            weights.mul_(neurons[sender].threshold)
            scaled.add(weights)


def first_weights(modules: Iterable[nn.Module]) -> nn.Parameter | None:
    """Return the weight, or scale, of the first module that has one."""
    for module in modules:
        weights = getattr(module, "weight", getattr(module, "scale", None))
        if weights is not None:
            return weights
    return None


def set_dataset(model: VGG_SNN_STDB_wFeedback) -> None:
    """Say that a network's images are those of a folder, unless they can be MNIST's.

    So scripts do not take images of another data set for those that the network knows.
    """
    is_like_mnist = (model.image_shape, model.classes) == (
        IMAGE_SHAPES["MNIST"],
        [*CLASSES["MNIST"]],
    )
    if is_like_mnist:
        return
    model.settings |= {"dataset": f"{ELSEWHERE}images", "image_shape": model.image_shape}
    model.background = background(model.settings)


def calibrate_if_better(
    model: VGG_SNN_STDB_wFeedback,
    target: Target,
    images: torch.Tensor,
    draws: Draws,
    on_layer: Callable,
) -> None:
    """Calibrate biases, and undo it if the answers were nearer to the ANN's before.

    A channel's mean rate may fit while its neurons are further off.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The SNN. Its biases are changed.
    target : Target
        What it is to send, and to answer.
    images : Tensor of shape (B, C, H, W) or (B, T, C, H, W)
        Images, or recordings.
    draws : Draws
        Of the input, for these images.
    on_layer : callable
        Called after each layer.
    """
    before = answer_loss(model, target, images, draws)
    biases = {}
    for name, value in model.state_dict().items():
        if name.endswith(".bias"):
            biases[name] = value.clone()
    calibrate_biases(
        model,
        target.rates,
        images,
        lambda t: draws.at_step(t, model.image_shape, "cpu"),
        lambda *_: on_layer(),
    )
    if answer_loss(model, target, images, draws) > before:
        model.load_state_dict(biases, strict=False)


def answer_loss(
    model: VGG_SNN_STDB_wFeedback, target: Target, images: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """Return the cross-entropy of an SNN's softmax with that of its ANN."""
    logits = model(images, draws=draws, frames=False).logits
    return F.cross_entropy(
        logits * target.unit / model.timesteps,
        target.logits.softmax(1),
    )


# --- layers in a row, as architectures have them


@torch.no_grad()
def build_row(
    layers: Sequence[Layer], decoder: str | list, settings: Mapping[str, object]
) -> VGG_SNN_STDB_wFeedback:
    """Build a network of an architecture with the weights of layers in a row.

    Parameters
    ----------
    layers : list of Layer
        The ANN.
    decoder : str or list
        Tokens of a decoder; none if it is empty.
    settings : dict of {str: object}
        The other settings of the network.

    Returns
    -------
    VGG_SNN_STDB_wFeedback
        In evaluation.

    Raises
    ------
    ModelError
        If the layers make none, with the first layer that does not fit.
    """
    name_before = INPUT
    for layer in layers:
        if layer.sources != (name_before,):
            raise ModelError(
                f"{layer.where} takes what does not stand right before it: "
                f"with a decoder give {ORDER}"
            )
        name_before = layer.name
    settings = {**settings, **architecture_settings(layers, decoder)}
    # A network that does not fit may be larger than the memory. So a network without
    # memory is looked at before there is one with weights.
    with torch.device("meta"):
        model = new_network(settings)
    check_row(model, layers)
    model = new_network(settings)
    for module, layer in zip(row_of_modules(model), layers, strict=True):
        if hasattr(module, "weight"):  # neurons have none, and keep their threshold
            for name, value in module.named_parameters():
                value.copy_(getattr(layer.module, name))
    return model


def new_network(settings: Mapping[str, object]) -> VGG_SNN_STDB_wFeedback:
    """Build a network in evaluation."""
    return VGG_SNN_STDB_wFeedback(**settings).eval()


def row_of_modules(model: VGG_SNN_STDB_wFeedback) -> list[nn.Module]:
    """Return what a network has in place of an ANN's layers, in their order.

    These are the modules of the encoder, a Flatten, and those of the classifier.
    Dropouts are left out, since ``trace_layers`` leaves out those of an ANN.
    """
    modules = [*model.features, nn.Flatten(), *model.classifier]
    return [module for module in modules if not isinstance(module, HeldDropout)]


def check_row(model: VGG_SNN_STDB_wFeedback, layers: Sequence[Layer]) -> None:
    """Check that a network has a module of the same form for each layer, and no other.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network. Its weights need not be there.
    layers : list of Layer
        The ANN, in a row.

    Raises
    ------
    ModelError
        With the first layer for which it has another module, or none, or with what is
        missing behind the last layer.
    """
    modules = row_of_modules(model)
    # As far as there are both; what is left of the longer one follows.
    for module, layer in zip(modules, layers, strict=False):
        if not takes_weights_of(module, layer.module):
            raise ModelError(misplaced(layer.where, module))
    if len(layers) > len(modules):
        first_without_module = layers[len(modules)]
        raise ModelError(misplaced(first_without_module.where, None))
    if len(modules) > len(layers):
        first_without_layer = modules[len(layers)]
        raise ModelError(misplaced(f"what follows {layers[-1].where}", first_without_layer))


def takes_weights_of(module: nn.Module, ann_module: nn.Module) -> bool:
    """Return whether a network's module can do what an ANN's does, with its weights."""
    if module_form(module) != module_form(ann_module):
        return False
    loses_bias = has_bias(ann_module) and module.bias is None
    return not loses_bias


def misplaced(where: str, module: nn.Module | None) -> str:
    """Return the message that something stands in the place of another module.

    where: what stands there; module: what a network has in that place, if anything.
    """
    expected = str(module)
    if module is None:
        expected = "nothing"
    elif isinstance(module, SpikingNeuron):
        expected = "neuron"
    return f"{where} stands where a network with a decoder has {expected}, of this order: {ORDER}"


# What a module's class does not say of its size. No module has all of these attributes.
SIZES = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "divisor_override",  # of an average pool
)


class ModuleForm(NamedTuple):
    """What a module computes, without the values of its weights.

    Modules of equal forms give equal outputs once they have equal weights. Whether
    there is a bias is not part of the form: ``takes_weights_of`` looks at it apart.

    Attributes
    ----------
    kind : type
        The class, see ``module_form``.
    windows : tuple of AxisReach
        Kernel, stride, padding and dilation along rows, and along columns. Empty for a
        module without a kernel.
    sizes : tuple of (int or None)
        Its attributes of the names SIZES, None for those that it does not have.
    """

    kind: type
    windows: tuple[AxisReach, ...]
    sizes: tuple[int | None, ...]


def module_form(module: nn.Module) -> ModuleForm:
    """Describe a module such that an ANN's layer can be compared with its counterpart.

    ``takes_weights_of`` lets a network's module take the weights of an ANN's layer only
    if both have the same form. An attribute that changes the output belongs in here,
    else a layer is accepted that computes something else.

    Parameters
    ----------
    module : nn.Module
        A layer of an ANN, or a module of an SNN.

    Returns
    -------
    ModuleForm
        For example, of ``nn.Conv2d(3, 16, 3, padding=1)``: the kind nn.Conv2d, twice
        the window AxisReach(kernel=3, stride=1, padding=1), and the sizes
        (3, 16, 1, None, None, None).
    """
    if isinstance(module, SpikingNeuron):
        # An SNN has neurons where its ANN has ReLUs: rates stand for their values.
        kind = nn.ReLU
    elif isinstance(module, nn.MaxPool2d):
        # An SNN may have CountingMaxPool, a class derived from the ANN's nn.MaxPool2d.
        kind = nn.MaxPool2d
    else:
        kind = type(module)
    windows = ()
    if hasattr(module, "kernel_size"):
        rows = AxisReach.along(module, -2)
        columns = AxisReach.along(module, -1)
        windows = (rows, columns)
    sizes = tuple(getattr(module, name, None) for name in SIZES)
    return ModuleForm(kind, windows, sizes)


def architecture_settings(layers: Sequence[Layer], decoder: str | list) -> dict[str, object]:
    """Return the settings of a network with the architecture of these layers.

    This takes from the layers what the settings need, for example the tokens 64 and "D"
    for a convolution to 64 channels and one of 2 x 2 behind it. It does not look at all
    else, such as strides or a second Flatten: ``check_row`` compares the network that
    is built with each of the layers.

    Parameters
    ----------
    layers : list of Layer
        The ANN, in a row.
    decoder : str or list
        Tokens of a decoder.

    Returns
    -------
    dict of {str: object}

    Raises
    ------
    ModelError
        If they make no architecture.
    """
    modules = [layer.module for layer in layers]
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    if not linears or not isinstance(modules[0], nn.Conv2d):
        raise ModelError(
            f"{layers[0].where} begins no network with a decoder, of this order: {ORDER}"
        )
    encoder = []
    kernel_sizes = []
    for module in modules:
        if isinstance(module, nn.Flatten):
            break
        for token, pool in POOLS.items():
            if isinstance(module, pool):
                encoder.append(token)
        if isinstance(module, nn.Conv2d):
            if tuple(module.kernel_size) == (2, 2):
                encoder.append("D")
            else:
                encoder.append(module.out_channels)
                kernel_sizes.append(module.kernel_size[0])
    return {
        "plan": [encoder, as_tokens(decoder) if isinstance(decoder, str) else decoder],
        "vgg_name": "VGG5_wFeedback",
        "kernel_size": kernel_sizes[0] if kernel_sizes else 3,
        "fc_layers": len(linears) - 1,
        "fc_width": linears[0].out_features,
        "labels": linears[-1].out_features,
        "output_bias": has_bias(linears[-1]),
        "bias": True,
        "default_threshold": 1.0,
    }


def has_bias(module: nn.Module) -> bool:
    """Return whether a module has a bias, and not all of it is 0."""
    bias = getattr(module, "bias", None)
    return bias is not None and bool(bias.any())
