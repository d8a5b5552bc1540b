"""Does an image that is harder cost more spikes? Rank correlations with difficulty measures that do not use the spikes."""

from scipy.stats import spearmanr


def rank_correlation(a, b):
    """Spearman's rho of two (N,) tensors, None where one of them is constant: it says nothing then."""
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
