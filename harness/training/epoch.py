"""One epoch of training."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.func import functional_call

from harness.runs import ranks
from harness.runs.health import FiniteCheck, first_not_finite, not_finite
from self_models.counting.evaluation import Average
from self_models.running.outputs import total_spikes


@dataclass
class Progress:
    """How far an epoch has come: steps taken, and the figures so far."""

    step: int = 0
    average: Average = field(default_factory=Average)

    def gather(self):
        """The average of all ranks; the first has it all from now on, the others begin at nothing."""
        whole = sum(ranks.gathered(self.average.to_cpu()), Average())
        self.average = whole if ranks.is_first() else Average()
        return whole


class Step(NamedTuple):
    """A step that has been taken, or is about to be: number of its batch, Batch, loss, FiniteCheck, and its _figures."""

    number: int
    batch: object
    loss: torch.Tensor
    check: FiniteCheck
    figures: dict


def train_one_epoch(model, batches, criterion, optimizer, schedule, seed, epoch, on_batch=None, progress=None, parallel=None):
    """Mean figures over an epoch, see _figures. batches: Batches; schedule: stepped after each of them.

    on_batch: called after each step with (number of the batch, Average so far). progress: a Progress to go on from; the batches
    begin where it stands. parallel: the model as one of several ranks. Raises UserError, with the layer where that begins, and
    weights as before the step, where the loss or a gradient is not finite.

    On a GPU a step is looked at, counted, and handed to on_batch one step later, before the next one changes the weights: the
    host runs ahead, and what on_batch sees and saves is the same.
    """
    model.train()
    progress, parallel = progress or Progress(), parallel or model
    late, waiting = looks_later(model, optimizer), None

    def look(step):
        if ranks.largest(step.check.failed()):
            where = first_not_finite(model, lambda: forward(model, step.batch, criterion, seed, epoch)[1]["total"])
            fault = "a gradient is not finite" if step.loss.isfinite() else f"the loss is {step.loss.item()}"
            raise not_finite(f"{fault} at epoch {epoch}, update {step.number}: first not finite: {where}")

    def count(step):
        progress.step = step.number
        progress.average.add(len(step.batch.labels), **step.figures)
        if on_batch:
            on_batch(step.number, progress.average)

    for number, batch in enumerate(batches, progress.step + 1):
        output, losses, moved = forward(parallel, batch, criterion, seed, epoch)
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        loss = losses["total"].detach()
        step = Step(number, batch, loss, FiniteCheck(loss, model), _figures(output, losses, batch))
        if late:
            if waiting:
                look(waiting)
                count(waiting)
            waiting, optimizer.found_inf = step, step.check.flag
        else:
            look(step)
        optimizer.step()
        schedule.step()
        for buffer, value in zip(model.buffers(), moved, strict=True):
            buffer.copy_(torch.where(step.check.flag > 0, buffer, value))
        model.clamp_dynamics()
        if not late:
            count(step)
    if waiting:
        look(waiting)
        count(waiting)
    return progress.gather().means()


def forward(model, batch, criterion, seed, epoch):
    """(output, losses, what the model's buffers, say a normalisation's statistics, move to once the step is taken)"""
    moved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    output = batch.run(lambda *images, **more: functional_call(model, moved, images, more), seed, epoch, criterion.needs_frames)
    return output, criterion(output, batch.labels, batch.images), moved.values()


def looks_later(model, optimizer):
    """Whether a step's finite check is looked at one step later: on a GPU, with an optimiser whose step the check can stop."""
    return next(model.parameters()).is_cuda and bool(optimizer.defaults.get("fused"))


def _figures(output, losses, batch):
    """Means over a batch: accuracy, losses and, of an SNN, spikes, and `spikes_by_layer`, each layer's (layers,)."""
    figures = {"accuracy": (output.logits.argmax(1) == batch.labels).float().mean(), **losses}
    if hasattr(output, "spikes"):
        by_layer = torch.stack([*output.spikes.values()]).mean(1)
        figures |= {"spikes": total_spikes(output.spikes).mean(), "spikes_by_layer": by_layer}
    return {name: value.detach() for name, value in figures.items()}
