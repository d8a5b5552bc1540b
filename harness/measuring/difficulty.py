"""Does an image that is harder cost more spikes? Rank correlations with difficulty measures that do not use the spikes."""


def rank(values):
    """Ranks from 1, ties share their mean rank, (N,) -> (N,) float64."""
    _, place, counts = values.double().unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts.double() - 1) / 2)[place]


def rank_correlation(a, b):
    """Spearman's rho of two (N,) tensors, None where one of them is constant: it says nothing then."""
    a, b = rank(a), rank(b)
    a, b = a - a.mean(), b - b.mean()
    scale = (a.square().sum() * b.square().sum()).sqrt()
    return (a @ b / scale).item() if scale > 0 else None


def difficulty_measures(per_image):
    """name -> (N,), larger is harder: a small margin of the final output, being wrong, and the error of the prediction."""
    measures = {"small margin": -per_image["margin"], "wrong": (~per_image["correct"]).double()}
    if "error" in per_image:
        measures["reconstruction error"] = per_image["error"]
    return measures


def difficulty_correlations(per_image):
    """Spearman's rho between difficulty and spikes per image, and between difficulty and spikes per unit of ink.

    An image with more ink (sum of light) has more input spikes to begin with; the second figure takes that out.
    """
    return {name: spike_correlations(measure, per_image) for name, measure in difficulty_measures(per_image).items()}


def spike_correlations(difficulty, per_image):
    """Spearman's rho, see rank_correlation, of one measure of difficulty (N,) with spikes and with spikes per unit of ink."""
    per_ink = per_image["spikes"] / per_image["ink"].clamp(min=1e-6)
    return {
        "spikes": rank_correlation(difficulty, per_image["spikes"]),
        "spikes_per_ink": rank_correlation(difficulty, per_ink),
    }
