"""Where a chain of linear layers is split, so that there are the fewest weights.

Folded into one link, a spike costs one window of weights, but the window has as many
weights as all layers together reach. Split, a relay between two links adds up what
reaches it in a timestep, and passes on the sums. That takes less memory, and more time.
"""

from dataclasses import dataclass

from torch import nn

from wfeedback.event.windows import WindowedChain


@dataclass(frozen=True)
class Split:
    """A way to split the last layers of a chain.

    Attributes
    ----------
    num_weights : int
        Weights of all parts together.
    num_parts : int
        Number of parts.
    ends : tuple of int
        Behind how many layers of the chain each part ends.
    """

    num_weights: int
    num_parts: int
    ends: tuple

    @property
    def cost(self) -> tuple[int, int]:
        """What is to be small: weights, and then parts."""
        return self.num_weights, self.num_parts


def fewest_weights(chain: WindowedChain, is_whole: bool) -> list[int]:
    """Find where to split a chain, so that its links have the fewest weights.

    Between two parts stands a relay, a node that adds up what reaches it and passes on
    the sums. Of two splits with equally many weights the one with fewer parts is taken,
    and of those the one whose first part is shorter.

    Average pools of 2 x 2 places in front of a relay have no weights: the relay adds
    up what they take in, and its link onwards has the weights divided by 4. In front
    of the last node, which is no relay, pools need weights like other layers.

    Parameters
    ----------
    chain : WindowedChain
        The layers.
    is_whole : bool
        Whether the network is one of whole numbers. Then each layer has a scale of its
        own, so only average pools are taken together.

    Returns
    -------
    list of int
        Behind how many layers of the chain each relay stands, ascending. Empty if the
        whole chain is one part.
    """
    modules = chain.modules
    if not modules:
        return []
    # best[i] splits layers i to the last; it is found from the end of the chain.
    best = {len(modules): Split(num_weights=0, num_parts=0, ends=())}
    for i in reversed(range(len(modules))):
        candidates = []
        for j in range(i + 1, len(modules) + 1):
            # Layers i to j - 1 are one part, with a relay behind it unless it ends the
            # chain.
            adds_up = j < len(modules) and all(is_halving(module) for module in modules[i:j])
            if is_whole and j > i + 1 and not adds_up:
                continue
            num_weights = 0 if adds_up else chain.part(i, j).size
            rest = best[j]
            candidates.append(
                Split(num_weights + rest.num_weights, 1 + rest.num_parts, (j, *rest.ends))
            )
        best[i] = min(candidates, key=lambda split: split.cost)
    return list(best[0].ends[:-1])


def is_halving(module: nn.Module) -> bool:
    """Return whether a layer is an average pool of 2 x 2 places."""
    return (
        isinstance(module, nn.AvgPool2d)
        and module.kernel_size == module.stride == 2
        and module.padding == 0
    )
