"""What a network starts from, a checkpoint or nothing, and what its run is told, once that has been read."""

import contextlib
from typing import NamedTuple

import torch
import torch.nn.functional as F

from harness import UserError
from harness.building.models import (
    DECODER,
    class_for,
    fill,
    has_decoder,
    read,
    word_for,
)
from harness.data.facts import SELECTED_ON, facts_of, with_facts
from harness.runs.run import counted, progress_bar
from self_models import conversion
from self_models.basics.checkpoints import may_hold
from self_models.basics.images import lasting_name
from self_models.basics.settings import settings_in
from self_models.config import NetworkSettings, SpikingSettings
from self_models.layers.architectures import find_plan
from self_models.layers.norms import folded_in
from self_models.loading import MODELS
from self_models.objectives.gates import GATES, Gate
from self_models.runtime.known_parts import in_stages
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

CLASSES = {"ann": VGG_wFeedback, "snn": VGG_SNN_STDB_wFeedback}
FORGETTING = {
    "blocking": "dynamic",
    "surprise": 2.0,
}  # how a streaming network forgets that blocks pixels
LEAKING = {"output_leak": 0.8, "membrane_floor": 0.0, "leak": 0.9}  # and one that does not
SMALL = 5e-4  # added to the variance of each whitened pattern, so that faint ones are not blown up
PATCHES = 5_000_000  # from about so many patterns are found, of images evenly spread over the set


class Start(NamedTuple):
    """What a network starts from. kind: 'ann', 'snn', 'run' (one that is resumed), or ''; path, saved: of the checkpoint."""

    kind: str = ""
    path: str = ""
    saved: dict = {}  # noqa: RUF012

    settings = property(lambda self: self.saved.get("settings", {}))
    run = property(
        lambda self: self.saved if self.kind == "run" else None
    )  # the checkpoint of a run that goes on


def resolve(config, kind):
    """Find out what an evaluation of an SNN (kind) starts from, and what follows from that.

    Returns
    -------
    config : Configuration
        The flags as they hold from here on.
    start : Start
        The checkpoint.

    Raises
    ------
    UserError
        For an evaluation without a network, and for flags that contradict others.
    """
    check_flags(config, kind)
    start = open_checkpoint(config, kind)
    config = take_over_checkpoint(config, start, kind)
    config = with_facts(config)
    config = apply_rules(config, start)
    return config, start


def check_flags(config, kind):
    """Raise UserError for flags that contradict each other, or lack another one.

    A contradiction counts only where one of the two was typed: a recipe may say the other.
    """
    flags = ("pretrained_ann", "pretrained_snn") if kind == "snn" else ("pretrained_ann",)
    if config.test_only and not any(getattr(config, flag) for flag in flags):
        needed = " or ".join(f"--{flag} PATH" for flag in flags)
        raise UserError(f"--test_only needs a trained network: give {needed}")
    for flag, other in (("epochs", "updates"), ("pretrained_ann", "pretrained_snn")):
        if flag in config.typed and getattr(config, other, None):
            raise UserError(
                f"--{flag} and --{other} contradict each other: leave out one of the two"
            )


def open_checkpoint(config, kind, saved=None):
    """Read the checkpoint that a network starts from.

    Parameters
    ----------
    config : Configuration
    kind : {"ann", "snn"}
        What is trained, or evaluated. An SNN may start from an ANN, or from an SNN, which
        counts if both are given.
    saved : dict or None
        Last checkpoint of a run that goes on, see ``resumed``.

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
        return Start("run", config.resume, saved)
    if kind == "snn" and config.pretrained_snn:
        return checkpoint_at(config.pretrained_snn, "snn", config, config.model)
    if config.pretrained_ann:
        own = config.model
        if kind == "snn":  # --model names the SNN's class, and its ANN is of another
            own = word_for(config.model, config.pretrained_ann)
        return checkpoint_at(config.pretrained_ann, "ann", config, own)
    return Start()


def checkpoint_at(path, kind, config, own):
    """The Start of a checkpoint that must hold an ANN or SNN (kind); own: --model for its class."""
    saved = read(path, config, own)
    if saved.get("settings", {}).get("nodes"):
        raise UserError(
            f"{path} has an ANN's own layers, by from_ann: load(), evaluate() and export.py --to c take it"
        )
    if kind.upper() not in may_hold(saved):
        raise UserError(
            f"{path} holds an {'SNN' if kind == 'ann' else 'ANN'}; --pretrained_{kind} needs an {kind.upper()}"
        )
    return Start(kind, path, saved)


def take_over_checkpoint(config, start, kind):
    """Set flags to what a checkpoint says of its network, its images and its epoch.

    What was typed, or a recipe says, holds.

    Parameters
    ----------
    config : Configuration
    start : Start
        Where it has no checkpoint, or a run goes on, nothing changes.
    kind : {"ann", "snn"}
        What is trained, or evaluated.

    Returns
    -------
    Configuration
    """
    if start.kind not in ("ann", "snn"):
        return config
    known, own, values = (
        class_for(config.model, CLASSES[kind]).known_settings(),
        start.settings,
        {},
    )
    settings = getattr(MODELS.get(str(start.saved.get("model"))), "defaults", {}) | own
    if (
        start.kind != kind
    ):  # an SNN takes of its ANN what both have, but for what spiking declares anew
        both = settings_in(NetworkSettings).keys() - SpikingSettings.__annotations__.keys()
        known = {name: setting for name, setting in known.items() if name in both}
    for name in known.keys() & settings.keys():
        flag = known[name].flag(name)
        if flag and (
            known[name].scope == "network" or flag in config.default
        ):  # what this script does not ask, its class says
            values[flag] = known[name].check(name, settings[name])
    if "dataset" in values:
        values["dataset"] = lasting_name(values["dataset"])
    config = config.having("checkpoint", **values)
    selected_on = start.saved.get(
        "selected_on", None if own else "test"
    )  # the original's choice; some files do not say
    plan = None if "architecture" in config.given else own.get("plan")
    facts = {"facts": facts_of(settings, config.dataset)} if own else {}
    return config.having(
        "found",
        plan=plan,
        selected_on=selected_on if selected_on in SELECTED_ON else None,
        **facts,
    )


def apply_rules(config, start):
    """Set flags of an SNN to what follows from other flags, its images and its start.

    What was typed, or a recipe says, holds.

    Returns
    -------
    Configuration

    Raises
    ------
    UserError
        For an ANN that cannot be converted so.
    """
    config = config.having("followed", **followed(config, start))
    if start.kind == "ann":
        check_conversion(config, start)
    return config


def followed(config, start):
    """flag -> value that follows, see apply_rules()."""
    was, frames, follows = start.settings, config.facts.get("recorded_frames"), {}
    gate, is_phased = GATES.get(str(was.get("gate")), Gate), config.update == "phased"
    if frames:
        follows["blocking"] = "dynamic"  # blocked pixels must reopen, because a recording changes
        if start.kind in ("", "ann"):
            follows["timesteps"] = frames  # one for each frame
    if start.kind == "ann":
        if was.get("norm") == "batch" or config.calibrate:
            follows["bias"] = True  # which the norm becomes, and calibration shifts
        if (
            is_phased or was.get("activation_ann") == "qcfs"
        ):  # thresholds fit activations, or are bounds: none is balanced
            follows |= {"initial_potential": 0.5, "scaling_factor": 1.0}
        if "M" in find_plan(config.architecture, was.get("plan")).encoder:
            follows["max_pool"] = "count"  # the highest activation is the highest count
    if "resume" not in config.default:  # it only evaluates
        asks_for_another = (
            "gate" in config.given or config.default["gate"] == "contrast"
        )  # as objective 3 does
        if gate.stays_in_evaluation and not asks_for_another:
            own = {name: setting.flag(name) for name, setting in settings_in(gate).items()} | {
                "gate": "gate"
            }
            follows |= {
                flag: was[name] for name, flag in own.items() if name in was
            }  # without it the network is another
        if is_phased or not find_plan(config.architecture, config.plan).decoder:
            follows["epsilon"] = 0.0  # there are no predictions by which to block
    now = config.having("followed", **follows)
    if now.gate == "open" and "gate" not in config.given and config.given.get("epsilon"):
        follows["gate"] = "block"  # else the epsilon would do nothing
    if (
        "scene" in config.default and not is_phased
    ):  # a stream, which phased refuses: old evidence must decay
        follows |= forgetting(
            was, blocks=follows.get("gate", now.gate) != "open" and now.epsilon > 0
        )
    return follows


def forgetting(was, blocks):
    """How a network streams: by its own settings (was) if it was trained so, else FORGETTING if it blocks, else LEAKING."""
    default = FORGETTING if blocks else LEAKING
    trained = was if was.get("surprise") or was.get("output_leak", 1.0) < 1 else {}
    return {name: trained.get(name, default[name]) for name in default}


def check_conversion(config, start):
    """Raises UserError for an ANN that cannot be converted so."""
    was, path = start.settings, start.path
    frames, steps = was.get("recorded_frames", 0), was.get("timesteps", 1)
    if (own := was.get("activation_ann", "relu")) not in ("relu", "qcfs"):
        raise UserError(f"conversion knows the nonlinearities relu and qcfs, and {path} has {own}")
    if not config.bias and (was.get("norm") == "batch" or config.calibrate):
        raise UserError(
            "--no-bias: a norm batch becomes a bias, and --calibrate shifts biases; leave it out"
        )
    if config.calibrate and config.update == "delayed":
        raise UserError(
            "--calibrate needs --update immediate, or phased: with delayed a layer answers later than the one before"
        )
    if config.calibrate and steps > 1:
        raise UserError(
            f"--calibrate needs an ANN of one pass, and {path} has --timesteps {steps}"
        )
    if config.calibrate and frames and config.timesteps != frames:
        raise UserError(f"--calibrate: {path} sees {frames} frames; give --timesteps {frames}")


def load_snn(model, start, config, run, may_grow=False):
    """Load the SNN that the run starts from; may_grow: the network may get a decoder, at random."""
    saved, _ = weights_for(model, start, config, run)
    is_original = "settings" not in start.saved
    may_lack = (".threshold", ".leak") if is_original else ()
    fill(model, saved, start.path, run.say, may_grow, may_lack)
    if is_original:
        if "thresholds" in saved:  # scaled already
            model.set_thresholds(saved["thresholds"])
        leak = saved.get("leak", saved.get("leak_mem"))
        if leak is not None:
            model.set_leak(float(leak))
    trained_leak = start.settings.get("leak", config.leak)
    if "leak" in config.given or config.leak != trained_leak:  # that of a streaming network
        model.set_leak(config.leak)


def load_ann_weights(model, start, config, run):
    """Give the SNN the weights of the ANN that the run starts from, with its biases or zeros.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network; its thresholds and leaks stay, unless the ANN has bounds of qcfs.
    start : Start
        The ANN's checkpoint.
    config : Configuration
    run : Run
        Whose log says what is left out, or starts at random.

    Returns
    -------
    bool
        Whether the thresholds are the ANN's bounds, still in the unit of its activations.

    Raises
    ------
    UserError
        If the weights do not fit, or a layer would have no bound.
    """
    saved, has_bounds = weights_for(model, start, config, run)
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


def weights_for(model, start, config, run):
    """(the checkpoint with weights that fit the SNN: a norm is folded in, a decoder that it has not is left out; whether
    thresholds are among them, bounds of qcfs). Raises UserError where a norm does not fit."""
    try:
        state, has_bounds = conversion.bounds_as_thresholds(folded_in(start.saved["state_dict"]))
    except (KeyError, ValueError, RuntimeError):
        raise UserError(
            f"{start.path}: its normalisation does not fit its weights; use another copy"
        ) from None
    if has_decoder(state) and not has_decoder(model.state_dict()):
        run.say(f"{start.path} has a decoder, which {config.architecture} has not: it is left out")
        state = {name: value for name, value in state.items() if not name.startswith(DECODER)}
    return {**start.saved, "state_dict": state}, has_bounds


@contextlib.contextmanager
def telling(what, line, model, images, steps, rounds, run):
    """(on_layer, on_step) for a conversion: a line of each layer's figures, and a progress bar over all steps and rounds."""
    run.say(f"{what}: {counted(images, 'image')}, {counted(steps, 'timestep')}")
    with progress_bar(what, rounds * steps * sum(map(in_stages, model.neurons()))) as bar:
        yield lambda name, *figures: run.say(f"  {name}: {line.format(*figures)}"), bar.update


@torch.no_grad()
def whiten_first_layer(model, images):
    """Fill the first convolution with filters that whiten an ImageSet's patches, and their negatives: leading eigenvectors of the
    patches' covariance, each divided by the root of its eigenvalue + SMALL. Returns a line on them."""
    weight, number, sums, squares = model.features[0].weight, 0, 0.0, 0.0
    count, size = weight.shape[0] // 2, weight.shape[-1]
    index = torch.arange(
        0, len(images), -(-len(images) // max(1, PATCHES // images.images[0, 0].numel()))
    )
    for part in index.split(100):
        patches = (
            F.unfold(images.batch(part).images.flatten(0, -4).double(), size)
            .transpose(1, 2)
            .flatten(0, 1)
        )
        number, sums, squares = (
            number + len(patches),
            sums + patches.sum(0),
            squares + patches.t() @ patches,
        )
    mean = sums / number
    variances, patterns = (
        values.flip(-1) for values in torch.linalg.eigh(squares / number - mean.outer(mean))
    )
    filters = (patterns[:, :count] / (variances[:count].clamp(min=0) + SMALL).sqrt()).t().float()
    weight.copy_(torch.cat([filters, -filters]).view_as(weight))
    share = 100 * (variances[:count].sum() / variances.sum()).item()
    return f"whitening: {count} patterns of {size}x{size} pixels have {share:.1f} % of {len(index)} images' variance"
