"""What a network starts from, a checkpoint or nothing, and what its run is told, once that has been read."""

import contextlib
from dataclasses import dataclass

import torch

from harness import UserError
from harness.building.models import DECODER, adopted, ann_of, has_decoder, new_of_ones_own, read
from harness.building.own import class_for, named, word_for
from harness.data.facts import with_facts
from harness.runs.runlog import progress_bar
from harness.training.resuming import resumed
from harness.training.schedules import counted
from self_models.basics.checkpoints import from_original, may_hold, restore
from self_models.basics.settings import settings_in
from self_models.conversion import (
    ROUNDS,
    balance_thresholds,
    biases_of,
    bounds_as_thresholds,
    calibrate_biases,
    fit_biases,
    fit_levels,
    fit_thresholds,
    rates_of,
    scale_thresholds,
)
from self_models.network.known import in_stages
from self_models.network.network_settings import NetworkSettings, SpikingSettings
from self_models.network.norms import folded_in
from self_models.network.plans import find_plan
from self_models.objectives.gates import GATES, Gate
from self_models.running.draws import Draws
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
    """(the Configuration as it holds from here on, the Start) of a run that trains an ANN or SNN (kind), or evaluates it. known:
    name -> Setting of all flags."""
    config, saved = resumed(config, known, kind, name, named(config.model))
    check_asked(config)
    if saved:
        config, start = with_facts(config), Start("run", config.resume, saved)
        return followed(config, start) if kind == "snn" else config, start
    if kind == "snn":
        return resolve_snn(config)
    start, cls = found_start(config, "ann", config.model), class_for(config.model, VGG_wFeedback)
    return with_facts(adopted(config, start.saved, cls, cls.known_settings()) if start.kind else config), start


def check_asked(config):
    """Raises UserError for an evaluation without a network, and for typed flags that contradict others."""
    starts = [flag for flag in ("pretrained_ann", "pretrained_snn") if hasattr(config, flag)]
    if config.test_only and not any(getattr(config, flag) for flag in starts):
        raise UserError(f"--test_only needs a trained network: give {' or '.join(f'--{flag} PATH' for flag in starts)}")
    for flag, other in (("epochs", "updates"), ("pretrained_ann", "pretrained_snn")):
        if flag in config.typed and getattr(config, other, None):
            raise UserError(f"--{flag} and --{other} contradict each other: leave out one of the two")


def resolve_snn(config, keeps=()):
    """(the Configuration, the Start) of an SNN that does not go on with a run. keeps: settings not taken from a checkpoint."""
    start, cls = found_start(config, "snn", config.model), class_for(config.model, VGG_SNN_STDB_wFeedback)
    if not start.kind:
        start = found_start(config, "ann", word_for(config.model, config.pretrained_ann))
    if start.kind:
        common = settings_in(NetworkSettings).keys() - SpikingSettings.__annotations__.keys()
        names = common if start.kind == "ann" else cls.known_settings().keys() - set(keeps)
        config = adopted(config, start.saved, cls, names)
    config = followed(with_facts(config), start)
    if start.kind == "ann":
        check_conversion(config, start)
    return config, start


def found_start(config, kind, model):
    """The Start of the checkpoint of this kind that the flags name. model: the --model that it may be of."""
    if not (path := getattr(config, f"pretrained_{kind}")):
        return Start()
    saved, wanted = read(path, config, model), kind.upper()
    if saved.get("settings", {}).get("nodes"):
        raise UserError(
            f"{path} has an ANN's own layers, by from_ann: load() runs it, evaluate() judges it, export.py --to c takes it"
        )
    if wanted not in may_hold(saved):
        raise UserError(f"{path} holds an {'SNN' if kind == 'ann' else 'ANN'}; --pretrained_{kind} needs an {wanted}")
    return Start(kind, path, saved)


FORGETTING = {"blocking": "dynamic", "surprise": 2.0}  # how a streaming network forgets that blocks pixels
LEAKING = {"output_leak": 0.8, "membrane_floor": 0.0, "leak": 0.9}  # and one that does not


def followed(config, start):
    """The Configuration of an SNN with the flags that follow from others, from its images and from what it starts from; flags
    that were given hold instead."""
    frames, was, from_ann = config.facts.get("recorded_frames"), start.settings, start.kind == "ann"
    evaluates, streams = "resume" not in config.about, "scene" in config.about
    gate = GATES.get(str(was.get("gate")), Gate)
    own_gate = {name: one.flag(name) for name, one in settings_in(gate).items()} | {"gate": "gate"}
    as_trained = was if was.get("surprise") or was.get("output_leak", 1.0) < 1 else {}  # for streams
    forgetting, leaking = ({flag: as_trained.get(flag, it[flag]) for flag in it} for it in (FORGETTING, LEAKING))
    table = (  # where this holds of the flags so far -> these follow
        (lambda c: frames, {"blocking": "dynamic"}),  # what is closed for good would miss what a recording shows later
        (lambda c: frames and start.kind in ("", "ann"), {"timesteps": frames}),
        (lambda c: from_ann and (was.get("norm") == "batch" or c.calibrate), {"bias": True}),
        (lambda c: from_ann and not balances(c, start), {"initial_potential": 0.5, "scaling_factor": 1.0}),
        (lambda c: from_ann and "M" in find_plan(c.architecture, was.get("plan")).encoder, {"max_pool": "count"}),
        (lambda c: evaluates and gate.stays_in_evaluation and "gate" not in c.given and c.about["gate"][1] != "contrast",
         {flag: was[name] for name, flag in own_gate.items() if name in was}),
        (lambda c: evaluates and not predicts(c), {"epsilon": 0.0}),
        (lambda c: c.gate == "open" and "gate" not in c.given and c.given.get("epsilon"), {"gate": "block"}),
        (lambda c: streams and c.gate != "open" and c.epsilon > 0, forgetting),
        (lambda c: streams and not (c.gate != "open" and c.epsilon > 0), leaking),
    )  # fmt: skip
    for holds, flags in table:
        config = config.with_found(**flags) if holds(config) else config
    return config


def predicts(config):
    """Whether there are predictions by which pixels can be blocked."""
    return config.update != "phased" and bool(find_plan(config.architecture, config.plan).decoder)


def balances(config, start):
    """Whether converting this ANN balances thresholds."""
    return start.settings.get("activation_ann", "relu") != "qcfs" and config.update != "phased"


def check_conversion(config, start):
    """Raises UserError for an ANN that cannot be converted so."""
    settings = start.settings
    if (own := settings.get("activation_ann", "relu")) not in ("relu", "qcfs"):
        raise UserError(f"conversion knows the nonlinearities relu and qcfs, and {start.path} has {own}")
    if not config.bias and (settings.get("norm") == "batch" or config.calibrate):
        raise UserError("--no-bias: a norm batch becomes a bias, and --calibrate shifts biases; leave it out")
    if not config.calibrate:
        return
    frames, steps = settings.get("recorded_frames", 0), settings.get("timesteps", 1)
    if config.update == "delayed":
        raise UserError("--calibrate needs --update immediate, or phased: with delayed a layer answers later than the one before")
    if steps > 1:
        raise UserError(f"--calibrate needs an ANN of one pass, and {start.path} has --timesteps {steps}")
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
    """The SNN with the weights of an SNN's checkpoint. may_grow: one without a decoder may get one, which starts at random."""
    names, ours = list(model.state_dict()), "settings" in start.saved
    may_lack = [] if ours else [name for name in names if name.endswith((".threshold", ".leak"))]
    may_lack += new_of_ones_own(model, start.saved, start.path, run.say)
    decoder = [name for name in names if name.startswith(DECODER)]
    if may_grow and decoder and not has_decoder(start.saved["state_dict"]):
        run.say(f"{start.path} has no decoder: this one starts at random")
        may_lack += decoder
    state, _ = weights_for(model, start, config, run)
    restore(model, {**start.saved, "state_dict": state}, start.path, may_lack)
    if not ours:
        from_original(model, start.saved)
    is_other = config.leak != start.settings.get("leak", config.leak)  # a streaming network's default
    if is_other or "leak" in config.given:
        model.set_leak(config.leak)
    return model


def convert_ann(model, start, train, config, run):
    """The SNN with the weights of an ANN, whose bounds are its thresholds, or else are balanced on training images, and scaled
    once. Raises UserError where a layer of its own has none."""
    may_lack = [name for name in model.state_dict() if name.endswith((".threshold", ".leak", ".bias"))]
    may_lack += new_of_ones_own(model, start.saved, start.path, run.say)
    state, has_bounds = weights_for(model, start, config, run)
    if has_bounds and (without := [one for one in model.neurons() if in_stages(one) and f"{one}.threshold" not in state]):
        needed = f"--readout {model.settings['readout']} needs one for {without[0]}: choose a membrane read-out"
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
        images = balancing_batch(model, train, config).images
        fit_levels(model, images)
        fit_thresholds(model)
        run.say(f"thresholds fit the activations of {len(images)} training images in {model.timesteps} levels (phased)")
    else:
        steps, line = config.balance_timesteps, "threshold {:.4f}"
        with converting("balancing thresholds", model, train, config, steps, run.say, line) as (images, draws, *on):
            balance_thresholds(model, images, draws, steps, config.balance_percentile, *on)
    scale_thresholds(model, config.scaling_factor)
    fit_biases(model, biases)
    if config.calibrate:
        ann, line = ann_of(config.pretrained_ann, config), "mean rates of its channels off by {:.4f}, now by {:.4f}"
        with converting("calibrating biases", model, train, config, model.timesteps, run.say, line, ROUNDS + 1) as (
            images,
            draws,
            *on,
        ):
            calibrate_biases(model, rates_of(ann, model, images), images, draws, *on)
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


def balancing_batch(model, train, config):
    """The Batch of the training images with which thresholds are balanced and biases calibrated."""
    return train.batch(torch.arange(min(config.balance_images, len(train))), next(model.parameters()).device)


@contextlib.contextmanager
def converting(what, model, train, config, steps, say, line, rounds=1):
    """(images, draws, on_layer, on_step) as balance_thresholds and calibrate_biases take them, beside a progress bar. say: called
    with lines for the reader; line: of a layer's figures."""
    batch, layers = balancing_batch(model, train, config), sum(map(in_stages, model.neurons()))
    say(f"{what}: {counted(len(batch.index), 'image')}, {counted(steps, 'timestep')}")
    draws = Draws(config.seed, 0, batch.index)

    def on_layer(name, *figures):
        say(f"  {name}: {line.format(*figures)}")

    with progress_bar(what, rounds * steps * layers) as bar:
        yield batch.images, lambda t: draws.at_step(t, model.image_shape, batch.images.device), on_layer, bar.update
