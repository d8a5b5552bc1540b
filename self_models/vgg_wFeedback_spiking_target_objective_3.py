"""Objective 3, implicit attention through contrast: what is not yet explained gains contrast."""

import torch
import torch.nn.functional as F

from self_models.basics.errors import choose
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

WINDOW = 7  # pixels, side of the neighbourhood whose brightest pixel tells how dim a place is
LARGEST_GAIN = 10.0
ATTENTION = 0.5  # part of full brightness below which a place is not attended to


def original_contrast(image, is_open):
    """(z - min z) / (max z - min z + 1e-5), z = (open image - mean) / standard deviation, per image; blocked pixels at 0.

    image: (B, C, H, W); is_open: bool. The original's rule. An image that is 0 everywhere stays 0.
    """
    seen = image * is_open
    deviation = seen.std((1, 2, 3), keepdim=True)
    z = (seen - seen.mean((1, 2, 3), keepdim=True)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    low, high = z.amin((1, 2, 3), keepdim=True), z.amax((1, 2, 3), keepdim=True)
    return (z - low) / (high - low + 1e-5)


def local_contrast(image, is_open):
    """gain |x| up to 1 with x's sign, on open pixels that are attended to; 0 elsewhere. See local_gain.

    image: (B, C, H, W); is_open: bool. An image that is 0 everywhere stays 0.
    """
    gain, attended = local_gain(image, is_open)
    return (gain * image.abs()).clamp(max=1) * image.sign() * (is_open & attended)


def local_gain(image, is_open):
    """(gain, attended): gain (B, 1, 1, 1) = 1 / mean brightness of the open, non-zero pixels' surroundings, 1 to 10.

    The brightness of a pixel's surroundings is the largest |x| within 7x7 around it. So a grey edge beside a bright stroke,
    the last to be explained, does not raise the gain; a dim part of the image does, once the bright part is explained.
    attended, bool (B, C, H, W): where the surroundings with this gain reach half of full brightness, or are black.
    """
    brightness = F.max_pool2d(image.abs(), WINDOW, stride=1, padding=WINDOW // 2)
    unexplained = is_open & (image != 0)
    count = unexplained.sum((1, 2, 3), keepdim=True)
    mean = (brightness * unexplained).sum((1, 2, 3), keepdim=True) / count.clamp(min=1)
    gain = torch.where(count > 0, 1 / mean.clamp(min=1 / LARGEST_GAIN), torch.ones_like(mean))
    return gain, (gain * brightness >= ATTENTION) | (brightness == 0)


def no_contrast(image, is_open):
    """The image with blocked pixels at 0: plain blocking."""
    return image * is_open


CONTRASTS = {"local": local_contrast, "original": original_contrast, "none": no_contrast}


class ContrastAttentionSNN(InputBlockingSNN):
    """Input blocking, and before each step the image with blocked pixels at 0 gains contrast.

    contrast: name of the rule. With `original` and `none` (plain blocking) a prediction is compared with the image. With
    `local` it is compared with what the input neurons see: a dim part counts as predicted when it is predicted as bright as
    it is seen, and not because it is nearly black. Parts too dim for the present gain wait: they send no spikes, and their
    prediction rests. Raises ModelError for an unknown rule, and as InputBlockingSNN does.
    """

    objective = "contrast_attention"  # in the records

    def __init__(self, *args, contrast="local", **kwargs):
        super().__init__(*args, **kwargs)
        self.set_contrast(contrast)

    def set_contrast(self, contrast):
        """See with this rule from now on. Raises ModelError for an unknown one."""
        self.seen = choose("contrast", contrast, CONTRASTS)
        self.settings["contrast"] = contrast

    def start(self, x, draws=None):
        run = super().start(x, draws)
        run.view = self.with_contrast(x, run.view)
        return run

    def look(self, image, guess, view):
        if view.attended is None:
            return self.with_contrast(image, super().look(image, guess, view))
        following = super().look(view.image, guess, view)
        is_open = torch.where(view.attended, following.is_open, view.is_open)
        return self.with_contrast(image, following._replace(is_open=is_open, predicted=following.predicted & view.attended))

    def with_contrast(self, image, view):
        """The view with the image as this rule shows it, and what it attends to."""
        attended = local_gain(image, view.is_open)[1] if self.seen is local_contrast else None
        return view._replace(image=self.seen(image, view.is_open), attended=attended)

    def integrate(self, trace, decoded, view):
        moved = super().integrate(trace, decoded, view)
        return moved if view.attended is None else torch.where(view.attended, moved, trace)
