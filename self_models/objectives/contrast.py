"""Objective 3, a gate: before each step the image with blocked pixels at 0 gains contrast.

Contrast is a matter of light, 0 (black) to 1, for grey and colour images alike; 0 as an input is what sends nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from self_models.basics import wide
from self_models.basics.images import light, of_light
from self_models.basics.settings import FRACTION, Choice, objective_setting
from self_models.objectives.gates import GATES, Blocking

WINDOW = 7  # pixels, side of the neighbourhood whose brightest pixel tells how dim a place is
LARGEST_GAIN = 10.0
ATTENTION = 0.5  # chosen on held-out images, see docs/notebook/trials.md


def original_contrast(image, is_open, attention=ATTENTION):
    """(z - min z) / (max z - min z + 1e-5), z = (open light - mean) / standard deviation, per image; blocked pixels at 0.

    image: (B, C, H, W); is_open: bool. The original's rule, whose images are grey: their light is the image. A blocked pixel
    counts as black and sends nothing. An image that is black everywhere stays so."""
    seen = light(image) * is_open
    deviation = seen.std((1, 2, 3), keepdim=True)
    z = (seen - seen.mean((1, 2, 3), keepdim=True)) / torch.where(
        deviation > 0, deviation, torch.ones_like(deviation)
    )
    low, high = z.amin((1, 2, 3), keepdim=True), z.amax((1, 2, 3), keepdim=True)
    return of_light((z - low) / (high - low + 1e-5)) * is_open


def local_contrast(image, is_open, attention=ATTENTION):
    """Light times gain, up to 1, on open pixels that are attended to; elsewhere 0, which sends nothing. See local_gain.

    image: (B, C, H, W); is_open: bool. Black stays black."""
    gain, attended = local_gain(image, is_open, attention)
    return of_light((gain * light(image)).clamp(max=1)) * (is_open & attended)


def local_gain(image, is_open, attention=ATTENTION):
    """(gain, attended): gain (B, 1, 1, 1) = 1 / mean brightness of the surroundings of what is open and not black, 1 to 10.

    The brightness of a pixel's surroundings is the largest light within 7x7 around it, of any channel. So a grey edge beside a
    bright stroke, the last to be explained, or the blue of a red field, does not raise the gain; a dim part of the image does,
    once the bright part is explained. attended, bool (B, C, H, W): where the surroundings with this gain reach this part of full
    brightness, or are black."""
    here = light(image)
    brightness = F.max_pool2d(
        here.amax(1, keepdim=True), WINDOW, stride=1, padding=WINDOW // 2
    ).expand_as(image)
    unexplained = is_open & (here > 0)
    count = unexplained.sum((1, 2, 3), keepdim=True)
    total = (
        (brightness * unexplained)
        .sum((1, 2, 3), keepdim=True, dtype=wide(image.device))
        .to(image.dtype)
    )
    mean = total / count.clamp(min=1)
    gain = torch.where(count > 0, 1 / mean.clamp(min=1 / LARGEST_GAIN), torch.ones_like(mean))
    return gain, (gain * brightness >= attention) | (brightness == 0)


CONTRASTS = {  # none: plain blocking
    "local": local_contrast,
    "original": original_contrast,
    "none": lambda image, is_open, attention: image * is_open,
}


@GATES.register("contrast")
@dataclass
class Contrast(Blocking):
    """Input blocking, and what is not yet explained gains contrast.

    With `original` and `none` (plain blocking) a prediction is compared with the image. With `local` it is compared with what
    the input neurons see: a dim part counts as predicted when it is predicted as bright as it is seen, and not because it is
    nearly black. Parts too dim for the present gain wait: they send no spikes, and their prediction is held."""

    contrast: str = objective_setting(
        "local", Choice(CONTRASTS), "how unpredicted parts are raised in contrast", group="gate"
    )
    attention: float = objective_setting(
        ATTENTION,
        FRACTION,
        "local: parts dimmer than this fraction of full brightness, after the gain, wait",
        group="gate",
    )
    follows_changes = False  # what it shows of a pixel follows from all others

    def start(self, image):
        return self.with_contrast(image, super().start(image))

    def next_view(self, image, prediction, view):
        if view.attended is None:
            return self.with_contrast(image, super().next_view(image, prediction, view))
        following = super().next_view(view.image, prediction, view)
        is_open = torch.where(view.attended, following.is_open, view.is_open)
        return self.with_contrast(
            image,
            following._replace(is_open=is_open, predicted=following.predicted & view.attended),
        )

    def held(self, view):
        latched = super().held(view)
        if view.attended is None:
            return latched
        return ~view.attended if latched is None else latched | ~view.attended

    def seen(self, image, is_open):
        """What the input neurons see of the image (B, C, H, W) while these pixels are open."""
        return CONTRASTS[self.contrast](image, is_open, self.attention)

    def judged_by(self, image, is_open):
        if self.contrast != "local":
            return super().judged_by(image, is_open)
        return self.seen(image, is_open), local_gain(image, is_open, self.attention)[1]

    def with_contrast(self, image, view):
        """The view with the image as this rule shows it, and what it attends to."""
        attended = (
            local_gain(image, view.is_open, self.attention)[1]
            if self.contrast == "local"
            else None
        )
        return view._replace(image=self.seen(image, view.is_open), attended=attended)
