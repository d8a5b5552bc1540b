"""Architectures: which layers a network has, in which order.

Each is a *plan* of two texts, whose words are *tokens*. Of the encoder:

- a number: 3x3 convolution to so many channels, and a nonlinearity;
- D: 2x2 strided convolution;
- A: 2x2 average pool;
- M: 2x2 maximum pool, behind a nonlinearity (of spikes see MAX_POOLS in stages.py);
- fork, once at most: here the decoder takes its input, else at the encoder's end.

Of the decoder:

- a number: 3x3 transposed convolution to so many channels, and a nonlinearity;
- U: 2x2 strided transposed convolution;
- drop: dropout;
- in: back to the image's channels. It comes last.

An architecture without a decoder is one without feedback.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from self_models.errors import ModelError
from self_models.settings import Registry

HALVING = ("D", "A", "M")  # encoder tokens that halve the image
ENCODER_TOKENS = (*HALVING, "fork")  # beside numbers
DECODER_TOKENS = ("U", "drop", "in")  # beside numbers

PLANS = Registry("architecture")  # name -> (encoder, decoder)
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
    """An architecture; checked when built.

    Attributes
    ----------
    encoder : tuple of int and str
        Tokens of the encoder.
    decoder : tuple of int and str
        Tokens of the decoder; empty without one.

    Raises
    ------
    ModelError
        If the tokens make no network.
    """

    encoder: tuple
    decoder: tuple = ()

    def __post_init__(self):
        """Raise ModelError where the tokens make no network."""
        check_known_tokens("encoder", self.encoder, ENCODER_TOKENS)
        check_known_tokens("decoder", self.decoder, DECODER_TOKENS)
        self._check_encoder()
        if self.decoder:
            self._check_decoder()

    def _check_encoder(self):
        """Raise ModelError where tokens of the encoder stand in a wrong place."""
        encoder = self.encoder
        if not encoder or not is_width(encoder[0]):
            raise ModelError(
                f"plan: the encoder must begin with a number of channels, not {list(encoder[:1])}"
            )
        is_forked_in_vain = "fork" in encoder and not self.decoder
        if encoder.count("fork") > 1 or is_forked_in_vain:
            raise ModelError(
                "plan: 'fork' is where the decoder takes its input: have it once, "
                "and only beside a decoder"
            )
        layers = [token for token in encoder if token != "fork"]
        for before, token in pairwise(layers):
            if token == "M" and not (is_width(before) or before == "M"):
                raise ModelError(
                    "plan: 'M' stands behind a nonlinearity, so behind a number, "
                    f"not behind {before!r}"
                )

    def _check_decoder(self):
        """Raise ModelError unless the decoder ends in an image of the input's size."""
        decoder = self.decoder
        if decoder[-1] != "in" or decoder.count("in") != 1:
            raise ModelError("plan: the decoder must end with 'in', and have it only there")
        downs = halvings(self.before_fork)
        ups = decoder.count("U")
        if downs != ups:
            where = " before its fork" if "fork" in self.encoder else ""
            raise ModelError(
                f"plan: the encoder halves the image {downs} times{where} and the decoder "
                f"doubles it {ups} times; give both the same number"
            )

    @property
    def before_fork(self) -> tuple:
        """The encoder's tokens whose output the decoder takes."""
        if "fork" not in self.encoder:
            return self.encoder
        return self.encoder[: self.encoder.index("fork")]

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Return the sizes that an image has on its way through the encoder.

        Parameters
        ----------
        height, width : int
            Size of the image.

        Returns
        -------
        list of (int, int)
            Height and width before each halving, then the last ones.

        Raises
        ------
        ModelError
            If nothing is left at the end.
        """
        times = halvings(self.encoder)
        smallest = 2**times
        if min(height, width) < smallest:
            raise ModelError(
                f"image of {height}x{width} is too small: this architecture halves it {times} "
                f"times and needs at least {smallest}x{smallest}; choose a shallower one"
            )
        return [(height >> n, width >> n) for n in range(times + 1)]


def check_known_tokens(part: str, tokens: tuple, letters: tuple[str, ...]) -> None:
    """Raise ModelError for a token that is neither a number nor one of the letters."""
    for token in tokens:
        if not is_width(token) and token not in letters:
            raise ModelError(
                f"plan: unknown {part} token {token!r}: use a number of channels or "
                f"{', '.join(letters)}"
            )


def halvings(tokens: Iterable) -> int:
    """Return how often these tokens of an encoder halve the image."""
    return sum(token in HALVING for token in tokens)


def get_architecture(name: str, plan: list | tuple | None = None) -> Plan:
    """Return the architecture of a name, or one of tokens.

    Parameters
    ----------
    name : str
        One of `PLANS`.
    plan : sequence of two sequences of int and str, optional
        Tokens of an encoder and a decoder. If given, the name does not count.

    Returns
    -------
    Plan
        The architecture.

    Raises
    ------
    ModelError
        For an unknown name, and for tokens that make no network.
    """
    if plan is None:
        encoder, decoder = map(as_tokens, PLANS.find(name))
    else:
        encoder, decoder = plan
    return Plan(tuple(encoder), tuple(decoder))


def as_tokens(text: str) -> list[int | str]:
    """Split a text into tokens: '16 D' becomes [16, 'D']."""
    return [int(token) if token.isdigit() else token for token in text.split()]


def is_width(token: object) -> bool:
    """Return whether a token is a number of channels."""
    return isinstance(token, int) and token > 0
