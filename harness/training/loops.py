"""One epoch of training, one evaluation: they take everything they need and return numbers."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from harness.command_line.errors import UserError
from harness.runs import ranks
from harness.runs.health import NOWHERE, first_not_finite, not_finite
from harness.training.losses import Lesson, losses_of
from self_models.counting.operations import OperationCounter
from self_models.counting.spikes import by_part, total_spikes, wide
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import errors_by_step, open_share_by_step, share_of_active
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


class Teacher(NamedTuple):
    """A trained ANN to learn from; weight, temperature: see classification_loss."""

    model: object
    weight: float
    temperature: float

    @torch.no_grad()
    def lesson(self, images):
        return Lesson(self.model(images).logits, self.weight, self.temperature)


@dataclass(frozen=True)
class Objective:
    """What training minimises; see losses.py. kind: step weights of the reconstruction, 'sum' for the ANN;
    classification_kind: of the outputs; teacher: a Teacher to learn from, too."""

    trade_off: float
    kind: str
    spike_penalty: float = 0.0
    classification_kind: str = "last_t"
    teacher: Teacher | None = None

    def __call__(self, output, labels, images=None):
        """Losses of an output; images: what the teacher looks at, in training; None: the labels count alone."""
        lesson = self.teacher.lesson(images) if self.teacher and images is not None else None
        return losses_of(output, labels, self.trade_off, self.kind, self.spike_penalty, self.classification_kind, lesson)


class Average:
    """Running means of figures, weighted by images; kept as tensors, so that adding does not wait for the device."""

    def __init__(self, sums=None, images=0):
        self.sums, self.images = sums or {}, images

    def add(self, images, **figures):
        """Figures that are means over these images."""
        self.images += images
        for name, value in figures.items():
            value = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(float(value))
            self.sums[name] = self.sums.get(name, 0) + value.to(wide(value.device)) * images

    def add_up(self, values):
        """name -> a figure of each image (B,). Sums of counts are exact, so they do not depend on how images share batches."""
        self.images += len(next(iter(values.values())))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().to(wide(value.device)).sum()

    def means(self):
        return {name: (value / self.images).item() for name, value in self.sums.items()}

    def to_cpu(self):
        return Average({name: value.cpu() for name, value in self.sums.items()}, self.images)

    @classmethod
    def of(cls, averages):
        """One Average of what several have added up."""
        total = cls()
        for average in averages:
            total.images += average.images
            for name, value in average.sums.items():
                total.sums[name] = total.sums.get(name, 0) + value
        return total


@dataclass
class Progress:
    """How far an epoch has come: steps taken, the figures so far, and the layers' spikes so far."""

    step: int = 0
    average: Average = field(default_factory=Average)
    fired: Average = field(default_factory=Average)

    def gather(self):
        """(average, fired) of all ranks; the first has them all from now on, the others begin at nothing."""
        if ranks.count() == 1:
            return self.average, self.fired
        parts = ranks.gathered((self.average.to_cpu(), self.fired.to_cpu()))
        whole = [Average.of(kind) for kind in zip(*parts, strict=True)]
        self.average, self.fired = whole if ranks.is_first() else (Average(), Average())
        return whole


def run_model(model, batch, seed, epoch, forward=None, frames=True):
    """The model's output for a batch, from its engine, with the draws that belong to these images in this epoch.

    forward: called in place of the model. frames: else an engine that can do without frames gives their sums.
    """
    draws = Draws(seed, epoch, batch.index)
    if getattr(model, "engine", None) and not forward:
        return model.engine(batch.images, draws=draws, frames=frames)
    return (forward or model)(batch.images, draws=draws)


def train_one_epoch(model, batches, objective, optimizer, schedule, seed, epoch, on_batch=None, progress=None, parallel=None):
    """Mean losses, accuracy and spikes over an epoch. batches: Batches; schedule: stepped after each of them.

    on_batch: called after each step with (number of the batch, Average so far). progress: a Progress to go on from, kept up
    to date; the batches begin where it stands. parallel: the model as one of several ranks. Raises UserError, before the
    step, where the loss or a gradient is not finite, with the layer where that begins.
    """
    model.train()
    progress, parallel = progress or Progress(), parallel or ranks.Parallel(model)

    def loss_of(batch, forward):
        output = run_model(model, batch, seed, epoch, forward)
        return output, objective(output, batch.labels, batch.images)

    for number, batch in enumerate(batches, progress.step + 1):
        parallel.prepare(lambda: loss_of(batch, model)[1].total)  # noqa: B023
        output, losses = loss_of(batch, parallel)
        optimizer.zero_grad(set_to_none=True)
        (losses.total * batch.weight).backward()
        if ranks.largest(not_finite(losses.total, model)):
            here = first_not_finite(model, lambda: loss_of(batch, model)[1].total)  # noqa: B023
            where = next((words for words in ranks.gathered(here) if words != NOWHERE), NOWHERE)
            raise UserError(_not_finite_line(losses.total.item(), epoch, number, where))
        optimizer.step()
        schedule.step()
        if isinstance(model, VGG_SNN_STDB_wFeedback):
            model.clamp_dynamics()
        progress.step = number
        if batch.counts:
            accuracy = (output.logits.argmax(1) == batch.labels).float().mean()
            progress.average.add(batch.counted, accuracy=accuracy, **losses._asdict(), **_spikes(output))
            if hasattr(output, "spikes"):
                progress.fired.add_up(output.spikes)
        if on_batch:
            on_batch(number, progress.average)
    return progress.gather()[0].means()


def _not_finite_line(loss, epoch, number, where):
    what = f"the loss is {loss}" if not abs(loss) < float("inf") else "a gradient is not finite"
    return (
        f"{what} at epoch {epoch}, step {number}: first not finite: {where}; training stopped, the last checkpoint is kept; "
        "try a lower --learning_rate or --trade_off"
    )


@torch.no_grad()
def evaluate(model, batches, objective, seed, on_batch=None, count_operations=False):
    """Figures of a model over Batches, each image with draws of its own.

    Returns a dict: images, accuracy (0 to 1), classification, reconstruction, penalty, total (losses), seconds,
    images_per_second (counting included); with feedback: error (squared error summed over an image after the last step);
    from an SNN: spikes (layer -> mean per image), parts (input, encoder, decoder, classifier, total), mean_steps,
    median_steps, p95_steps and comparisons (of a pixel with its prediction, per image); from a model that blocks: open_share
    (T,), mean share of active input pixels open at each step; with count_operations: operations, see OperationCounter.
    per_image: tensors (N,), see figures_per_image.
    """
    model.eval()
    averages, per_image, began = [Average(), Average(), Average()], [], time.perf_counter()
    average, spikes, open_share = averages
    with OperationCounter(model) if count_operations else nullcontext() as counter:
        for number, batch in enumerate(batches, 1):
            per_image.append({})
            if batch.counts:
                output = run_model(model, batch, seed, EVALUATION, frames=False)
                average.add(len(batch.labels), **objective(output, batch.labels)._asdict())
                per_image[-1] = figures_per_image(output, batch)
                if hasattr(output, "spikes"):
                    spikes.add_up(output.spikes)
                    shares = open_share_by_step(output, batch.images)
                    if shares is not None:
                        open_share.add(len(batch.labels), **{f"step {t}": share for t, share in enumerate(shares.mean(1), 1)})
            if on_batch:
                on_batch(number, average)
    per_image = [{name: values.cpu() for name, values in part.items()} for part in per_image]
    found = ranks.gathered(([each.to_cpu() for each in averages], per_image, counter and counter.counts()))
    averages, per_image, counts = zip(*found, strict=True)
    average, spikes, open_share = (Average.of(kind) for kind in zip(*averages, strict=True))
    parts = [part for batch in zip(*per_image, strict=True) for part in batch if part]  # in the order of the images
    per_image = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    seconds = time.perf_counter() - began
    means = {MEANS[name]: values.double().mean().item() for name, values in per_image.items() if name in MEANS}
    result = {"images": average.images, **average.means(), **means, "per_image": per_image}
    result |= {"seconds": seconds, "images_per_second": average.images / seconds}
    if spikes.images:
        steps = per_image["steps"].double()
        result |= {"median_steps": steps.median().item(), "p95_steps": steps.quantile(0.95).item()}
        result |= {"spikes": spikes.means(), "parts": by_part(spikes.means())}
    if open_share.images:
        result["open_share"] = list(open_share.means().values())
    if counter:
        result["operations"] = counter.hold(counts).result(average.images)
    return result


MEANS = {"correct": "accuracy", "error": "error", "steps": "mean_steps", "comparisons": "comparisons"}  # of per_image


def figures_per_image(output, batch):
    """Figures of each image (B,): label, found (the class), correct, margin (gap between the two best outputs); error; from
    an SNN spikes (all layers), steps, ink (sum of |x|) and comparisons (of a pixel with its prediction)."""
    best, second = output.logits.topk(2).values.unbind(1)
    found = output.logits.argmax(1)
    figures = {"label": batch.labels, "found": found, "correct": found == batch.labels, "margin": best - second}
    errors = errors_by_step(output)
    if errors is not None:
        figures["error"] = errors[-1]
    if hasattr(output, "spikes"):
        figures |= {"spikes": total_spikes(output.spikes), "steps": output.steps, "ink": batch.images.abs().sum((1, 2, 3))}
        figures["comparisons"] = output.comparisons
    return figures


def _spikes(output):
    return {"spikes": total_spikes(output.spikes).mean()} if hasattr(output, "spikes") else {}


@torch.no_grad()
def spikes_over_time(model, batch, seed):
    """Mean spikes per image of each layer at each step, layer -> (T,), and the mean share of active input open (T,) or None."""
    if model.engine:
        sums = run_model(model, batch, seed, EVALUATION, frames=False).sums
        spikes = {name: count.double().mean(1).tolist() for name, count in sums.spikes.items()}
        return spikes, None if sums.open_share is None else sums.open_share.mean(1).tolist()
    draws = Draws(seed, EVALUATION, batch.index)
    run, counts, shares = model.start(batch.images, draws), [], []
    for (drawn,) in model.drawn(batch.images, None, draws):
        step = model.step(run, drawn)
        counts.append({name: count.mean().item() for name, count in model.spikes_so_far(run).items()})
        shares.append(None if step.is_open is None else share_of_active(step.is_open, batch.images).mean().item())
    first = dict.fromkeys(counts[0], 0.0)
    spikes = {name: [now[name] - old[name] for old, now in zip([first, *counts], counts, strict=False)] for name in first}
    return spikes, None if shares[0] is None else shares
