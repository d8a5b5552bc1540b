"""Spike counts by part of the network, and how they are added up."""

PARTS = {"input": "input", "features": "encoder", "generate": "decoder", "classifier": "classifier"}


def part_of(layer):
    """Part that a layer belongs to: input, encoder, decoder or classifier; beside these stages that of the stage with which its
    name begins (generate2: decoder), else the encoder."""
    return next((part for stage, part in PARTS.items() if layer.startswith(stage)), "encoder")


def by_part(spikes):
    """layer -> spikes to input, encoder, decoder, classifier, total -> spikes; numbers or tensors alike."""
    parts = dict.fromkeys(PARTS.values(), 0.0)
    for layer, count in spikes.items():
        parts[part_of(layer)] = parts[part_of(layer)] + count
    return {**parts, "total": total_spikes(spikes)}


def total_spikes(spikes):
    """Spikes of all layers, the input included."""
    return sum(spikes.values())
