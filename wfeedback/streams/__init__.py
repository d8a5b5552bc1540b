"""Networks whose images change while they run.

A network classifies one image, and then the next. A stream goes on from where it is: it
answers in every timestep while its images change, and keeps its state in between. To
the core this folder adds ``Stream`` (``model.stream()``), a state that can be saved and
loaded, and what a network forgets when its image surprises it (``forgetting.py``).

Not supported are training, stopping rules (a stream has no end), the update "phased",
gates that are for one image, and maximum pools that count.
"""
