"""The event engine: runs a trained network spike by spike, on a kernel in C.

A timestep costs what its spikes cost: the kernel visits only the neurons that a spike
reaches. For that it wants a network as tables of numbers. This is how a network becomes
tables, and how they run.

**The network is a graph.** A *sender* is the input, or a layer of neurons. A *link*
leads from a sender to the next one, or to an end, the output. The linear layers that
lie on the link are its *chain*::

    sender         chain of the link            sender       chain         end
    input -----> Conv2d, AvgPool2d, Conv2d -----> conv1 -----> Linear -----> output

**The tables have nodes.** Each sender and each end is a node, numbered from 0, the
input. A node has one link that leads to it. A second link, say a skip connection, is a
node of its own that adds into the first one's potentials::

    node      0 input      1 conv1      2 output      3 second link of conv1
    source       -            0             1             0
    into         -            1             2             1

**A chain becomes windows.** Folded into one, the layers of a chain do nothing but this:
a spike adds a *window* of weights to the potentials around it. A *place* is a position
of a layer, with all channels there; the channels of a place lie side by side::

    a spike of the source     adds its window to the target

         . . . . .                . . . . . .
         . . s . .                . w w w . .     side = 3 places; a row has
         . . . . .                . w w w . .     side * channels weights
                                  . w w w . .

Almost all places have the same *set* of windows, one window for each source channel.
Only near borders are there others. So the tables hold, for each row and column of the
source, which set it has and where the window's corner lies.

**A timestep** runs the nodes in order: those that lead to the output, then those of the
decoder. In a *phased* network a timestep belongs to a *phase*, and a node fires only in
its own: first the input, then the layers after one link, and so on. The kernel is told
each node's phase as its ``depth``.

Each file is one step:

=================  ==================================================================
``windows.py``     a chain becomes windows of weights
``splitting.py``   where a chain is split instead, to have fewer weights
``layout.py``      the graph becomes nodes and links, in the order in which they run
``constants.py``   thresholds, leaks, bounds and biases of the nodes
``tables.py``      the tables as arrays, as one block of bytes; the settings of a run
``build.py``       the kernel as a library, built by this machine's C compiler
``state.py``       networks that run: memory for potentials and spikes
``engine.py``      a model's forward, its streams and its counts on the kernel
``c/``             the kernel: network.h is the contract, network.c the timestep
=================  ==================================================================
"""
