"""One epoch of training."""

from dataclasses import dataclass, field

import torch

from harness.runs import ranks
from harness.runs.health import is_finite, not_finite
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


def train_one_epoch(model, batches, criterion, optimizer, schedule, seed, epoch, on_batch=None, progress=None, parallel=None):
    """Mean figures over an epoch, see _figures. batches: Batches; schedule: stepped after each of them.

    on_batch: called after each step with (number of the batch, Average so far). progress: a Progress to go on from; the batches
    begin where it stands. parallel: the model as one of several ranks. Raises UserError, with weights as before the step, where
    the loss or a gradient is not finite.
    """
    model.train()
    progress, parallel = progress or Progress(), parallel or model
    for number, batch in enumerate(batches, progress.step + 1):
        output = batch.run(parallel, seed, epoch, criterion.needs_frames)
        losses = criterion(output, batch.labels, batch.images)
        optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        loss = losses["total"].detach()
        if ranks.largest(not is_finite(loss, model)):
            fault = "a gradient is not finite" if loss.isfinite() else f"the loss is {loss.item()}"
            raise not_finite(f"{fault} at epoch {epoch}, update {number}")
        optimizer.step()
        schedule.step()
        model.clamp_dynamics()
        progress.step = number
        progress.average.add(len(batch.labels), **_figures(output, losses, batch))
        if on_batch:
            on_batch(number, progress.average)
    return progress.gather().means()


def _figures(output, losses, batch):
    """Means over a batch: accuracy, losses and, of an SNN, spikes, and `spikes_by_layer`, each layer's (layers,)."""
    figures = {"accuracy": (output.logits.argmax(1) == batch.labels).float().mean(), **losses}
    if hasattr(output, "spikes"):
        by_layer = torch.stack([*output.spikes.values()]).mean(1)
        figures |= {"spikes": total_spikes(output.spikes).mean(), "spikes_by_layer": by_layer}
    return {name: value.detach() for name, value in figures.items()}
