"""Models from flags and checkpoints. A checkpoint's settings take the place of every flag that was not typed."""

import argparse

import torch

from harness.command_line.errors import UserError
from harness.command_line.flags import find_device
from harness.data.sets import LABELS
from harness.training.conversion import balanced_thresholds, dynamics_parameters, scale_thresholds
from harness.training.losses import Teacher
from self_models.basics.checkpoints import from_original, load_checkpoint, may_hold, restore
from self_models.event.engine import EventEngine
from self_models.running.draws import seed_for
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

DECODER = "generate."  # how the names of the decoder's weights begin
# setting of a model -> flag it comes from
NETWORK = {"vgg_name": "architecture", "dataset": "dataset", "fc_width": "fc_width", "kernel_size": "kernel_size"}
ANN = {**NETWORK, "timesteps": "timesteps", "dropout": "dropout"}
DYNAMICS = "activation leak default_threshold alpha beta readout update encoding readout_leak"
DYNAMICS += " readout_slew feedback_interval learn_threshold learn_leak"
SPIKING = {**ANN, **{name: name for name in DYNAMICS.split()}}
BLOCKING = {**SPIKING, "latch": "latch", "residual": "residual"}
LEARNED = {**BLOCKING, "epsilon": "epsilon"}


def adopt(args, saved, names):
    """Take the checkpoint's settings over into args, but for flags that were typed; returns the plan it was built with."""
    settings = saved.get("settings", {})
    if not isinstance(settings, dict):
        raise UserError("the checkpoint's settings are damaged; use another copy")
    for setting, flag in names.items():
        if setting in settings and flag not in args.given:
            setattr(args, flag, settings[setting])
    return None if "architecture" in args.given else settings.get("plan")


def build(cls, names, args, plan=None, **own):
    """A model of class cls from the flags, on the device they name. own: settings that are not flags of every script."""
    settings = {setting: getattr(args, flag) for setting, flag in names.items()}
    device = find_device(args)
    torch.manual_seed(seed_for(args.seed, "weights"))  # of the initial weights
    try:
        return cls(**settings, labels=LABELS[args.dataset], plan=plan, **own).to(device)
    except (TypeError, KeyError) as error:  # from settings of the wrong type in a damaged checkpoint
        raise UserError(f"the checkpoint's settings build no {cls.__name__} ({error}); use another copy") from None


def ann_from(args, flag="pretrained_ann"):
    """The ANN for the flags, with the weights of the checkpoint that this flag names, if given."""
    path = getattr(args, flag)
    if not path:
        return build(VGG_wFeedback, ANN, args)
    saved = load_checkpoint(path)
    if "ANN" not in may_hold(saved):
        raise UserError(f"{path} holds an SNN; --{flag} wants an ANN")
    plan = adopt(args, saved, ANN)
    return restore(build(VGG_wFeedback, ANN, args, plan), saved, path)


def teacher_from(args):
    """The Teacher of --teacher_ann, None without that flag or where nothing is trained. Raises UserError for one of another
    data set, and where --distillation has nobody to learn from."""
    if args.test_only:
        return None
    if not args.teacher_ann:
        if "distillation" in args.given or "temperature" in args.given:
            raise UserError("--distillation and --temperature need --teacher_ann PATH, a trained ANN to learn from")
        return None
    own = argparse.Namespace(**{**vars(args), "given": {}})  # all of its settings are its own
    model = ann_from(own, "teacher_ann").eval()
    if own.dataset != args.dataset:
        raise UserError(f"--teacher_ann {args.teacher_ann} was trained on {own.dataset}; give one of {args.dataset}")
    return Teacher(model, args.distillation, args.temperature)


def choose_trained(model, args):
    """With --train decoder no other weight learns. Raises UserError where nothing would."""
    if args.test_only or args.train == "all":
        return
    if not model.has_feedback:
        raise UserError(f"--train decoder needs a plan with feedback; {args.architecture} has none")
    if not args.trade_off:
        raise UserError("--train decoder needs --trade_off above 0: the decoder learns from the reconstruction alone")
    for name, parameter in model.named_parameters():
        if not name.startswith(DECODER):
            parameter.requires_grad_(False)


def use_engine(model, args):
    """Let the model run on the engine of --engine; it only evaluates. Raises UserError for training."""
    if args.engine == "event":
        if not args.test_only:
            raise UserError("--engine event only evaluates: add --test_only, or train with --engine dense")
        model.engine = EventEngine(model)


class SNNSource:
    """Where an SNN's weights come from: an SNN checkpoint, an ANN to convert, or nothing.

    Reading it adopts its settings into args; so it comes first, then the run, the data, the model.
    """

    def __init__(self, args, names=LEARNED):
        self.args, self.saved, self.plan = args, None, None
        self.path = args.pretrained_snn or args.pretrained_ann
        self.converts = bool(self.path) and not args.pretrained_snn
        if not self.path:
            return
        self.saved = load_checkpoint(self.path)
        flag, wanted, wrong = ("ann", "ANN", "SNN") if self.converts else ("snn", "SNN", "ANN")
        if wanted not in may_hold(self.saved):
            raise UserError(f"{self.path} holds an {wrong}; --pretrained_{flag} wants an {wanted}")
        self.plan = adopt(args, self.saved, NETWORK if self.converts else names)

    def model(self, cls=None, blocking=InputBlockingSNN, **own):
        """A new model of this source, without its weights. cls: default, the plain SNN, or with --epsilon the blocking one."""
        if cls is None and self.args.epsilon:
            cls, own = blocking, {"epsilon": self.args.epsilon, "latch": self.args.latch, "residual": self.args.residual}
        return build(cls or VGG_SNN_STDB_wFeedback, SPIKING, self.args, self.plan, **own)

    def fill(self, model, train, run, may_grow=False):
        """Load the weights; after a conversion balance the thresholds on training images and scale them once.

        may_grow: an SNN without a decoder may be given one, which starts at random."""
        if not self.path:
            return model
        ours = "settings" in self.saved
        may_lack = [] if ours and not self.converts else dynamics_parameters(model)
        decoder = [name for name in model.state_dict() if name.startswith(DECODER)]
        if may_grow and not self.converts and decoder and not any(name in self.saved["state_dict"] for name in decoder):
            run.say(f"{self.path} has no decoder: this one starts at random")
            may_lack += decoder
        restore(model, self.saved, self.path, may_lack)
        if not self.converts:
            if not ours:
                from_original(model, self.saved)
            if "leak" in self.args.given:
                model.set_leak(self.args.leak)
            return model
        balanced_thresholds(model, train, self.args, run.files, run.say)
        scale_thresholds(model, self.args.scaling_factor)
        return model
