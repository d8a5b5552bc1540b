"""What a film costs over the link: events, bits, errors and computing."""

import math
from collections import Counter
from dataclasses import dataclass

import torch

from studies.link.loop import LinkStep
from studies.link.shifts import GREY_LEVELS, Shifts

VALUE_BITS = 8


@dataclass
class LinkFigures:
    """Means per frame of a film that went over the link.

    Attributes
    ----------
    pixels : list of int
        Pixels sent, of each frame.
    vectors : list of int
        Shifts sent, of each frame.
    fixed_bits : float
        With an address and a value for each pixel, an address and a number for each
        shift.
    entropy_bits : float
        Entropy of zero order: see `LinkCount`.
    psnr : float
        Of the rebuilt frames, in dB.
    additions, multiply_adds, spikes : float
        Of the predictor, at both sides if both compute.
    """

    pixels: list[int]
    vectors: list[int]
    fixed_bits: float
    entropy_bits: float
    psnr: float
    additions: float
    multiply_adds: float
    spikes: float

    def events(self) -> list[int]:
        """Return pixels and shifts sent, of each frame."""
        return [sum(both) for both in zip(self.pixels, self.vectors, strict=True)]

    def events_per_frame(self) -> float:
        """Return the mean of pixels and shifts sent."""
        return sum(self.events()) / len(self.pixels)

    def computing_joules(self, joules_per_addition: float, joules_per_product: float) -> float:
        """Return what the predictor computes per frame, memory not counted."""
        return self.additions * joules_per_addition + self.multiply_adds * joules_per_product


class LinkCount:
    """Counts what the frames of a film send, one after another.

    For the entropy of zero order each pixel is a symbol, *nothing* or the difference of
    its value and the prediction, which the receiver knows; each block is one, *nothing*
    or its new shift. A symbol that makes up a share p of all counts as -log2 p bits.

    Parameters
    ----------
    predictor : object
        Has ``at_sender`` and, if it shifts blocks, ``shifts``.
    """

    def __init__(self, predictor: object):
        self.sends_shifts = predictor.at_sender
        self.shifts: Shifts | None = getattr(predictor, "shifts", None)
        self.pixels = []
        self.vectors = []
        self.pixel_symbols = Counter()
        self.shift_symbols = {}  # side of a block -> Counter
        self.fixed_bits = 0
        self.squared_error = 0.0
        self.num_pixels = 0
        self.additions = 0
        self.multiply_adds = 0
        self.spikes = 0

    def add(self, step: LinkStep, frame: torch.Tensor) -> None:
        """Count a frame.

        Parameters
        ----------
        step : LinkStep
            Of one film: B is 1.
        frame : Tensor of shape (1, H, W)
            The true one.
        """
        self._add_pixels(step, frame)
        self.vectors.append(0)
        if self.sends_shifts:
            self._add_shifts(step)
        self.squared_error += float((step.rebuilt - frame).square().sum())
        self.num_pixels += frame.numel()
        self.additions += step.report.additions
        self.multiply_adds += step.report.multiply_adds
        self.spikes += step.report.spikes

    def _add_pixels(self, step: LinkStep, frame: torch.Tensor) -> None:
        """Count the pixels that are sent.

        One that is not sent takes no bits of fixed length, and is a symbol "nothing"
        for the entropy.
        """
        num_sent = int(step.events.sum())
        self.pixels.append(num_sent)
        self.fixed_bits += num_sent * (address_bits(frame.numel()) + VALUE_BITS)

        difference = ((frame - step.prediction) * GREY_LEVELS).round().int()
        levels, counts = difference[step.events].unique(return_counts=True)
        for level, count in zip(levels.tolist(), counts.tolist(), strict=True):
            self.pixel_symbols[level] += count
        self.pixel_symbols["nothing"] += frame.numel() - num_sent

    def _add_shifts(self, step: LinkStep) -> None:
        """Add the blocks with a new shift to the last of `vectors`, and their bits.

        A block that keeps its shift sends nothing: it takes no bits of fixed length,
        and is a symbol "nothing" for the entropy.
        """
        for blocks in step.report.changes:
            num_blocks = blocks.changed.numel()
            num_changed = int(blocks.changed.sum())
            self.vectors[-1] += num_changed

            bits_of_change = address_bits(num_blocks) + address_bits(len(self.shifts))
            self.fixed_bits += num_changed * bits_of_change

            symbols = self.shift_symbols.setdefault(blocks.side, Counter())
            symbols.update(blocks.shift[blocks.changed].tolist())
            symbols["nothing"] += num_blocks - num_changed

    def figures(self) -> LinkFigures:
        """Return the means over the frames that were added."""
        frames = len(self.pixels)
        entropy = total_entropy(self.pixel_symbols)
        for symbols in self.shift_symbols.values():
            entropy += total_entropy(symbols)
        return LinkFigures(
            pixels=self.pixels,
            vectors=self.vectors,
            fixed_bits=self.fixed_bits / frames,
            entropy_bits=entropy / frames,
            psnr=peak_signal_to_noise(self.squared_error / self.num_pixels),
            additions=self.additions / frames,
            multiply_adds=self.multiply_adds / frames,
            spikes=self.spikes / frames,
        )


def address_bits(count: int) -> int:
    """Return how many bits tell so many places apart."""
    return math.ceil(math.log2(count))


def total_entropy(symbols: Counter) -> float:
    """Return the entropy of zero order of all counted symbols together, in bits."""
    total = symbols.total()
    return sum(-count * math.log2(count / total) for count in symbols.values() if count)


def peak_signal_to_noise(mean_squared_error: float) -> float:
    """Return the PSNR in dB of pixels of 0 to 1; infinite where nothing differs."""
    if mean_squared_error == 0:
        return math.inf
    return -10 * math.log10(mean_squared_error)


def price_that_pays(
    computing: float, events: float, other_computing: float, other_events: float
) -> float | None:
    """Return the price of an event above which a predictor costs less than another.

    Parameters
    ----------
    computing, other_computing : float
        Joules per frame.
    events, other_events : float
        Per frame.

    Returns
    -------
    float or None
        Joules; 0 where it also computes less, None where it sends more.
    """
    saved_events = other_events - events
    if saved_events <= 0:
        return None
    return max(0.0, (computing - other_computing) / saved_events)
