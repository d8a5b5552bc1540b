"""Which settings and parts of an SNN go together."""

from self_models.basics import ModelError
from self_models.network.neurons import SpikingNeuron
from self_models.network.surrogates import SURROGATES


def check_together(model, gate, rule, readout):
    """Raise ModelError if settings of a model and of these parts conflict, or one has no effect."""
    own = model.settings
    steps, interval = own["timesteps"], own["feedback_interval"]
    if model.phased:
        check_phased(model, gate, rule)
    if interval > steps:
        raise ModelError(f"feedback_interval must be 1 to the {steps} timesteps, not {interval}")
    gate.check(model.has_feedback, own["encoding"])
    check_recordings(own, gate)
    if own["surprise"] and not gate.reopens:
        raise ModelError("surprise: it is what opens again, which needs gate block and blocking dynamic: choose them")
    if steps < gate.least_steps and not model.phased:
        raise ModelError(f"timesteps: with these settings of its gate the network answers from step {gate.least_steps} on")
    if gate.completes and model.has_feedback and not readout.on_scale:
        name, other = own["readout"], own["gate"]
        raise ModelError(
            f"readout {name} predicts 0.5 to 1 of a grey image, and gate {other} wants the image's scale: choose another"
        )
    if rule.looks_at_input and not ((model.has_feedback or gate.completes) and gate.reacts):
        raise ModelError(f"rule {own['rule']} needs an architecture with feedback and a gate that blocks; choose another")


def check_phased(model, gate, rule):
    """The same of a phased network: what would come after a layer's phase, or before its end, is refused."""
    own = model.settings
    plain = {"leak": 1, "output_leak": 1, "feedback_interval": 1, "membrane_floor": None, "learn_leak": False}
    for name, value in plain.items():
        if own[name] != value:
            raise ModelError(f"{name}: with update phased a layer adds up all that arrives: leave it at {value}")
    idle = own["gate"] == "block" and not gate.epsilon and not gate.residual
    by_itself = own["gate"] == "once" and gate.wait and gate.guess == "interpolation" and not model.has_feedback
    if gate.reacts and not idle and not by_itself:
        raise ModelError(
            f"gate {own['gate']} reacts to predictions while an image is seen, and a phased network has none by then: give "
            "--gate block --epsilon 0 without --residual, or without a decoder --gate once --wait --guess interpolation"
        )
    if rule.stops:
        raise ModelError(f"rule {own['rule']}: a phased network answers in its last steps alone: choose never")
    if own["recorded_frames"] and model.has_feedback:
        raise ModelError("update phased predicts a recording when it is over: choose an architecture without feedback")
    if SURROGATES.find(own["activation"])(own["alpha"], own["beta"]).needs_age:
        raise ModelError(
            f"activation {own['activation']} asks how long ago a spike was, and update phased does not: choose Linear"
        )
    if model.Neuron is not SpikingNeuron:
        raise ModelError(f"update phased has neurons of its own, and {type(model).__name__} has {model.Neuron.__name__}")


def check_recordings(settings, gate):
    """Raises ModelError where settings and gate can make nothing of recordings, or have no use for a setting of recordings."""
    frames, steps = settings["recorded_frames"], settings["timesteps"]
    if not frames:
        if settings["predict"] != "frame":
            raise ModelError("predict: an image that stays has no next frame: choose frame")
        return
    if steps > frames:
        raise ModelError(f"timesteps: these recordings have {frames} frames, one for a step: give at most {frames}, not {steps}")
    if not gate.follows_changes:
        raise ModelError(f"gate {settings['gate']} is for an image that stays: for recordings choose block, or open")
    if gate.reacts and not gate.reopens:
        raise ModelError("blocking: what is closed for good would not see what a recording shows later: choose dynamic")
