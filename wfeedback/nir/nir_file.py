"""A NIR file, read as the flags of a script say, and in words how it was read."""

import re
import warnings
from collections.abc import Collection
from pathlib import Path

from self_models.errors import ModelError
from wfeedback.nir.conventions import Convention
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.nir.reading import LIKE, from_nir

RESET_WORDS = {
    "zero": "after a spike V becomes the file's v_reset",
    "subtract": "after a spike the threshold is subtracted from V",
    "none": "a spike does not reset V",
}


def read_nir(
    path: Path | str, reading: dict[str, object] | None = None, engine: str = "auto"
) -> tuple[GraphSNN, list[str]]:
    """Read a NIR file as somebody has asked for.

    Parameters
    ----------
    path : Path or str
        The file.
    reading : dict of {str: object}, optional
        Arguments of ``from_nir``, by name; None for what was not asked for. A script
        gives all its flags that read a file, so that messages name them as flags.
    engine : str
        As ``from_nir`` has it.

    Returns
    -------
    model : GraphSNN
        The network, in eval mode.
    notes : list of str
        What the user should know about it.

    Raises
    ------
    ModelError
        If the file cannot be read like that.
    """
    reading = reading or {}
    arguments = typed(reading)
    with warnings.catch_warnings(record=True, action="always") as caught:
        try:
            model = from_nir(path, engine=engine, **arguments)
        except ModelError as error:
            message = str(error)
            place = f"{path}: " if message.startswith(f"{path}: ") else ""
            what = message.removeprefix(place)  # a path may have dt=1 in it, too
            raise ModelError(place + in_flags(what, reading)) from None
    notes = [in_flags(str(warned.message), reading) for warned in caught]
    notes = list(dict.fromkeys(notes))  # each once
    if not arguments.get("like") and not model.metadata:
        like = in_flags(f"like={'|'.join(LIKE)}", reading)
        notes.append(
            f"the file does not say who wrote it: {like} sets that simulator's reset and timestep"
        )
    return model, notes


def typed(reading: dict[str, object]) -> dict[str, object]:
    """Return the arguments of ``from_nir`` that somebody has asked for."""
    return {name: value for name, value in reading.items() if value is not None}


def in_flags(message: str, reading: Collection[str]) -> str:
    """Write the arguments that a message of ``from_nir`` names as a script's flags.

    Parameters
    ----------
    message : str
        A message that may have ``dt=0.0001`` or ``like='snntorch'`` in it.
    reading : collection of str
        Names of the script's flags; others stay as they are.

    Returns
    -------
    str
        The message with ``--dt 0.0001`` or ``--like snntorch`` in it.
    """
    if not reading:
        return message
    argument = re.compile(rf"\b({'|'.join(reading)})=('[^']*'|[\w.+|-]*\w)")
    return argument.sub(lambda found: flag_of(found[1], found[2].strip("'")), message)


def flag_of(name: str, value: object) -> str:
    """Return the flag that gives a script this argument of ``from_nir``."""
    if str(value) == "True":
        return f"--{name}"
    if str(value) == "False":
        return f"--no-{name}"
    return f"--{name} {value}"


def how_read(model: GraphSNN, path: Path, reading: dict[str, object] | None = None) -> str:
    """Say in one sentence how a network was read from its NIR file.

    Parameters
    ----------
    model : GraphSNN
        What ``read_nir`` has returned.
    path : Path
        The file.
    reading : dict of {str: object}, optional
        As ``read_nir`` has it.

    Returns
    -------
    str
        The file, the flags that were typed, and what they, or else the file, amount to.
    """
    asked_for = typed(reading or {})
    flags = " ".join(flag_of(name, value) for name, value in asked_for.items())
    with_flags = f"with {flags}" if flags else "without flags"
    convention = model.convention
    sign = ">=" if convention.spikes_at_threshold else ">"
    facts = [
        timesteps_in_words(convention),
        f"neurons spike where V {sign} threshold",
        reset_in_words(convention, is_v_reset_given="v_reset" in asked_for),
    ]
    if convention.fires_before_charge:
        facts.append("a timestep's input charges V after the spike")
    if convention.membrane_floor is not None:
        facts.append(f"V does not fall below {-convention.membrane_floor:g} thresholds")
    return f'read from "{path.name}" {with_flags}: {"; ".join(facts)}'


def timesteps_in_words(convention: Convention) -> str:
    """Say what a time constant is measured in, of ``GraphSNN.convention``."""
    if convention.tau_in_timesteps:
        return "time constants count timesteps"
    return f"timesteps of {1000 * convention.dt:g} ms"


def reset_in_words(convention: Convention, is_v_reset_given: bool) -> str:
    """Say what a spike does to the membrane potential, of ``GraphSNN.convention``."""
    reset = RESET_WORDS[convention.reset]
    if convention.reset == "zero" and is_v_reset_given:
        reset = "after a spike V becomes what --v_reset says"
    if convention.reset_delay:
        reset += ", with reset_delay"
    return reset
