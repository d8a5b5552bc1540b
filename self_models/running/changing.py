"""Another image takes the place of the one before, in a recording or a stream, and what is forgotten then."""

from dataclasses import replace

import torch

from self_models.running.outputs import by_step, share_of_active
from self_models.running.steps import View

SHARES = 2**15  # a leak of whole numbers is so many parts


def shown_next(model, run, steps):
    """Return the View of the next steps of a RunState. For one step of a recording, also update the run, in place, to the frame
    of this step. Several steps of a recording are seen at once, as (T, B, C, H, W)."""
    if run.recording is not None and steps > 1:
        return model.gate.start(run.recording[:, run.steps : run.steps + steps].transpose(0, 1))
    show_image(model, run, run.shown_now())
    return run.view


def show_image(model, run, image):
    """with_image(), in place."""
    if image is not run.image:
        vars(run).update(vars(with_image(model, run, image)))


def prediction_targets(model, x, steps=None):
    """What a model's predictions of each step are compared with, for images or recordings x. steps: see by_step."""
    return x if x.dim() == 4 else by_step(x, steps, ahead=model.settings["predict"] == "next")


def seen_and_targets(model, run, first):
    """(what a run has seen in its steps from this one on, what their predictions are compared with)"""
    if run.recording is None:
        return run.image, run.image
    return (each[first : run.steps] for each in (by_step(run.recording), prediction_targets(model, run.recording)))


def with_image(model, run, image):
    """The run (a RunState) with another image (B, C, H, W) in place of its own, from its next step on."""
    changed = image != run.image
    if not changed.any():
        return run
    view = model.gate.on_image_change(image, model.on_pixel_scale(model.prediction(run)), run.view, changed)
    after = replace(run, image=image, view=view)
    if not model.settings["surprise"]:
        return after
    opened = view.is_open & ~run.view.is_open
    return surprised(model, after, opened) if opened.any() else after


def surprised(model, run, opened):
    """The run once it has forgotten as much as its image surprises, of which these pixels, bool (B, C, H, W), have just opened
    again: a share r of the active ones. Outputs, membranes, as far as they are from rest, and the read-out's sum keep
    1 - min(1, gain r), the sum of these pixels nothing; where any has opened all pixels are judged anew."""
    keep = 1 - (model.settings["surprise"] * share_of_active(opened, run.image)).clamp(max=1)
    memory, neurons = dict(run.memory), model.neurons()
    for name in memory.keys() & neurons.keys():
        rest = neurons[name].rest
        memory[name] = memory[name]._replace(v=rest + decayed(memory[name].v - rest, keep))
    readout_sum = decayed(run.readout_sum, keep).masked_fill(opened, 0)
    run = replace(run, memory=memory, readout_sum=readout_sum, logits=decayed(run.logits, keep))
    judged = model.gate.next_view(run.image, model.on_pixel_scale(model.prediction(run)), run.view)
    return replace(run, view=chosen(opened.flatten(1).any(1), judged, run.view))


def chosen(images, view, other):
    """The View that is `view` for these images, bool (B,), and `other` for the rest, with 0 for what that lacks."""

    def each(one, old):
        if hasattr(one, "_fields"):  # what a gate knows
            return type(one)(*map(each, one, old))
        if not isinstance(one, torch.Tensor):
            return one
        return torch.where(images.view(-1, *[1] * (one.dim() - 1)), one, one.new_zeros(()) if old is None else old)

    return View(*map(each, view, other))


def as_set_now(model, run):
    """The run as the model's settings of now take it up: no membrane is below its floor, and where the gate is of another class
    than the one that has made its view, all is open again as at the beginning of a run."""
    neurons, cls = model.neurons(), type(model.gate)
    lifted = {name: run.memory[name] for name, neuron in neurons.items() if neuron.floor is not None and name in run.memory}
    lifted = {name: state._replace(v=neurons[name].floored(state.v)) for name, state in lifted.items()}
    run = replace(run, memory=run.memory | lifted)
    return run if run.gate is cls else replace(run, view=model.gate.start(run.image), gate=cls)


def in_shares(keep):
    """How many of SHARES parts a share, 0 to 1, is at least: a float32 tensor."""
    return (torch.as_tensor(keep, dtype=torch.float32) * SHARES).floor()


def decayed(values, keep):
    """Values (B, ...) times keep, a number or one for each image (B,). Integers stay integers: both are rounded down, keep to
    whole parts of SHARES."""
    is_whole = not values.is_floating_point()
    keep = in_shares(keep) / SHARES if is_whole else keep
    keep = keep.view(-1, *[1] * (values.dim() - 1)) if isinstance(keep, torch.Tensor) else keep
    return (values.double() * keep).floor().to(values.dtype) if is_whole else values * keep
