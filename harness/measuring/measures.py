"""What a model does at each step; whether its operations can be counted, and whether harder images cost more spikes."""

import torch

from self_models.basics import ModelError
from self_models.counting.evaluation import Average
from self_models.counting.operations import OperationCounter
from self_models.running.outputs import open_share_by_step
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def counts_operations(model, say):
    """Whether a model's operations can be counted: an SNN's, but for one with parts of its own, of which a line tells."""
    try:
        return isinstance(model, VGG_SNN_STDB_wFeedback) and bool(OperationCounter(model))
    except ModelError as error:
        say(f"note: {str(error).rpartition(': ')[0]}: there are none in the records")
        return False


@torch.no_grad()
def spikes_over_time(model, batches, seed):
    """Means over Batches: layer -> spikes per image at each step (T,); the share of active input open (T,), or None; accuracy, or
    None where nobody knows labels."""
    average = Average()
    for batch in batches:
        output = batch.run(model, seed)
        figures = {name: count.double().mean(1) for name, count in output.spikes_by_step.items()}
        if (share := open_share_by_step(output, batch.images)) is not None:
            figures["open"] = share.mean(1)
        if batch.labels is not None:
            figures["right"] = (output.logits.argmax(1) == batch.labels).double().mean()
        average.add(len(batch.images), **figures)
    means = average.means()
    share, accuracy = means.pop("open", None), means.pop("right", None)
    return means, share, accuracy


def rank_correlation(a, b):
    """Spearman's rho of two (N,) tensors, None where one of them is constant: it says nothing then."""
    from scipy.stats import spearmanr  # half a second

    return None if (a == a[0]).all() or (b == b[0]).all() else float(spearmanr(a, b).statistic)


def difficulty_correlations(per_image):
    """spike_correlations by measure of difficulty: a small margin of the output, being wrong, the error of the prediction."""
    measures = {"small margin": -per_image["margin"], "wrong": ~per_image["correct"]}
    if "error" in per_image:
        measures["reconstruction error"] = per_image["error"]
    return {name: spike_correlations(measure, per_image) for name, measure in measures.items()}


def spike_correlations(difficulty, per_image):
    """Spearman's rho of a measure of difficulty (N,), larger being harder, with spikes and with spikes per total intensity: an
    image of more total intensity (sum of light) has more input spikes to begin with."""
    spikes = {"spikes": per_image["spikes"], "spikes_per_ink": per_image["spikes"] / per_image["ink"].clamp(min=1e-6)}
    return {name: rank_correlation(difficulty, values) for name, values in spikes.items()}


def on_front(records):
    """Those evaluation records that no other beats in both accuracy and spikes, or in one of them at an equal other."""
    points = [(record["accuracy"], -record["spikes"]["total"]) for record in records]
    return [
        record
        for record, (accuracy, saved) in zip(records, points, strict=True)
        if not any(other != (accuracy, saved) and other[0] >= accuracy and other[1] >= saved for other in points)
    ]
