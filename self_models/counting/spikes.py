"""Spike counts by part of the network, and how they are added up."""

PARTS = {"input": "input", "features": "encoder", "generate": "decoder", "classifier": "classifier"}


def part_of(layer):
    """Part that a layer belongs to: input, encoder, decoder or classifier; of a stage of one's own its name."""
    stage = layer.split(".")[0]
    return PARTS.get(stage, stage)


def by_part(spikes):
    """layer -> spikes to input, encoder, decoder, classifier, total -> spikes; numbers or tensors alike."""
    parts = dict.fromkeys(PARTS.values(), 0.0)
    for layer, count in spikes.items():
        parts[part_of(layer)] = parts.get(part_of(layer), 0.0) + count
    return {**parts, "total": total_spikes(spikes)}


def total_spikes(spikes):
    """Spikes of all layers, the input included."""
    return sum(spikes.values())
