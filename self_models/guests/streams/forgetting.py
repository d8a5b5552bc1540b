"""What a network forgets when its image changes."""

import torch

from self_models.runtime.outputs import share_of_active
from self_models.runtime.state import View


def forget(model, run, opened):
    """Forget, likewise, as much as the image surprises, of which these pixels, bool (B, C, H, W), have just opened again: a share
    r of the active ones. Outputs, membranes, as far as they are from rest, and the read-out's sum keep 1 - min(1, gain r), the
    sum of these pixels nothing; where any has opened all pixels are judged anew."""
    keep = 1 - (model.settings["surprise"] * share_of_active(opened, run.image)).clamp(max=1)
    neurons, run.memory = model.neurons(), dict(run.memory)
    for name in run.memory.keys() & neurons.keys():
        state, rest = run.memory[name], neurons[name].rest
        run.memory[name] = state._replace(v=rest + model.decayed(state.v - rest, keep))
    run.readout_sum, run.logits = (
        model.decayed(run.readout_sum, keep).masked_fill(opened, 0),
        model.decayed(run.logits, keep),
    )
    judged = model.gate.next_view(run.image, model.on_pixel_scale(model.prediction(run)), run.view)
    run.view = chosen(opened.flatten(1).any(1), judged, run.view)


def chosen(images, view, other):
    """The View that is `view` for these images, bool (B,), and `other` for the rest, with 0 for what that lacks."""

    def each(one, old):
        if one is None:
            return None
        return torch.where(
            images.view(-1, *[1] * (one.dim() - 1)), one, one.new_zeros(()) if old is None else old
        )

    return View(*map(each, view, other))
