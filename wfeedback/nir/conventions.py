"""What simulators do beyond the equations of NIR: their conventions, by name.

NIR describes neurons in continuous time. How a simulator cuts time into timesteps, how
its neurons are reset, and where they begin is not in a file, but follows from the
simulator that wrote it. A convention has all of that.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from self_models.errors import ModelError
from self_models.settings import COUNT, POSITIVE, Choice, Switch, required

DEFAULT_DT = 1e-3  # seconds of a timestep where nothing says
SNNTORCH_DT = 1e-4  # seconds of a timestep in all files of snnTorch
RESETS = "zero", "subtract", "none"
READING = (  # arguments of from_nir that say how a file is to be read
    "like",
    "dt",
    "reset",
    "reset_delay",
    "membrane_floor",
    "norm_input",
    "tau_syn",
    "max_spikes",
    "v_reset",
)
BY_NODE = "norm_input", "tau_syn", "max_spikes", "v_reset"  # may differ between nodes


@dataclass(frozen=True)
class Convention:
    """How the nodes of a file are to be read. The defaults are those of NIR itself.

    Attributes
    ----------
    dt : float
        Seconds of a timestep, by which time constants are read.
    reset : {"zero", "subtract", "none"}
        What follows a spike: V = v_reset, V = V - threshold, or nothing.
    reset_delay : bool or None
        Whether neurons are reset in the next timestep, as snnTorch does it. None for
        simulators other than snnTorch: they are reset at once.
    several_spikes : bool
        Whether a neuron sends one spike for each threshold that V has passed (sinabs).
    spikes_at_threshold : bool
        Whether a neuron also spikes where V is exactly at its threshold.
    tau_in_timesteps : bool
        Whether time constants count timesteps, and a leak is exp(-1 / tau) (sinabs).
    starts_at : {"v_leak", "v_reset"} or None
        Where V begins; None for ``initial_potential``.
    whole_events : bool
        Whether an event adds its whole weight to the current of a CubaLIF (Norse).
    rounded_taus : bool
        Whether the simulator has rounded time constants to float32 twice (Norse).
    clamped_leaks : bool
        Whether leaks below 0 and above 1 are clamped rather than refused (snnTorch).
    fires_before_charge : bool
        Whether a timestep's input charges V after the spike. Files that this program
        has written say so.
    initial_potential : float
        V before the first timestep, in thresholds.
    membrane_floor : float or None
        Lower bound of V, in thresholds below 0.
    norm_input : bool, dict of {str: bool} or None
        Whether LIF and LI multiply their input by 1 - leak (sinabs). A dict, here and
        below, has values by name of a node; None is the simulator's default.
    tau_syn : ndarray, dict of {str: ndarray} or None
        Synaptic time constant of IF and LIF, in timesteps (sinabs).
    max_spikes : int, dict of {str: int} or None
        Most spikes of a neuron in a timestep, with ``several_spikes``.
    v_reset : ndarray, dict of {str: ndarray} or None
        V after a spike, in place of what the file says.
    """

    dt: float = DEFAULT_DT
    reset: str = "zero"
    reset_delay: bool | None = None
    several_spikes: bool = False
    spikes_at_threshold: bool = False
    tau_in_timesteps: bool = False
    starts_at: str | None = None
    whole_events: bool = False
    rounded_taus: bool = False
    clamped_leaks: bool = False
    fires_before_charge: bool = False
    initial_potential: float = 0
    membrane_floor: float | None = None
    norm_input: bool | dict[str, bool] | None = None
    tau_syn: np.ndarray | dict[str, np.ndarray] | None = None
    max_spikes: int | dict[str, int] | None = None
    v_reset: np.ndarray | dict[str, np.ndarray] | None = None

    def for_node(self, name: str) -> "Convention":
        """Return the convention of one node, whose value, or None, replaces a dict."""
        values = {}
        for argument in BY_NODE:
            value = getattr(self, argument)
            if isinstance(value, dict):
                values[argument] = value.get(name)
        return replace(self, **values)


LIKE = {  # simulator -> what is different from NIR's own convention
    "nir": {},
    "snntorch": {"dt": SNNTORCH_DT, "reset": "subtract", "reset_delay": True},
    "norse": {"dt": 1e-6, "starts_at": "v_leak", "whole_events": True, "rounded_taus": True},
    "sinabs": {
        "reset": "subtract",
        "several_spikes": True,
        "spikes_at_threshold": True,
        "tau_in_timesteps": True,
    },
    "spikingjelly": {"dt": 1e-4, "spikes_at_threshold": True, "starts_at": "v_reset"},
}


def is_written_by(like: str | None, kind: str, values: Mapping[str, np.ndarray]) -> bool:
    """Return whether the constants of a leaky node are such as a simulator writes.

    Parameters
    ----------
    like : str or None
        The simulator.
    kind : str
        Kind of the node, such as "LIF".
    values : mapping of {str: ndarray}
        Constants of the node by NIR's names.
    """
    if like == "sinabs" and kind in ("LIF", "LI"):
        has_no_leak = np.asarray(values["v_leak"]) == 0
        has_unit_r = np.asarray(values["r"]) == 1
        return bool(has_no_leak.all() and has_unit_r.all())
    if like == "norse" and kind == "CubaLI":
        return False  # its exporter knows none
    if like == "norse" and kind == "CubaLIF":
        has_unit_w = np.asarray(values["w_in"]) == 1
        has_unit_r = np.asarray(values["r"]) == 1
        return bool(has_unit_w.all() and has_unit_r.all())
    return True


@dataclass(frozen=True)
class Omission:
    """What the files of a simulator do not say, and how it is read.

    Attributes
    ----------
    message : str
        What the user is told.
    fields : tuple of str
        Fields of a Convention. If the user gives any of them, nothing is missing.
    kinds : set of str
        Kinds of nodes that need it.
    """

    message: str
    fields: tuple[str, ...]
    kinds: Collection[str] = frozenset({"IF", "LIF", "CubaLIF"})


OMISSIONS = {  # by simulator; SpikingJelly's files say everything
    "snntorch": Omission(
        "snnTorch does not write reset_mechanism and reset_delay: read with its defaults, "
        "reset='subtract' and reset_delay=True",
        ("reset", "reset_delay"),
    ),
    "norse": Omission(
        "Norse does not write v_reset and reset_method: read with its defaults, v_reset=0 and "
        "reset='zero'",
        ("v_reset", "reset"),
    ),
    "sinabs": Omission(
        "sinabs does not write norm_input, tau_syn, min_v_mem, spike_fn and reset_fn: read with "
        "its defaults, norm_input=True of LIF and norm_input=False of ExpLeak, reset='subtract', "
        "and without tau_syn, membrane_floor and max_spikes",
        ("norm_input", "tau_syn", "membrane_floor", "max_spikes", "reset"),
        frozenset({"IF", "LIF", "LI"}),
    ),
}


def find_convention(
    metadata: dict[str, object], like: str | None, given: dict[str, object]
) -> Convention:
    """Find the convention of a file.

    What the user gives wins over what the simulator takes for granted, and that over
    what the file says.

    Parameters
    ----------
    metadata : dict of {str: object}
        Metadata of the file. This program writes ``seconds_per_step``, ``reset``,
        ``update`` and ``initial_potential``.
    like : str or None
        The simulator, one of LIKE; None for "nir".
    given : dict of {str: object}
        Fields of Convention that the user has asked for; None where not.

    Returns
    -------
    Convention

    Raises
    ------
    ModelError
        If there is no such simulator, or a value cannot be.
    """
    simulator = like or "nir"
    required(Choice(LIKE), "like", simulator)  # raises ModelError for an unknown name
    fields = dict(LIKE[simulator])
    for name, value in given.items():
        if value is not None:
            fields[name] = value
    convention = replace(convention_of_file(metadata), **fields)

    required(Choice(RESETS), "reset", convention.reset)
    dt = required(POSITIVE, "dt", convention.dt)  # as a float
    # These may be one value for all nodes, or a dict of values by name of a node. None,
    # the default, is left to the simulator. Checked, they are arrays.
    checked = {}
    for argument in BY_NODE:
        value = getattr(convention, argument)
        if value is not None:
            checked[argument] = check_argument(argument, value)
    # snnTorch clamps a beta below 0 or above 1. Its exporter makes a time constant of
    # it with this dt, so only with this dt does dt / tau give the beta back.
    clamped_leaks = like == "snntorch" and dt == SNNTORCH_DT
    return replace(convention, dt=dt, clamped_leaks=clamped_leaks, **checked)


def convention_of_file(metadata: dict[str, object]) -> Convention:
    """Return the convention that a file's metadata says; NIR's own by default."""
    said = {
        "fires_before_charge": metadata.get("update") == "delayed",
        "initial_potential": metadata.get("initial_potential", 0),
    }
    seconds = metadata.get("seconds_per_step")
    if seconds is not None:
        said["dt"] = seconds
    if "subtract" in str(metadata.get("reset", "")):
        said["reset"] = "subtract"
    return Convention(**said)


def check_argument(argument: str, given: object, label: str | None = None) -> object:
    """Check an argument that holds for all nodes, or for each by its name.

    Parameters
    ----------
    argument : str
        One of BY_NODE.
    given : object
        Its value, or a dict of node names and values.
    label : str, optional
        What messages call it; by default the argument.

    Returns
    -------
    object
        The same with numbers as float64 arrays.

    Raises
    ------
    ModelError
        If a value cannot be.
    """
    label = label or argument
    if isinstance(given, dict):
        return {
            node: check_argument(argument, value, f"{label} of {node!r}")
            for node, value in given.items()
        }
    if argument == "norm_input":
        return required(Switch(), label, given)
    if argument == "max_spikes":
        return required(COUNT, label, given)
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise ModelError(f"{label}: {given!r} is not a number, nor an array of numbers") from None
    if not np.isfinite(values).all():
        raise ModelError(f"{label}: {given!r} is not finite")
    if argument == "tau_syn" and not (values > 0).all():
        raise ModelError(f"{label}: {given!r} is not above 0")
    return values
