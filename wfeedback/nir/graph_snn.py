"""GraphSNN: a spiking network of any graph, which takes events."""

from collections.abc import Sequence
from math import prod

import torch
from torch import nn

from self_models.data.images import arriving_values, has_colour
from self_models.devices import wide
from self_models.errors import ModelError
from self_models.neurons.spiking import SpikingNeuron
from self_models.plugins import ENGINE_NAMES
from self_models.running.graph import Graph
from self_models.running.loop import stack_outputs
from self_models.running.outputs import INPUT, SNNOutput
from self_models.running.recording import RecordSpec, collect_records, parse_record, record_step
from self_models.running.state import GraphState
from self_models.settings import Choice, required
from wfeedback.event.engine import GraphEngine, engine_of
from wfeedback.event.event_lists import (
    KernelEvents,
    arrived_by_timestep,
    check_recordings,
    event_frames,
    kernel_events,
    kernel_events_of_frames,
)

Recordings = Sequence  # of arrays (n, 1 + d), see event_lists.py


class GraphSNN(nn.Module):
    """A spiking network of modules and edges, such as a NIR file has.

    Call it with the events that arrive in each timestep, see `forward`.

    Parameters
    ----------
    graph : Graph
        Modules and edges. Its end "output" names the node whose signal is read out.
    dt : float
        Seconds of a timestep.
    engine : {"auto", "event", "dense"}
        What runs it in evaluation mode: the event engine, or PyTorch. "auto": the event
        engine if it supports all nodes.

    Attributes
    ----------
    layers : list of str
        "input", then the names of the nodes that spike.
    engine : GraphEngine or None
        The event engine, or None for PyTorch.
    stays : str or None
        Why "auto" has not taken the event engine.
    metadata : dict of {str: object}
        What its NIR file says about itself.
    convention : Convention or None
        How its NIR file was read.

    Raises
    ------
    ModelError
        If the engine is to be "event", and it does not support a node.
    """

    # What engines and evaluations ask of any network
    has_analog_input = True  # what arrives may be other than 0 and 1
    has_colour = False
    output_leak = 1.0
    takes_events = True  # rather than images

    def __init__(self, graph: Graph, dt: float = 1.0, engine: str = "auto"):
        super().__init__()
        self.graph = graph
        self.dt = dt
        self.owned = nn.ModuleList(graph.modules.values())  # of which the graph has references
        self.metadata = {}
        self.convention = None
        spiking = [name for name in graph.neuron_names if graph.modules[name].fires]
        self.layers = [INPUT, *spiking]
        required(Choice(ENGINE_NAMES), "engine", engine)
        self.engine, self.stays = engine_of(GraphEngine, self, engine)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of what arrives in a timestep."""
        return self.graph.shape

    def refresh(self) -> None:
        """Make the kernel read all weights anew at the next run."""
        if self.engine:
            self.engine.refresh()

    def neurons(self) -> dict[str, SpikingNeuron]:
        """Return the neurons of each node by its name, of those that send V, too."""
        return {name: self.graph.modules[name] for name in self.graph.neuron_names}

    @property
    def class_count(self) -> int:
        """Number of classes: the values of the output node."""
        return prod(self.graph.shapes[self.graph.ends["output"]])

    @property
    def has_signed_pixels(self) -> bool:
        """Whether pixels of images are meant to lie in [-1, 1], not in [0, 1]."""
        # Colour images do in networks of this program, whose files say their encoding.
        # Networks of others usually take [0, 1].
        shape = self.graph.shape
        return len(shape) == 3 and has_colour(shape[0]) and "encoding" in self.metadata

    def step(
        self,
        state: GraphState,
        events: torch.Tensor,
        scale: float | None = None,
        counts: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Run one timestep in PyTorch.

        Parameters
        ----------
        state : GraphState
            What the nodes keep; empty at first. It is changed in place.
        events : Tensor of shape (B, *graph.shape)
            What arrives.
        scale : float, optional
            See `forward`.
        counts : bool
            See `forward`.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            What each node sends, and "output".
        """
        return self.graph.step(state, arriving_values(events, scale, counts))

    def forward(
        self,
        events: torch.Tensor | Recordings,
        timesteps: int | None = None,
        record: str | dict | None = None,
        scale: float | None = None,
        counts: bool = False,
    ) -> SNNOutput:
        """Run the network, on the event engine if that can, and no gradient is wanted.

        Parameters
        ----------
        events : Tensor of shape (B, T, *graph.shape), or list of array (n, 1 + d)
            Numbers of events, or currents. A list holds recordings, whose rows are
            events: timestep, channel, row and column, or for an input of shape (N,)
            timestep and number.
        timesteps : int, optional
            Number of timesteps of a list of recordings. By default as many as needed.
        record : "all" or dict of {str: str or tuple}, optional
            What to record of which node: "spikes", "membrane" or both.
        scale : float, optional
            The events are pixels, and are divided by this: 255 for bytes.
        counts : bool
            The events are numbers of events, also if they are bytes above 1.

        Returns
        -------
        SNNOutput
            ``logits`` add up over time what the output node sends: spikes, or values if
            no neuron with a threshold sends them. ``spikes`` has those of "input",
            which are the events, and of each node that spikes.

        Raises
        ------
        ModelError
            If the events do not fit the network, and for bytes above 1 if neither
            ``scale`` nor ``counts`` says what they are.
        """
        specs = parse_record(record, self)
        shape = self.graph.shape
        has_kernel = self.engine and not self.training and self.engine.serves()
        if isinstance(events, (list, tuple)):
            if scale is not None:
                raise ModelError(
                    "scale is for images, and lists of events have no values: leave it out"
                )
            recordings, timesteps = check_recordings(events, shape, timesteps)
            if has_kernel:
                arriving = [kernel_events(columns, shape, timesteps) for columns in recordings]
                outputs = self._run_on_kernel(arriving, timesteps, specs)
            else:
                frames = event_frames(recordings, shape, timesteps)
                outputs = self._run_in_pytorch(frames, specs)
        else:
            values = self._check_frames(torch.as_tensor(events), scale, counts)
            is_plain = not values.requires_grad and values.device.type == "cpu"
            if has_kernel and is_plain:
                arriving = kernel_events_of_frames(values)
                outputs = self._run_on_kernel(arriving, values.shape[1], specs)
            else:
                outputs = self._run_in_pytorch(values, specs)
        return self._make_output(outputs, specs)

    def _check_frames(
        self, frames: torch.Tensor, scale: float | None, counts: bool
    ) -> torch.Tensor:
        """Return frames (B, T, *graph.shape) as what arrives, or raise ModelError."""
        shape = self.graph.shape
        if tuple(frames.shape[2:]) != shape or 0 in frames.shape:
            sizes = ", ".join(map(str, shape))
            raise ModelError(
                f"events {tuple(frames.shape)} do not fit this graph, "
                f"whose input takes (B, T, {sizes})"
            )
        return arriving_values(frames, scale, counts)

    def _run_on_kernel(
        self, recordings: list[KernelEvents], timesteps: int, specs: dict[str, RecordSpec]
    ) -> dict:
        """Return the outputs of all timesteps, of the kernel; see `_make_output`."""
        outputs = self.engine(recordings, timesteps, specs)
        outputs[INPUT] = arrived_by_timestep(recordings)
        return outputs

    def _run_in_pytorch(self, frames: torch.Tensor, specs: dict[str, RecordSpec]) -> dict:
        """Run all timesteps of a batch in PyTorch, rather than on the event engine.

        Parameters
        ----------
        frames : Tensor of shape (B, T, *graph.shape)
            What arrives in each timestep, of any dtype.
        specs : dict of {str: RecordSpec}
            What to record of each layer.

        Returns
        -------
        dict of {object: Tensor of shape (T, B, ...)}
            "logits" (T, B, classes): what the output node has sent up to each timestep.
            By name of a layer (T, B): how many spikes it sends in each timestep, and
            for "input" the sum of the sizes of what arrives. By (layer, kind) what is
            recorded.
        """
        steps = []
        state = GraphState()  # step() changes it in place
        for arriving in frames.unbind(1):
            arriving = arriving.to(torch.float32)
            sent = self.step(state, arriving)
            # Logits keep their gradient, from which a network is trained. Numbers of
            # spikes are statistics, whose gradient nobody asks for.
            outputs = {"logits": sent["output"].flatten(1)}
            # layers[0] is "input". What arrives there are values of any size and sign,
            # so their sizes add up, in float64 where the device has it. Spikes are
            # whole numbers, which float32 adds exactly.
            for name in self.layers[1:]:
                outputs[name] = sent[name].detach().flatten(1).sum(1)
            sizes = arriving.detach().abs().flatten(1)
            outputs[INPUT] = sizes.sum(1, dtype=wide(arriving.device)).float()
            outputs |= record_step(specs, sent, state.layer_states, self.neurons())
            steps.append(outputs)
        outputs = stack_outputs(steps)
        # So far the logits are those of each timestep alone. An SNNOutput has sums.
        outputs["logits"] = outputs["logits"].cumsum(0)
        return outputs

    def _make_output(self, outputs: dict, specs: dict[str, RecordSpec]) -> SNNOutput:
        """Make an SNNOutput of the outputs of all timesteps.

        Parameters
        ----------
        outputs : dict of {object: Tensor of shape (T, B, ...)}
            "logits" so far; by name of a layer its spikes (T, B); and by (layer, kind)
            what is recorded.
        specs : dict of {str: RecordSpec}
            What is to be recorded.

        Returns
        -------
        SNNOutput
        """
        logits = outputs["logits"]
        timesteps, batch_size, _ = logits.shape
        spikes_by_step = {name: outputs[name] for name in self.layers}
        spikes = {}
        for name, counts in spikes_by_step.items():
            spikes[name] = counts.sum(0, dtype=wide(counts.device))
        return SNNOutput(
            logits=logits[-1],
            predictions=None,
            errors=None,
            spikes=spikes,
            steps=torch.full((batch_size,), timesteps),
            logits_by_step=logits,
            spikes_by_step=spikes_by_step,
            recorded=collect_records(specs, outputs),
        )
