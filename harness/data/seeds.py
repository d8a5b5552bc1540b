"""Random numbers that follow from seed, epoch and position alone, never from what was drawn before."""

import hashlib

import torch

EVALUATION = -1  # the "epoch" whose draws evaluation uses


def seed_from(*numbers):
    """A 56-bit seed for these whole numbers, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=7).digest(), "big")


def generator(*numbers):
    """A torch.Generator on the CPU whose draws follow from these numbers alone."""
    return torch.Generator().manual_seed(seed_from(*numbers))


def shuffled(size, seed, epoch):
    """The order of an epoch's training images, (size,)."""
    return torch.randperm(size, generator=generator(seed, epoch))


def image_seeds(index, seed, epoch):
    """The seed of each image's draws: it follows from the image's position in its set, index (B,). A list of B numbers."""
    return [seed_from(seed, epoch, position) for position in index.tolist()]


def image_draws(index, seed, epoch, timesteps, shape, device="cpu"):
    """Draws u[t] of the input encoding, (T, B, *shape), uniform in [0, 1).

    Each image's draws follow from its position in its set (index, (B,)), so that a result does not depend on which images
    share a batch.
    """
    draws = torch.empty(timesteps, len(index), *shape)
    for column, own in enumerate(image_seeds(index, seed, epoch)):
        draws[:, column] = torch.rand(timesteps, *shape, generator=torch.Generator().manual_seed(own))
    return draws.to(device)
