"""What training minimises: the terms of the losses in ann_wFeedback.py and snn_wFeedback.py."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from harness import UserError
from self_models.basics.settings import NOT_NEGATIVE, Registry, setting, settings_in
from self_models.runtime.outputs import ANNOutput, SNNOutput, errors_by_step
from self_models.vgg_wFeedback import in_precision

LOSSES = Registry("loss")
STEP_WEIGHTS = ("last_t", "linear_over_t", "mean_t")  # kinds that are flags


@dataclass
class Loss:
    """A term of one's own, of the SNN's loss. Registered as NAME it has a flag --NAME_weight, and one for each other setting;
    its value, before the weight, is NAME_loss in epoch lines and records.

    value(output, images, labels): a scalar, the mean over the batch of an SNNOutput for images (B, C, H, W), or recordings
    (B, T, C, H, W), with labels (B,). needs_frames: it looks at predictions, errors, predicted or is_open, (T, B, C, H, W), which
    are kept for it alone; then the network must have a decoder."""

    weight: float = setting(0.0, NOT_NEGATIVE, "weight; 0 = off")
    needs_frames = False


LOSSES.base = Loss


def loss_settings():
    """NAME_SETTING -> Setting of all losses that are registered."""
    return {
        f"{name}_{own}": replace(
            known, help=f"{loss.__name__}: {known.help}", group="training", training=True
        )
        for name, loss in LOSSES.items()
        for own, known in settings_in(loss).items()
    }


def own_losses(args, model):
    """NAME_loss -> Loss of those that weigh something in training. Raises UserError where one lacks a decoder."""
    losses = {}
    for name, cls in LOSSES.items():
        loss = cls(**{own: getattr(args, f"{name}_{own}") for own in settings_in(cls)})
        if loss.weight and not args.test_only:
            losses[f"{name}_loss"] = loss
            if loss.needs_frames and not model.has_feedback:
                raise UserError(
                    f"--{name}_weight needs predictions, and {args.architecture} has no decoder; leave it out"
                )
    return losses


def step_weights(kind, timesteps, device=None):
    """Weight of each step's error (T,): last_t (only the last), linear_over_t (t/T/T, t = 1..T), mean_t (1/T) or sum (1)."""
    t = torch.arange(1, timesteps + 1, device=device)
    if kind == "last_t":
        return (t == timesteps).float()
    if kind == "linear_over_t":
        return t / timesteps**2
    return torch.full((timesteps,), 1 / timesteps if kind == "mean_t" else 1.0, device=device)


class Teacher(NamedTuple):
    """A trained ANN to learn from. weight: how much it counts, 0 to 1; precision: of its matrix products."""

    model: object
    weight: float
    temperature: float
    precision: str = "float32"

    @torch.no_grad()
    def logits(self, images):
        with in_precision(self.precision, images.device):
            return self.model(images).logits


def classification_loss(
    output: ANNOutput | SNNOutput,
    images: torch.Tensor,
    labels: torch.Tensor,
    kind: str = "last_t",
    smoothing: float = 0.0,
    teacher: Teacher | None = None,
) -> torch.Tensor:
    """Return the cross-entropy with the labels, or with a teacher a mean of that and of

        tau^2 KL(teacher || student), both softened by the temperature tau

    (Hinton et al., 2015, arXiv:1503.02531).

    Parameters
    ----------
    output : ANNOutput or SNNOutput
        Of B images.
    images : Tensor of shape (B, C, H, W)
        What the teacher is shown.
    labels : Tensor of shape (B,)
    kind : str
        Which of an SNN's timesteps count how much, see ``step_weights``.
    smoothing : float, 0 to below 1
        Part of each label that is spread evenly over all classes (Szegedy et al., CVPR
        2016).
    teacher : Teacher, optional

    Returns
    -------
    Tensor
        A scalar, the mean over the images.
    """
    by_step = getattr(output, "logits_by_step", None)
    if by_step is None or kind == "last_t":
        by_step = output.logits[None]
    if teacher:
        taught = (teacher.logits(images) / teacher.temperature).log_softmax(1)
    per_step = []
    for logits in by_step:
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if teacher:
            student = (logits / teacher.temperature).log_softmax(1)
            divergence = F.kl_div(student, taught, reduction="batchmean", log_target=True)
            of_labels = (1 - teacher.weight) * loss
            loss = of_labels + teacher.weight * teacher.temperature**2 * divergence
        per_step.append(loss)
    weights = step_weights(kind, len(by_step), labels.device)
    return weights @ torch.stack(per_step) / weights.sum()


def reconstruction_loss(output: ANNOutput | SNNOutput, kind: str) -> torch.Tensor | None:
    """Return the squared error of the predictions, summed over pixels and timesteps.

    Parameters
    ----------
    output : ANNOutput or SNNOutput
    kind : str
        Which timesteps count how much, see ``step_weights``.

    Returns
    -------
    Tensor or None
        A scalar, the mean over the images; None without a decoder.
    """
    errors = errors_by_step(output)
    if errors is None:
        return None
    return step_weights(kind, len(errors), errors.device) @ errors.mean(1)
