"""What training minimises: the terms of the losses of the two training scripts."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from self_models.errors import UserError
from self_models.running.outputs import ANNOutput, SNNOutput, errors_by_step
from self_models.settings import NOT_NEGATIVE, Registry, Setting, setting, settings_in
from self_models.vgg_wFeedback import VGG_wFeedback, in_precision
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.arguments import Arguments

LOSSES = Registry("loss")
STEP_WEIGHTS = ("last_t", "linear_over_t", "mean_t")  # kinds that are flags


# --- losses of somebody's own


@dataclass
class Loss:
    """A term of one's own, of the SNN's loss.

    A dataclass that is derived from this one and registered as ``NAME`` has a flag
    ``--NAME_weight``, and a flag for each other setting. Its method
    ``value(output, images, labels)`` returns a scalar, the mean over a batch: of an
    SNNOutput for images (B, C, H, W), or recordings (B, T, C, H, W), with labels (B,).
    Epoch lines and records have its value before the weight as ``NAME_loss``.

    Attributes
    ----------
    weight : float
        Weight in the total loss.
    needs_frames : bool
        Whether it looks at predictions, errors, predicted or is_open, each of shape (T,
        B, C, H, W), which are kept for it alone. Then the network must have a decoder.
    """

    weight: float = setting(0.0, NOT_NEGATIVE, "weight; 0 = off")
    needs_frames = False


LOSSES.base = Loss


def loss_settings() -> dict[str, Setting]:
    """Return the settings of all losses that are registered, by name of the flag."""
    settings = {}
    for name, loss in LOSSES.items():
        for field, declared in settings_in(loss).items():
            settings[f"{name}_{field}"] = replace(
                declared,
                help=f"{loss.__name__}: {declared.help}",
                group="training",
                training=True,
            )
    return settings


def own_losses(args: Arguments, model: VGG_SNN_STDB_wFeedback) -> dict[str, Loss]:
    """Return the registered losses that weigh something in training.

    Parameters
    ----------
    args : Arguments
    model : VGG_SNN_STDB_wFeedback
        The network that is trained.

    Returns
    -------
    dict of {str: Loss}
        ``NAME_loss`` -> loss.

    Raises
    ------
    UserError
        If one needs a decoder, and the network has none.
    """
    losses = {}
    for name, loss_class in LOSSES.items():
        fields = settings_in(loss_class)
        loss = loss_class(**{field: getattr(args, f"{name}_{field}") for field in fields})
        if not loss.weight or args.test_only:
            continue
        if loss.needs_frames and not model.has_feedback:
            raise UserError(
                f"--{name}_weight needs predictions, and {args.architecture} has no decoder; "
                "leave it out"
            )
        losses[f"{name}_loss"] = loss
    return losses


# --- the losses that both scripts have


def step_weights(kind: str, timesteps: int, device: torch.device | None = None) -> torch.Tensor:
    """Return how much each timestep's error counts.

    Parameters
    ----------
    kind : {"last_t", "linear_over_t", "mean_t", "sum"}
        "last_t": only the last timestep counts; "linear_over_t": timestep t of T counts
        t / T^2; "mean_t": each counts 1 / T; "sum": each counts 1.
    timesteps : int
        Number of timesteps, T.
    device : torch.device, optional
        Where the weights are to be.

    Returns
    -------
    Tensor of shape (T,)
    """
    t = torch.arange(1, timesteps + 1, device=device)
    if kind == "last_t":
        return (t == timesteps).float()
    if kind == "linear_over_t":
        return t / timesteps**2
    weight = 1 / timesteps if kind == "mean_t" else 1.0
    return torch.full((timesteps,), weight, device=device)


class Teacher(NamedTuple):
    """A trained ANN to learn from.

    Attributes
    ----------
    model : VGG_wFeedback
        The ANN, in evaluation mode.
    weight : float, 0 to 1
        How much it counts. The labels have the rest.
    temperature : float
        Softmax temperature of its outputs, and of the student's.
    precision : str
        That of its matrix products.
    """

    model: VGG_wFeedback
    weight: float
    temperature: float
    precision: str = "float32"

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the ANN's logits (B, num_classes) for images (B, C, H, W)."""
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
    """Return the cross-entropy with the labels.

    With a teacher it is a weighted mean of that and of ``tau^2 KL(teacher ||
    student)``, where both are softened by the temperature ``tau`` (Hinton et al., 2015,
    arXiv:1503.02531).

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
    logits_by_step = getattr(output, "logits_by_step", None)
    if logits_by_step is None or kind == "last_t":
        logits_by_step = output.logits[None]
    if teacher:
        teacher_log_p = (teacher.logits(images) / teacher.temperature).log_softmax(1)
    losses = []
    for logits in logits_by_step:
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        if teacher:
            student_log_p = (logits / teacher.temperature).log_softmax(1)
            divergence = F.kl_div(
                student_log_p, teacher_log_p, reduction="batchmean", log_target=True
            )
            loss_on_labels = (1 - teacher.weight) * loss
            loss = loss_on_labels + teacher.weight * teacher.temperature**2 * divergence
        losses.append(loss)
    weights = step_weights(kind, len(logits_by_step), labels.device)
    return weights @ torch.stack(losses) / weights.sum()


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
