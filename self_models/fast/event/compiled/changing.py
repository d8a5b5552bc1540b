"""Compiled: another image takes the place of the one before, and what is forgotten then; as in running/changing.py."""

import numpy as np

from self_models.fast.compiling import apart, compiled
from self_models.fast.event.compiled.kernels import copy, forget
from self_models.fast.event.compiled.parts import look
from self_models.fast.event.compiled.pixels import list_sending, predict_anew


@apart
def turn(net, state, settings, pixels, image):
    """The image that is seen from the next step on. Where run.changed says that the state comes from elsewhere, all that follows
    from it is made anew, too."""
    run = pixels.run
    differs = run.changed
    for pixel in range(len(image)):
        differs |= image[pixel] != pixels.image[pixel]
    if not differs:
        return
    copy(pixels.step_open, pixels.is_open)
    run.of_image = 0
    for pixel in range(len(image)):
        predict_anew(settings, pixels, pixel, image[pixel])
        run.of_image += image[pixel] != 0
        if changes(settings, pixels, image, pixel):
            look(settings, pixels, pixel, image[pixel])
    copy(pixels.image, image)
    if settings.surprise > 0:
        opened = active = 0
        for pixel in range(len(image)):
            opens = pixels.is_open[pixel] and not pixels.step_open[pixel]
            opened, active = opened + opens, active + (opens and image[pixel] != 0)
        if opened:
            share = np.float32(active) / np.float32(max(run.of_image, 1))
            surprise(net, state, settings, pixels, np.float32(1) - min(settings.surprise * share, np.float32(1)))
    run.error = 0.0
    for error in pixels.error:
        run.error += error
    list_sending(settings, pixels)


@compiled
def changes(settings, pixels, image, pixel):
    """Whether a pixel is to be judged: it is another one, or where channels are judged together, one of its place's is."""
    first = pixel - pixel % settings.channels if settings.together else pixel
    differs = False
    for channel in range(first, first + settings.channels if settings.together else pixel + 1):
        differs |= image[channel] != pixels.image[channel]
    return differs


@compiled
def surprise(net, state, settings, pixels, keep):
    """Keep so much of membranes, outputs and read-out, nothing of the read-out of a pixel that has opened since step_open, and
    judge all pixels by what is then predicted."""
    forget_all(net, state, pixels, keep)
    pixels.run.explained = settings.residual
    for pixel in range(len(pixels.image)):
        opened = pixels.is_open[pixel] and not pixels.step_open[pixel]
        pixels.readout_sum[pixel] = np.float32(0) if opened else pixels.readout_sum[pixel] * keep
    for pixel in range(len(pixels.image)):
        predict_anew(settings, pixels, pixel, pixels.image[pixel])
        look(settings, pixels, pixel, pixels.image[pixel])


@apart
def forget_all(net, state, pixels, keep):
    """Keep so much of all membranes and of the outputs; with 1 they are brought up to date."""
    for n in net.forward:
        forget(net, state, n, pixels.run.steps, keep)
    for n in net.feedback:
        if n != net.decoded:
            forget(net, state, n, pixels.run.decodes, keep)
