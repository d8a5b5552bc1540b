"""Objective 3, a gate: what is not yet predicted gains contrast.

Before each timestep the image, with blocked pixels at 0, is made brighter. Contrast is
a matter of *light*, from 0 (black) to 1, for grey and colour images alike; an *input*
of 0 sends nothing.

In this file ``B`` is the number of images, and ``(C, H, W)`` the shape of an image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from self_models.data.images import light, light_to_pixels
from self_models.devices import wide
from self_models.feedback.gates import GATES, Blocking
from self_models.running.state import View
from self_models.settings import FRACTION, Choice, objective_setting

WINDOW = 7  # pixels, side of the neighbourhood whose brightest pixel tells how dim a place is
LARGEST_GAIN = 10.0
ATTENTION = 0.5  # chosen on held-out images, see studies/notebook/trials.md


def original_contrast(
    image: torch.Tensor, is_open: torch.Tensor, attention: float = ATTENTION
) -> torch.Tensor:
    """Normalise the light of the open pixels of each image, as the original does.

    ``z = (light - mean) / standard deviation`` is mapped to 0…1 by ``(z - min z) / (max
    z - min z + 1e-5)``. Blocked pixels count as black, and send nothing. An image that
    is black everywhere stays so. This is the rule of the original implementation, whose
    images are grey, so that their light is the image itself.

    Parameters
    ----------
    image : Tensor of shape (B, C, H, W)
        The images.
    is_open : Tensor of shape (B, C, H, W), bool
        The pixels that are not blocked.
    attention : float
        Not used here; all rules of `CONTRASTS` take the same arguments.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        What the input neurons see.
    """
    all_pixels = (1, 2, 3)
    open_light = light(image) * is_open
    deviation = open_light.std(all_pixels, keepdim=True)
    mean = open_light.mean(all_pixels, keepdim=True)
    # An image of one brightness has deviation 0, and is left at z = 0.
    z = (open_light - mean) / torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    lowest = z.amin(all_pixels, keepdim=True)
    highest = z.amax(all_pixels, keepdim=True)
    return light_to_pixels((z - lowest) / (highest - lowest + 1e-5)) * is_open


def local_contrast(
    image: torch.Tensor, is_open: torch.Tensor, attention: float = ATTENTION
) -> torch.Tensor:
    """Brighten the open pixels by the gain of `local_gain`, up to full brightness.

    Black stays black. Pixels that are blocked, or that `local_gain` does not attend to,
    become 0, which sends nothing.

    Parameters
    ----------
    image : Tensor of shape (B, C, H, W)
        The images.
    is_open : Tensor of shape (B, C, H, W), bool
        The pixels that are not blocked.
    attention : float, 0 to 1
        See `local_gain`.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        What the input neurons see.
    """
    gain, attended = local_gain(image, is_open, attention)
    brightened = (gain * light(image)).clamp(max=1)
    return light_to_pixels(brightened) * (is_open & attended)


def local_gain(
    image: torch.Tensor, is_open: torch.Tensor, attention: float = ATTENTION
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find by how much to brighten each image, and which of its parts to attend to.

    Take the pixels that are open and not black, and average the brightness of their
    *surroundings*: the largest light in 7 x 7 pixels around each, in any channel. The
    gain is 1 / that average. The edge of a bright stroke is grey, and is often the last
    to be predicted. It does not raise the gain, because the stroke is in its
    surroundings; nor does the dark blue channel of a red field. A dim part of the image
    raises it, once the bright part is predicted.

    Parameters
    ----------
    image : Tensor of shape (B, C, H, W)
        The images.
    is_open : Tensor of shape (B, C, H, W), bool
        The pixels that are not blocked.
    attention : float, 0 to 1
        Fraction of full brightness that the surroundings of a pixel must reach, with
        the gain, for the pixel to be attended to.

    Returns
    -------
    gain : Tensor of shape (B, 1, 1, 1), from 1 to `LARGEST_GAIN`
        Factor on the light of each image.
    attended : Tensor of shape (B, C, H, W), bool
        Where the surroundings, times the gain, reach ``attention``; also where they are
        black, since there is nothing to wait for.
    """
    pixel_light = light(image)
    brightest_channel = pixel_light.amax(1, keepdim=True)
    surroundings = F.max_pool2d(brightest_channel, WINDOW, stride=1, padding=WINDOW // 2)
    surroundings = surroundings.expand_as(image)

    unexplained = is_open & (pixel_light > 0)
    count = unexplained.sum((1, 2, 3), keepdim=True)
    # Summed in float64 if the device has it, so that all devices round alike.
    total = (surroundings * unexplained).sum((1, 2, 3), keepdim=True, dtype=wide(image.device))
    mean = total.to(image.dtype) / count.clamp(min=1)
    gain = 1 / mean.clamp(min=1 / LARGEST_GAIN)
    gain = torch.where(count > 0, gain, torch.ones_like(mean))

    attended = (gain * surroundings >= attention) | (surroundings == 0)
    return gain, attended


def no_contrast(
    image: torch.Tensor, is_open: torch.Tensor, attention: float = ATTENTION
) -> torch.Tensor:
    """Leave the image as it is, with blocked pixels at 0: plain blocking.

    Parameters
    ----------
    image : Tensor of shape (B, C, H, W)
        The images.
    is_open : Tensor of shape (B, C, H, W), bool
        The pixels that are not blocked.
    attention : float
        Not used here; all rules of `CONTRASTS` take the same arguments.

    Returns
    -------
    Tensor of shape (B, C, H, W)
        What the input neurons see.
    """
    return image * is_open


CONTRASTS = {"local": local_contrast, "original": original_contrast, "none": no_contrast}


@GATES.register("contrast")
@dataclass
class Contrast(Blocking):
    """Input blocking, and what is not yet predicted gains contrast.

    With the contrasts "original" and "none" a prediction is compared with the image.
    With "local" it is compared with what the input neurons see: a dim part counts as
    predicted when it is predicted as bright as it is seen, and not because it is nearly
    black. Parts that are too dim for the present gain wait: they send no spikes, and
    their prediction is held.

    Attributes
    ----------
    contrast : {"local", "original", "none"}
        The rule by which open pixels gain contrast, one of `CONTRASTS`.
    attention : float, 0 to 1
        With "local": parts dimmer than this fraction of full brightness wait.
    """

    contrast: str = objective_setting(
        "local", Choice(CONTRASTS), "how unpredicted parts are raised in contrast", group="gate"
    )
    attention: float = objective_setting(
        ATTENTION,
        FRACTION,
        "local: parts dimmer than this fraction of full brightness, after the gain, wait",
        group="gate",
    )
    follows_changes = False  # what a pixel shows depends on all others, so no pixel stays as it is

    def start(self, image: torch.Tensor) -> View:
        """Open every pixel, with the contrast of the whole image."""
        return self.with_contrast(image, super().start(image))

    def next_view(self, image: torch.Tensor, prediction: torch.Tensor, view: View) -> View:
        """Close what is predicted, and raise the contrast of the rest.

        See `Gate.next_view` for the arguments.
        """
        if view.attended is None:
            return self.with_contrast(image, super().next_view(image, prediction, view))
        # With local contrast, predictions are compared with what was seen, and only
        # where something was attended to.
        following = super().next_view(view.image, prediction, view)
        is_open = torch.where(view.attended, following.is_open, view.is_open)
        predicted = following.predicted & view.attended
        return self.with_contrast(image, following._replace(is_open=is_open, predicted=predicted))

    def held(self, view: View) -> torch.Tensor | None:
        """Hold the predictions of blocked pixels, and of those that wait."""
        latched = super().held(view)
        if view.attended is None:
            return latched
        waiting = ~view.attended
        if latched is None:
            return waiting
        return latched | waiting

    def seen(self, image: torch.Tensor, is_open: torch.Tensor) -> torch.Tensor:
        """Return what the input neurons see while these pixels are open.

        Parameters
        ----------
        image : Tensor of shape (B, C, H, W)
            The images.
        is_open : Tensor of shape (B, C, H, W), bool
            The pixels that are not blocked.

        Returns
        -------
        Tensor of shape (B, C, H, W)
            The image with its contrast raised, and 0 at blocked pixels.
        """
        return CONTRASTS[self.contrast](image, is_open, self.attention)

    def judged_by(
        self, image: torch.Tensor, is_open: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | bool]:
        """Return what predictions are compared with; see `Gate.judged_by`."""
        if self.contrast != "local":
            return super().judged_by(image, is_open)
        _, attended = local_gain(image, is_open, self.attention)
        return self.seen(image, is_open), attended

    def with_contrast(self, image: torch.Tensor, view: View) -> View:
        """Return a view with the contrast of this rule.

        Parameters
        ----------
        image : Tensor of shape (B, C, H, W)
            The images.
        view : View
            Says which pixels are open.

        Returns
        -------
        View
            The same with the image as it is seen, and with "local" what is attended to.
        """
        attended = None
        if self.contrast == "local":
            _, attended = local_gain(image, view.is_open, self.attention)
        return view._replace(image=self.seen(image, view.is_open), attended=attended)
