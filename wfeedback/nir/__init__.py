"""Networks of other simulators, from files of NIR.

NIR, the Neuromorphic Intermediate Representation (Pedersen et al., Nature
Communications 2024), describes a spiking network as a graph. snnTorch, SpikingJelly,
Norse and sinabs write it. Its nodes are differential equations in continuous time; a
file says neither how long a timestep is, nor all that its simulator does with it.

To the core this folder adds a network of any graph that takes events, ``GraphSNN``, and
neurons with the constants of a file, ``NIRNeuron``. A file becomes a network in steps:

1. ``files.py`` reads the file, and makes one flat graph of graphs within graphs.
2. ``lost_sums.py`` puts back the sums that snnTorch's exporter loses.
3. ``conventions.py`` says what each simulator does beyond NIR's equations.
4. ``checks.py`` refuses and notes what does not fit these conventions.
5. ``nodes.py`` makes a module of each node, with one function for each kind;
   ``timesteps.py`` brings their equations into timesteps.
6. ``reading.py``, ``from_nir``, goes these steps, and gives a ``GraphSNN``.

Not supported are the node Delay, and what a simulator does that neither its file nor an
argument of ``from_nir`` says. docs/reference/nir_nodes.md lists it for each simulator.
Files are written by wfeedback/export.
"""
