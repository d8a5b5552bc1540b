"""Spiking networks made of somebody's trained ANN.

``from_ann`` takes an nn.Module with ReLUs, and gives an SNN that sends with spikes what
the ANN computes. To the core, which converts the ANNs of its own architectures, it adds
networks of any layers and edges, ``TracedSNN``. An ANN becomes an SNN in steps:

1. ``tracing.py`` follows the ANN's forward with torch.fx.
2. ``layer_builder.py`` makes a ``Layer`` of each operation; ``operations.py`` names
   those that it knows.
3. ``converting.py`` builds the SNN: one of the core's architectures if the layers stand
   in a row, otherwise a ``TracedSNN`` (``traced_snn.py``), in which ``layers.py`` has
   put a scale where spikes of several layers meet.
4. The core's conversion fits thresholds and biases to activations.

Not supported are operations that multiply signals with each other, nonlinearities other
than ReLU, ReLU6 and QCFS, maximum pools of what is no spike, forwards that depend on
values, and training of the ANN. What is refused is named by its layer or line.
"""
