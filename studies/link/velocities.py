"""A network of spikes that finds the velocity of each block, and moves its pixels on.

        the last frame and the one before, (2, H, W), on a torus
              |                                       |
              | to_d: 8 x 8 pixels, stride 4          | to_m: two pixels,
              v                                       | for each velocity
        +-----------+                                 |
        |     D     |  2 maps for each velocity,      |
        +-----------+  a neuron for each block        |
              |                                       |
              | to_v: 3 x 3 blocks, inhibits          |
              v                                       |
        +-----------+ -----+                          |
        |     V     |      | race: inhibits all       |
        +-----------+ <----+ velocities of a block    |
              |        a map for each velocity,       |
              |        a neuron for each block        |
              | to_pixels: all 4 x 4 pixels of it     |
              v                                       v
        +---------------------------------------------------+
        |     M     a map for each velocity,                |
        +---------- a neuron for each pixel ----------------+
              |
              | decoder: each pixel to where its velocity brings it
              v
        a sum for each pixel of the next frame, (H, W): white above 0

**D** tells where a block differs from itself, moved by a velocity: one neuron spikes if
the block has more white pixels than it would have had it moved so, the other if fewer.

**V** is the race of velocities. In each block one neuron for each velocity rises, all
at the same rate. The spikes of D, in the block and in the 8 around it, hold it back. So
the velocity that fits best spikes first, and this spike silences all velocities of its
block.

**M** has the pixels that move on. A neuron spikes if its pixel is white, if the pixel
from which the velocity leads to it was white a frame before, and if the velocity has
won in its block.

In spikes nothing is learned by gradients. All weights are set by hand, but for the
eight numbers of `Wiring`. The names of layers and synapses are those in checkpoints.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from self_models.neurons.spiking import SpikingNeuron
from self_models.neurons.surrogates import SURROGATES
from self_models.running.graph import Graph
from studies.link.torus import FASTEST, move_by_each, velocities_up_to, wrap_borders

if TYPE_CHECKING:
    from wfeedback.nir.graph_snn import GraphSNN

VELOCITIES = velocities_up_to(FASTEST)
N = len(VELOCITIES)  # 25
T = 16  # timesteps of the race
BLOCK = 4  # side of a block, in pixels
LEVELS = 15  # of a graded spike, above 0
SIZE = 28  # side of a frame, in pixels, of the graph


@dataclass
class Wiring:
    """The eight numbers that the weights of a `VelocityNetwork` are made of.

    The defaults were chosen on scenes of the last 5,000 training digits of MNIST.

    Attributes
    ----------
    corner, side : float
        Weights of a block's pixels in D, at its corners and else at its border. Those
        in the middle have 1.
    difference : float
        Threshold of D, in white pixels.
    own, beside, aslant : float
        What a spike of D takes from V: in its own block, in those that share a side
        with it, and in those that share a corner.
    rate : float
        By which V rises in a timestep. Its threshold is 1.
    silence : float
        What a spike of V takes from all velocities of its block.
    """

    corner: float = 0.0
    side: float = 0.3
    difference: float = 0.2
    own: float = 1.3
    beside: float = 0.9
    aslant: float = 0.5
    rate: float = 0.44
    silence: float = 6.5

    def pixel_weights(self) -> torch.Tensor:
        """Return the weights of a block's pixels in D, (4, 4)."""
        weights = torch.full((BLOCK, BLOCK), self.side)
        weights[1:-1, 1:-1] = 1
        weights[:: BLOCK - 1, :: BLOCK - 1] = self.corner
        return weights

    def inhibition(self) -> torch.Tensor:
        """Return what a block's V loses by D in the blocks around it, (3, 3)."""
        weights = torch.full((3, 3), self.beside)
        weights[1, 1] = self.own
        weights[::2, ::2] = self.aslant
        return weights


class VelocityNetwork(nn.Module):
    """Predict the next frame from the last two: see the drawing above.

    If it is graded, `run_link` can call it as its predictor.

    Parameters
    ----------
    spiking : bool
        Whether it is a network of spikes, wired by hand. Else it has random weights,
        which are to be trained, ReLUs in the place of spikes, biases in M and the
        decoder, too, and no timesteps: there is no race.
    graded : bool
        Whether it predicts grey. In spikes M then sends the smaller of its two pixels,
        as one spike of 15 levels, and the decoder shows the largest that arrives. In
        black and white this gives the same as sums above 0. Without spikes it means a
        sigmoid of the sums.
    """

    def __init__(self, spiking: bool = True, graded: bool = False):
        super().__init__()
        self.spiking = spiking
        self.graded = graded
        self.to_d = nn.Conv2d(2, 2 * N, 2 * BLOCK, BLOCK)
        self.to_v = nn.Conv2d(2 * N, N, 3, groups=N)
        self.race = nn.Conv2d(N, N, 1, bias=False)
        self.to_pixels = nn.ConvTranspose2d(N, N, BLOCK, BLOCK, groups=N, bias=False)
        self.to_m = nn.Conv2d(2, N, 2 * FASTEST + 1, bias=not spiking)
        self.decoder = nn.Conv2d(N, 1, 2 * FASTEST + 1, bias=not spiking)
        surrogate = SURROGATES["Triangle"](0, 0)
        self.d = SpikingNeuron(surrogate, "immediate", threshold=1.0, leak=0.0)
        self.v = SpikingNeuron(surrogate, "immediate", threshold=1.0)
        # Two white pixels and a spike of V make 3. Without one of them it is 2.
        self.m = SpikingNeuron(surrogate, "immediate", threshold=2.5)
        if spiking:
            self.wire(Wiring())

    @torch.no_grad()
    def wire(self, wiring: Wiring) -> None:
        """Set all weights by hand."""
        self.to_d.weight.zero_()
        self.to_m.weight.zero_()
        self.decoder.weight.zero_()
        pixels = wiring.pixel_weights()
        here = slice(FASTEST, FASTEST + BLOCK)  # the block, in the 8 x 8 pixels around it
        for number, (down, right) in enumerate(VELOCITIES):
            # Where, among the pixels around, that lies which this velocity brings here.
            row = FASTEST - down
            column = FASTEST - right
            rows = slice(row, row + BLOCK)
            columns = slice(column, column + BLOCK)
            more = 2 * number  # the map of D that spikes where there is more white
            fewer = more + 1
            self.to_d.weight[more, 0, here, here] = pixels
            self.to_d.weight[more, 1, rows, columns] = -pixels
            self.to_d.weight[fewer, 0, here, here] = -pixels
            self.to_d.weight[fewer, 1, rows, columns] = pixels
            self.to_m.weight[number, 0, FASTEST, FASTEST] = 1
            self.to_m.weight[number, 1, row, column] = 1
            self.decoder.weight[0, number, row, column] = 1
        # The neurons have a threshold of 1, which a bias brings down to the difference.
        self.to_d.bias.fill_(1 - max(wiring.difference, 0.01))
        self.to_v.weight[:] = -wiring.inhibition()
        self.to_v.bias.fill_(wiring.rate)
        self.race.weight.fill_(-wiring.silence)
        self.to_pixels.weight.fill_(1)

    def forward(
        self, seen: torch.Tensor, frame: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Predict the next frame.

        Parameters
        ----------
        seen : Tensor of shape (B, 2, H, W), 0 to 1
            The last frame and the one before. H and W are multiples of 4.
        frame : Tensor, optional
            What `run_link` hands to a sender. It is not used.

        Returns
        -------
        prediction : Tensor of shape (B, H, W)
            A sum for each pixel, white above 0; if graded, the frame.
        sent : dict of str to Tensor of shape (B, maps, rows, columns)
            What D, V and M send: of D and M one spike at most, of V the spikes of all
            timesteps. If graded, M sends one of the levels, 0 to 1.
        """
        from_pixels = self.to_d(wrap_borders(seen, FASTEST))
        d = self.d(from_pixels)[0] if self.spiking else from_pixels.relu()
        from_d = self.to_v(wrap_borders(d, 1))
        v = self._run_race(from_d) if self.spiking else from_d.relu()
        if self.spiking and self.graded:
            prediction, m = self._move_grey(seen, v)
        else:
            prediction, m = self._move_white(seen, v)
        return prediction, {"D": d, "V": v, "M": m}

    def _run_race(self, from_d: torch.Tensor) -> torch.Tensor:
        """Return the spikes of V over all timesteps, (B, N, rows, columns).

        `from_d` arrives in the first timestep: what D takes from V, and the first rise.
        What has been taken stays away, since V does not leak.
        """
        rise = self.to_v.bias.view(1, -1, 1, 1)
        current = from_d
        state = None
        total = torch.zeros_like(from_d)
        for _ in range(T):
            spikes, state = self.v(current, state)
            total = total + spikes
            current = rise + self.race(spikes)
        return total

    def _move_white(
        self, seen: torch.Tensor, v: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prediction (B, H, W), and what M sends (B, N, H, W)."""
        current = self.to_m(wrap_borders(seen, FASTEST)) + self.to_pixels(v)
        if self.spiking:
            # Below twice the threshold, so there is one spike at most.
            m = self.m(current)[0]
            sums = self.decoder(wrap_borders(m, FASTEST))[:, 0] - 0.5
            return sums, m
        m = current.relu()
        sums = self.decoder(wrap_borders(m, FASTEST))[:, 0]
        return sums.sigmoid() if self.graded else sums, m

    def _move_grey(self, seen: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prediction (B, H, W), and what M sends (B, N, H, W), in levels."""
        last, before = seen.unbind(1)
        has_won = self.to_pixels(v).transpose(0, 1) > 0
        m = torch.minimum(last, move_by_each(before, VELOCITIES)) * has_won
        m = (LEVELS * m).round() / LEVELS
        moved_on = []
        for of_velocity, velocity in zip(m, VELOCITIES, strict=True):
            moved_on.append(of_velocity.roll(velocity, (1, 2)))
        return torch.stack(moved_on).amax(0), m.transpose(0, 1)

    def as_graph(self, engine: str = "auto") -> "GraphSNN":
        """Return the same network as a graph of spiking nodes, for the event kernel.

        A graph has no torus. Its input is the two frames with a margin of 10 pixels, as
        `wrap_borders` makes it, so what lies near a border is computed twice. They come
        in the first of T timesteps.

        Parameters
        ----------
        engine : {"auto", "event", "dense"}
            See `GraphSNN`.

        Returns
        -------
        GraphSNN
            In eval mode, for frames of 28 x 28 pixels. Its logits, (B, 28 * 28), are
            white above 0.5.
        """
        # The link alone needs no NIR network, whose import loads the event engine.
        from wfeedback.nir.graph_snn import GraphSNN

        # Each layer takes from the margin what it needs: D 2 pixels and V a block of 4,
        # which leave 4 of 10. M needs 2, and the decoder the 2 that are left. So M's
        # input, and what V sends to M, are cut to margins of 4 and 2.
        crop = nn.ConvTranspose2d(2, 2, 1, padding=6, bias=False)
        to_pixels = nn.ConvTranspose2d(N, N, BLOCK, BLOCK, padding=2, bias=False)
        with torch.no_grad():
            crop.weight.copy_(torch.eye(2)[..., None, None])
            # Without groups: each velocity reaches its own map alone.
            to_pixels.weight.copy_(self.to_pixels.weight * torch.eye(N)[..., None, None])
        modules = dict(self.named_children())
        modules["crop"] = crop
        modules["to_pixels"] = to_pixels
        edges = [
            ("input", "to_d"),
            ("to_d", "d"),
            ("d", "to_v"),
            ("to_v", "v"),
            ("v", "to_pixels"),
            ("to_pixels", "m"),
            ("m", "decoder"),
            ("input", "crop"),
            ("crop", "to_m"),
            ("to_m", "m"),
            ("v", "race"),
            ("race", "v"),
        ]
        shape = (2, SIZE + 20, SIZE + 20)
        graph = Graph(modules, edges, shape, {"output": "decoder"})
        return GraphSNN(graph, engine=engine).eval()


@dataclass
class Operations:
    """What a wired `VelocityNetwork` computes, memory not counted.

    Attributes
    ----------
    additions : int
        One for each synapse that a spike or a white pixel reaches, and one for each
        neuron of V that rises in a timestep.
    multiply_adds : int
        In grey: one for each synapse that a pixel reaches in D.
    """

    additions: int
    multiply_adds: int


def count_operations(
    seen: torch.Tensor, sent: dict[str, torch.Tensor], grey: bool = False
) -> Operations:
    """Count what a wired `VelocityNetwork` has computed.

    Parameters
    ----------
    seen : Tensor of shape (B, 2, H, W)
    sent : dict of str to Tensor
        What it has sent: see `VelocityNetwork.forward`.
    grey : bool
        Whether the frames are grey.

    Returns
    -------
    Operations
        For all frames together.
    """
    # D and V have a map for each of N velocities, D two. A spike or pixel costs an
    # addition for each synapse that it reaches: see the drawing at the top of the file.
    num_pixels = seen.count_nonzero().item()
    num_d = sent["D"].count_nonzero().item()
    num_v = sent["V"].count_nonzero().item()
    num_m = sent["M"].count_nonzero().item()

    to_d = 2 * N * num_pixels
    to_m = N * num_pixels
    to_v = 3 * 3 * num_d  # the block itself and the 8 around it
    race_and_to_pixels = (N + BLOCK**2) * num_v  # all of its block; its block's pixels
    to_decoder = num_m
    rises = T * sent["V"].numel()  # each neuron of V, in each timestep
    additions = to_m + to_v + race_and_to_pixels + to_decoder + rises
    if grey:
        return Operations(additions, multiply_adds=to_d)
    return Operations(additions + to_d, multiply_adds=0)
