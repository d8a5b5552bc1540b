"""A chunk of timesteps, of which each layer takes as many as possible at once.

It gives what the network's ``step()`` gives timestep by timestep. Layers take one
timestep after the other only where a prediction comes in between. Linear layers of a
decoder may run as one: the same map in fewer multiply-adds.

In this file ``T`` is the number of timesteps of a chunk, ``B`` the number of images,
and (C, H, W) the shape of an image. Timesteps are given by their numbers, since the
images of a run have started.
"""

import functools
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import nn

from self_models.networks.node_kinds import has_state, is_sender, passes
from self_models.networks.stages import LINEAR
from self_models.neurons.spiking import HeldDropout, SpikingNeuron
from self_models.running.dense.neuron_steps import (
    accumulate_logits,
    count_events,
    counts_by_layer,
    neuron_steps,
)
from self_models.running.graph import Node
from self_models.running.known_layers import is_hooked
from self_models.running.loop import Outputs, show_image, stack_outputs
from self_models.running.outputs import INPUT
from self_models.running.state import RunState, View

Signals = dict[str, torch.Tensor]  # name of a node, or "input" -> what it sends, (T, B, ...)


def advance(
    model: nn.Module, run: RunState, draws: torch.Tensor, nodes: Sequence[Node]
) -> Outputs:
    """Run the next T timesteps of a network.

    Only the decoder decides what the input neurons see: by its prediction, which the
    gate compares with the image after each timestep. So two groups of nodes run one
    after the other:

    1. Those that lead to the prediction, encoder and decoder, timestep by timestep if
       the gate reacts to the prediction, else all timesteps at once.
    2. All others, such as the classifier. Nothing waits for what they send, so they
       take the signals of all timesteps at once.

    Without a decoder all nodes are in the second group.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        A network that the engine supports.
    run : RunState
        State before these timesteps. It becomes the state after them. Group 1 changes
        ``steps``, ``view`` and ``readout_sum``, and of recordings ``image``; both
        groups add to ``graph_state``, ``counts`` and, if operations are counted,
        ``activity``; this function itself changes ``logits``.
    draws : Tensor of shape (T, B, C, H, W), 0 to 1
        Uniform samples for the input encoding.
    nodes : sequence of Node
        Those of the network's graph, as the engine runs them.

    Returns
    -------
    dict of {str: Tensor of shape (T, B, ...)}
        Outputs of these timesteps, with frames. The docstring of ``running/loop.py``
        lists the keys.
    """
    num_steps = len(draws)
    # Taken now, since group 1 adds 1 to run.steps for each timestep.
    steps = range(run.steps, run.steps + num_steps)
    predicting, others = split_by_prediction(model, nodes)

    # Group 1. The parts run in order: each one leaves in run.view what the input
    # neurons see in the next one.
    part_length = 1 if model.gate.reacts else num_steps
    sent_in_parts = []  # of each part: name of a node -> what it sent, (t, B, ...)
    outputs_by_step = []  # of each timestep: name of an output -> (B, ...)
    for part in draws.split(part_length):
        sent, outputs = run_predict_and_gate(model, run, predicting, part)
        # Signals that group 2 does not take are dropped, to free their memory.
        sent_in_parts.append(select_sources(sent, others))
        outputs_by_step += outputs

    # Group 2. It takes what group 1 has sent, and adds to `sent` what its own nodes do.
    sent = concatenate(sent_in_parts)
    propagate(run, others, sent, steps)

    # The output belongs to group 2, so its logits can only be computed now. Group 1 has
    # left run.logits as they were before these timesteps.
    output_current = sent[model.graph.ends["output"]].to(run.image.dtype)
    logits = accumulate_logits(
        run.logits, output_current, model.settings["output_leak"], at_once=model.training
    )
    run.logits = logits[-1]
    outputs = stack_outputs(outputs_by_step)
    # Of the layers of both groups, so the second one has to have run.
    spikes = counts_by_layer(run, model.layers, num_steps)
    return outputs | {"logits": logits, "spikes": spikes}


def split_by_prediction(model: nn.Module, nodes: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Split nodes into those that lead to the prediction, and all others.

    Both lists keep the order of ``nodes``. Without a decoder the first one is empty.
    """
    required = set()
    if model.has_feedback:
        required = {node.name for node in model.graph.required_nodes("decoded")}
    predicting = [node for node in nodes if node.name in required]
    others = [node for node in nodes if node.name not in required]
    return predicting, others


def run_predict_and_gate(
    model: nn.Module, run: RunState, nodes: Sequence[Node], draws: torch.Tensor
) -> tuple[Signals, list[Outputs]]:
    """Run timesteps of what leads to the prediction, and let the gate see each of them.

    Three steps: the input neurons send, the nodes run for all of these timesteps, and
    then, timestep by timestep, ``model.read_out_and_gate`` turns the decoder's output
    into a prediction of the image, and lets the gate decide what the input neurons see
    in the timestep behind.

    All of these timesteps see what ``run.view`` lets through at the first one. So there
    may only be several if the gate does not react to predictions.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, which may have no decoder.
    run : RunState
        It is changed: states and spike counts of the nodes, and, in each timestep,
        ``steps``, ``readout_sum`` and ``view``.
    nodes : sequence of Node
        Encoder and decoder. Without a decoder there are none: then the input neurons
        send, and the timesteps are counted.
    draws : Tensor of shape (t, B, C, H, W), 0 to 1
        Uniform samples for the input encoding.

    Returns
    -------
    sent : dict of {str: Tensor of shape (t, B, ...)}
        What "input" and each of these nodes has sent, but for the decoder's output.
    outputs : list of dict of {str: Tensor of shape (B, ...)}
        Of each timestep: the prediction, and what the gate has let through, by the keys
        that the docstring of ``running/loop.py`` lists. Fewer without a decoder.
    """
    # Taken now, since read_out_and_gate() adds 1 to run.steps in each timestep.
    steps = range(run.steps, run.steps + len(draws))
    sent = {INPUT: encode_input(model, run, draws)}
    propagate(run, nodes, sent, steps)
    if model.has_feedback:
        decoded = sent.pop(model.graph.ends["decoded"])  # (t, B, C, H, W)
        decoded_by_step = list(decoded)
    else:
        decoded_by_step = [None] * len(draws)  # then only run.steps counts on
    outputs = []
    for step_decoded in decoded_by_step:
        outputs.append(model.read_out_and_gate(run, step_decoded))
    return sent, outputs


def select_sources(sent: Signals, nodes: Sequence[Node]) -> Signals:
    """Return those signals that these nodes take from others."""
    sources = set()
    for node in nodes:
        sources.update(node.sources)
    return {name: signal for name, signal in sent.items() if name in sources}


def concatenate(parts: Sequence[Signals]) -> Signals:
    """Return the Signals of all timesteps, from those of parts of them."""
    if len(parts) == 1:  # without a copy
        return parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def encode_input(model: nn.Module, run: RunState, draws: torch.Tensor) -> torch.Tensor:
    """Return what the input neurons send in the next T timesteps.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    run : RunState
        State before these timesteps. What is sent is added to ``counts`` and, if
        operations are counted, to ``activity``. Of recordings ``image`` and ``view``
        may change, see `current_view`. ``steps`` stays.
    draws : Tensor of shape (T, B, C, H, W), 0 to 1
        Uniform samples for the input encoding.

    Returns
    -------
    Tensor of shape (T, B, C, H, W)
        What the encoding makes of the pixels, or of their prediction errors under a
        gate that sends these: spikes, or real values.
    """
    steps = range(run.steps, run.steps + len(draws))
    view = current_view(model, run, len(draws))
    # The pixels that the gate lets through, or what is left of them once it has
    # subtracted the prediction. (B, C, H, W) goes with the draws of all timesteps.
    pixels = view.unexplained()
    signal = model.encoding.send(pixels, draws)
    if run.activity is not None:  # somebody counts operations
        run.log_activity(INPUT, signal.flatten(0, 1), steps)
    spikes = count_events(view.spiking_inputs(signal))
    run.counts.setdefault(INPUT, []).append((steps, spikes))
    return signal


def current_view(model: nn.Module, run: RunState, num_steps: int) -> View:
    """Return what the input neurons see in the next timesteps.

    Images stand still, so there is one view of all these timesteps: ``run.view``, as
    the gate has left it after the timestep before. A recording shows another frame in
    each timestep. If several run together, the gate does not react to predictions, as
    `run_predict_and_gate` demands. So what it lets through of a frame depends on the
    frame alone, and is what it lets through at the start of a run.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    run : RunState
        State before these timesteps. If a timestep of a recording runs alone, its frame
        becomes ``image``, and ``view`` becomes what the gate lets through of it;
        `show_image` also makes a network with the setting ``surprise`` forget.
        Otherwise nothing changes.
    num_steps : int
        Number of timesteps.

    Returns
    -------
    View
        Of tensors (B, C, H, W) for all these timesteps; (T, B, C, H, W) if several
        timesteps of a recording run together.
    """
    if run.recording is not None and num_steps > 1:
        frames = run.recording[:, run.steps : run.steps + num_steps]  # (B, T, C, H, W)
        return model.gate.start(frames.transpose(0, 1))
    # It changes nothing if the frame is the image shown already, as of still images.
    show_image(model, run, run.current_frame())
    return run.view


def propagate(run: RunState, nodes: Sequence[Node], sent: Signals, steps: range) -> None:
    """Run nodes for some timesteps, each for all of them before the next node.

    Parameters
    ----------
    run : RunState
        It is changed: states of the nodes, and their spike counts.
    nodes : sequence of Node
        In their order. None has edges back: a network with such runs by ``step()``.
    sent : dict of {str: Tensor of shape (T, B, ...)}
        What the nodes before them send. What these nodes send is added.
    steps : range
        Numbers of the timesteps.
    """
    num_steps = len(steps)
    for node in nodes:
        signal = functools.reduce(operator.add, (sent[source] for source in node.sources))
        # A stride of 0: all timesteps are the same numbers in memory, as of an image
        # that is sent as it is.
        is_constant = num_steps > 1 and signal.stride(0) == 0
        if passes(node.module) and node.name not in run.graph_state.masks:
            sent[node.name] = signal
        elif is_constant and isinstance(node.module, LINEAR):
            # It runs once, and what it gives is constant in its turn.
            output = node.module(signal[0])
            sent[node.name] = output.expand(num_steps, *output.shape)
        else:
            # (T, B, ...) -> (T * B, ...), as modules take it.
            if is_constant:
                in_a_row = torch.cat([signal[0]] * num_steps)
            else:
                in_a_row = signal.flatten(0, 1)
            sent[node.name] = run_module(run, node.name, node.module, in_a_row, steps)


def run_module(
    run: RunState, name: str, module: nn.Module, signal: torch.Tensor, steps: range
) -> torch.Tensor:
    """Run a module for some timesteps.

    Parameters
    ----------
    run : RunState
        It is changed: it keeps the module's state, and what it has sent.
    name : str
        Name of the module's node.
    module : nn.Module
        The module.
    signal : Tensor of shape (T * B, ...)
        What arrives, one timestep after the other.
    steps : range
        Numbers of the timesteps.

    Returns
    -------
    Tensor of shape (T, B, ...)
        What it sends.
    """
    num_steps = len(steps)
    layer_states = run.graph_state.layer_states
    if isinstance(module, SpikingNeuron):
        output, layer_states[name], counts = neuron_steps(
            module, signal, layer_states.get(name), num_steps
        )
        run.counts.setdefault(name, []).append((steps, counts))
    elif isinstance(module, HeldDropout):
        output, _ = module(signal, run.graph_state.masks.get(name), num_steps)
    elif has_state(module):
        output, layer_states[name] = module(signal, layer_states.get(name), num_steps)
    else:
        output = module(signal)
    if is_sender(module):
        run.log_activity(name, output, steps)
    return output.unflatten(0, (num_steps, -1))


# --- linear layers as one

FEW_CHANNELS = 4  # up to here a matrix product is faster than PyTorch's transposed convolution


def fold_decoder(
    nodes: Sequence[Node],
    end: str,
    signals: int,
    image_size: Sequence[int],
    pays: Callable[["FoldedChain", nn.Module, int], bool] | None = None,
) -> list[Node]:
    """Make one FoldedChain of each convolution of a decoder and the U layers before it.

    A U layer is a transposed convolution that doubles height and width. The chain is
    the same map in fewer multiply-adds, and takes in U layers as long as that is so.
    For example, of a decoder of two U layers and a convolution, where both pay,

        sender -> U a -> U b -> convolution c

    becomes one node "c", which has the source of "a", and whose module is the chain:

        sender -> chain c

    Parameters
    ----------
    nodes : sequence of Node
        The nodes of a graph. They are not changed.
    end : str
        Name of the decoder's last node. Those that lead to it in a row are folded, but
        not one with hooks, which must be called.
    signals : int
        How many signals will come at least: images times timesteps.
    image_size : (height, width)
        Of what the decoder gives.
    pays : callable, optional
        ``pays(chain, up, places)``: whether to fold in a U layer. ``places`` counts the
        places (rows times columns) of its inputs, over all signals. By default
        ``FoldedChain.pays_with``.

    Returns
    -------
    list of Node
        In the same order, without the U layers that are now in a chain.
    """
    if pays is None:
        pays = FoldedChain.pays_with  # its argument `self` is the chain
    by_name = {node.name: node for node in nodes}  # the result, as far as it is known
    num_takers = Counter()  # of each node's output
    for node in nodes:
        num_takers.update(node.sources)

    size = list(image_size)  # (height, width) of what the node gives, then of what it takes
    # The chain that takes what the node gives, and the name of the chain's node. Only
    # then the node can be folded in. None if another kind of node takes it.
    chain = None
    chain_name = None
    for node in row_backwards(by_name, end):
        module = node.module
        if isinstance(module, nn.ConvTranspose2d):  # hooked or not, it may change the size
            size = size_before(module, size)
        is_transposed = type(module) is nn.ConvTranspose2d and not calls_hooks(module)
        if is_transposed and module.stride[0] > 1:
            # What others take, too, must stay there as a node.
            may_fold = chain is not None and num_takers[node.name] == 1 and is_up_layer(module)
            if may_fold and pays(chain, module, signals * prod(size)):
                chain.fold_in(module)
                by_name[chain_name] = by_name[chain_name]._replace(sources=node.sources)
                del by_name[node.name]
            else:
                chain = None
        elif is_transposed and can_begin(module):
            chain = FoldedChain(module)
            chain_name = node.name
            by_name[node.name] = node._replace(module=chain)
        else:
            chain = None
    return list(by_name.values())


def row_backwards(by_name: dict[str, Node], end: str) -> list[Node]:
    """Return a node, the one before it, and so on, as long as each has one source."""
    row = []
    name = end
    while name in by_name and len(by_name[name].sources) == 1:
        row.append(by_name[name])
        name = by_name[name].sources[0]
    return row


def size_before(module: nn.ConvTranspose2d, size: Sequence[int]) -> list[int]:
    """Return the (height, width) before a layer that gives this one."""
    before = []
    for axis, length in enumerate(size):
        extent = module.dilation[axis] * (module.kernel_size[axis] - 1) + 1
        stretched = length + 2 * module.padding[axis] - module.output_padding[axis] - extent
        before.append(stretched // module.stride[axis] + 1)
    return before


def calls_hooks(module: nn.Module) -> bool:
    """Return whether a call of a module, or its backward pass, calls a hook."""
    return bool(is_hooked(module) or module._backward_hooks or module._backward_pre_hooks)


def is_up_layer(module: nn.ConvTranspose2d) -> bool:
    """Return whether a module is the token U: then each output comes from one input."""
    has_size = module.kernel_size == (2, 2) and module.stride == (2, 2)
    return has_size and module.padding == (0, 0) and module.groups == 1 and module.bias is None


def can_begin(module: nn.ConvTranspose2d) -> bool:
    """Return whether a transposed convolution may be the end of a FoldedChain.

    A chain is built from its end. Such a convolution has a square kernel, and moves by
    one place.
    """
    is_plain = (module.stride, module.groups, module.dilation) == ((1, 1), 1, (1, 1))
    return is_plain and len({*module.kernel_size}) == len({*module.padding}) == 1


class FoldedChain:
    """A transposed convolution and U layers before it, as one transposed convolution.

    Linear together they are one map. The kernel of two transposed convolutions is the
    first one's, passed through the second as if it were an image. Begun at the end,
    where channels are fewest, that takes the fewest operations. At borders nothing
    changes, since each output of a U layer comes from one input.

    Parameters
    ----------
    module : nn.ConvTranspose2d
        The convolution at the end, of stride 1.

    Attributes
    ----------
    kernel : Tensor of shape (C, C', k, k)
        Weights of the chain so far.
    bias : Tensor of shape (C',) or None
        Bias of the last layer.
    stride, padding : int
        Of the chain, the same along both axes.
    output_padding : list of two int
        Rows and columns that are added at the end.
    """

    def __init__(self, module: nn.ConvTranspose2d):
        self.kernel = module.weight
        self.bias = module.bias
        self.stride = 1
        self.padding = module.padding[0]
        self.output_padding = [0, 0]

    def pays_with(self, up: nn.ConvTranspose2d, places: int) -> bool:
        """Return whether a U layer in the chain saves multiply-adds.

        The backward pass needs twice those of the forward pass, whichever way.

        Parameters
        ----------
        up : nn.ConvTranspose2d
            The U layer before the chain.
        places : int
            How many places its inputs have, over all signals.

        Returns
        -------
        bool
            Whether fewer are needed than with both apart.
        """
        channels, width, size, _ = self.kernel.shape
        # Apart, the chain gets 4 places for each place before the U layer. Folding
        # passes the U layer's kernel through the chain.
        apart = places * up.weight.numel() + 4 * places * channels * width * size**2
        folding = up.weight.numel() * width * size**2
        return folding + places * self.size_with(up) < apart

    def size_with(self, up: nn.ConvTranspose2d) -> int:
        """Return how many weights the kernel has with a U layer folded in.

        Parameters
        ----------
        up : nn.ConvTranspose2d
            The U layer before the chain.

        Returns
        -------
        int
            Their number.
        """
        return up.in_channels * self.kernel.shape[1] * (self.kernel.shape[-1] + self.stride) ** 2

    def fold_in(self, up: nn.ConvTranspose2d) -> None:
        """Become the map of a U layer and the chain so far.

        Parameters
        ----------
        up : nn.ConvTranspose2d
            The U layer before the chain.
        """
        self.kernel = conv_transpose(up.weight, self.kernel, None, self.stride, 0, (0, 0))
        for axis, added in enumerate(up.output_padding):
            self.output_padding[axis] += self.stride * added
        self.stride *= up.stride[0]

    def module(self) -> nn.ConvTranspose2d:
        """Return the same map as a module of its own."""
        channels, width, size, _ = self.kernel.shape
        module = nn.ConvTranspose2d(
            channels, width, size, self.stride, self.padding, self.output_padding, bias=False
        )
        module.weight = nn.Parameter(self.kernel)
        module.bias = self.bias
        return module

    def __call__(self, signal: torch.Tensor) -> torch.Tensor:
        """Return what the chain makes of a signal.

        Parameters
        ----------
        signal : Tensor of shape (B, C, H, W)
            What arrives at its first layer.

        Returns
        -------
        Tensor of shape (B, C', stride H + added rows, stride W + added columns)
            What its last layer gives.
        """
        return conv_transpose(
            signal, self.kernel, self.bias, self.stride, self.padding, self.output_padding
        )


def conv_transpose(
    signal: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: int,
    output_padding: Sequence[int],
) -> torch.Tensor:
    """Return F.conv_transpose2d of a signal, faster where there are few channels.

    Each signal of a batch rounds as it does alone: results must not depend on how many
    timesteps or images run together.

    Parameters
    ----------
    signal : Tensor of shape (B, C, H, W)
        The signal.
    kernel : Tensor of shape (C, C', k, k)
        The weights.
    bias : Tensor of shape (C',) or None
        The bias.
    stride, padding : int
        As of nn.ConvTranspose2d.
    output_padding : sequence of two int
        As of nn.ConvTranspose2d.

    Returns
    -------
    Tensor of shape (B, C', H', W')
        The result.
    """
    channels = kernel.shape[1]
    kernel_size = kernel.shape[-1]
    if channels > FEW_CHANNELS:
        return F.conv_transpose2d(signal, kernel, bias, stride, padding, output_padding)
    # One product gives what each input adds to its neighbourhood; fold() adds these up.
    output_size = []
    for length, added in zip(signal.shape[2:], output_padding, strict=True):
        output_size.append(stride * (length - 1) + kernel_size - 2 * padding + added)
    # On a CPU torch.bmm has rounded alike in all batches that were tried, with a
    # gradient and without, as long as the memory format was the same.
    inputs = signal.contiguous(memory_format=torch.channels_last).flatten(2)
    # (B, C' k k, H W), as F.fold takes it
    columns = torch.bmm(kernel.flatten(1).t().expand(len(signal), -1, -1), inputs)
    output = F.fold(columns, output_size, kernel_size, padding=padding, stride=stride)
    if bias is None:
        return output
    return output + bias.view(-1, 1, 1)
