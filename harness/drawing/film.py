"""What a run shows of each image, step by step: the facts that pictures are made of."""

from collections import Counter
from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np
import torch
from scipy.special import softmax

from self_models.basics.images import has_colour
from self_models.basics.settings import settings_in
from self_models.objectives.gates import GATES
from self_models.running.outputs import PARTS, by_step, open_share_by_step, part_of
from self_models.running.steps import prediction_targets

SILENT, DARK, BRIGHT, PREDICTED, BLOCKED, WAITS = range(6)  # of a pixel's input neurons in a step
STATES = (
    "value 0: never spikes",
    "open: predicted too dark",
    "open: predicted too bright",
    "predicted now: blocked next",
    "blocked: was predicted",
    "open, too dim for the present gain: waits",
)
OF_OWN_GATE = {PREDICTED: "open: predicted", BLOCKED: "blocked by the gate", WAITS: "open: waits"}  # what others do nobody knows

BY_STEP = ("predictions", "states", "spikes", "outputs", "blocked", "errors", "seen", "inputs", "shown_labels")  # (T, B, ...)


@dataclass(frozen=True)
class Film:
    """A run of B images over T steps, as numpy arrays, those of BY_STEP (T, B, ...); later steps of an image that has stopped
    repeat its last. Pixels are 0 to 255, (..., H, W) or in colour (..., H, W, 3)."""

    images: np.ndarray  # of a recording each pixel's most
    predictions: np.ndarray  # what each step predicts of the input
    states: np.ndarray  # as in STATES: the state in a step and the prediction that it makes, (T, B, H, W)
    spikes: np.ndarray  # so far, (T, B, L)
    layers: np.ndarray  # (L,), in words
    outputs: np.ndarray  # summed so far, (T, B, K)
    names: np.ndarray  # of the classes (K,)
    titles: np.ndarray  # of the images
    labels: np.ndarray  # -1 where nobody knows them
    stopped: np.ndarray  # steps that each image took
    blocked: np.ndarray  # share of active values blocked in a step
    errors: np.ndarray  # squared error of a prediction on the image's scale, summed over its pixels
    seen: np.ndarray | None = None  # by the input neurons, from a gate that changes the image
    inputs: np.ndarray | None = None  # the image at each step, where it changes
    shown_labels: np.ndarray | None = None  # its label at each step, of a stream
    heading: str = ""  # what all of it is called, a stream
    epsilon: float = 0.0  # of the gate, 0 where nothing is blocked
    own_gate: str = ""  # as own_gate_in_words says
    every: int = 1  # only each step of this many is in the Film
    baseline: dict | None = None  # layer -> spikes so far of the network without a decoder, mean of the images (T,)

    def arrays(self):
        """name -> array of those that are there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    @property
    def setting(self):
        """What decides what is blocked, in few words."""
        return self.own_gate or f"ε = {self.epsilon:g}"

    @property
    def key(self):
        """(state, words) of the states that a key explains: those of blocking, others only where they are there."""
        words = dict(enumerate(STATES)) | (OF_OWN_GATE if self.own_gate else {})
        return [(state, words[state]) for state in sorted({*np.unique(self.states).tolist(), *range(DARK, WAITS)})]

    @property
    def colour(self):
        return self.images.ndim == 4

    @cached_property
    def sure(self):
        """How sure the network is of each class after each step, (T, B, K): the softmax of its outputs so far."""
        return softmax(self.outputs, -1)

    @cached_property
    def answers(self):
        """The class that it would answer after each step, (T, B), as answers_of says."""
        return answers_of(self.sure)

    def label(self, t, number):
        """The label of what is shown of an image in step t, from 0: -1 where nobody knows it."""
        return (self.labels if self.shown_labels is None else self.shown_labels[t])[number]

    def titles_at(self, t):
        """What to call the images in step t, from 0."""
        if self.shown_labels is None or (self.shown_labels < 0).all():
            return self.titles
        return [f"label: {self.names[label]}" if label >= 0 else "no label" for label in self.shown_labels[t]]

    def spikes_by_part(self):
        """input, encoder, decoder, classifier, total -> spikes so far (T, B)."""
        of = np.array([layer.split(",")[0] for layer in self.layers])
        return {part: self.spikes[..., of == part].sum(-1) for part in PARTS.values()} | {"total": self.spikes.sum(-1)}


def answers_of(sure):
    """The class that it would answer, (...): -1 where none is ahead of all others."""
    is_ahead = (sure == sure.max(-1, keepdims=True)).sum(-1) == 1
    return np.where(is_ahead, sure.argmax(-1), -1)


def film_of(model, batch, output, names, titles):
    """The Film of an SNN that predicts, has run on a Batch and gave this SNNOutput, with its frames; names: of the classes;
    titles: of the images. Floats of no more than a step beside the output."""
    images, gate, steps = still(batch.images), model.gate, len(output.predictions)
    see, everywhere = getattr(gate, "seen", None), torch.ones_like(images, dtype=torch.bool)
    shown_at = by_step(batch.images, output.steps).expand(steps, *images.shape)
    is_open = [everywhere] * steps if output.is_open is None else output.is_open
    predicted = [~everywhere] * steps if output.predicted is None else output.predicted
    targets = prediction_targets(model, batch.images, output.steps).expand(steps, *images.shape)

    def each(of, *beside):
        """What it makes of the prediction of each step, on the pixels' scale, and of what is beside it in that step."""
        pairs = zip(map(model.on_pixel_scale, output.predictions), *beside, strict=True)
        return np.stack([of(*pair).cpu().numpy() for pair in pairs])

    share = open_share_by_step(output, batch.images)
    return Film(
        images=as_pixels(images).cpu().numpy(),
        predictions=each(as_pixels),
        states=each(partial(state_of_blocking, gate), shown_at, is_open, predicted),
        spikes=torch.stack([*output.spikes_by_step.values()], -1).cumsum(0).int().cpu().numpy(),
        layers=np.array(in_words(output.spikes_by_step)),
        outputs=output.logits_by_step.float().cpu().numpy(),
        names=np.array(names),
        titles=np.array(titles),
        labels=(torch.full_like(batch.index, -1) if batch.labels is None else batch.labels).cpu().numpy(),
        stopped=output.steps.cpu().numpy(),
        blocked=np.zeros((steps, len(images))) if share is None else 1 - share.cpu().numpy(),
        errors=each(lambda prediction, target: (prediction - target).square().sum((1, 2, 3)), targets),
        seen=np.stack([as_pixels(see(images, where)).cpu().numpy() for where in is_open]) if see else None,
        inputs=None if images is batch.images else as_pixels(shown_at).cpu().numpy(),
        epsilon=getattr(gate, "epsilon", 0.0),
        own_gate=own_gate_in_words(gate),
    )


def own_gate_in_words(gate):
    """'gate NAME, SETTING VALUE' of a gate of somebody's own, with the settings that it declares itself: of others, epsilon among
    them, only it knows what they do. '' of a gate that came with the program."""
    came = next(cls for cls in type(gate).__mro__ if cls.__module__.startswith("self_models."))
    if came is type(gate):
        return ""
    name = next((name for name, cls in GATES.items() if cls is type(gate)), type(gate).__name__)
    values = {own: getattr(gate, own) for own in settings_in(type(gate)) if own not in settings_in(came)}
    words = (f"{own} {f'{value:g}' if isinstance(value, float) else value}" for own, value in values.items())
    return ", ".join([f"gate {name}", *words])


def state_of_blocking(gate, prediction, images, is_open, predicted):
    """The state of each pixel in a step, (B, H, W), from whether its channels are open, and predicted, (B, C, H, W). Too dark or
    too bright: what the open channels that are not predicted miss in sum."""
    targets, attended = gate.judged_by(images, is_open)
    sends = (images != 0) | getattr(gate, "residual", False)  # then a pixel of value 0 sends its error, too
    miss = ((prediction - targets) * (is_open & ~predicted)).sum(1)
    open_states = torch.where(miss < 0, DARK, torch.where(miss > 0, BRIGHT, PREDICTED))
    open_states = torch.where((is_open & attended).any(1), open_states, WAITS)
    return torch.where(sends.any(1), torch.where(is_open.any(1), open_states, BLOCKED), SILENT).byte()


def still(images):
    """Images as they are; of recordings (B, T, C, H, W) one (B, C, H, W) in which each pixel is what it was at most."""
    return images.amax(1) if images.dim() > 4 else images


def pixel_range(colour):
    """How far a pixel's values lie apart on the model's scale."""
    return 2.0 if colour else 1.0


def in_words(layers):
    """What to call layers, in their order, for a reader: 'input', 'encoder, layer 2', 'classifier, hidden layer 1'."""
    numbers, words = Counter(), []
    for part in map(part_of, layers):
        numbers[part] += 1
        kind = "hidden layer" if part == "classifier" else "layer"
        words.append(part if part == "input" else f"{part}, {kind} {numbers[part]}")
    return words


def as_pixels(images):
    """(..., C, H, W) on the model's scale -> (..., H, W) or (..., H, W, 3), 0 to 255; events on are orange, off blue."""
    channels = images.shape[-3]
    if channels == 2:
        off, on = images.unbind(-3)
        images = torch.stack([on, (on + off) / 2, off], -3)
    images = (255 * ((images + 1) / 2 if has_colour(channels) else images).clamp(0, 1)).round().byte()
    return images[..., 0, :, :] if channels == 1 else images.movedim(-3, -1)
