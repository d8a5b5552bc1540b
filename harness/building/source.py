"""Where an SNN's weights come from: an SNN's checkpoint, an ANN to convert, or nothing."""

import torch

from harness import UserError
from harness.building.conversion import (
    balanced_thresholds,
    biases_of,
    bounds_as_thresholds,
    calibrated_biases,
    fit_biases,
    fit_thresholds,
    scale_thresholds,
)
from harness.building.models import DECODER, adopt, ann_as_saved, has_decoder, new_of_ones_own, read
from harness.building.own import as_saved, class_for
from harness.data.facts import facts_of
from self_models.basics.checkpoints import from_original, may_hold, restore
from self_models.basics.settings import declared
from self_models.network.declared import NetworkSettings, SpikingSettings
from self_models.network.norms import folded_in
from self_models.network.plans import find_plan
from self_models.network.stages import LINEAR
from self_models.network.wiring import in_stages
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


class SNNSource:
    """Where an SNN's weights come from: an SNN checkpoint, an ANN to convert, or nothing.

    Reading it adopts its settings into args, but for those that are named in `keeps`; so it comes first, then the run, the data,
    the model. From an ANN only what an SNN has in common with it is adopted.
    """

    def __init__(self, args, keeps=()):
        self.args, self.saved, self.settings = args, None, {}  # settings: the checkpoint's, if it has any
        self.path = args.pretrained_snn or args.pretrained_ann
        self.converts = bool(self.path) and not args.pretrained_snn
        if not self.path:
            self._ask_for_recordings()
            return
        self.saved = read(self.path, args, as_saved(args.model, self.path) if self.converts else args.model)
        flag, wanted, wrong = ("ann", "ANN", "SNN") if self.converts else ("snn", "SNN", "ANN")
        if wanted not in may_hold(self.saved):
            raise UserError(f"{self.path} holds an {wrong}; --pretrained_{flag} wants an {wanted}")
        common = declared(NetworkSettings).keys() - SpikingSettings.__annotations__.keys()
        cls = class_for(args.model, VGG_SNN_STDB_wFeedback)
        adopt(args, self.saved, cls, common if self.converts else cls.declared().keys() - set(keeps))
        self.settings = self.saved.get("settings", {})
        self._ask_for_recordings()
        if self.converts:
            self._ask_for_its_kind()

    def _ask_for_recordings(self):
        """Let args be what recordings need, where nothing else is typed: a step for each frame, and nothing blocked for good."""
        if frames := facts_of(self.args).get("recorded_frames"):
            if (self.converts or not self.path) and "timesteps" not in self.args.given:
                self.args.timesteps = frames
            if "blocking" not in self.args.given:
                self.args.blocking = "dynamic"

    def _ask_for_its_kind(self):
        """Let args be what an ANN of this kind needs, where nothing else is typed. Raises UserError where that is."""
        args, kind = self.args, {}
        if (own := self.settings.get("activation_ann", "relu")) not in ("relu", "qcfs"):
            raise UserError(f"conversion knows the nonlinearities relu and qcfs, and {self.path} has {own}")
        if self.settings.get("norm") == "batch":
            kind["bias"] = True
            if "bias" in args.given and not args.bias:
                raise UserError(f"--no-bias: the norm batch of {self.path} becomes a bias; leave it out")
        if self.settings.get("activation_ann") == "qcfs":
            kind |= {"initial_potential": 0.5, "scaling_factor": 1.0}
            of_balancing = {"balance_timesteps", "balance_percentile", *["balance_images"] * (not args.calibrate)}
            if idle := [flag for flag in args.typed if flag in of_balancing]:
                why = f"the bounds of {self.path} are its thresholds"
                raise UserError(f"--{idle[0]} does nothing, nothing is balanced: {why}; leave it out")
        if args.calibrate:
            self._ask_for_calibration(kind)
        if "M" in find_plan(args.architecture, self.settings.get("plan")).encoder:
            kind["max_pool"] = "count"
        for flag in kind.keys() - args.given:
            setattr(args, flag, kind[flag])

    def _ask_for_calibration(self, kind):
        """Let kind be what calibration needs. Raises UserError where something else is typed, or the ANN does not have it."""
        args, frames = self.args, self.settings.get("recorded_frames", 0)
        if "bias" in args.given and not args.bias:
            raise UserError("--no-bias: --calibrate shifts biases; leave one of the two out")
        kind["bias"] = True
        if args.update != "immediate":
            raise UserError("--calibrate wants --update immediate: with delayed a layer answers a step later than the one before")
        if self.settings.get("timesteps", 1) > 1:
            raise UserError(f"--calibrate wants an ANN of one pass, and {self.path} has --timesteps {self.settings['timesteps']}")
        if frames and args.timesteps != frames:
            raise UserError(f"--calibrate: {self.path} sees {frames} frames; give --timesteps {frames}")

    def fill(self, model, train, run, may_grow=False):
        """Load the weights; in a conversion take an ANN's bounds as thresholds, or balance them on training images, and scale
        them once.

        may_grow: an SNN without a decoder may be given one, which starts at random; beside a gate that completes the image itself
        its last layer starts at 0, so that at first nothing is added to what the gate knows."""
        if not self.path:
            thresholds = f"with every threshold at {self.args.default_threshold:g}"
            run.say(f"warning: no --pretrained_ann: training starts from random weights, {thresholds}")
            return model
        ours = "settings" in self.saved
        names = list(model.state_dict())
        new = (".threshold", ".leak", ".bias")[: 3 if self.converts else 2]
        may_lack = [] if ours and not self.converts else [name for name in names if name.endswith(new)]
        may_lack += new_of_ones_own(model, self.saved, self.path, run.say)
        decoder = [name for name in names if name.startswith(DECODER)]
        if may_grow and not self.converts and decoder and not has_decoder(self.saved):
            run.say(f"{self.path} has no decoder: this one starts at {'0' if model.gate.completes else 'random'}")
            may_lack += decoder
            if model.gate.completes:
                torch.nn.init.zeros_([layer for layer in model.generate if isinstance(layer, LINEAR)][-1].weight)
        try:
            state, has_bounds = bounds_as_thresholds(folded_in(self.saved["state_dict"]))
        except (KeyError, ValueError, RuntimeError):
            raise UserError(f"{self.path}: its normalisation does not fit its weights; use another copy") from None
        if not decoder and (left_out := [name for name in state if name.startswith(DECODER)]):
            run.say(f"{self.path} has a decoder, which {self.args.architecture} has not: it is left out")
            state = {name: value for name, value in state.items() if name not in left_out}
        if has_bounds and (without := [one for one in model.neurons() if in_stages(one) and f"{one}.threshold" not in state]):
            needed = f"--readout {model.settings['readout']} wants one for {without[0]}: choose a membrane read-out"
            raise UserError(f"{self.path}: an ANN with qcfs has a threshold for each of its own nonlinearities, and {needed}")
        restore(model, {**self.saved, "state_dict": state}, self.path, may_lack)
        if not self.converts:
            if not ours:
                from_original(model, self.saved)
            if "leak" in self.args.given:
                model.set_leak(self.args.leak)
            return model
        for name, parameter in model.named_parameters():
            # the ANN has none; what is there is of an earlier conversion
            if name.endswith(".bias") and in_stages(name) and name not in state:
                torch.nn.init.zeros_(parameter)
        biases = biases_of(model)
        if has_bounds:
            fit_thresholds(model)
            start = model.settings["initial_potential"]
            run.say(f"thresholds are the bounds of {self.path}, nothing is balanced; membranes begin at {start:g} of them")
        else:
            balanced_thresholds(model, train, self.args, run.place.files, run.say)
        scale_thresholds(model, self.args.scaling_factor)
        fit_biases(model, biases)
        if self.args.calibrate:
            calibrated_biases(model, ann_as_saved(self.args)[0], train, self.args, run.say)
        return model
