"""Network plans: which layers, in which order, for images of which shape.

Encoder tokens: a number (3x3 convolution to that many channels), 'D' (2x2 strided convolution), 'A' (2x2 average pool), 'M'
(2x2 maximum pool, behind a nonlinearity: of spikes see MAX_POOLS in stages.py), and 'fork', once at most: from there the decoder
takes its input, else from the encoder's end.
Decoder tokens: a number (3x3 transposed convolution), 'U' (2x2 strided transposed convolution), 'drop' (dropout), and
'in' (back to the image's channels), which comes last. An architecture without a decoder is an architecture without feedback.
"""

from dataclasses import dataclass
from itertools import pairwise

from self_models.basics import ModelError
from self_models.basics.settings import Registry

HALVING = ("D", "A", "M")  # encoder tokens

# name -> (encoder, decoder)
PLANS = Registry("architecture")
PLANS |= {
    "VGG5_wFeedback": ("64 D 128 128 D", "U 128 drop 64 U in"),
    "VGG5_wFeedback_narrow": ("32 D 64 64 D", "U 64 drop 32 U in"),
    "VGG5_wFeedback_small": ("16 D 32 32 D", "U 32 drop 16 U in"),
    "VGG5_wFeedback_linear": ("16 D 32 32 D", "U U in"),
    "VGG4_wFeedback_linear": ("32 D 64 D", "U U in"),
    "VGG4_narrow": ("32 D 64 D", ""),
    "VGG4_wFeedback_tiny": ("4 D 16 D", "U U in"),
    "VGG4_tiny": ("4 D 16 D", ""),
    "VGG8_wFeedback_fork": ("32 D 64 64 fork D 128 128 D 256", "U in"),
    "VGG8_wFeedback_early": ("32 fork D 64 64 D 128 128 D 256", "32 in"),
    "VGG8_wFeedback_max": ("24 fork 64 M 64 256 M 256 256 M 256 A A", "24 in"),
    "VGG8_wFeedback_context": ("24 64 M 64 256 fork M 256 256 M 256 A A", "U in"),
    "VGG8_small": ("32 D 64 64 D 128 128 D 256", ""),
    "VGG8_max": ("24 64 M 64 256 M 256 256 M 256 A A", ""),
    "VGG8_strided": ("24 64 D 64 256 D 256 256 D 256 A A", ""),
    "VGG9_wFeedback": (
        "64 D 128 256 D 256 512 D 512 D 512",
        "512 U 512 U 256 drop 256 U 128 drop 64 U in",
    ),
    "VGG9_strided": ("64 D 128 256 D 256 512 D 512 D 512", ""),
    "VGG5_small": ("16 D 32 32 D", ""),
    "VGG5": ("64 A 128 128 A", ""),
    "VGG9": ("64 A 128 256 A 256 512 A 512 A 512", ""),
    "VGG11": ("64 A 128 256 A 512 512 A 512 A 512 512", ""),
    "VGG13": ("64 64 A 128 128 A 256 256 A 512 512 512 A 512", ""),
    "VGG16": ("64 64 A 128 128 A 256 256 256 A 512 512 512 A 512 512 512", ""),
    "VGG16_max": ("64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512", ""),
}


@dataclass(frozen=True)
class Plan:
    """Two tuples of tokens; checked when built. Raises ModelError where the tokens make no network."""

    encoder: tuple
    decoder: tuple = ()

    def __post_init__(self):
        encoder, decoder, downs, ups = (
            self.encoder,
            self.decoder,
            halvings(self.before_fork),
            self.decoder.count("U"),
        )
        for part, tokens, letters in (
            ("encoder", encoder, (*HALVING, "fork")),
            ("decoder", decoder, ("U", "drop", "in")),
        ):
            if wrong := [token for token in tokens if not (is_width(token) or token in letters)]:
                raise ModelError(
                    f"plan: unknown {part} token {wrong[0]!r}: use a number of channels or {', '.join(letters)}"
                )
        if not encoder or not is_width(encoder[0]):
            raise ModelError(
                f"plan: the encoder must begin with a number of channels, not {list(encoder[:1])}"
            )
        if encoder.count("fork") > 1 or ("fork" in encoder and not decoder):
            raise ModelError(
                "plan: 'fork' is where the decoder takes its input: have it once, and only beside a decoder"
            )
        for before, token in pairwise(token for token in encoder if token != "fork"):
            if token == "M" and not (is_width(before) or before == "M"):
                raise ModelError(
                    f"plan: 'M' stands behind a nonlinearity, so behind a number, not behind {before!r}"
                )
        if decoder and (decoder[-1] != "in" or decoder.count("in") != 1):
            raise ModelError("plan: the decoder must end with 'in', and have it only there")
        if decoder and downs != ups:
            where = " before its fork" if "fork" in encoder else ""
            both = f"the encoder halves the image {downs} times{where} and the decoder doubles it {ups} times"
            raise ModelError(f"plan: {both}; give both the same number")

    @property
    def before_fork(self):
        """The encoder's tokens whose output the decoder takes."""
        return (
            self.encoder[: self.encoder.index("fork")] if "fork" in self.encoder else self.encoder
        )

    def sizes(self, height, width):
        """The (height, width) before each halving, then the last one. Raises ModelError if nothing is left."""
        times = halvings(self.encoder)
        if min(height, width) < 2**times:
            needs = f"this architecture halves it {times} times and needs at least {2**times}x{2**times}"
            raise ModelError(
                f"image of {height}x{width} is too small: {needs}; choose a shallower one"
            )
        return [(height >> n, width >> n) for n in range(times + 1)]


def halvings(tokens):
    """How often these tokens of an encoder halve the image."""
    return sum(token in HALVING for token in tokens)


def find_plan(name, plan=None):
    """The named plan, or the given [encoder, decoder] instead. Raises ModelError for an unknown name."""
    encoder, decoder = map(as_tokens, PLANS.find(name)) if plan is None else plan
    return Plan(tuple(encoder), tuple(decoder))


def as_tokens(text):
    """'16 D' -> [16, 'D']"""
    return [int(token) if token.isdigit() else token for token in text.split()]


def is_width(token):
    return isinstance(token, int) and token > 0
