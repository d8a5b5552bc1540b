"""What a run shows step by step: the facts that pictures are made of."""

from dataclasses import dataclass

import numpy as np
import torch

from self_models.counting.spikes import by_part, part_of
from self_models.running.outputs import open_share_by_step

SILENT, DARK, BRIGHT, PREDICTED, BLOCKED, WAITS = range(6)  # state of a pixel's input neurons in a step
STATES = (
    "value 0, never spikes",
    "open: predicted too dark",
    "open: predicted too bright",
    "predicted now: blocked from the next step on",
    "blocked: was predicted",
    "open, too dim for the present gain: waits",
)


@dataclass(frozen=True)
class Film:
    """A run of B images over T steps, as numpy arrays.

    images (B, H, W[, 3]) and guesses (T, B, H, W[, 3]), in [0, 1]: the input, and what each step predicts of it. seen: as
    guesses, what the input neurons see from a gate that changes the image, else None. states (T, B, H, W): SILENT, … as in
    STATES, the state in a step and the prediction that it makes. blocked (T, B): share of active pixels blocked in a step.
    errors (T, B): squared error of a guess, summed over the image's pixels. answers (T, B): the class that the network would
    answer after each step, -1 where no output is ahead; sureness (T, B): softmax of its outputs so far, for that class. spikes:
    layer name -> spikes so far (T, B). outputs (T, B, classes): summed so far. steps (B,): how many each image took; later ones
    repeat the last. labels (B,), -1 where nobody knows them; index (B,): positions in the data set; names: of the classes;
    titles: of the images; epsilon: 0 where nothing is blocked.
    """

    images: np.ndarray
    guesses: np.ndarray
    seen: np.ndarray | None
    states: np.ndarray
    blocked: np.ndarray
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

    def spikes_by_part(self):
        """input, encoder, decoder, classifier, total -> spikes so far (T, B)."""
        none = np.zeros(self.answers.shape)  # of a part without spiking layers
        return {part: none + count for part, count in by_part(self.spikes).items()}


def film_of(model, batch, output, names, titles):
    """The Film of an SNN with feedback that has run on a Batch and gave this SNNOutput, with its frames; names: of the classes;
    titles: of the images."""
    images, unknown = batch.images, torch.full((len(batch.images),), -1)
    guesses = model.readout.guess(output.predictions)
    is_open = torch.ones_like(guesses, dtype=torch.bool) if output.is_open is None else output.is_open
    predicted = torch.zeros_like(is_open) if output.predicted is None else output.predicted
    residual = getattr(model.gate, "residual", False)  # then a pixel of value 0 sends its error, too
    share, see = open_share_by_step(output, images), getattr(model.gate, "seen", None)
    judged = [model.gate.judged_by(images, where) for where in is_open]
    aims, attended = (
        torch.stack([aim for aim, _ in judged]),
        torch.stack([torch.ones_like(is_open[0]) & where for _, where in judged]),
    )
    (sureness, second), (answers, _) = (each.unbind(-1) for each in output.logits_by_step.softmax(-1).topk(2))
    return Film(
        images=shown(images),
        guesses=shown(guesses),
        seen=np.stack([shown(see(images, where)) for where in is_open]) if see else None,
        states=states_of(guesses - aims, is_open, attended, predicted, (images != 0) | residual).cpu().numpy(),
        blocked=np.zeros(answers.shape) if share is None else 1 - share.cpu().numpy(),
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
        epsilon=getattr(model.gate, "epsilon", 0.0),
    )


def states_of(miss, is_open, attended, predicted, sends):
    """The state of each pixel, (T, B, H, W), from what its channels' predictions miss by, whether these are open, compared at
    all, and predicted, (T, B, C, H, W), and whether they ever send something, (B, C, H, W). Too dark or too bright: what the
    open channels that are not predicted miss in sum."""
    miss = (miss * (is_open & ~predicted)).sum(2)
    open_states = torch.where(miss < 0, DARK, torch.where(miss > 0, BRIGHT, PREDICTED))
    open_states = torch.where((is_open & attended).any(2), open_states, WAITS)
    states = torch.where(is_open.any(2), open_states, BLOCKED)
    return torch.where(sends.any(1), states, SILENT)


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
