"""What a network starts from, a checkpoint or nothing, and what its run is told, once that has been read."""

from dataclasses import dataclass, replace

import torch

from harness import UserError
from harness.building import conversion
from harness.building.models import DECODER, adopted, ann_as_saved, has_decoder, new_of_ones_own, read
from harness.building.own import as_saved, class_for, named
from harness.data.facts import with_facts
from harness.training.resuming import taken_up
from self_models.basics.checkpoints import from_original, may_hold, restore
from self_models.basics.settings import declared
from self_models.conversion import biases_of, bounds_as_thresholds, fit_biases, fit_levels, fit_thresholds, scale_thresholds
from self_models.network.declared import NetworkSettings, SpikingSettings
from self_models.network.norms import folded_in
from self_models.network.plans import find_plan
from self_models.network.stages import LINEAR
from self_models.network.wiring import in_stages
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


@dataclass(frozen=True)
class Start:
    """What a network starts from. kind: 'ann', 'snn', 'run' (one that --resume goes on with), or '' for nothing; path and saved:
    of the checkpoint."""

    kind: str = ""
    path: str = ""
    saved: dict | None = None

    @property
    def settings(self):
        return (self.saved or {}).get("settings", {})

    @property
    def run(self):
        """The checkpoint of a run that goes on, else None."""
        return self.saved if self.kind == "run" else None


def resolve(config, kind, name, known):
    """(the Configuration as it holds from here on, the Start) of a run that trains an ANN or SNN (kind), or evaluates it: what is
    typed counts before a recipe, that before a checkpoint, that before the defaults. known: name -> Setting of all flags."""
    config, saved = taken_up(config, known, kind, name, named(config.model))
    if saved:
        config, start = with_facts(config), Start("run", config.resume, saved)
    elif kind == "snn":
        config, start = resolve_snn(config)
    else:
        start = found_start(config, "ann", config.model)
        if start.kind:
            cls = class_for(config.model, VGG_wFeedback)
            config = adopted(config, start.saved, cls, cls.declared())
        config = with_facts(config)
    return with_gate(config), start


def resolve_snn(config, keeps=()):
    """(the Configuration, the Start) of an SNN that does not go on with a run. keeps: settings not taken from a checkpoint."""
    start, cls = found_start(config, "snn", config.model), class_for(config.model, VGG_SNN_STDB_wFeedback)
    if not start.kind:
        start = found_start(config, "ann", as_saved(config.model, config.pretrained_ann) if config.pretrained_ann else "")
    if start.kind:
        common = declared(NetworkSettings).keys() - SpikingSettings.__annotations__.keys()
        names = common if start.kind == "ann" else cls.declared().keys() - set(keeps)
        config = adopted(config, start.saved, cls, names)
    config = with_facts(config)
    if frames := config.facts.get("recorded_frames"):  # a step for each frame, and nothing blocked for good
        config = config.with_found(blocking="dynamic", **({} if start.kind == "snn" else {"timesteps": frames}))
    if start.kind == "ann":
        config = config.with_found(**of_ann(config, start))
    return config, start


def found_start(config, kind, model):
    """The Start of the checkpoint of this kind that the flags name. model: the --model that it may be of."""
    if not (path := getattr(config, f"pretrained_{kind}")):
        return Start()
    saved, wanted = read(path, config, model), kind.upper()
    if wanted not in may_hold(saved):
        raise UserError(f"{path} holds an {'SNN' if kind == 'ann' else 'ANN'}; --pretrained_{kind} wants an {wanted}")
    return Start(kind, path, saved)


def with_gate(config):
    """--epsilon alone stands for --gate block, and 0 for nothing."""
    if "epsilon" not in config.given or getattr(config, "gate", "") != "open" or "gate" in config.given:
        return config
    if config.epsilon:
        return config.with_settled(gate="block")
    typed = {flag: value for flag, value in config.typed.items() if flag != "epsilon"}
    return replace(config, typed=typed).with_settled(epsilon=0.0)


def of_ann(config, start):
    """Flags, name -> value, that converting this ANN forces. Raises UserError if another value is typed, or for another ANN."""
    settings, needs = start.settings, {}
    if (own := settings.get("activation_ann", "relu")) not in ("relu", "qcfs"):
        raise UserError(f"conversion knows the nonlinearities relu and qcfs, and {start.path} has {own}")
    if settings.get("norm") == "batch":
        needs["bias"] = True
        if "bias" in config.given and not config.bias:
            raise UserError(f"--no-bias: the norm batch of {start.path} becomes a bias; leave it out")
    if own == "qcfs" or config.update == "phased":
        needs |= {"initial_potential": 0.5, "scaling_factor": 1.0}
        fits = own != "qcfs" or config.calibrate  # on --balance_images
        of_balancing = {"balance_timesteps", "balance_percentile", *["balance_images"] * (not fits)}
        if idle := [flag for flag in config.typed if flag in of_balancing]:
            why = f"the bounds of {start.path} are its thresholds" if own == "qcfs" else "update phased fits thresholds"
            raise UserError(f"--{idle[0]} does nothing, nothing is balanced: {why}; leave it out")
    if config.calibrate:
        needs["bias"] = True
        check_calibration(config, start)
    if "M" in find_plan(config.architecture, settings.get("plan")).encoder:
        needs["max_pool"] = "count"
    return needs


def check_calibration(config, start):
    """Raises UserError where something is typed that calibration cannot do with, or the ANN is none for it."""
    frames, steps = start.settings.get("recorded_frames", 0), start.settings.get("timesteps", 1)
    if "bias" in config.given and not config.bias:
        raise UserError("--no-bias: --calibrate shifts biases; leave one of the two out")
    if config.update == "delayed":
        raise UserError("--calibrate wants --update immediate, or phased: with delayed a layer answers later than the one before")
    if steps > 1:
        raise UserError(f"--calibrate wants an ANN of one pass, and {start.path} has --timesteps {steps}")
    if frames and config.timesteps != frames:
        raise UserError(f"--calibrate: {start.path} sees {frames} frames; give --timesteps {frames}")


def start_snn(model, start, train, config, run, may_grow=False):
    """The SNN with the weights that it starts from. train: the ImageSet to balance on; may_grow: see load_snn."""
    if start.kind == "ann":
        return convert_ann(model, start, train, config, run)
    if start.kind == "snn":
        return load_snn(model, start, config, run, may_grow)
    if not start.kind:
        thresholds = f"with every threshold at {config.default_threshold:g}"
        run.say(f"warning: no --pretrained_ann: training starts from random weights, {thresholds}")
    return model


def load_snn(model, start, config, run, may_grow):
    """The SNN with the weights of an SNN's checkpoint. may_grow: one without a decoder may be given one, which starts at random,
    or, beside a gate that completes the image itself, with a last layer of 0, so that at first it adds nothing."""
    names, ours = list(model.state_dict()), "settings" in start.saved
    may_lack = [] if ours else [name for name in names if name.endswith((".threshold", ".leak"))]
    may_lack += new_of_ones_own(model, start.saved, start.path, run.say)
    decoder = [name for name in names if name.startswith(DECODER)]
    if may_grow and decoder and not has_decoder(start.saved["state_dict"]):
        run.say(f"{start.path} has no decoder: this one starts at {'0' if model.gate.completes else 'random'}")
        may_lack += decoder
        if model.gate.completes:
            torch.nn.init.zeros_([layer for layer in model.generate if isinstance(layer, LINEAR)][-1].weight)
    state, _ = weights_for(model, start, config, run)
    restore(model, {**start.saved, "state_dict": state}, start.path, may_lack)
    if not ours:
        from_original(model, start.saved)
    if "leak" in config.given:
        model.set_leak(config.leak)
    return model


def convert_ann(model, start, train, config, run):
    """The SNN with the weights of an ANN, whose bounds are its thresholds, or else are balanced on training images, and scaled
    once. Raises UserError where a layer of its own has none."""
    may_lack = [name for name in model.state_dict() if name.endswith((".threshold", ".leak", ".bias"))]
    may_lack += new_of_ones_own(model, start.saved, start.path, run.say)
    state, has_bounds = weights_for(model, start, config, run)
    if has_bounds and (without := [one for one in model.neurons() if in_stages(one) and f"{one}.threshold" not in state]):
        needed = f"--readout {model.settings['readout']} wants one for {without[0]}: choose a membrane read-out"
        raise UserError(f"{start.path}: an ANN with qcfs has a threshold for each of its own nonlinearities, and {needed}")
    restore(model, {**start.saved, "state_dict": state}, start.path, may_lack)
    for name, parameter in model.named_parameters():
        # the ANN has none; what is there is of an earlier conversion
        if name.endswith(".bias") and in_stages(name) and name not in state:
            torch.nn.init.zeros_(parameter)
    biases = biases_of(model)
    if has_bounds:
        fit_thresholds(model)
        begin = model.settings["initial_potential"]
        run.say(f"thresholds are the bounds of {start.path}, nothing is balanced; membranes begin at {begin:g} of them")
    elif model.phased:
        images = conversion.balancing_batch(model, train, config).images
        fit_levels(model, images)
        fit_thresholds(model)
        run.say(f"thresholds fit the activations of {len(images)} training images in {model.timesteps} levels (phased)")
    else:
        conversion.balanced_thresholds(model, train, config, run.say)
    scale_thresholds(model, config.scaling_factor)
    fit_biases(model, biases)
    if config.calibrate:
        conversion.calibrated_biases(model, ann_as_saved(config)[0], train, config, run.say)
    return model


def weights_for(model, start, config, run):
    """(name -> weight of a checkpoint, a norm's folded in and without a decoder that the model has not; whether bounds of qcfs
    are among them, now thresholds). Raises UserError where a norm does not fit."""
    try:
        state, has_bounds = bounds_as_thresholds(folded_in(start.saved["state_dict"]))
    except (KeyError, ValueError, RuntimeError):
        raise UserError(f"{start.path}: its normalisation does not fit its weights; use another copy") from None
    if has_decoder(state) and not has_decoder(model.state_dict()):
        run.say(f"{start.path} has a decoder, which {config.architecture} has not: it is left out")
        state = {name: value for name, value in state.items() if not name.startswith(DECODER)}
    return state, has_bounds
