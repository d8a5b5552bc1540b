"""How far a training run has come, and whether a step may be taken."""

import time

import torch
from torch import nn

from self_models.errors import UserError
from self_models.evaluation.evaluate import Average
from self_models.running.outputs import ANNOutput, SNNOutput, total_spikes
from wfeedback.runs import ranks

NOT_FINITE = (
    "training stopped, the last checkpoint is kept; try a lower --learning_rate or --trade_off"
)


class Progress:
    """Epochs and updates that are done, and figures of the epoch that runs.

    Attributes
    ----------
    epoch : int
        Epochs completed.
    step : int
        Updates of the epoch after these.
    average : Average
        Means of that epoch's figures, of this rank.
    seconds : float
        Time that the epoch has taken up to the last update.
    best : dict or None
        Number of the best epoch so far (``epoch``), and its figures.
    finished : bool
        Whether the final evaluation has been reported, too.
    """

    def __init__(self):
        self.epoch = 0
        self.step = 0
        self.average = Average()
        self.seconds = 0.0
        self.best = None
        self.finished = False
        self._began = None

    def begin_epoch(self) -> None:
        """Start the clock; an epoch that goes on has taken some time already."""
        self._began = time.perf_counter() - self.seconds

    def elapsed(self) -> float:
        """Return for how many seconds the epoch has run."""
        return time.perf_counter() - self._began

    def add(
        self, output: ANNOutput | SNNOutput, losses: dict[str, torch.Tensor], labels: torch.Tensor
    ) -> None:
        """Count an update, with the figures of its batch.

        Parameters
        ----------
        output : ANNOutput or SNNOutput
            Of the batch (B images).
        losses : dict of str to Tensor
            Scalars, means over the batch.
        labels : Tensor of shape (B,)
            Class of each image.
        """
        figures = {"accuracy": (output.logits.argmax(1) == labels).float().mean(), **losses}
        if hasattr(output, "spikes"):  # an SNN's
            figures["spikes"] = total_spikes(output.spikes).mean()
            figures["spikes_by_layer"] = torch.stack([*output.spikes.values()]).mean(1)
        self.step += 1
        self.seconds = self.elapsed()
        self.average.add(len(labels), **figures)

    def means(self) -> dict:
        """Return the means of the epoch's figures so far, over all ranks.

        Every rank must ask. The first one has all sums from now on; the others begin
        anew.
        """
        sums = {name: value.cpu() for name, value in self.average.sums.items()}
        own = Average(sums, self.average.images)
        whole = sum(ranks.gathered(own), Average())
        self.average = whole if ranks.is_first() else Average()
        return whole.means()

    def end_epoch(self) -> None:
        """Count an epoch, and begin with no updates of the next one."""
        self.epoch += 1
        self.step = 0
        self.average = Average()
        self.seconds = 0.0

    def where(self, epochs: int) -> str:
        """Say what was done last, such as 'in epoch 3 of 4, after update 17'."""
        if self.step:
            return f"in epoch {self.epoch + 1} of {epochs}, after update {self.step}"
        return f"after epoch {self.epoch}"


def check_gradients(loss: torch.Tensor, model: nn.Module, when: str) -> None:
    """Refuse a step that would spoil the weights.

    Parameters
    ----------
    loss : Tensor, scalar
        The total loss, after ``backward()``.
    model : nn.Module
        What is trained; its weights are as before the step.
    when : str
        Where in the training, for the message.

    Raises
    ------
    UserError
        Where the loss or a gradient is not finite on one of the ranks. They are judged
        by their sums: where those overflow, an optimiser's squares would, too.
    """
    loss = loss.detach()
    values = [loss]
    values += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    sums = torch.stack([value.sum() for value in values])
    if not ranks.largest(not sums.isfinite().all()):
        return
    fault = "a gradient is not finite"
    if not loss.isfinite():
        fault = f"the loss is {loss.item()}"
    raise UserError(f"{fault} at {when}; {NOT_FINITE}")
