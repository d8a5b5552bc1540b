"""An evaluation over batches, by one process or several; what a model does at each step."""

import torch

from harness.runs import ranks
from self_models.counting.evaluation import Evaluation, output_of
from self_models.running.draws import EVALUATION, Draws
from self_models.running.outputs import share_of_active


@torch.no_grad()
def evaluate(model, batches, criterion, seed, on_batch=None, count_operations=False):
    """What Evaluation.result says of a model over Batches, each image with draws of its own, and the means of the criterion's
    losses: classification, reconstruction, penalty, total. on_batch: called after each with (its number, Average so far)."""
    model.eval()
    with Evaluation(model, count_operations) as evaluation:
        for number, batch in enumerate(batches, 1):
            if batch.counts:
                output = output_of(model, batch.images, Draws(seed, EVALUATION, batch.index))
                evaluation.add(output, batch.images, batch.labels, **criterion(output, batch.labels)._asdict())
            else:
                evaluation.skip()
            if on_batch:
                on_batch(number, evaluation.average)
    return evaluation.result(ranks.gathered(evaluation.parts()))


@torch.no_grad()
def dense_steps(model, batch, seed):
    """Run the model over a Batch with the dense engine, whatever its rule; after each step the RunState, which goes on, and the
    step's Frame."""
    draws = Draws(seed, EVALUATION, batch.index)
    run = model.start(batch.images, draws)
    for (drawn,) in model.drawn(batch.images, None, draws):
        yield run, model.step(run, drawn)


@torch.no_grad()
def spikes_over_time(model, batch, seed):
    """Mean spikes per image of each layer at each step, layer -> (T,), and the mean share of active input open (T,) or None."""
    if model.engine:
        sums = output_of(model, batch.images, Draws(seed, EVALUATION, batch.index)).sums
        spikes = {name: count.double().mean(1).tolist() for name, count in sums.spikes.items()}
        return spikes, None if sums.open_share is None else sums.open_share.mean(1).tolist()
    counts, shares = [], []
    for run, step in dense_steps(model, batch, seed):
        counts.append({name: count.mean().item() for name, count in model.spikes_so_far(run).items()})
        shares.append(None if step.is_open is None else share_of_active(step.is_open, batch.images).mean().item())
    first = dict.fromkeys(counts[0], 0.0)
    spikes = {name: [now[name] - old[name] for old, now in zip([first, *counts], counts, strict=False)] for name in first}
    return spikes, None if shares[0] is None else shares
