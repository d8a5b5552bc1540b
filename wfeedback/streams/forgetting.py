"""What a network forgets when its image changes."""

from typing import TYPE_CHECKING

import torch

from self_models.running.outputs import share_of_active
from self_models.running.state import RunState, View

if TYPE_CHECKING:
    from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def forget(model: "VGG_SNN_STDB_wFeedback", run: RunState, opened: torch.Tensor) -> None:
    """Forget a part of what each image has left, as large as its change is surprising.

    Let r be the share of an image's active pixels that have just opened again, and
    keep = 1 - min(1, surprise * r). Then

        logits       <- keep * logits
        V            <- V_rest + keep * (V - V_rest)      of each layer
        readout_sum  <- keep * readout_sum, and 0 at the pixels that have opened

    After that, an image of which any pixel has opened is compared anew with its
    prediction.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network; its setting ``surprise`` is the gain.
    run : RunState
        It is changed.
    opened : Tensor of shape (B, C, H, W), bool
        Pixels that were blocked for the image before, and are open for the present one.
    """
    surprise = model.settings["surprise"]
    # (B,), one share for each image
    keep = 1 - (surprise * share_of_active(opened, run.image)).clamp(max=1)
    neurons = model.neurons()
    # The copy has a dict of layer states of its own. Whoever holds the state of before,
    # for example a stream's caller, keeps it as it was.
    run.graph_state = run.graph_state.copy()
    layer_states = run.graph_state.layer_states
    for name in layer_states.keys() & neurons.keys():
        state = layer_states[name]
        rest = neurons[name].rest
        layer_states[name] = state._replace(v=rest + model.decayed(state.v - rest, keep))
    run.readout_sum = model.decayed(run.readout_sum, keep).masked_fill(opened, 0)
    run.logits = model.decayed(run.logits, keep)

    # Last, since the prediction is made from the sum and the logits that are left. By
    # it the gate says anew which pixels are open.
    prediction = model.on_pixel_scale(model.prediction(run))
    judged = model.gate.next_view(run.image, prediction, run.view)
    has_opened = opened.flatten(1).any(1)  # (B,)
    run.view = choose_view(has_opened, judged, run.view)


def choose_view(mask: torch.Tensor, chosen: View, otherwise: View) -> View:
    """Return a View that for some images of a batch is one, and for the rest another.

    Parameters
    ----------
    mask : Tensor of shape (B,), bool
        Images whose view is ``chosen``; that of the others is ``otherwise``.
    chosen, otherwise : View
        Fields are tensors (B, ...), or None where a gate does not use them.

    Returns
    -------
    View
        ``chosen``, the newer one, decides which fields there are: one that is None
        there is None for all images, whatever ``otherwise`` has. One that is None in
        ``otherwise`` alone counts as 0 for its images.
    """
    fields = []
    for value, other_value in zip(chosen, otherwise, strict=True):
        if value is None:
            fields.append(None)
            continue
        if other_value is None:
            other_value = value.new_zeros(())
        by_image = mask.view(-1, *[1] * (value.dim() - 1))  # (B, 1, ..., 1)
        fields.append(torch.where(by_image, value, other_value))
    return View(*fields)
