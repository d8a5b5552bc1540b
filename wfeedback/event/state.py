"""Networks that run: states of the kernel, each in one block of memory.

A state is what network.h calls NetworkState: potentials, spikes, predictions and so on
of one network that looks at one image. A `StatePool` has as many as there are threads,
and runs one image after the other in each of them. A stream has a state of its own for
each image.
"""

import ctypes
import functools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from self_models.errors import ModelError
from self_models.running.draws import Draws, in_space, key_for
from wfeedback.event.build import Network, Part, Settings, State
from wfeedback.event.tables import FLOAT_SETTINGS, Tables, line_of_bytes
from wfeedback.streams.stream import MEMBRANES

IMAGES_PER_CALL = 4  # images that a thread takes at once
PIXEL_ARRAYS = ("image", "readout_sum", "is_open", "predicted")  # of a state, one per pixel
FLAG_ARRAYS = ("is_open", "predicted")  # those of them that are 0 or 1


def in_rows(values: torch.Tensor) -> np.ndarray:
    """Return values in the kernel's order of neurons: by row, column, channel.

    Parameters
    ----------
    values : Tensor of shape (..., C, H, W), (B, N) or (T, B, N)
        Values of neurons.

    Returns
    -------
    ndarray, contiguous
        (..., H * W * C) of the first; the others as they are.
    """
    values = values.detach().cpu()
    if values.dim() > 3:
        values = values.movedim(-3, -1).flatten(-3)
    return values.contiguous().numpy()


class KernelState:
    """One state of the kernel, with NumPy's view of its arrays.

    Parameters
    ----------
    library : ctypes.CDLL
        The kernel.
    tables : Tables
        The network.
    network : Network
        The same tables, opened by the kernel.
    settings : Settings
        With which it begins.

    Attributes
    ----------
    address : int
        Where the NetworkState lies.
    struct : State
        Its fields; to set one changes the state.
    parts : array of Part
        What changes at each node.

    Raises
    ------
    ModelError
        If the kernel refuses to begin.
    """

    def __init__(self, library: ctypes.CDLL, tables: Tables, network: Network, settings: Settings):
        self.tables = tables
        self.network = network  # the state points into it
        self.memory = line_of_bytes(library.network_size(ctypes.byref(network)))
        self.address = library.network_begin(
            ctypes.byref(network),
            ctypes.byref(settings),
            self.memory.ctypes.data,
            len(self.memory),
        )
        if self.address is None:
            raise ModelError(
                "the event engine does not begin: use --engine dense, and report this"
            )
        self.struct = State.from_address(self.address)
        self.parts = (Part * len(tables.nodes)).from_address(self.struct.part)

    def pixels(self, name: str) -> np.ndarray:
        """Return the state's own array of this name, with a value for each pixel."""
        dtype = np.uint8 if name in FLAG_ARRAYS else np.float32
        return array_at(getattr(self.struct, name), self.struct.pixels, dtype)

    def potentials(self, n: int) -> np.ndarray:
        """Return the state's own array of the potentials of node n, (H * W * C,)."""
        size = math.prod(self.tables.shapes[n])
        return array_at(self.parts[n].v, size, self.tables.constants.dtype)

    def counted_events(self, n: int) -> np.ndarray:
        """Return how often each neuron of node n sent 1 or -1, then another value."""
        size = 2 * math.prod(self.tables.shapes[n])
        return array_at(self.parts[n].counted, size, np.uint32)

    def spikes(self, n: int) -> np.ndarray:
        """Return which neurons of node n sent something in the latest timestep.

        Returns
        -------
        ndarray of bool, shape (H * W * C,)
        """
        num_channels, height, width = self.tables.shapes[n]
        num_places = height * width
        # The channels of a place are the bits of whole words of 4 bytes.
        num_bytes = 4 * num_places * self.parts[n].words
        words = array_at(self.parts[n].spikes, num_bytes, np.uint8).reshape(num_places, -1)
        bits = np.unpackbits(words, axis=1, count=num_channels, bitorder="little")
        return bits.ravel().astype(bool)


def array_at(address: int, size: int, dtype) -> np.ndarray:
    """Return what lies in memory as an array, without a copy."""
    num_bytes = size * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * num_bytes).from_address(address), dtype)


class StatePool:
    """As many states of a network as there were threads at once.

    Parameters
    ----------
    library : ctypes.CDLL
        The kernel.
    tables : Tables
        The network.

    Attributes
    ----------
    network : Network
        The tables, opened by the kernel.
    tables : Tables
        The same without weights: those in the kernel's block are the only ones.
    free : list of KernelState
        States that no thread is using.
    counting : list of KernelState
        All states, if they count events.

    Raises
    ------
    ModelError
        If the tables do not fit each other.
    """

    def __init__(self, library: ctypes.CDLL, tables: Tables):
        self.library = library
        self.network = tables.network(library)
        self.tables = tables._replace(weights=None)
        self.free = []
        self.counting = []

    def check(self, settings: Settings) -> None:
        """Raise ModelError if the kernel refuses these settings."""
        if self.library.network_accepts(ctypes.byref(self.network), ctypes.byref(settings)):
            return
        values = []
        for name, _ in Settings._fields_:
            if name in FLOAT_SETTINGS:
                values.append(f"{name} {getattr(settings, name)}")
        raise ModelError(
            "the event engine does not run one of these settings, which is out of range: "
            + ", ".join(values)
        )

    def new(self, settings: Settings) -> KernelState:
        """Return a new state, not yet reset; raise ModelError as `check` does."""
        self.check(settings)
        state = KernelState(self.library, self.tables, self.network, settings)
        if self.tables.header["counting"]:
            self.counting.append(state)
        return state

    def run(self, runs: np.ndarray, settings: Settings, most: int = IMAGES_PER_CALL) -> None:
        """Run images in threads, which hold no lock of Python meanwhile.

        Parameters
        ----------
        runs : ndarray of Run, shape (B,)
            See NetworkRun in runs.c. What they point at is filled in.
        settings : Settings
            Those of all of them.
        most : int
            Images that a thread takes at once.

        Raises
        ------
        ModelError
            If the kernel refuses the settings.
        """
        self.check(settings)
        num_threads = torch.get_num_threads()
        fair_share = -(-len(runs) // num_threads)
        size = max(1, min(most, fair_share))
        chunks = [runs[begin : begin + size] for begin in range(0, len(runs), size)]
        num_workers = min(num_threads, len(chunks))
        if num_workers < 2:
            for chunk in chunks:
                self._run_chunk(settings, chunk)
            return
        with ThreadPoolExecutor(num_workers) as executor:
            list(executor.map(functools.partial(self._run_chunk, settings), chunks))

    def _run_chunk(self, settings, runs):
        """Run images one after the other, in a state that no other thread uses."""
        try:
            state = self.free.pop()
        except IndexError:
            state = self.new(settings)
        state.struct.settings = settings
        try:
            self.library.network_runs(state.address, runs.ctypes.data, len(runs))
        finally:
            self.free.append(state)

    def counted_events(self, n: int) -> np.ndarray:
        """Return what was counted of node n in all states.

        Returns
        -------
        ndarray of int64, shape (2, H * W * C)
            How often each neuron sent 1 or -1, and how often another value.
        """
        total = np.zeros(2 * math.prod(self.tables.shapes[n]), np.int64)
        for state in self.counting:
            total += state.counted_events(n)
        return total.reshape(2, -1)


class KernelStream:
    """The networks of a stream between its calls.

    Parameters
    ----------
    pool : StatePool
        Of the network.
    draws : Draws
        Random numbers of the stream, with the number of each image.
    settings : Settings
        With which the stream began.

    Attributes
    ----------
    states : list of KernelState
        One for each image.
    """

    def __init__(self, pool: StatePool, draws: Draws, settings: Settings):
        self.pool = pool
        self.draws = draws
        self.settings = settings
        self.states = [pool.new(settings) for _ in draws.index]
        for state, index in zip(self.states, draws.index.tolist(), strict=True):
            pool.library.network_reset(state.address, *key_for(draws.seed, "input"), index)
            state.struct.epoch = draws.epoch

    def settle(self) -> None:
        """Bring all potentials up to date; the kernel applies leaks when it must."""
        for state in self.states:
            self.pool.library.network_settle(state.address)

    def spikes(self) -> dict[str, torch.Tensor]:
        """Return which neurons of each layer sent something in the latest timestep.

        Returns
        -------
        dict of {str: Tensor of shape (B, C, H, W), bool}
        """
        tables = self.pool.tables
        spikes = {}
        for n, name in enumerate(tables.names):
            values = np.stack([state.spikes(n) for state in self.states])
            spikes[name] = in_space(torch.from_numpy(values), tables.shapes[n])
        return spikes

    def _potential_nodes(self):
        """Return the node of each name in a state_dict that holds potentials."""
        tables = self.pool.tables
        nodes = {}
        for n, name in enumerate(tables.names):
            if n > 0:  # the input has none
                nodes[MEMBRANES + name] = n
        nodes["logits"] = tables.header["output"]
        return nodes

    def state_dict(self, forms: dict) -> dict[str, torch.Tensor]:
        """Return what the next timestep needs, under the names of the dense engine.

        Both engines can go on from it. Potentials are brought up to date first, which
        changes no result.

        Parameters
        ----------
        forms : dict of {str: (shape, dtype)}
            What the dense engine has of each; see `forms_of` of
            streams/stream.py.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            Of each pixel "image", "readout_sum" (the sum R from which the prediction
            follows), "is_open" and "predicted". "explained", the prediction that is
            taken away from what is sent, if the gate sends prediction errors and has
            begun to. "logits", and ``membranes.LAYER``, the potentials of each layer.
        """
        self.settle()  # before potentials are read
        arrays = {}
        for name in PIXEL_ARRAYS:
            arrays[name] = [state.pixels(name) for state in self.states]
        # The gate begins to subtract predictions after the first timestep. All images
        # have taken equally many, so what holds for one holds for all.
        subtracts = any(state.struct.subtracts_prediction for state in self.states)
        if self.settings.residual and subtracts:
            arrays["explained"] = [state.pixels("prediction") for state in self.states]
        for name, n in self._potential_nodes().items():
            arrays[name] = [state.potentials(n) for state in self.states]
        tensors = {}
        for name, values in arrays.items():
            shape, dtype = forms[name]
            # np.stack() copies, so nothing here is the memory of a state.
            rows = torch.from_numpy(np.stack(values))  # (B, H * W * C)
            tensor = in_space(rows, shape).contiguous()  # (B, C, H, W), or (B, N)
            tensors[name] = tensor.to(dtype)
        return tensors

    def load(self, tensors: dict, steps: int) -> None:
        """Go on from a state_dict.

        Parameters
        ----------
        tensors : dict of {str: Tensor of shape (B, ...)}
            What `state_dict` gave, of this engine or of the dense one.
        steps : int
            Timesteps taken until then.
        """
        rows = {}
        for name, value in tensors.items():
            if isinstance(value, torch.Tensor):
                rows[name] = in_rows(value)
        subtracts_prediction = "explained" in tensors
        for b, state in enumerate(self.states):
            self._load_state(state, rows, b, steps, subtracts_prediction)
        self.settle()

    def _load_state(self, state, rows, b, steps, subtracts_prediction):
        """Fill one state of the kernel, as if it had taken timesteps already.

        Parameters
        ----------
        state : KernelState
            The state, which is changed.
        rows : dict of {str: ndarray of shape (B, N)}
            By the names of `state_dict`, in the kernel's order of neurons. What is not
            there, stays as it is.
        b : int
            Row of these arrays: number of the image.
        steps : int
            Timesteps that it has taken.
        subtracts_prediction : bool
            Whether its gate takes the prediction away from what is sent.
        """
        library = self.pool.library
        state.pixels("is_open")[:] = 1  # as at the beginning of a run
        state.pixels("predicted")[:] = 0
        state.struct.steps = steps
        state.struct.begun = 1  # an image has been shown
        # The kernel leaves out checks of bounds that no potential reaches in the first
        # timesteps from rest. That has not been shown for potentials that are given.
        state.struct.unproven = 1
        state.struct.subtracts_prediction = subtracts_prediction
        # The kernel applies leaks late, and notes how many timesteps' leaks each place
        # has had. This notes `steps` for all: the potentials that are filled in next
        # have had them. So it comes behind `steps`, and before these.
        library.network_settle(state.address)
        for name, n in self._potential_nodes().items():
            if name in rows:
                state.potentials(n)[:] = rows[name][b]
        for name in PIXEL_ARRAYS:
            if name in rows:
                state.pixels(name)[:] = rows[name][b]
        # Last, since it lets the kernel look at all neurons and pixels anew, and make
        # the prediction of the read-out's sum.
        library.network_set(state.address, ctypes.byref(self.settings))
