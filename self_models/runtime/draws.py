"""Random numbers that follow from seed, purpose, epoch, image, step and pixel alone: Philox 4x32-10 (Salmon et al., SC 2011).

Nothing depends on what was drawn before, nor on the device: the numbers are the same bit for bit as compiled code makes them, as
operations on tensors, and for one pixel alone. The key is the seed and the purpose; the counter's words are
(block of 4 positions, step, image, epoch). Position p, a pixel in the order row, column, channel, takes word p % 4 of block
p // 4, whose 24 high bits are a number in [0, 1).
"""

import hashlib
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import torch

from self_models import assembly
from self_models.basics import ModelError
from self_models.basics.devices import sent

EVALUATION = 0xFFFFFFFF  # the "epoch" whose draws evaluation uses
LOW = 0xFFFFFFFF


def philox_words(a, b, c, d, k0, k1):
    """The 4 words, 32 bits each, of counter (a, b, c, d) and key (k0, k1): Python's whole numbers, or tensors of int64, whose
    products wrap around."""
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = ((q >> 32) & LOW) ^ b ^ k0, q & LOW, ((p >> 32) & LOW) ^ d ^ k1, p & LOW
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    return a, b, c, d


def seed_for(seed, purpose):
    """64 bits that follow from a seed and what is drawn with it."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest(), "little"
    )


def key_for(seed, purpose):
    """The same as the generator's key, two numbers of 32 bits."""
    key = seed_for(seed, purpose)
    return key & LOW, key >> 32


def shuffled(size, seed, epoch):
    """The order of an epoch's training images, (size,)."""
    words = philox_words(0, 0, torch.arange(size), epoch, *key_for(seed, "order"))
    return (words[0] << 31 | words[1] >> 1).argsort(stable=True)


@dataclass(frozen=True, eq=False)
class Draws:
    """The draws of a batch in one epoch. seed: a whole number; index: the images' positions in their set, (B,) int64 on
    the CPU, below 2**32.

    Each image's draws are its own, whatever shares its batch, and the same on every device."""

    seed: int
    epoch: int
    index: torch.Tensor

    def select(self, keep):
        """The draws of a part of the batch; keep: an index or a mask."""
        return replace(self, index=self.index[keep.cpu()])

    def uniforms(self, timesteps, shape, device="cpu", first=0):
        """Draws u[t] of the input encoding from step `first` on, (timesteps, B, *shape), uniform in [0, 1)."""
        return in_space(self.numbers("input", prod(shape), device, first, timesteps), shape)

    def at_step(self, t, shape, device="cpu"):
        """Draws of step t alone, (B, *shape)."""
        return self.uniforms(1, shape, device, t)[0]

    def mask(self, layer, p, shape, device="cpu"):
        """Dropout mask of the layer of this number, (B, *shape): 0 with probability p, else 1 / (1 - p)."""
        return (in_space(self.numbers("dropout", prod(shape), device, layer)[0], shape) >= p) * (
            1 / (1 - p)
        )

    def numbers(self, purpose, size, device="cpu", first=0, steps=1):
        """Uniform numbers in [0, 1) for this purpose, (steps, B, size) float32."""
        blocks, keys = -(-size // 4), key_for(self.seed, purpose)
        if torch.device(device).type == "cpu":
            values = torch.empty(steps, len(self.index), 4 * blocks)
            fill = assembly.load_object(
                assembly.FILL_UNIFORMS
            )  # compiled, where there is a compiler
            if fill(values.numpy(), first, self.index.numpy(), self.epoch, *keys):
                return values[..., :size]
        step = torch.arange(first, first + steps, device=device)[:, None, None]
        image = sent(self.index, device)[:, None]
        words = philox_words(torch.arange(blocks, device=device), step, image, self.epoch, *keys)
        return ((torch.stack(words, -1).flatten(2) >> 8).float() * 2.0**-24)[..., :size]


def in_space(values, shape):
    """(..., positions) -> (..., C, H, W) or (..., N)"""
    if len(shape) == 1:
        return values
    channels, *space = shape
    return values.unflatten(-1, (*space, channels)).movedim(-1, -3)


def draws_for(x, draws=None, seed=None):
    """The Draws of a forward of images x (B, ...): those of this seed, those given, else of a seed that torch's global generator
    gives. Raises ModelError for given ones of another number of images."""
    if seed is None and draws:
        if len(draws.index) != len(x):  # those of one image would be used for all
            raise ModelError(
                f"draws: they are of {len(draws.index)} images, and here are {len(x)}"
            )
        return draws
    seed = int(torch.randint(2**63 - 1, ()).numpy()) if seed is None else seed
    return Draws(seed, EVALUATION, torch.arange(len(x)))


class Batch(NamedTuple):
    """Some images of a set: images (B, C, H, W) float32, grey in [0, 1], colour in [-1, 1]; labels (B,), None where nobody knows
    them; index: positions in the set (B,)."""

    images: torch.Tensor
    labels: torch.Tensor
    index: torch.Tensor

    def run(self, model, seed, epoch=EVALUATION, frames=False):
        """The model's output; frames: whether it keeps them."""
        return model(self.images, draws=Draws(seed, epoch, self.index), frames=frames)
