"""The state of a run: all that one timestep hands to the next.

In this file ``B`` is the number of images, and ``(C, H, W)`` the shape of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch

from self_models.running.draws import Draws


class View(NamedTuple):
    """What the input neurons see in a timestep.

    All but ``image`` are None from a gate that has no use for them.

    Attributes
    ----------
    image : Tensor of shape (B, C, H, W)
        The image as the gate lets it through.
    is_open : Tensor of shape (B, C, H, W), bool, or None
        Input neurons that may spike.
    predicted : Tensor of shape (B, C, H, W), bool, or None
        Pixels within epsilon of the latest prediction.
    attended : Tensor of shape (B, C, H, W), bool, or None
        Pixels of which a prediction is made.
    explained : Tensor of shape (B, C, H, W) or None
        A prediction that is taken away from the image.
    events : Tensor of shape (B, C, H, W), bool, or None
        Input neurons whose sending counts as a spike. If None, all that send something
        do.
    """

    image: torch.Tensor
    is_open: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    attended: torch.Tensor | None = None
    explained: torch.Tensor | None = None
    events: torch.Tensor | None = None

    def spiking_inputs(self, signal: torch.Tensor) -> torch.Tensor:
        """Return which input neurons spike.

        Parameters
        ----------
        signal : Tensor of shape (B, C, H, W) or (T, B, C, H, W)
            What the input neurons send.

        Returns
        -------
        Tensor of the shape of ``signal``, bool
            Whether the sending counts as a spike.
        """
        if self.events is None:
            return signal != 0
        return self.events.expand_as(signal)

    def unexplained(self) -> torch.Tensor:
        """Return what the input neurons encode.

        Returns
        -------
        Tensor of shape (B, C, H, W)
            The image; with ``explained``, the prediction error of the visible pixels.
        """
        if self.explained is None:
            return self.image
        visible = self.is_open
        if self.attended is not None:
            visible = visible & self.attended
        # Where a pixel is blocked the image is 0, but its difference to the prediction
        # is not.
        return (self.image - self.explained) * visible


@dataclass
class GraphState:
    """What the nodes of a graph keep from one timestep to the next.

    Keys are names of nodes, such as "features.1".

    Attributes
    ----------
    layer_states : dict of {str: NamedTuple or Tensor}
        State of each layer of neurons (``NeuronState``, or the class that neurons of
        one's own have), and the spike counts of each maximum pool that counts. A node
        that is missing is at rest.
    masks : dict of {str: Tensor of shape (B, ...)}
        Mask of each dropout that drops something.
    previous_outputs : dict of {str: Tensor of shape (B, ...)}
        What a node has sent in the timestep before, if an edge back begins at it.
    zero_input_response : dict of {str: Tensor of shape (B, ...)}
        What arrives at an end of the graph in a timestep in which no neuron sends:
        biases. Only kept for ends that must take it away again.
    """

    layer_states: dict[str, Any] = field(default_factory=dict)
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    previous_outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    zero_input_response: dict[str, torch.Tensor] = field(default_factory=dict)

    def copy(self) -> "GraphState":
        """Return a state of its own, with the same tensors."""
        return GraphState(
            layer_states=dict(self.layer_states),
            masks=dict(self.masks),
            previous_outputs=dict(self.previous_outputs),
            zero_input_response=dict(self.zero_input_response),
        )


@dataclass
class RunState:
    """Everything that one timestep of a network hands to the next.

    Attributes
    ----------
    image : Tensor of shape (B, C, H, W)
        The images; of recordings the frames of the latest timestep.
    view : View
        What the input neurons see of them in the next timestep.
    logits : Tensor of shape (B, num_classes)
        Outputs so far.
    readout_sum : Tensor of shape (B, C, H, W), or 0 before the first timestep
        The decoder's outputs so far, summed by the read-out.
    draws : Draws or None
        Random numbers, of the input encoding and of dropout masks.
    record : dict of {str: RecordSpec}
        What to record of each layer.
    steps : int
        Number of timesteps taken so far.
    is_open_ended : bool
        Whether other images may come after these, so that none stops.
    recording : Tensor of shape (B, T, C, H, W) or None
        Recordings, whose frame ``t`` is seen in timestep ``t``. None: the images stay.
    graph_state : GraphState
        State of the network's layers.
    memory : dict of {str: Tensor of shape (B, ...) or NamedTuple of such}
        What a timestep of your own keeps for the next one, under names of your own. The
        network itself does not use it.
    engine : DenseEngine or None
        What runs several timesteps at once. None: ``step()`` runs one after the other.
    spikes : dict of {str: Tensor of shape (B, ...)}
        What each layer, and "input", has sent in the latest timestep, where ``step()``
        runs one after the other. An engine that takes many timesteps at once fills
        ``counts`` instead, or counts in a state of its own.
    step_states : list of RunState
        Of the timesteps that ran last, the state after each, if a stopping rule looks.
    activity : dict of {str: list of (steps, signal)} or None
        Of the timesteps that ran last, what each layer, each maximum pool and the
        input has sent: ``signal``, Tensor of shape (t * B, ...), in the timesteps with
        the numbers ``steps``. None if nobody counts operations.
    counts : dict of {str: list of (steps, spikes)}
        Of timesteps that ran together, each layer's spikes: ``spikes``, Tensor of shape
        (t, B), in the timesteps with the numbers ``steps``.
    """

    image: torch.Tensor
    view: View
    logits: torch.Tensor
    readout_sum: torch.Tensor | int = 0
    draws: Draws | None = None
    record: dict = field(default_factory=dict)
    steps: int = 0
    is_open_ended: bool = False
    recording: torch.Tensor | None = None
    graph_state: GraphState = field(default_factory=GraphState)
    memory: dict[str, Any] = field(default_factory=dict)
    engine: Any = None
    spikes: dict[str, torch.Tensor] = field(default_factory=dict)
    step_states: list["RunState"] = field(default_factory=list)
    activity: dict[str, list] | None = None
    counts: dict[str, list] = field(default_factory=dict)

    def current_frame(self) -> torch.Tensor:
        """Return what the next timestep shows, (B, C, H, W): images, or frames."""
        if self.recording is None:
            return self.image
        last = self.recording.shape[1] - 1
        return self.recording[:, min(self.steps, last)]

    def log_activity(self, layer: str, signal: torch.Tensor, steps: Sequence[int]) -> None:
        """Keep what a layer sends, if operations are counted.

        Parameters
        ----------
        layer : str
            Name of a layer, of a maximum pool, or "input".
        signal : Tensor of shape (t * B, ...)
            What it sends.
        steps : sequence of int, length t
            Numbers of the timesteps.
        """
        if self.activity is not None:
            self.activity.setdefault(layer, []).append((steps, signal.detach()))

    def count_spikes(self, names: Sequence[str]) -> torch.Tensor:
        """Count the spikes of the latest timestep.

        Parameters
        ----------
        names : sequence of str
            Names of layers, "input" among them.

        Returns
        -------
        Tensor of shape (B, num_layers), float32
            Spikes of each image in each of these layers; 0 for a layer that did not
            run.
        """
        zeros = self.logits.new_zeros(len(self.logits), dtype=torch.float32)
        counts = {}
        for name, spikes in self.spikes.items():
            counts[name] = spikes.flatten(1).sum(1, dtype=torch.float32)
        return torch.stack([counts.get(name, zeros) for name in names], -1)

    def select(self, keep: torch.Tensor) -> "RunState":
        """Return the state of some of the images.

        Parameters
        ----------
        keep : Tensor of shape (n,), int64, or (B,), bool
            Which images.

        Returns
        -------
        RunState
            Of these images alone.
        """
        return select_images(self, keep)


def select_images(value: Any, keep: torch.Tensor) -> Any:
    """Return a part of a RunState for some of the images.

    What has no batch stays as it is. keep: an index or a mask over the batch.
    """
    if isinstance(value, torch.Tensor):
        return value[keep]
    if isinstance(value, Draws):
        return value.select(keep)
    if isinstance(value, dict):
        return {name: select_images(part, keep) for name, part in value.items()}
    if isinstance(value, RunState | GraphState):
        parts = {part.name: getattr(value, part.name) for part in fields(value)}
        return type(value)(**select_images(parts, keep))
    if hasattr(value, "_fields"):
        return type(value)(*(select_images(part, keep) for part in value))
    return value
