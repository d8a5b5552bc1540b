"""What a run shows step by step: the facts that pictures are made of."""

from dataclasses import dataclass

import numpy as np
import torch

from self_models.counting.spikes import by_part, part_of
from self_models.objectives.once import Once, on_grid
from self_models.running.outputs import open_share_by_step

SILENT, DARK, BRIGHT, PREDICTED, BLOCKED, WAITS, SENDS, SENT, HELD, LATER = range(10)  # of a pixel's input neurons in a step
STATES = (
    "value 0, never spikes",
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


@dataclass(frozen=True)
class Film:
    """A run of B images over T steps, as numpy arrays.

    images (B, H, W[, 3]) and guesses (T, B, H, W[, 3]), in [0, 1]: the input, and what each step predicts of it. seen: as
    guesses, what the input neurons see from a gate that changes the image, else None. once: whether the gate is one of which
    each pixel sends once. states (T, B, H, W): SILENT, … as in STATES, the state in a step and the prediction that it makes.
    blocked (T, B): share of active pixels blocked in a step. misses (T, B, H, W): absolute error of a guess, the largest of the
    channels, 1 being a pixel's range. errors (T, B): squared error of a guess on the image's scale, summed over the image's
    pixels. answers (T, B): the class that the network would answer after each step, -1 where no output is ahead; sureness (T,
    B): softmax of its outputs so far, for that class. spikes: layer name -> spikes so far (T, B). outputs (T, B, classes): summed
    so far. steps (B,): how many each image took; later ones repeat the last. labels (B,), -1 where nobody knows them; index (B,):
    positions in the data set; names: of the classes; titles: of the images; epsilon: 0 where nothing is blocked.
    """

    images: np.ndarray
    guesses: np.ndarray
    seen: np.ndarray | None
    once: bool
    states: np.ndarray
    blocked: np.ndarray
    misses: np.ndarray
    errors: np.ndarray
    answers: np.ndarray
    sureness: np.ndarray
    spikes: dict
    outputs: np.ndarray
    steps: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    names: list
    titles: list
    epsilon: float

    @property
    def tolerance(self):
        """epsilon, 1 being a pixel's range."""
        return self.epsilon / pixel_range(self.images.ndim == 4)

    @property
    def sent(self):
        """The pixels sent so far as the network knows them, on a checkerboard, as guesses."""
        where, (down, right) = (self.states == SENDS) | (self.states == SENT), np.indices(self.images.shape[1:3]) // 4
        colour = self.images.ndim == 4
        board = np.array(board_tones(colour))[(down + right) % 2]
        if colour:
            where, board = where[..., None], board[..., None]
        return np.where(where, self.guesses, board)

    @property
    def sent_share(self):
        """Values sent so far, of all values of an image (T, B)."""
        return self.spikes["input"] / self.images[0].size

    @property
    def mean_errors(self):
        """Root of the mean squared error of a guess (T, B), 1 being a pixel's range."""
        return np.sqrt(self.errors / self.images[0].size) / pixel_range(self.images.ndim == 4)

    def spikes_by_part(self):
        """input, encoder, decoder, classifier, total -> spikes so far (T, B)."""
        none = np.zeros(self.answers.shape)  # of a part without spiking layers
        return {part: none + count for part, count in by_part(self.spikes).items()}


def film_of(model, batch, output, names, titles):
    """The Film of an SNN that predicts, has run on a Batch and gave this SNNOutput, with its frames; names: of the classes;
    titles: of the images."""
    images, gate, unknown = batch.images, model.gate, torch.full((len(batch.images),), -1)
    guesses = model.guess(output.predictions)
    is_open = torch.ones_like(guesses, dtype=torch.bool) if output.is_open is None else output.is_open
    predicted = torch.zeros_like(is_open) if output.predicted is None else output.predicted
    see, once = getattr(gate, "seen", None), isinstance(gate, Once)
    if once:
        states, share = states_of_once(is_open, had_turn(gate, images, output.steps), images), None
    else:
        states, share = states_of_blocking(gate, images, guesses, is_open, predicted), open_share_by_step(output, images)
    (sureness, second), (answers, _) = (each.unbind(-1) for each in output.logits_by_step.softmax(-1).topk(2))
    return Film(
        images=shown(images),
        guesses=shown(guesses),
        seen=np.stack([shown(see(images, where)) for where in is_open]) if see else None,
        once=once,
        states=states.cpu().numpy(),
        blocked=np.zeros(answers.shape) if share is None else 1 - share.cpu().numpy(),
        misses=(guesses - images).abs().amax(2).cpu().numpy() / pixel_range(images.shape[1] > 1),
        errors=(guesses - images).square().sum((2, 3, 4)).cpu().numpy(),
        answers=answers.where(sureness > second, -1).cpu().numpy(),
        sureness=sureness.cpu().numpy(),
        spikes={name: count.cumsum(0).cpu().numpy() for name, count in output.spikes_by_step.items()},
        outputs=output.logits_by_step.float().cpu().numpy(),
        steps=output.steps.cpu().numpy(),
        labels=(unknown if batch.labels is None else batch.labels).cpu().numpy(),
        index=batch.index.cpu().numpy(),
        names=names,
        titles=titles,
        epsilon=getattr(gate, "epsilon", 0.0),
    )


def states_of_blocking(gate, images, guesses, is_open, predicted):
    """The state of each pixel, (T, B, H, W), from whether its channels are open, and predicted, (T, B, C, H, W). Too dark or too
    bright: what the open channels that are not predicted miss in sum."""
    judged = [gate.judged_by(images, where) for where in is_open]
    aims = torch.stack([aim for aim, _ in judged])
    attended = torch.stack([torch.ones_like(is_open[0]) & where for _, where in judged])
    sends = (images != 0) | getattr(gate, "residual", False)  # then a pixel of value 0 sends its error, too
    miss = ((guesses - aims) * (is_open & ~predicted)).sum(2)
    open_states = torch.where(miss < 0, DARK, torch.where(miss > 0, BRIGHT, PREDICTED))
    open_states = torch.where((is_open & attended).any(2), open_states, WAITS)
    states = torch.where(is_open.any(2), open_states, BLOCKED)
    return torch.where(sends.any(1), states, SILENT)


def states_of_once(is_open, had_turn, images):
    """The state of each pixel of images (B, C, H, W), (T, B, H, W), from whether its channels may still send, and have had their
    turn, (T, B, C, H, W): what any channel does, sending before having sent before having been guessed."""
    sends = is_open & had_turn
    states = torch.where(had_turn.any(2), HELD, LATER)
    states = torch.where((sends.cumsum(0) > 0).any(2), SENT, states)
    states = torch.where(sends.any(2), SENDS, states)
    return torch.where((sends[0] & (images == 0)).all(1), SILENT, states)


def had_turn(gate, images, steps):
    """Where each pixel has had its turn, (T, B, C, H, W), of images that took so many steps (B,); later ones repeat the last."""
    turns = torch.stack([on_grid(images, gate.grid_at(t)) for t in range(int(steps.max()))])
    last = torch.arange(len(turns), device=steps.device)[:, None].minimum(steps - 1)
    return turns[last, torch.arange(len(images), device=steps.device)]


def keyed(states):
    """The states that a key explains beside these (T, B, H, W): those of their gate, others only where they are there."""
    there, once = set(np.unique(states).tolist()), set(range(SENDS, len(STATES)))
    return sorted(there | (once if there & once else set(range(WAITS))))


def board_tones(colour):
    """The two greys of a checkerboard, apart from what is common in such images: black and white in grey ones."""
    return (1.0, 0.88) if colour else (0.7, 0.6)


def pixel_range(colour):
    """How far a pixel's values lie apart on the model's scale, where shown() makes it 1."""
    return 2.0 if colour else 1.0


def in_words(layers):
    """What to call layers, in their order, for a reader: 'input', 'encoder, layer 2', 'classifier, hidden layer 1'."""
    numbers, words = {}, []
    for part in map(part_of, layers):
        numbers[part] = numbers.get(part, 0) + 1
        kind = "hidden layer" if part == "classifier" else "layer"
        words.append(part if part == "input" else f"{part}, {kind} {numbers[part]}")
    return words


def shown(images):
    """(..., C, H, W) on the model's scale -> (..., H, W) or (..., H, W, 3) in [0, 1]."""
    colour = images.shape[-3] > 1
    images = ((images + 1) / 2 if colour else images).clamp(0, 1).cpu().numpy()
    return np.moveaxis(images, -3, -1) if colour else images[..., 0, :, :]
