"""What a run shows of each image, step by step: the facts that pictures and the player of the report's page are made of."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch

from harness.runs.checkpoints import write_whole
from self_models.basics.images import has_colour
from self_models.counting.spikes import PARTS, part_of
from self_models.objectives.once import Once, on_grid
from self_models.running.outputs import by_step, open_share_by_step
from self_models.running.turning import aims

SILENT, DARK, BRIGHT, PREDICTED, BLOCKED, WAITS, SENDS, SENT, HELD, LATER = range(10)  # of a pixel's input neurons in a step
STATES = (
    "value 0: never spikes, whatever is predicted",
    "open: predicted too dark",
    "open: predicted too bright",
    "predicted now: blocked from the next step on",
    "blocked: was predicted",
    "open, too dim for the present gain: waits",
    "sends now: first grid, or guessed wrong",
    "sent before, and held",
    "guessed right and held, never sent",
    "its turn is to come",
)
SHAPES = {  # array of a Film -> its axes: T steps, B images, H and W pixels, L layers, K classes; and what its values are
    "images": ("BHW", np.uint8), "guesses": ("TBHW", np.uint8), "states": ("TBHW", np.uint8), "spikes": ("TBL", np.integer),
    "layers": ("L", np.str_), "outputs": ("TBK", np.floating), "names": ("K", np.str_), "titles": ("B", np.str_),
    "labels": ("B", np.integer), "index": ("B", np.integer), "stopped": ("B", np.integer), "misses": ("TBHW", np.uint8),
    "seen": ("TBHW", np.uint8), "blocked": ("TB", np.floating), "errors": ("TB", np.floating), "inputs": ("TBHW", np.uint8),
}  # fmt: skip


@dataclass(frozen=True)
class Film:
    """A run of B images over T steps, as numpy arrays; later steps of an image that has stopped repeat its last.

    images (B, H, W[, 3]) and guesses (T, B, H, W[, 3]): the input, and what each step predicts of it, 0 to 255. states (T, B, H,
    W): SILENT, … as in STATES, the state in a step and the prediction that it makes. spikes (T, B, L): so far, of the layers
    named in layers (L,). outputs (T, B, K): summed so far, of the classes named in names (K,). titles (B,): of the images; labels
    (B,), -1 where nobody knows them; index (B,): positions in the data set; stopped (B,): steps that each image took. epsilon: of
    the gate, 0 where nothing is blocked. misses (T, B, H, W): from a gate of which each pixel sends once, absolute error of a
    guess, the largest of the channels, 255 being a pixel's range. seen: as guesses, what the input neurons see, from a gate that
    changes the image. blocked (T, B): share of active values blocked in a step; errors (T, B): squared error of a guess on the
    image's scale, summed over its pixels: both None in a file of an earlier version. inputs: as guesses, the image at each step,
    where it changes; of a recording images have each pixel's most. every: only each step of this many is in the Film. Raises
    ValueError where these do not fit.
    """

    images: np.ndarray
    guesses: np.ndarray
    states: np.ndarray
    spikes: np.ndarray
    layers: np.ndarray
    outputs: np.ndarray
    names: np.ndarray
    titles: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    stopped: np.ndarray
    epsilon: float
    misses: np.ndarray | None = None
    seen: np.ndarray | None = None
    blocked: np.ndarray | None = None
    errors: np.ndarray | None = None
    inputs: np.ndarray | None = None
    every: int = 1

    def __post_init__(self):
        sizes, colours = {}, self.images.shape[3:]
        for name, (axes, kind) in self._arrays():
            array = getattr(self, name)
            sizes = dict(zip(axes, array.shape, strict=False)) | sizes
            shape = tuple(sizes.get(axis) for axis in axes) + colours * (name in ("images", "guesses", "seen", "inputs"))
            if array.shape != shape or not array.size or not np.issubdtype(array.dtype, kind) or colours not in ((), (3,)):
                raise ValueError(f"{name} do not fit the images")
        for name, low, high in (("states", 0, len(STATES) - 1), ("labels", -1, sizes["K"] - 1), ("stopped", 1, sizes["T"])):
            if getattr(self, name).min() < low or getattr(self, name).max() > high:
                raise ValueError(f"{name} are not {low} to {high}")
        if not np.isfinite(self.outputs).all() or not 0 <= self.epsilon < np.inf:
            raise ValueError("outputs or epsilon are no numbers")

    def _arrays(self):
        """(name, (axes, kind)) of the arrays that are there."""
        return [(name, shape) for name, shape in SHAPES.items() if getattr(self, name) is not None]

    @property
    def once(self):
        """Whether the gate is one of which each pixel sends once."""
        return self.misses is not None

    @property
    def colour(self):
        return self.images.ndim == 4

    @property
    def tolerance(self):
        """epsilon, 1 being a pixel's range."""
        return self.epsilon / pixel_range(self.colour)

    @property
    def largest_miss(self):
        """Where the colour scale of misses ends, 1 being a pixel's range: at most 0.5 % of them are beyond."""
        return max(float(np.quantile(self.misses, 0.995)) / 255, 2 * self.tolerance, 0.01)

    @property
    def sent(self):
        """The pixels sent so far as the network knows them, on a checkerboard, as guesses."""
        board = np.array(self.board, np.uint8)[(np.indices(self.images.shape[1:3]) // self.square).sum(0) % 2]
        where, each = np.isin(self.states, (SENDS, SENT)), (..., *[None] * self.colour)
        return np.where(where[each], self.guesses, board[each])

    @property
    def board(self):
        """The two greys of a checkerboard, apart from what is common in such images: black and white in grey ones."""
        return (255, 224) if self.colour else (178, 153)

    @property
    def square(self):
        """Pixels along a side of the checkerboard's squares."""
        return max(4, max(self.images.shape[1:3]) // 7)

    @property
    def values(self):
        """How many an image has, C * H * W."""
        return self.images[0].size

    @property
    def sent_share(self):
        """Values sent so far, of all values of an image (T, B)."""
        return self.spikes[..., 0] / self.values

    @property
    def mean_errors(self):
        """Root of the mean squared error of a guess (T, B), 1 being a pixel's range."""
        return np.sqrt(self.errors / self.values) / pixel_range(self.colour)

    @cached_property
    def sure(self):
        """How sure the network is of each class after each step, (T, B, K): the softmax of its outputs so far."""
        return sureness(self.outputs)

    @cached_property
    def answers(self):
        """The class that it would answer after each step, (T, B), as answers_of says."""
        return answers_of(self.sure)

    def spikes_by_part(self):
        """input, encoder, decoder, classifier, total -> spikes so far (T, B)."""
        of = np.array([layer.split(",")[0] for layer in self.layers])
        return {part: self.spikes[..., of == part].sum(-1) for part in PARTS.values()} | {"total": self.spikes.sum(-1)}

    def first(self, count):
        """The Film of the first images."""
        per_image = [(name, axes.index("B")) for name, (axes, _) in self._arrays() if "B" in axes]
        return replace(self, **{name: getattr(self, name)[(slice(None),) * axis + (slice(count),)] for name, axis in per_image})


def sureness(outputs):
    """How sure a network is of each class, (..., K): the softmax of its outputs."""
    raised = np.exp(outputs - outputs.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def answers_of(sure):
    """The class that it would answer, (...): -1 where none is ahead of all others."""
    is_ahead = (sure == sure.max(-1, keepdims=True)).sum(-1) == 1
    return np.where(is_ahead, sure.argmax(-1), -1)


def save_film(path, film):
    """Write it, compressed."""
    arrays = {name: value for name, value in vars(film).items() if name in (*SHAPES, "epsilon") and value is not None}
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def load_film(path):
    """The Film in a file. Raises ValueError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = dict(saved)
        return Film(**arrays | {"epsilon": float(arrays["epsilon"])})
    except Exception as error:  # numpy and zipfile raise all kinds for a byte that is another
        raise ValueError(str(error)) from None


def film_of(model, batch, output, names, titles):
    """The Film of an SNN that predicts, has run on a Batch and gave this SNNOutput, with its frames; names: of the classes;
    titles: of the images. Floats of no more than a step beside the output."""
    images, gate, steps = still(batch.images), model.gate, len(output.predictions)
    once, see, everywhere = isinstance(gate, Once), getattr(gate, "seen", None), torch.ones_like(images, dtype=torch.bool)
    span = pixel_range(has_colour(images.shape[1]))
    seen = by_step(batch.images, output.steps).expand(steps, *images.shape)
    is_open = [everywhere] * steps if output.is_open is None else output.is_open
    predicted = [~everywhere] * steps if output.predicted is None else output.predicted

    def each(of, *beside):
        """What it makes of the guess of each step, and of images beside it, of that step or of all."""
        pairs = zip(output.predictions, *(values.expand(steps, *images.shape) for values in beside), strict=True)
        return np.stack([of(model.guess(prediction), *more).cpu().numpy() for prediction, *more in pairs])

    if once:
        states, share = states_of_once(gate, images, output.steps, is_open), None
    else:
        guesses = map(model.guess, output.predictions)
        states = map(partial(state_of_blocking, gate), seen, guesses, is_open, predicted)
        share = open_share_by_step(output, batch.images)
    return Film(
        images=shown(images).cpu().numpy(),
        guesses=each(shown),
        states=np.stack([state.byte().cpu().numpy() for state in states]),
        spikes=torch.stack([*output.spikes_by_step.values()], -1).cumsum(0).int().cpu().numpy(),
        layers=np.array(in_words(output.spikes_by_step)),
        outputs=output.logits_by_step.float().cpu().numpy(),
        names=np.array(names),
        titles=np.array(titles),
        labels=(torch.full_like(batch.index, -1) if batch.labels is None else batch.labels).cpu().numpy(),
        index=batch.index.cpu().numpy(),
        stopped=output.steps.cpu().numpy(),
        epsilon=getattr(gate, "epsilon", 0.0),
        misses=each(lambda guess: as_bytes((guess - images).abs().amax(1) / span)) if once else None,
        seen=np.stack([shown(see(images, where)).cpu().numpy() for where in is_open]) if see else None,
        blocked=np.zeros((steps, len(images))) if share is None else 1 - share.cpu().numpy(),
        errors=each(lambda guess, aim: (guess - aim).square().sum((1, 2, 3)), aims(model, batch.images, output.steps)),
        inputs=None if images is batch.images else shown(seen).cpu().numpy(),
    )


def state_of_blocking(gate, images, guesses, is_open, predicted):
    """The state of each pixel in a step, (B, H, W), from whether its channels are open, and predicted, (B, C, H, W). Too dark or
    too bright: what the open channels that are not predicted miss in sum."""
    aims, attended = gate.judged_by(images, is_open)
    sends = (images != 0) | getattr(gate, "residual", False)  # then a pixel of value 0 sends its error, too
    miss = ((guesses - aims) * (is_open & ~predicted)).sum(1)
    open_states = torch.where(miss < 0, DARK, torch.where(miss > 0, BRIGHT, PREDICTED))
    open_states = torch.where((is_open & attended).any(1), open_states, WAITS)
    return torch.where(sends.any(1), torch.where(is_open.any(1), open_states, BLOCKED), SILENT)


def states_of_once(gate, images, steps, is_open):
    """The state of each pixel in each step, (B, H, W), of images that took so many steps (B,), from whether its channels may
    still send, T of (B, C, H, W): what any channel does, sending before having sent before having been guessed."""
    had_turn = on_grid(images, gate.grid_at(0))
    sent = is_open[0] & had_turn
    silent = (sent & (images == 0)).all(1)
    for t, may_send in enumerate(is_open):
        had_turn = torch.where((t < steps)[:, None, None, None], on_grid(images, gate.grid_at(t)), had_turn)
        sends = may_send & had_turn
        sent = sent | sends
        states = torch.where(sent.any(1), SENT, torch.where(had_turn.any(1), HELD, LATER))
        yield torch.where(silent, SILENT, torch.where(sends.any(1), SENDS, states))


def keyed(states):
    """The states that a key explains beside these (T, B, H, W): those of their gate, others only where they are there. In colour
    hardly a pixel is SILENT: 0 is a mid grey, which bytes do not hold."""
    there, once = set(np.unique(states).tolist()), set(range(SENDS, len(STATES)))
    return sorted(there | (once if there & once else set(range(DARK, WAITS))))


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


def shown(images):
    """(..., C, H, W) on the model's scale -> (..., H, W) or (..., H, W, 3), 0 to 255; events on are orange, off blue."""
    channels = images.shape[-3]
    if channels == 2:
        off, on = images.unbind(-3)
        images = torch.stack([on, (on + off) / 2, off], -3)
    images = as_bytes((images + 1) / 2 if has_colour(channels) else images)
    return images[..., 0, :, :] if channels == 1 else images.movedim(-3, -1)


def as_bytes(values):
    """0 to 1, what is beyond being cut off -> 0 to 255."""
    return (255 * values.clamp(0, 1)).round().byte()
