"""Objective 3, a gate: before each step the image with blocked pixels at 0 gains contrast.

Contrast is a matter of light, 0 (black) to 1, for grey and colour images alike; 0 as an input is what sends nothing.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F

from self_models.basics.devices import wide
from self_models.basics.images import light, of_light
from self_models.basics.settings import FRACTION, Choice, objective_setting
from self_models.fast.compiling import compiled
from self_models.objectives.gates import GATES, Blocking, Kernels, as_predicted, held_if_latched, judge, look_at_image, see_open

WINDOW = 7  # pixels, side of the neighbourhood whose brightest pixel tells how dim a place is
LARGEST_GAIN = np.float32(10)
ATTENTION = 0.5  # chosen on held-out images, see docs/trials.md


def original_contrast(image, is_open, attention=ATTENTION):
    """(z - min z) / (max z - min z + 1e-5), z = (open light - mean) / standard deviation, per image; blocked pixels at 0.

    image: (B, C, H, W); is_open: bool. The original's rule, whose images are grey: their light is the image. A blocked pixel
    counts as black and sends nothing. An image that is black everywhere stays so.
    """
    seen = light(image) * is_open
    deviation = seen.std((1, 2, 3), keepdim=True)
    z = (seen - seen.mean((1, 2, 3), keepdim=True)) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    low, high = z.amin((1, 2, 3), keepdim=True), z.amax((1, 2, 3), keepdim=True)
    return of_light((z - low) / (high - low + 1e-5)) * is_open


def local_contrast(image, is_open, attention=ATTENTION):
    """Light times gain, up to 1, on open pixels that are attended to; elsewhere 0, which sends nothing. See local_gain.

    image: (B, C, H, W); is_open: bool. Black stays black.
    """
    gain, attended = local_gain(image, is_open, attention)
    return of_light((gain * light(image)).clamp(max=1)) * (is_open & attended)


def local_gain(image, is_open, attention=ATTENTION):
    """(gain, attended): gain (B, 1, 1, 1) = 1 / mean brightness of the surroundings of what is open and not black, 1 to 10.

    The brightness of a pixel's surroundings is the largest light within 7x7 around it, of any channel. So a grey edge beside a
    bright stroke, the last to be explained, or the blue of a red field, does not raise the gain; a dim part of the image does,
    once the bright part is explained. attended, bool (B, C, H, W): where the surroundings with this gain reach this part of full
    brightness, or are black.
    """
    here = light(image)
    brightness = F.max_pool2d(here.amax(1, keepdim=True), WINDOW, stride=1, padding=WINDOW // 2).expand_as(image)
    unexplained = is_open & (here > 0)
    count = unexplained.sum((1, 2, 3), keepdim=True)
    total = (brightness * unexplained).sum((1, 2, 3), keepdim=True, dtype=wide(image.device)).to(image.dtype)
    mean = total / count.clamp(min=1)
    gain = torch.where(count > 0, 1 / mean.clamp(min=1 / float(LARGEST_GAIN)), torch.ones_like(mean))
    return gain, (gain * brightness >= attention) | (brightness == 0)


def no_contrast(image, is_open, attention=ATTENTION):
    """The image with blocked pixels at 0: plain blocking."""
    return image * is_open


# closed, since see_contrast below knows just these: another contrast is another gate
CONTRASTS = MappingProxyType({"local": local_contrast, "original": original_contrast, "none": no_contrast})
LOCAL, ORIGINAL = (list(CONTRASTS).index(name) for name in ("local", "original"))


@compiled
def light_of(settings, value):
    return (value + np.float32(1)) / np.float32(2) if settings.colour else abs(value)


@compiled
def of_light_of(settings, value):
    return np.float32(2) * value - np.float32(1) if settings.colour else value


@compiled
def see_contrast(settings, pixels, image, step):
    if settings.contrast == LOCAL:
        if step == 0:
            note_surroundings(settings, pixels, image)
        see_local(settings, pixels, image)
    else:
        see_open(settings, pixels, image, step)
        if settings.contrast == ORIGINAL:
            see_original(settings, pixels, image)


@compiled
def note_surroundings(settings, pixels, image):
    """Brightness of each pixel's surroundings, see local_gain."""
    channels, width, reach = settings.channels, settings.width, WINDOW // 2
    height = len(image) // (channels * width)
    for y in range(height):
        for x in range(width):
            first, last, largest = max(0, x - reach), min(width, x + reach + 1), np.float32(0)
            for v in range(max(0, y - reach), min(height, y + reach + 1)):
                for pixel in range((v * width + first) * channels, (v * width + last) * channels):
                    largest = max(largest, light_of(settings, image[pixel]))
            for channel in range(channels):
                pixels.brightness[(y * width + x) * channels + channel] = largest


@compiled
def see_local(settings, pixels, image):
    count, total, one = 0, 0.0, np.float32(1)
    for pixel in range(len(image)):
        if pixels.is_open[pixel] and light_of(settings, image[pixel]) > 0:
            count += 1
            total += pixels.brightness[pixel]
    gain = one
    if count:
        gain = one / max(np.float32(total) / np.float32(count), one / LARGEST_GAIN)
    compared = 0
    for pixel in range(len(image)):
        brightness = pixels.brightness[pixel]
        attended = gain * brightness >= settings.attention or brightness == 0
        pixels.attended[pixel] = attended
        value = of_light_of(settings, min(gain * light_of(settings, image[pixel]), one))
        pixels.seen[pixel] = value if pixels.is_open[pixel] and attended else 0
        compared += attended and (settings.blocking or pixels.is_open[pixel])
    pixels.gate.compared = compared if settings.epsilon > 0 else 0
    pixels.gate.look_again = True  # each pixel is compared with what is seen of it, which has changed everywhere


@compiled
def see_original(settings, pixels, image):
    """original_contrast, in place."""
    mean = squares = 0.0
    low, high = np.inf, -np.inf
    for pixel in range(len(image)):
        value = light_of(settings, image[pixel]) if pixels.is_open[pixel] else np.float32(0)
        pixels.seen[pixel] = value
        mean += value / len(image)
        low, high = min(low, value), max(high, value)
    for value in pixels.seen:
        squares += (value - mean) ** 2
    deviation = math.sqrt(squares / (len(image) - 1)) if len(image) > 1 and squares > 0 else 1.0
    for pixel in range(len(image)):
        stretched = ((pixels.seen[pixel] - low) / deviation) / ((high - low) / deviation + 1e-5)
        pixels.seen[pixel] = of_light_of(settings, np.float32(stretched)) if pixels.is_open[pixel] else 0


@compiled
def rests(settings, pixels, pixel):
    unattended = settings.contrast == LOCAL and not pixels.attended[pixel]
    return unattended or held_if_latched(settings, pixels, pixel)


@compiled
def look(settings, pixels, pixel, value, guess):
    if settings.contrast != LOCAL:
        look_at_image(settings, pixels, pixel, value, guess)
    elif not pixels.attended[pixel]:
        pixels.predicted[pixel] = False
    elif settings.epsilon > 0:
        judge(settings, pixels, pixel, abs(guess - pixels.seen[pixel]) < settings.epsilon)


@GATES.register("contrast")
@dataclass
class Contrast(Blocking):
    """Input blocking, and what is not yet explained gains contrast.

    With `original` and `none` (plain blocking) a prediction is compared with the image. With `local` it is compared with what
    the input neurons see: a dim part counts as predicted when it is predicted as bright as it is seen, and not because it is
    nearly black. Parts too dim for the present gain wait: they send no spikes, and their prediction rests.
    """

    contrast: str = objective_setting(
        "local", Choice(CONTRASTS), "what is not yet explained gains contrast, by this rule", group="gate"
    )
    attention: float = objective_setting(
        ATTENTION, FRACTION, "local: what is dimmer than this part of full brightness, with the gain, waits", group="gate"
    )
    turns = False  # what it shows of a pixel follows from all others
    kernels = Kernels(see_contrast, look, rests, as_predicted)

    def start(self, image):
        return self.with_contrast(image, super().start(image))

    def next_view(self, image, guess, view):
        if view.attended is None:
            return self.with_contrast(image, super().next_view(image, guess, view))
        following = super().next_view(view.image, guess, view)
        is_open = torch.where(view.attended, following.is_open, view.is_open)
        return self.with_contrast(image, following._replace(is_open=is_open, predicted=following.predicted & view.attended))

    def rests(self, view):
        latched = super().rests(view)
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
        attended = local_gain(image, view.is_open, self.attention)[1] if self.contrast == "local" else None
        return view._replace(image=self.seen(image, view.is_open), attended=attended)
