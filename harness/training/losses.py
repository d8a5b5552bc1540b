"""Loss terms, the same in training and evaluation, and the criterion they make up."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from self_models.counting.spikes import total_spikes
from self_models.running.outputs import errors_by_step
from self_models.vgg_wFeedback import in_precision


class Losses(NamedTuple):
    """Scalars: classification (see classification_loss), reconstruction (before trade_off; None without a
    decoder), penalty (after its weight), total."""

    classification: torch.Tensor
    reconstruction: torch.Tensor | None
    penalty: torch.Tensor
    total: torch.Tensor

    def figures(self):
        """name -> loss, of those that there are."""
        return {name: loss for name, loss in self._asdict().items() if loss is not None}


def step_weights(kind, timesteps, device=None):
    """Weight of each step's error (T,): last_t (only the last), linear_over_t (t/T/T, t = 1..T), mean_t (1/T each) or sum
    (1 each)."""
    t = torch.arange(1, timesteps + 1, device=device)
    if kind == "last_t":
        return (t == timesteps).float()
    if kind == "linear_over_t":
        return t / timesteps**2
    return torch.full((timesteps,), 1 / timesteps if kind == "mean_t" else 1.0, device=device)


STEP_WEIGHTS = ("last_t", "linear_over_t", "mean_t")  # kinds that are flags


class TeacherOutput(NamedTuple):
    """A teacher's logits for a batch (B, labels), how much they count (0 to 1), and the temperature."""

    logits: torch.Tensor
    weight: float
    temperature: float


def classification_loss(logits, labels, taught=None, smoothing=0.0):
    """Mean cross-entropy of the logits (B, labels) with the labels, of which this part is spread evenly over all classes (Szegedy
    et al., CVPR 2016); taught: (1 - w) of it + w τ² KL(teacher || student), both softened by the temperature τ (Hinton et al.,
    2015, arXiv:1503.02531)."""
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if taught is None:
        return loss
    student, teacher = ((each / taught.temperature).log_softmax(1) for each in (logits, taught.logits))
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return (1 - taught.weight) * loss + taught.weight * taught.temperature**2 * divergence


def losses_of(output, labels, trade_off, kind, spike_penalty=0.0, classification_kind="last_t", taught=None, smoothing=0.0):
    """Losses of an ANNOutput (kind 'sum') or SNNOutput; total = classification + trade_off reconstruction + penalty.

    classification: the mean of the steps' classification_loss, weighted by step_weights(classification_kind); reconstruction: the
    sum of the steps' squared errors, over pixels, mean over images, weighted by step_weights(kind). taught: a TeacherOutput, None
    for none; smoothing: of the labels."""
    by_step = getattr(output, "logits_by_step", None)
    if by_step is None or classification_kind == "last_t":
        by_step = output.logits[None]
    weights = step_weights(classification_kind, len(by_step), labels.device)
    per_step = torch.stack([classification_loss(logits, labels, taught, smoothing) for logits in by_step])
    classification = weights @ per_step / weights.sum()
    reconstruction, penalty, errors = None, torch.zeros_like(classification), errors_by_step(output)
    if spike_penalty:
        penalty = spike_penalty * total_spikes(output.spikes).mean()
    total = classification + penalty
    if errors is not None:
        reconstruction = step_weights(kind, len(errors), errors.device) @ errors.mean(1)
        total = classification + trade_off * reconstruction + penalty
    return Losses(classification, reconstruction, penalty, total)


class Teacher(NamedTuple):
    """A trained ANN to learn from; weight, temperature: see classification_loss; precision: of its matrix products."""

    model: object
    weight: float
    temperature: float
    precision: str = "float32"

    @torch.no_grad()
    def output(self, images):
        with in_precision(self.precision, images.device):
            return TeacherOutput(self.model(images).logits, self.weight, self.temperature)


@dataclass(frozen=True)
class Criterion:
    """What training minimises; see losses_of. kind: step weights of the reconstruction, 'sum' for the ANN;
    classification_kind: of the outputs; teacher: a Teacher to learn from, too; smoothing: of the labels."""

    trade_off: float
    kind: str
    spike_penalty: float = 0.0
    classification_kind: str = "last_t"
    teacher: Teacher | None = None
    smoothing: float = 0.0

    def judging(self):
        """The same for an evaluation, which judges the last output by the labels as they are."""
        return replace(self, classification_kind="last_t", smoothing=0.0)

    def __call__(self, output, labels, images=None):
        """Losses of an output; images: what the teacher looks at, in training; None: the labels count alone."""
        taught = self.teacher.output(images) if self.teacher and images is not None else None
        own = self.trade_off, self.kind, self.spike_penalty, self.classification_kind
        return losses_of(output, labels, *own, taught, self.smoothing)
