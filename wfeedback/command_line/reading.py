"""The flags that say how a NIR file is to be read, for every script that takes one."""

from self_models.settings import COUNT, NOT_NEGATIVE, POSITIVE, Number
from wfeedback.arguments import Arguments
from wfeedback.command_line.parser import SwitchAction, flag_type
from wfeedback.nir.reading import LIKE, READING, RESETS


def add_reading_flags(group: object) -> None:
    """Add the flags that say how a NIR file is to be read.

    Each of them is None unless it is typed, so that a script can tell whether somebody
    has asked for it.

    Parameters
    ----------
    group : argparse argument group, or Parser
        Where the flags are added.
    """
    group.add_argument(
        "--like",
        choices=list(LIKE),
        default=None,
        help=(
            "simulator that wrote the network, whose conventions hold: time constants, reset, "
            "threshold; default: NIR's own"
        ),
    )
    group.add_argument(
        "--dt",
        type=flag_type(POSITIVE),
        default=None,
        metavar="SECONDS",
        help="length of a timestep; default: as --like, else the file's, else 0.001",
    )
    group.add_argument(
        "--reset",
        choices=RESETS,
        default=None,
        help=(
            "reset after a spike: zero: to v_reset; subtract: by the threshold; none; default: "
            "as --like, the file, else zero"
        ),
    )
    group.add_argument(
        "--reset_delay",
        action=SwitchAction,
        default=None,
        help=(
            "reset in the next timestep, as snnTorch does unless its neurons have "
            "reset_delay=False"
        ),
    )
    group.add_argument(
        "--membrane_floor",
        type=flag_type(NOT_NEGATIVE),
        default=None,
        metavar="F",
        help="lower bound of the membrane potential, in negative thresholds; default: none",
    )
    group.add_argument(
        "--norm_input",
        action=SwitchAction,
        default=None,
        help=(
            "sinabs: LIF and ExpLeak multiply what arrives by 1 - exp(-1/tau); default: as in "
            "sinabs, True of LIF and False of ExpLeak"
        ),
    )
    group.add_argument(
        "--tau_syn",
        type=flag_type(POSITIVE),
        default=None,
        metavar="TIMESTEPS",
        help="sinabs: synaptic time constant of IAF and LIF; default: none, as in sinabs",
    )
    group.add_argument(
        "--max_spikes",
        type=flag_type(COUNT),
        default=None,
        metavar="N",
        help=(
            "sinabs: most spikes of a neuron in a timestep: 1 of SingleSpike, N of MaxSpike(N); "
            "default: no limit, as of MultiSpike"
        ),
    )
    group.add_argument(
        "--v_reset",
        type=flag_type(Number(float)),
        default=None,
        metavar="V",
        help=(
            "membrane potential after a spike, which Norse does not write; default: the file's, "
            "else 0"
        ),
    )


def reading_of(args: Arguments) -> dict[str, object]:
    """Collect the flags of ``add_reading_flags`` as from_nir takes them.

    Parameters
    ----------
    args : Arguments
        What the script's parser returns.

    Returns
    -------
    dict of {str: object}
        Keyword arguments of ``from_nir``; None for what was not typed.
    """
    return {name: getattr(args, name) for name in READING}
