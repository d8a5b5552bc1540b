"""What training minimises: loss terms and the criterion that they make up."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from harness import UserError
from self_models.basics.settings import NOT_NEGATIVE, Registry, setting, settings_in
from self_models.runtime.outputs import errors_by_step, total_spikes
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


@dataclass(frozen=True)
class Criterion:
    """What training minimises: classification + trade_off reconstruction + penalty + the weighted losses of one's own.
    reconstruction: squared errors, summed over pixels and steps, weighted by step_weights(kind), 'sum' for the ANN."""

    trade_off: float
    kind: str
    spike_penalty: float = 0.0
    classification_kind: str = "last_t"
    teacher: Teacher | None = None
    smoothing: float = 0.0
    own: dict = field(default_factory=dict)

    needs_frames = property(lambda self: any(loss.needs_frames for loss in self.own.values()))

    def judging(self):
        """The same for an evaluation, which judges the last output by the labels as they are."""
        return replace(self, classification_kind="last_t", teacher=None, smoothing=0.0)

    def __call__(self, output, labels, images=None):
        """name -> scalar, of the terms that there are and their `total`, of an ANNOutput or SNNOutput of these images."""
        terms = {"classification": (1, self.classification(output, labels, images))}
        if (errors := errors_by_step(output)) is not None:
            terms["reconstruction"] = (
                self.trade_off,
                step_weights(self.kind, len(errors), errors.device) @ errors.mean(1),
            )
        if self.spike_penalty:
            terms["penalty"] = 1, self.spike_penalty * total_spikes(output.spikes).mean()
        for name, loss in self.own.items():
            terms[name] = loss.weight, loss.value(output, images, labels)
        total = sum(weight * value for weight, value in terms.values())
        return {name: value for name, (_, value) in terms.items()} | {"total": total}

    def classification(self, output, labels, images):
        """Mean over the steps, weighted by step_weights(classification_kind), of the cross-entropy with the labels, of which the
        part `smoothing` is spread evenly over all classes (Szegedy et al., CVPR 2016); with a Teacher (1 - w) of that + w τ²
        KL(teacher || student), both softened by the temperature τ (Hinton et al., 2015, arXiv:1503.02531)."""
        by_step, teacher, per_step = getattr(output, "logits_by_step", None), self.teacher, []
        if by_step is None or self.classification_kind == "last_t":
            by_step = output.logits[None]
        taught = teacher and (teacher.logits(images) / teacher.temperature).log_softmax(1)
        for logits in by_step:
            loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
            if teacher:
                student = (logits / teacher.temperature).log_softmax(1)
                divergence = F.kl_div(student, taught, reduction="batchmean", log_target=True)
                loss = (
                    1 - teacher.weight
                ) * loss + teacher.weight * teacher.temperature**2 * divergence
            per_step.append(loss)
        weights = step_weights(self.classification_kind, len(by_step), labels.device)
        return weights @ torch.stack(per_step) / weights.sum()
