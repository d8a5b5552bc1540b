"""How does a run cost only what its spikes cost? network.c, event by event; network.h says how it is called."""
