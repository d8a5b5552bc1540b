"""What a network starts from: a checkpoint or nothing.

What the checkpoint says is taken over by the flags, and rules derive further values.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from self_models import conversion
from self_models.checkpoints.files import may_hold
from self_models.checkpoints.loading import MODELS
from self_models.config import NetworkConfig, SNNConfig
from self_models.data.images import lasting_name
from self_models.data.sets import ImageSet
from self_models.errors import UserError
from self_models.feedback.gates import GATES, Gate
from self_models.feedback.stopping import RULES
from self_models.networks.architectures import get_architecture
from self_models.neurons.norms import folded_in
from self_models.running.known_layers import in_stages
from self_models.settings import Setting, settings_in
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.arguments import Arguments, set_found, take_over
from wfeedback.building.models import DECODER, class_for, fill, has_decoder, named, read, word_for
from wfeedback.data.facts import SELECTED_ON, facts_of
from wfeedback.runs.run import Run, counted, program, progress_bar

CLASSES = {"ann": VGG_wFeedback, "snn": VGG_SNN_STDB_wFeedback}
# How a network forgets in a stream: one that blocks pixels, and one that does not.
FORGETTING = {"blocking": "dynamic", "surprise": 2.0}
LEAKING = {"output_leak": 0.8, "membrane_floor": 0.0, "leak": 0.9}
# Added to the variance of each whitened pattern, so that faint ones are not blown up.
SMALL = 5e-4
PATCHES = 5_000_000  # from about so many patterns are found


class Start(NamedTuple):
    """What a network starts from.

    Attributes
    ----------
    kind : {"ann", "snn", "run", ""}
        What the checkpoint holds. "run": the last checkpoint of a run that goes on; "":
        there is none, and weights are random.
    path : str
        The checkpoint's file.
    saved : dict
        What is in it.
    """

    kind: str = ""
    path: str = ""
    saved: dict = {}  # noqa: RUF012

    @property
    def settings(self) -> dict[str, object]:
        """Settings of the checkpoint's network. Files of the original have none."""
        return self.saved.get("settings", {})

    @property
    def nodes(self) -> list | None:
        """Layers of a network that ``from_ann`` has traced. Others have none."""
        return self.settings.get("nodes")

    @property
    def run(self) -> dict | None:
        """The last checkpoint of a run that goes on, else None."""
        return self.saved if self.kind == "run" else None


def check_flags(args: Arguments, kind: str) -> None:
    """Raise UserError for flags that contradict each other, or lack another one.

    A contradiction counts only where one of the two was typed: a recipe may say the
    other.
    """
    flags = ("pretrained_ann", "pretrained_snn") if kind == "snn" else ("pretrained_ann",)
    if args.test_only and not any(getattr(args, flag) for flag in flags):
        needed = " or ".join(f"--{flag} PATH" for flag in flags)
        raise UserError(f"--test_only needs a trained network: give {needed}")
    for flag, other in (("epochs", "updates"), ("pretrained_ann", "pretrained_snn")):
        if flag in args.typed and getattr(args, other, None):
            raise UserError(
                f"--{flag} and --{other} contradict each other: leave out one of the two"
            )


def open_checkpoint(
    args: Arguments, kind: str, saved: dict | None = None, takes_traced: bool = False
) -> Start:
    """Read the checkpoint that a network starts from.

    Parameters
    ----------
    args : Arguments
    kind : {"ann", "snn"}
        What is trained, or evaluated. An SNN may start from an ANN, or from an SNN,
        which counts if both are given.
    saved : dict or None
        Last checkpoint of a run that goes on, see ``open_last_checkpoint``.
    takes_traced : bool
        Whether an SNN may be one that ``from_ann`` has traced.

    Returns
    -------
    Start
        Without a checkpoint its ``kind`` is "".

    Raises
    ------
    UserError
        If the file is missing, damaged, or of the wrong kind.
    """
    if saved:
        return Start("run", args.resume, saved)
    if kind == "snn" and args.pretrained_snn:
        start = checkpoint_at(args.pretrained_snn, "snn", args, args.model)
        if start.nodes:
            check_traced(args, start.path, takes_traced)
            set_found(args, nodes=start.nodes)
        return start
    if args.pretrained_ann:
        model = args.model
        if kind == "snn":  # --model names the SNN's class, and its ANN is of another
            model = word_for(args.model, args.pretrained_ann)
        return checkpoint_at(args.pretrained_ann, "ann", args, model)
    return Start()


def checkpoint_at(path: str, kind: str, args: Arguments, model: str) -> Start:
    """Read a checkpoint of one kind.

    Parameters
    ----------
    path : str
    kind : {"ann", "snn"}
        What it must hold.
    args : Arguments
    model : str
        ``--model``, whose class it may be of.

    Raises
    ------
    UserError
        If it holds another kind, or cannot be read.
    """
    saved = read(path, args, model)
    if kind.upper() not in may_hold(saved):
        other = "SNN" if kind == "ann" else "ANN"
        raise UserError(f"{path} holds an {other}; --pretrained_{kind} needs an {kind.upper()}")
    return Start(kind, path, saved)


def check_traced(args: Arguments, path: str, takes_traced: bool) -> None:
    """Raise UserError if a script cannot take a network that ``from_ann`` has traced.

    Parameters
    ----------
    args : Arguments
    path : str
        The network's checkpoint.
    takes_traced : bool
        Whether the script takes such networks.
    """
    if not takes_traced:
        raise UserError(
            f"{path}, by from_ann, has no decoder, so there is no prediction that this script "
            f"could train or show: {traced_takers()} take it"
        )
    own = named(args.model)
    if own and not issubclass(own, MODELS["TracedSNN"]):
        raise UserError(
            f"--model {args.model}: {path} is by from_ann, and {own.__name__} is not derived "
            "from TracedSNN: leave out the class"
        )


def traced_takers() -> str:
    """Name the commands that take a network that ``from_ann`` has traced."""
    commands = ("energy",), ("obj1",), ("obj2", "--rules confidence"), ("export", "--to c")
    texts = []
    for name, *flags in commands:
        texts.append(" ".join([*program(name), *flags]))
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def check_needs_no_prediction(args: Arguments, start: Start) -> None:
    """Raise UserError for a gate or rule by predictions, if ``from_ann`` has traced.

    Parameters
    ----------
    args : Arguments
        Of an evaluation, with the gate and the rules that it will have.
    start : Start
        What is evaluated. Networks of an architecture are not checked here.
    """
    if not start.nodes:
        return
    missing = f"{start.path}, by from_ann, has no decoder, so there is no prediction"
    if GATES[args.gate].reacts:
        raise UserError(
            f"gate {args.gate}: {missing} by which to block: leave out --gate and --epsilon"
        )
    for name in getattr(args, "rules", None) or [args.rule]:
        if RULES[name].looks_at_input:
            others = [
                word for word, rule in RULES.items() if rule.stops and not rule.looks_at_input
            ]
            raise UserError(
                f"rule {name}: {missing} by which to stop: obj2 takes it with "
                f"--rules {' or '.join(others)}"
            )


def take_over_checkpoint(args: Arguments, start: Start, kind: str) -> None:
    """Set flags to what a checkpoint says of its network, its images and its epoch.

    What was typed, or a recipe says, holds.

    Parameters
    ----------
    args : Arguments
        Changed in place. Where there is no checkpoint, or a run goes on, nothing
        changes.
    start : Start
    kind : {"ann", "snn"}
        What is trained, or evaluated.
    """
    if start.kind not in ("ann", "snn"):
        return
    # The defaults of the checkpoint's class lie beneath its settings.
    checkpoint_class = MODELS.get(str(start.saved.get("model")))
    settings = getattr(checkpoint_class, "defaults", {}) | start.settings
    values = {}
    for name, declared in settings_to_take_over(args, start, kind).items():
        flag = declared.flag(name)
        if name not in settings or not flag:
            continue
        # What a network is told to do is taken over where this script asks for it: else
        # the script's class says it.
        if not declared.objective or flag in args.parser.settings:
            values[flag] = declared.check(name, settings[name])
    if "dataset" in values:
        values["dataset"] = lasting_name(values["dataset"])
    take_over(args, values, "checkpoint")

    selected_on = start.saved.get("selected_on")
    if selected_on is None and not start.settings:
        selected_on = "test"  # as the original does, whose files do not say
    if selected_on not in SELECTED_ON:
        selected_on = None
    plan = start.settings.get("plan")
    if "architecture" in args.given:
        plan = None
    set_found(args, plan=plan, selected_on=selected_on)
    if start.settings:
        set_found(args, facts=facts_of(settings, args.dataset))


def settings_to_take_over(args: Arguments, start: Start, kind: str) -> dict[str, Setting]:
    """Return the settings that a network takes of its checkpoint, by name.

    An SNN takes of its ANN what both have, but for what spiking declares anew: dropout
    and timesteps mean something else there.
    """
    known = class_for(args.model, CLASSES[kind]).known_settings()
    if start.kind == kind:
        return known
    shared = settings_in(NetworkConfig).keys() - SNNConfig.__annotations__.keys()
    return {name: declared for name, declared in known.items() if name in shared}


# --- what follows from other values, unless it was typed or a recipe says it


def apply_rules(args: Arguments, start: Start, evaluates: bool = False) -> None:
    """Set flags of an SNN to what follows from other flags, its images and its start.

    Each function ``rules_of_...`` only returns flag -> value, and ``take_over`` sets
    these flags. It leaves alone what the user typed or the recipe of ``--preset`` has
    (``args.given``), and what the run has found out (``set_found``).

    Parameters
    ----------
    args : Arguments
        Changed in place: the flags that a rule names, and in ``args.origins`` their
        origin, "followed". What the checkpoint and the images say must be in it
        already, by ``take_over_checkpoint`` and ``find_facts``, since rules read it.
    start : Start
        What the SNN starts from. Of kind "ann": the ANN is converted. Of kind "run":
        nothing is set, since the run's flags say what followed when it began.
    evaluates : bool
        Whether the script only evaluates.

    Raises
    ------
    UserError
        For an ANN that cannot be converted so.
    """
    if start.kind == "run":
        return
    # Where two rules name the same flag, the later one holds.
    take_over(args, rules_of_recordings(args, start), "followed")
    if start.kind == "ann":
        # It names and reads other flags than rules_of_recordings names, so that either
        # may come first.
        take_over(args, rules_of_conversion(args, start), "followed")
    if evaluates:
        # After rules_of_recordings: a network that keeps the gate of its training also
        # keeps that gate's settings, of which ``blocking`` may be one.
        take_over(args, rules_of_evaluation(args, start), "followed")
    # After rules_of_evaluation, which may have set the gate: then it is not open.
    take_over(args, rules_of_given_epsilon(args), "followed")
    if start.kind == "ann":
        # Last, since it checks the bias and the timesteps that all rules have left.
        check_conversion(args, start)


def rules_of_recordings(args: Arguments, start: Start) -> dict[str, object]:
    """Return flag -> value that follows from images that are recordings."""
    frames = args.facts.get("recorded_frames")
    if not frames:
        return {}
    values = {"blocking": "dynamic"}  # blocked pixels must reopen, since a recording changes
    if start.kind in ("", "ann"):
        values["timesteps"] = frames  # one for each frame
    return values


def rules_of_conversion(args: Arguments, start: Start) -> dict[str, object]:
    """Return flag -> value that follows from the ANN that is converted."""
    ann = start.settings
    values = {}
    if ann.get("norm") == "batch" or args.calibrate:
        values["bias"] = True  # which the norm becomes, and calibration shifts
    if args.update == "phased" or ann.get("activation_ann") == "qcfs":
        # Thresholds fit activations, or are bounds, so none is balanced.
        values["initial_potential"] = 0.5
        values["scaling_factor"] = 1.0
    if "M" in get_architecture(args.architecture, ann.get("plan")).encoder:
        values["max_pool"] = "count"  # the highest activation is the highest count
    return values


def rules_of_evaluation(args: Arguments, start: Start) -> dict[str, object]:
    """Return flag -> value that follows where an SNN is only evaluated."""
    trained = start.settings
    values = {}
    gate = GATES.get(str(trained.get("gate")), Gate)
    # Objective 3 asks for another gate by its default.
    asks_for_another = "gate" in args.given or args.parser.get_default("gate") == "contrast"
    if gate.stays_in_evaluation and not asks_for_another:
        # Without it the network is another.
        values["gate"] = trained["gate"]
        for name, declared in settings_in(gate).items():
            if name in trained:
                values[declared.flag(name)] = trained[name]
    has_predictions = get_architecture(args.architecture, args.plan).decoder
    if start.nodes:  # in place of the architecture, which the flags nevertheless name
        has_predictions = False
        values["gate"] = "open"
    if args.update == "phased" or not has_predictions:
        values["epsilon"] = 0.0  # there is nothing by which to block
    return values


def rules_of_given_epsilon(args: Arguments) -> dict[str, object]:
    """Return flag -> value that follows from an epsilon that is typed or in the recipe.

    An open gate ignores epsilon, so that who gives one other than 0 wants to block.
    """
    asks_to_block = "epsilon" in args.given and bool(args.epsilon)
    if asks_to_block and args.gate == "open":
        return {"gate": "block"}  # not taken over where --gate open is given, too
    return {}


def rules_of_streams(args: Arguments, start: Start) -> dict[str, object]:
    """Return flag -> value that follows where an SNN sees a stream of frames.

    Old evidence must decay, so that a new frame counts. A phased network refuses
    streams.
    """
    if args.update == "phased":
        return {}
    return forgetting(start.settings, blocks=args.gate != "open" and args.epsilon > 0)


def forgetting(trained: dict[str, object], blocks: bool) -> dict[str, object]:
    """Return how a network forgets that sees a stream of frames.

    Parameters
    ----------
    trained : dict of {str: object}
        Its settings in training. If it was trained to forget, they hold.
    blocks : bool
        Whether it blocks pixels: then a change of the image makes it forget, see
        ``FORGETTING``; else it leaks, see ``LEAKING``.
    """
    values = dict(FORGETTING if blocks else LEAKING)
    if trained.get("surprise") or trained.get("output_leak", 1.0) < 1:
        for name in values:
            values[name] = trained.get(name, values[name])
    return values


def check_conversion(args: Arguments, start: Start) -> None:
    """Raise UserError for an ANN that cannot be converted with these flags."""
    ann = start.settings
    frames = ann.get("recorded_frames", 0)
    passes = ann.get("timesteps", 1)
    nonlinearity = ann.get("activation_ann", "relu")
    if nonlinearity not in ("relu", "qcfs"):
        raise UserError(
            f"conversion knows the nonlinearities relu and qcfs, and {start.path} has "
            f"{nonlinearity}"
        )
    if not args.bias and (ann.get("norm") == "batch" or args.calibrate):
        raise UserError(
            "--no-bias: a norm batch becomes a bias, and --calibrate shifts biases; leave it out"
        )
    if not args.calibrate:
        return
    if args.update == "delayed":
        raise UserError(
            "--calibrate needs --update immediate, or phased: with delayed a layer answers "
            "later than the one before"
        )
    if passes > 1:
        raise UserError(
            f"--calibrate needs an ANN of one pass, and {start.path} has --timesteps {passes}"
        )
    if frames and args.timesteps != frames:
        raise UserError(
            f"--calibrate: {start.path} sees {frames} frames; give --timesteps {frames}"
        )


# --- the weights


def load_snn(
    model: VGG_SNN_STDB_wFeedback,
    start: Start,
    args: Arguments,
    run: Run,
    may_grow: bool = False,
) -> None:
    """Give the SNN the weights of the SNN that the run starts from.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
    start : Start
        The SNN's checkpoint.
    args : Arguments
    run : Run
        Whose log tells what is left out, or starts at random.
    may_grow : bool
        Whether the network may get a decoder, at random.
    """
    saved, _ = weights_for(model, start, args, run)
    is_original = "settings" not in start.saved
    may_lack = (".threshold", ".leak") if is_original else ()
    fill(model, saved, start.path, run.say, may_grow, may_lack)
    if is_original:
        if "thresholds" in saved:  # scaled already
            model.set_thresholds(saved["thresholds"])
        leak = saved.get("leak", saved.get("leak_mem"))
        if leak is not None:
            model.set_leak(float(leak))
    trained_leak = start.settings.get("leak", args.leak)
    if "leak" in args.given or args.leak != trained_leak:  # that of a streaming network
        model.set_leak(args.leak)


def load_ann_weights(
    model: VGG_SNN_STDB_wFeedback, start: Start, args: Arguments, run: Run
) -> bool:
    """Give the SNN the weights of the ANN that the run starts from.

    Where the ANN has no biases, those of the SNN are zeros.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network; its thresholds and leaks stay, unless the ANN has bounds of qcfs.
    start : Start
        The ANN's checkpoint.
    args : Arguments
    run : Run
        Whose log says what is left out, or starts at random.

    Returns
    -------
    bool
        Whether the thresholds are the ANN's bounds, still in the unit of its
        activations.

    Raises
    ------
    UserError
        If the weights do not fit, or a layer would have no bound.
    """
    saved, has_bounds = weights_for(model, start, args, run)
    state = saved["state_dict"]
    own_layers = [name for name in model.neurons() if in_stages(name)]
    unbound = [name for name in own_layers if f"{name}.threshold" not in state]
    if has_bounds and unbound:
        readout = model.settings["readout"]
        raise UserError(
            f"{start.path}: an ANN with qcfs has a threshold for each of its own nonlinearities, "
            f"and --readout {readout} needs one for {unbound[0]}: choose a membrane read-out"
        )
    fill(model, saved, start.path, run.say, may_lack=(".threshold", ".leak", ".bias"))
    for name, parameter in model.named_parameters():
        is_new = name.endswith(".bias") and in_stages(name) and name not in state
        if is_new:  # what is there is of an earlier conversion
            torch.nn.init.zeros_(parameter)
    return has_bounds


def weights_for(
    model: VGG_SNN_STDB_wFeedback, start: Start, args: Arguments, run: Run
) -> tuple[dict, bool]:
    """Make a checkpoint's weights fit an SNN.

    A norm is folded into the weights, and a decoder that the SNN has not is left out.

    Returns
    -------
    saved : dict
        The checkpoint with these weights.
    has_bounds : bool
        Whether thresholds are among them, which are an ANN's bounds of qcfs.

    Raises
    ------
    UserError
        If a norm does not fit the weights.
    """
    try:
        state, has_bounds = conversion.bounds_as_thresholds(folded_in(start.saved["state_dict"]))
    except (KeyError, ValueError, RuntimeError):
        raise UserError(
            f"{start.path}: its normalisation does not fit its weights; use another copy"
        ) from None
    if has_decoder(state) and not has_decoder(model.state_dict()):
        run.say(f"{start.path} has a decoder, which {args.architecture} has not: it is left out")
        state = {name: value for name, value in state.items() if not name.startswith(DECODER)}
    return {**start.saved, "state_dict": state}, has_bounds


@contextlib.contextmanager
def conversion_progress(
    title: str,
    line: str,
    model: VGG_SNN_STDB_wFeedback,
    num_images: int,
    timesteps: int,
    rounds: int,
    run: Run,
) -> Iterator[tuple[Callable, Callable]]:
    """Show how far a step of the conversion has come, with a progress bar.

    Parameters
    ----------
    title : str
        What is done: "balancing thresholds".
    line : str
        Format of a line on a layer's figures.
    model : VGG_SNN_STDB_wFeedback
    num_images, timesteps, rounds : int
        How much is done: each round runs each layer for these timesteps.
    run : Run
        Whose log gets the lines.

    Yields
    ------
    on_layer : callable
        ``on_layer(name, *figures)`` is to be called when a layer is done.
    on_timestep : callable
        ``on_timestep()`` is to be called after each timestep of a layer.
    """
    run.say(f"{title}: {counted(num_images, 'image')}, {counted(timesteps, 'timestep')}")
    layers = [name for name in model.neurons() if in_stages(name)]

    def on_layer(name: str, *figures: float) -> None:
        run.say(f"  {name}: {line.format(*figures)}")

    with progress_bar(title, rounds * timesteps * len(layers)) as bar:
        yield on_layer, bar.update


@torch.no_grad()
def whiten_first_layer(model: VGG_wFeedback, images: ImageSet) -> str:
    """Fill the first convolution with filters that whiten patches of images.

    The filters are the leading eigenvectors of the patches' covariance, each divided by
    the root of its eigenvalue + ``SMALL``; and their negatives.

    Parameters
    ----------
    model : VGG_wFeedback
    images : ImageSet
        Training images. About ``PATCHES`` patches are looked at, from images that are
        evenly spread over the set.

    Returns
    -------
    str
        A line on the filters.
    """
    weight = model.features[0].weight
    num_patterns = weight.shape[0] // 2
    size = weight.shape[-1]
    pixels_per_image = images.images[0, 0].numel()
    most_images = max(1, PATCHES // pixels_per_image)
    stride = -(-len(images) // most_images)  # rounded up
    index = torch.arange(0, len(images), stride)

    count = 0
    sums = 0.0
    products = 0.0
    for part in index.split(100):
        pixels = images.batch(part).images.flatten(0, -4).double()
        patches = F.unfold(pixels, size).transpose(1, 2).flatten(0, 1)
        count += len(patches)
        sums = sums + patches.sum(0)
        products = products + patches.t() @ patches
    mean = sums / count
    covariance = products / count - mean.outer(mean)
    variances, patterns = torch.linalg.eigh(covariance)
    variances = variances.flip(-1)  # the largest first
    patterns = patterns.flip(-1)

    leading = variances[:num_patterns].clamp(min=0)
    filters = (patterns[:, :num_patterns] / (leading + SMALL).sqrt()).t().float()
    weight.copy_(torch.cat([filters, -filters]).view_as(weight))
    share = 100 * (variances[:num_patterns].sum() / variances.sum()).item()
    return (
        f"whitening: {num_patterns} patterns of {size}x{size} pixels have {share:.1f} % "
        f"of {len(index)} images' variance"
    )
