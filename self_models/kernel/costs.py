"""What a run should cost on either engine, from the spikes of a few images: seconds of one core, made of what is counted.

The figures were measured on one core of an Intel Xeon with AVX-512 (docs/notebook/event_engine.md); on another machine both
engines are faster or slower, and it is their ratio that counts. They are rough: where the engines are near each other either will
do.
"""

from math import exp, prod

WINDOW, IN_CACHE, IN_MEMORY = 35e-9, 1 / 8e9, 1 / 5e9  # event engine: of a place's spikes in a step that share a window, of an
# accumulate by where its weight lies
LOOK = 0.5e-9  # and of a neuron with a bias in a step
CACHE = 2**22  # floats of a connection whose weights stay in the cache, the last one
LOOKED_AT, LARGE_BATCH = 2, 16  # images whose spikes decide for a batch, and batches large enough for that
PRODUCT, NEURON, STEP = 1 / 29e9, 5.6e-9, 1e-3  # dense engine: of a multiply-add, of a neuron's step, of a batch's step


def dense_pays(layout, counts, steps, batch):
    """Whether the dense engine should be faster on this batch. counts: spikes of some of its images (images, T, nodes); steps:
    that each took (images,)."""
    taken = float(steps.mean())
    return dense_seconds(layout, taken, batch) < event_seconds(layout, counts.sum(1).mean(0), taken)


def event_seconds(layout, spikes, steps):
    """Of an image with these spikes by node over all its steps, which are taken to lie anywhere."""
    seconds = 0.0
    for connection in layout.connections:
        sent, places = float(spikes[connection.source]), steps * prod(connection.source_shape[1:])
        seconds += WINDOW * places * (1 - exp(-sent / places))
        seconds += sent * connection.side * connection.row * (IN_CACHE if connection.size <= CACHE else IN_MEMORY)
        seconds += LOOK * steps * prod(connection.target_shape) * (connection.bias is not None)
    return seconds


def dense_seconds(layout, steps, batch):
    """Of an image in a batch of this many, of so many steps."""
    modules = {}  # the encoder's last ones feed the classifier and the decoder, but run once
    for connection in layout.connections:
        modules |= zip(connection.modules, connection.multiply_adds(), strict=True)
    neurons = sum(map(prod, layout.shapes[1 : len(layout.names)]))
    return steps * (PRODUCT * sum(modules.values()) + NEURON * neurons + STEP / batch)
