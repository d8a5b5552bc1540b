"""Random numbers that depend on nothing but what they are for.

That is: seed, purpose, epoch, image, timestep and pixel.

The generator is Philox 4x32-10 (Salmon et al., SC 2011), which encrypts a counter with
a key. So nothing depends on what was drawn before, nor on the device: the numbers are
the same bit for bit as compiled code makes them, as operations on tensors, and for one
pixel alone.

The key is made of the seed and the purpose. The counter's four words are (block,
timestep, image, epoch). A block makes the numbers of four positions, which count pixels
in the order row, column, channel: position p takes word p % 4 of block p // 4. The 24
high bits of a word are a number in [0, 1).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from self_models import plugins
from self_models.devices import to_device
from self_models.errors import ModelError
from self_models.settings import Number, required

EVALUATION = 0xFFFFFFFF  # the "epoch" whose draws evaluation uses
LOW = 0xFFFFFFFF  # the 32 low bits of a word
PHILOX_ROUNDS = 10
SEED = Number(int)

Word = TypeVar("Word", int, torch.Tensor)  # 32 bits, in a whole number of Python or an int64


def philox_words(a: Word, b: Word, c: Word, d: Word, k0: int, k1: int) -> tuple:
    """Return the four random words of a counter.

    Parameters
    ----------
    a, b, c, d : int, or Tensor of int64
        The counter's words, 32 bits each. Products of tensors wrap around at 64 bits,
        which leaves the bits that are used as they are.
    k0, k1 : int
        The key's words, 32 bits each.

    Returns
    -------
    tuple of four int, or of four Tensors of int64
        32 bits each.
    """
    for _ in range(PHILOX_ROUNDS):
        product_a = 0xD2511F53 * a
        product_c = 0xCD9E8D57 * c
        a = ((product_c >> 32) & LOW) ^ b ^ k0
        b = product_c & LOW
        c = ((product_a >> 32) & LOW) ^ d ^ k1
        d = product_a & LOW
        k0 = (k0 + 0x9E3779B9) & LOW
        k1 = (k1 + 0xBB67AE85) & LOW
    return a, b, c, d


def seed_for(seed: int, purpose: str) -> int:
    """Return a seed of 64 bits for one purpose, such as "input".

    Parameters
    ----------
    seed : int
        Seed of the run.
    purpose : str
        What is drawn with it.

    Returns
    -------
    int
        From 0 to 2**64 - 1.
    """
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def key_for(seed: int, purpose: str) -> tuple[int, int]:
    """Return the generator's key for a seed and a purpose: ``seed_for``, as two words.

    Parameters
    ----------
    seed : int
        Seed of the run.
    purpose : str
        What is drawn with it.

    Returns
    -------
    tuple of two int
        The 32 low bits, and the 32 high bits.
    """
    key = seed_for(seed, purpose)
    return key & LOW, key >> 32


def shuffled(size: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order of an epoch's training images.

    Parameters
    ----------
    size : int
        Number of images.
    seed : int
        Seed of the run.
    epoch : int
        Number of the epoch.

    Returns
    -------
    Tensor of shape (size,), int64
        Positions of images in their set.
    """
    words = philox_words(0, 0, torch.arange(size), epoch, *key_for(seed, "order"))
    # A key of 63 bits for each image, so that two images rarely have the same.
    sort_keys = words[0] << 31 | words[1] >> 1
    return sort_keys.argsort(stable=True)


@dataclass(frozen=True, eq=False)
class Draws:
    """The random numbers of a batch in one epoch.

    Each image has numbers of its own, whatever shares its batch, and the same on every
    device.

    Attributes
    ----------
    seed : int
        Seed of the run.
    epoch : int
        Number of the epoch, or ``EVALUATION``.
    index : Tensor of shape (B,), int64, on the CPU
        Positions of the images in their set, below 2**32.

    Raises
    ------
    ModelError
        If the seed is no whole number.
    """

    seed: int
    epoch: int
    index: torch.Tensor

    def __post_init__(self):
        """Refuse a seed that is no whole number, from which nothing could be drawn."""
        required(SEED, "seed", self.seed)

    def select(self, keep: torch.Tensor) -> "Draws":
        """Return the draws of some of the images.

        Parameters
        ----------
        keep : Tensor of shape (n,), int64, or (B,), bool
            Which images.

        Returns
        -------
        Draws
            Of these images alone.
        """
        return replace(self, index=self.index[keep.cpu()])

    def uniforms(
        self,
        timesteps: int,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
        first: int = 0,
    ) -> torch.Tensor:
        """Return the uniform samples ``u`` of the input encoding.

        Parameters
        ----------
        timesteps : int
            Number of timesteps ``T``.
        shape : sequence of int
            Shape of an image: (C, H, W) or (N,).
        device : torch.device or str
            Where the samples are needed.
        first : int, default 0
            Number of the first timestep.

        Returns
        -------
        Tensor of shape (T, B, *shape), float32, 0 to 1
            The samples.
        """
        samples = self.numbers("input", prod(shape), device, first, timesteps)
        return in_space(samples, shape)

    def at_step(
        self, t: int, shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return the samples of timestep ``t`` alone, (B, *shape); see `uniforms`."""
        return self.uniforms(1, shape, device, t)[0]

    def mask(
        self, layer: int, p: float, shape: Sequence[int], device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Return a dropout mask.

        Parameters
        ----------
        layer : int
            Number of the dropout layer in its network.
        p : float, 0 to 1
            Probability of dropping a value.
        shape : sequence of int
            Shape of the layer's signal of one image.
        device : torch.device or str
            Where the mask is needed.

        Returns
        -------
        Tensor of shape (B, *shape)
            0 with the probability ``p``, else 1 / (1 - p).
        """
        samples = in_space(self.numbers("dropout", prod(shape), device, layer)[0], shape)
        return (samples >= p) * (1 / (1 - p))

    def numbers(
        self,
        purpose: str,
        size: int,
        device: torch.device | str = "cpu",
        first: int = 0,
        steps: int = 1,
    ) -> torch.Tensor:
        """Return uniform random numbers for a purpose.

        Parameters
        ----------
        purpose : str
            What they are for.
        size : int
            How many each image needs in a timestep.
        device : torch.device or str
            Where they are needed.
        first : int, default 0
            Number of the first timestep.
        steps : int, default 1
            Number of timesteps.

        Returns
        -------
        Tensor of shape (steps, B, size), float32, 0 to 1
            The numbers.
        """
        num_blocks = -(-size // 4)  # rounded up
        key = key_for(self.seed, purpose)
        if torch.device(device).type == "cpu":
            values = torch.empty(steps, len(self.index), 4 * num_blocks)
            # Compiled code is faster. It returns False where there is no compiler.
            fill_uniforms = plugins.load_object(plugins.FILL_UNIFORMS)
            if fill_uniforms(values.numpy(), first, self.index.numpy(), self.epoch, *key):
                return values[..., :size]
        block = torch.arange(num_blocks, device=device)
        step = torch.arange(first, first + steps, device=device)[:, None, None]
        image = to_device(self.index, device)[:, None]
        words = torch.stack(philox_words(block, step, image, self.epoch, *key), -1)
        numbers = (words.flatten(2) >> 8).float() * 2.0**-24
        return numbers[..., :size]


def in_space(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Return numbers by position as a signal, in which channels come first.

    Parameters
    ----------
    values : Tensor of shape (..., num_positions)
        Positions are in the order row, column, channel.
    shape : sequence of int
        Shape of the signal: (C, H, W) or (N,).

    Returns
    -------
    Tensor of shape (..., *shape)
        The same numbers.
    """
    if len(shape) == 1:
        return values
    channels, *space = shape
    return values.unflatten(-1, (*space, channels)).movedim(-1, -3)


def draws_for(x: torch.Tensor, draws: Draws | None = None, seed: int | None = None) -> Draws:
    """Return the random numbers for a network's forward pass.

    Parameters
    ----------
    x : Tensor of shape (B, ...)
        The images.
    draws : Draws, optional
        Those of the caller, which are used unless there is a seed.
    seed : int, optional
        A seed for new ones. If neither is given, torch's global generator gives one.

    Returns
    -------
    Draws
        For these images.

    Raises
    ------
    ModelError
        If ``draws`` are of another number of images.
    """
    if seed is None and draws:
        if len(draws.index) != len(x):  # those of one image would be used for all
            raise ModelError(
                f"draws: they are of {len(draws.index)} images, and here are {len(x)}"
            )
        return draws
    if seed is None:
        seed = int(torch.randint(2**63 - 1, ()).numpy())
    return Draws(seed, EVALUATION, torch.arange(len(x)))


class Batch(NamedTuple):
    """Some images of a set.

    Attributes
    ----------
    images : Tensor of shape (B, C, H, W), float32
        Grey images in [0, 1], colour images in [-1, 1].
    labels : Tensor of shape (B,) or None
        Their classes. None where nobody knows them.
    index : Tensor of shape (B,), int64
        Their positions in the set.
    """

    images: torch.Tensor
    labels: torch.Tensor | None
    index: torch.Tensor

    def run(
        self, model: nn.Module, seed: int, epoch: int = EVALUATION, frames: bool = False
    ) -> NamedTuple:
        """Run a network on these images, and return its output.

        Parameters
        ----------
        model : nn.Module
            An ANN or SNN of the package.
        seed : int
            Seed of the random numbers.
        epoch : int
            Number of the epoch, or ``EVALUATION``.
        frames : bool, default False
            Whether the output has frames, or sums over pixels in their place.

        Returns
        -------
        ANNOutput or SNNOutput
            See ``running/outputs.py``.
        """
        return model(self.images, draws=Draws(seed, epoch, self.index), frames=frames)
