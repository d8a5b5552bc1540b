"""Philox 4x32-10 (Salmon et al., SC 2011), as compiled code and as operations on tensors; running/draws.py says what is drawn."""

import numpy as np

from self_models.fast.compiling import WHY_NOT, cached, inlined, noting_failure

LOW = 0xFFFFFFFF
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


def philox(kernel):
    """philox_block(counter0..3, key0, key1) -> 4 words, all of them 32 bits in int64. kernel: the decorator of its functions;
    without one they also take tensors (whose products wrap around as those of compiled code do) and any Python numbers."""
    (m0, m1), (w0, w1) = MULTIPLIERS, WEYL

    @kernel
    def two_rounds(a, b, c, d, k0, k1):
        p, q = m0 * a, m1 * c
        a, b, c, d = ((q >> 32) & LOW) ^ b ^ k0, q & LOW, ((p >> 32) & LOW) ^ d ^ k1, p & LOW
        k0, k1 = (k0 + w0) & LOW, (k1 + w1) & LOW
        p, q = m0 * a, m1 * c
        a, b, c, d = ((q >> 32) & LOW) ^ b ^ k0, q & LOW, ((p >> 32) & LOW) ^ d ^ k1, p & LOW
        return a, b, c, d, (k0 + w0) & LOW, (k1 + w1) & LOW

    @kernel
    def philox_block(a, b, c, d, k0, k1):  # no loop: it would keep the compiler from making vector instructions
        a, b, c, d, k0, k1 = two_rounds(a, b, c, d, k0, k1)
        a, b, c, d, k0, k1 = two_rounds(a, b, c, d, k0, k1)
        a, b, c, d, k0, k1 = two_rounds(a, b, c, d, k0, k1)
        a, b, c, d, k0, k1 = two_rounds(a, b, c, d, k0, k1)
        a, b, c, d, k0, k1 = two_rounds(a, b, c, d, k0, k1)
        return a, b, c, d

    return philox_block


philox_block = philox(inlined)
philox_words = philox(lambda function: function)


@inlined
def uniform(word):
    """The word's 24 high bits as a float32 in [0, 1)."""
    return np.float32(np.int32(word >> 8)) * np.float32(2.0**-24)


@cached
def fill(out, first, index, epoch, k0, k1):
    """Draws of steps from `first` on, for the images of index (B,), into out (T, B, positions), a multiple of 4 of them."""
    four, blocks = np.uint64(4), np.uint64(out.shape[2] // 4)
    for t in range(out.shape[0]):
        for b in range(out.shape[1]):
            row, image = out[t, b], index[b]
            for i in range(blocks):
                words = philox_block(np.int64(i), first + t, image, epoch, k0, k1)
                row[four * i] = uniform(words[0])
                row[four * i + np.uint64(1)] = uniform(words[1])
                row[four * i + np.uint64(2)] = uniform(words[2])
                row[four * i + np.uint64(3)] = uniform(words[3])


def filled(*arguments):
    """Whether fill() could do it: not without numba."""
    if not WHY_NOT:
        with noting_failure():
            fill(*arguments)
    return not WHY_NOT
