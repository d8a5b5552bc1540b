"""The event engine: runs a trained SNN on the kernel.

A run costs what its spikes cost. It gives the results of the model's own forward: with
the same draws the same spikes, apart from those that rounding decides (see
docs/explanation/event_engine.md). It is for evaluation, on the CPU.

`EventEngine` runs an SNN on images, and `GraphEngine` a GraphSNN on recordings of
events.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from self_models.data.images import prepare_images
from self_models.devices import kept_in_memory
from self_models.errors import ModelError
from self_models.networks.stages import LINEAR
from self_models.neurons.spiking import delayed
from self_models.running.draws import Draws, draws_for, in_space, key_for
from self_models.running.fingerprint import fingerprint
from self_models.running.known_layers import find_unknown_part, is_hooked
from self_models.running.loop import check_uniforms
from self_models.running.outputs import SNNOutput
from self_models.running.phased.schedule import schedule_of
from self_models.running.recording import RecordSpec
from wfeedback.event.build import Run, Settings, kernel_build, library
from wfeedback.event.event_lists import KernelEvents
from wfeedback.event.layout import has_form, lay_out
from wfeedback.event.state import IMAGES_PER_CALL, KernelStream, StatePool, in_rows
from wfeedback.event.tables import Tables, current_settings, settings_of, unknown_part, whole_form
from wfeedback.streams.stream import forms_of

RUN = np.dtype(Run)
SUMS = ("error", "open_share")  # arrays of Run that are sums over pixels
PICTURES = {  # arrays of Run with a value for each pixel -> dtype
    "prediction": np.float32,
    "predicted": np.uint8,
    "is_open": np.uint8,
}
# Those of SUMS and PICTURES that are about the prediction; the others are about the
# gate.
ABOUT_PREDICTION = ("error", "prediction")
STEPS_FIRST = (*PICTURES, "uniforms")  # arrays (T, B, ...); the others are (B, T, ...)


def engine_of(kind: type["Engine"], model, name: str) -> tuple["Engine | None", str | None]:
    """Return the engine that runs a model.

    Parameters
    ----------
    kind : type
        A class of this file.
    model : nn.Module
        The network.
    name : str
        Which engine is asked for, one of ``ENGINE_NAMES`` in plugins.py.

    Returns
    -------
    engine : Engine or None
        None if the model runs dense.
    reason : str or None
        Why "auto" leaves it so.

    Raises
    ------
    ModelError
        If "event" is asked for and cannot be.
    """
    if name not in ("auto", "event"):
        return None, None
    try:
        return kind(model), None
    except ModelError as error:
        if name == "event":
            raise
        return None, str(error)


class Engine:
    """Base of both engines: tables that are laid out anew when the model has changed.

    A run uses ``torch.get_num_threads()`` threads. Tables are laid out at the first
    run, and again if `made_of` differs from what it was, or after `refresh`.

    Parameters
    ----------
    model : nn.Module
        The network.

    Raises
    ------
    ModelError
        Without a C compiler, and for a model that the kernel cannot run.
    """

    def __init__(self, model):
        library(weight_kind(model))
        self.model = model
        self._counted_steps = None  # since start_counting(); None: operations are not counted
        self.forget()
        self.update()

    def __getstate__(self):
        """Return what a copy, or a pickle, holds; it lays out tables of its own."""
        return {"model": self.model}

    def __setstate__(self, state):
        """Fill a copy."""
        self.model = state["model"]
        self._counted_steps = None
        self.forget()

    def refresh(self) -> None:
        """Lay the tables out again at the next run, unless operations are counted."""
        if self._counted_steps is None:
            self.forget()

    def forget(self) -> None:
        """Forget the tables, and what is known of the model."""
        self.pools = {}  # whether events are counted -> StatePool
        self._made_of = None
        self._tensors = []
        self._current_settings = None
        self._settings = None

    def check(self) -> None:
        """Raise ModelError if the kernel cannot run the model as it is now."""
        raise NotImplementedError

    def made_of(self) -> tuple[object, list[torch.Tensor]]:
        """Return what is equal as long as the tables fit the model, and its tensors."""
        return fingerprint(self.model)

    def update(self) -> None:
        """Forget tables that are not those of the model any more.

        Raises
        ------
        ModelError
            If the kernel cannot run the model as it is now, or the model has changed
            while operations were counted.
        """
        made_of, tensors = self.made_of()
        if made_of != self._made_of:
            if self._counted_steps is not None:
                raise ModelError("the weights or settings changed while operations were counted")
            self.forget()
            self.check()
            self._made_of = made_of
            self._tensors = kept_in_memory(tensors)

    def serves(self) -> bool:
        """Return whether the kernel can run the model as it is now."""
        try:
            self.update()
        except ModelError:
            return False
        return True

    def prepare_pool(self) -> StatePool:
        """Lay out the tables if that has not been done, and return their states.

        There are two kinds of tables, with nodes that count events and without. Both
        stay in ``self.pools`` until `forget`.

        Raises
        ------
        ModelError
            If the model has something that the kernel does not run.
        """
        is_counting = self._counted_steps is not None
        if is_counting not in self.pools:
            tables = lay_out(self.model, counting=is_counting)
            self.pools[is_counting] = StatePool(library(weight_kind(self.model)), tables)
        return self.pools[is_counting]


def weight_kind(model) -> str:
    """Return the kind of a model's weights, as `library` of build.py has it."""
    return "int8" if whole_form(model) else "float32"


@dataclass
class RunRequest:
    """What an SNN is to run.

    Attributes
    ----------
    x : Tensor of shape (B, C, H, W), or (B, T, C, H, W) of recordings
        The images.
    draws : Draws
        Random numbers of the run.
    num_steps : int
        Timesteps to run.
    frames : bool
        Whether pictures are wanted; else sums over pixels.
    uniforms : Tensor of shape (T, B, C, H, W) or None
        Random numbers that take the place of the draws.
    stream : KernelStream or None
        The stream that goes on, if it is one.
    """

    x: torch.Tensor
    draws: Draws
    num_steps: int
    frames: bool
    uniforms: torch.Tensor | None = None
    stream: KernelStream | None = None


class EventEngine(Engine):
    """Runs an SNN event by event: ``engine(x)`` gives what ``model(x)`` does.

    Epsilon, the stopping rule and the like are read at every run, so they may be
    changed.
    """

    @classmethod
    def supports(cls, model) -> str | None:
        """Return why a network does not run on this engine, or None if it does."""
        try:
            cls(model)
        except ModelError as error:
            return str(error)
        return None

    @staticmethod
    def has_compiler() -> bool:
        """Return whether this machine can build the kernel."""
        return not isinstance(kernel_build(), ModelError)

    def check(self) -> None:
        """Raise ModelError if the kernel cannot run the model as it is now."""
        model = self.model
        if next(model.parameters()).device.type != "cpu":
            raise ModelError("the event engine runs on the CPU")
        if not whole_form(model):  # one in whole numbers was looked at when it was made
            if model.is_custom:
                raise ModelError(
                    "the event engine does not know the methods or hooks of this "
                    f"{type(model).__name__}"
                )
            module = find_unknown_part(model)
            if module:
                raise ModelError(f"the event engine does not know {module}")
        part = unknown_part(model)
        if part:
            raise ModelError(f"the event engine has no form of the {part}")

    def made_of(self) -> tuple[object, list[torch.Tensor]]:
        """Return what is equal as long as the tables fit the model, and its tensors."""
        model = self.model
        modules, tensors = fingerprint(model)
        parts = [type(getattr(model, name)) for name in model.parts]
        state = (
            modules,
            parts,
            unknown_part(model),
            model.replaces(),
            model.has_analog_input,
            model.output_leak,
        )
        return state, tensors

    def update(self) -> None:
        """Forget tables that do not fit the model any more, and read its settings."""
        super().update()
        settings = current_settings(self.model)
        if settings != self._current_settings:
            self._current_settings = settings
            self._settings = settings_of(self.model)

    def __call__(
        self,
        x: torch.Tensor,
        uniforms: torch.Tensor | None = None,
        draws: Draws | None = None,
        seed: int | None = None,
        frames: bool = True,
    ) -> SNNOutput:
        """Run images, or recordings.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W), or (B, T, C, H, W) of recordings
            The images.
        uniforms, draws, seed
            As in the model's forward.
        frames : bool
            If False, predictions, errors, predicted and is_open are None, and sums take
            their place.

        Returns
        -------
        SNNOutput
            As the model's forward gives it.

        Raises
        ------
        ModelError
            As forward and `check` do.
        """
        self.update()
        return self.run(x, uniforms, draws, seed, frames)

    def run(
        self,
        x: torch.Tensor,
        uniforms: torch.Tensor | None = None,
        draws: Draws | None = None,
        seed: int | None = None,
        frames: bool = True,
    ) -> SNNOutput:
        """Run as ``engine(x, ...)`` does, not looking whether the model has changed.

        The caller has called `update`, or `serves`, which calls it, just before. If the
        weights have changed since, the run is one of the old weights.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W), or (B, T, C, H, W) of recordings
            The images. A model with ``model.frames`` takes recordings of T frames.
        uniforms : Tensor of shape (T, B, C, H, W), optional
            Random numbers in [0, 1) that take the place of the draws.
        draws : Draws, optional
            Random numbers of the run, as in the model's forward.
        seed : int, optional
            Seed of the draws, in their place.
        frames : bool
            Whether the output has pictures: predictions and so on for each pixel. Else
            it has sums over pixels.

        Returns
        -------
        SNNOutput
            As the model's forward gives it.

        Raises
        ------
        ModelError
            For images and uniforms that do not fit the model.
        """
        model = self.model
        pool = self.prepare_pool()
        x = prepare_images(x, model, model.frames)
        draws = draws_for(x, draws, seed)
        # Of a recording only one frame: uniforms have a timestep axis of their own.
        images = x[:, 0] if model.frames else x
        check_uniforms(uniforms, model.timesteps, images)
        request = RunRequest(x, draws, self._settings.timesteps, frames, uniforms)
        return self._run(request, pool, self._settings)

    # --- a stream

    def begun(self, x: torch.Tensor, draws: Draws) -> KernelStream:
        """Return the networks of a stream on images x with these draws, at rest."""
        self.update()
        return KernelStream(self.prepare_pool(), draws, self._settings)

    def go_on(
        self,
        stream: KernelStream,
        x: torch.Tensor,
        steps: int,
        frames: bool,
        record_specs: dict | None = None,
    ) -> tuple[SNNOutput, KernelStream]:
        """Run the next timesteps of a stream.

        The networks of the stream are changed in place. If counting has begun or ended
        since its last timestep, it needs other tables: then it goes on in new networks,
        and the given ones stay as they are. So callers go on with what is returned.

        Parameters
        ----------
        stream : KernelStream
            Its networks.
        x : Tensor of shape (B, C, H, W)
            Images that they see in these timesteps.
        steps : int
            Number of timesteps.
        frames : bool
            As in ``engine(x)``.
        record_specs : dict, optional
            Not used: here to take the arguments of the dense engine's method. It is
            empty, since a stream that records something runs on that engine.

        Returns
        -------
        output : SNNOutput
            Of these timesteps.
        stream : KernelStream
            The networks after them: as a rule the given ones.
        """
        is_counting = self._counted_steps is not None
        if stream.pool.tables.header["counting"] != is_counting:
            state = self.state_of(stream)
            # state_of() has tensors by image. The number of timesteps so far is one for
            # all images, since they began together.
            state["steps"] = stream.states[0].struct.steps
            stream = self.restored(state, stream.draws)
        request = RunRequest(x, stream.draws, steps, frames, stream=stream)
        return self._run(request, stream.pool, stream.settings), stream

    def state_of(self, stream: KernelStream) -> dict[str, torch.Tensor]:
        """Return what the next timestep of a stream needs, by name (B, ...)."""
        return stream.state_dict(forms_of(self.model))

    def restored(self, state: dict, draws: Draws) -> KernelStream:
        """Return the networks of a stream with this state, of either engine."""
        stream = self.begun(state["image"], draws)
        stream.load(state, state["steps"])
        return stream

    # --- counting

    def start_counting(self) -> None:
        """Count the inputs of each linear layer from now on."""
        if self.serves():
            self.pools.pop(True, None)
            self._counted_steps = 0

    def stop_counting(self, counter) -> None:
        """Add to an OperationCounter what was counted since `start_counting`."""
        pool = self.pools.pop(True, None)
        if pool:
            add_events(counter, pool, self.model, self._counted_steps)
        self._counted_steps = None

    # --- a run

    def _run(self, request, pool, settings):
        """Run what is asked for on the kernel.

        Parameters
        ----------
        request : RunRequest
            Images, random numbers, and what is wanted.
        pool : StatePool
            States of the present tables. If the request goes on with a stream, the
            stream's own states run instead, and are changed.
        settings : Settings
            Of the kernel: epsilon, the stopping rule and so on.

        Returns
        -------
        SNNOutput
            As the model's forward gives it. While operations are counted,
            ``self._counted_steps`` grows by the timesteps of all images.
        """
        model = self.model
        pictures = []  # names of arrays about the decoder's predictions
        if model.has_feedback:
            pictures = list(PICTURES if request.frames else SUMS)
        num_images = len(request.x)
        results = new_results(pool.tables, num_images, request.num_steps, pictures)
        # The kernel gets addresses of these arrays alone, so they have to stay in a
        # variable until it has run.
        arrays = results | self._inputs(request, pool.tables)
        runs = self._new_runs(request, arrays)
        pool.run(runs, settings, num_images if request.stream else IMAGES_PER_CALL)
        if self._counted_steps is not None:
            self._counted_steps += int(runs["taken"].sum())
        if not model.gate.reacts:
            # Nothing is blocked. The kernel has filled in all arrays nevertheless, but
            # an output has those about the gate only if it blocks.
            pictures = [name for name in pictures if name in ABOUT_PREDICTION]
        outputs = collect_outputs(runs, results, pictures, model, pool.tables)
        steps_taken = torch.from_numpy(runs["taken"].astype(np.int64))
        return model.make_output(
            request.x, outputs, steps_taken, record={}, names=pool.tables.names
        )

    def _inputs(self, request, tables):
        """Return the arrays that the kernel reads, in its own order of neurons.

        That is by row, column and channel: P = H * W * C numbers, with the channels of
        a pixel side by side.

        Parameters
        ----------
        request : RunRequest
            Its ``x`` are images (B, C, H, W), or recordings (B, T, C, H, W).
        tables : Tables
            The network.

        Returns
        -------
        dict of {str: ndarray of float32, contiguous}
            By their names in Run: "frames" (B, T, P), with T = 1 for images; and
            "uniforms" (T, B, P), if there are such. They may be copies, so the caller
            has to keep them until the kernel has run.
        """
        x = request.x
        has_frames = x.dim() == 5
        num_frames = x.shape[1] if has_frames else 1
        num_pixels = prod(tables.shapes[0])
        # in_rows() gives (B, P), or (B, T, P).
        arrays = {"frames": in_rows(x.float()).reshape(len(x), num_frames, num_pixels)}
        if request.uniforms is not None:
            arrays["uniforms"] = in_rows(request.uniforms.float())
        return arrays

    def _new_runs(self, request, arrays):
        """Return what the kernel is to run: an array of Run, one for each image.

        Parameters
        ----------
        request : RunRequest
            Images, random numbers, and what is wanted.
        arrays : dict of {str: ndarray}
            What the kernel reads, "frames" (B, T, P) among it, and what it fills in.
            Each Run has addresses in these arrays, so they have to stay in memory until
            the kernel has run.

        Returns
        -------
        ndarray of Run, shape (B,)
            NetworkRun of runs.c.
        """
        model = self.model
        draws = request.draws
        num_images, num_frames, num_pixels = arrays["frames"].shape
        runs = new_runs(num_images, arrays)
        # From a timestep to the next in arrays (T, B, P), in numbers, not in bytes.
        runs["stride"] = num_images * num_pixels
        runs["count"] = num_frames  # the last frame stays, if there are more timesteps
        runs["steps"] = request.num_steps
        # Whether an image ends as soon as the stopping rule holds. A stream goes on.
        runs["stops"] = model.rule.stops and not request.stream
        # So many timesteps later is the frame with which a prediction is compared, for
        # the error.
        runs["ahead"] = model.settings["predict"] == "next"
        # What the input's random numbers follow from: seed, number of the image in its
        # set, and epoch.
        runs["key0"], runs["key1"] = key_for(draws.seed, "input")
        runs["number"] = draws.index.numpy()
        runs["epoch"] = draws.epoch
        if request.stream:  # else each image begins at rest, in any free state
            runs["state"] = [state.address for state in request.stream.states]
        return runs


def new_results(
    tables: Tables, num_images: int, num_steps: int, pictures: list[str] = ()
) -> dict[str, np.ndarray]:
    """Return arrays that a run fills in, by their names in Run.

    Parameters
    ----------
    tables : Tables
        The network.
    num_images, num_steps : int
        B and T of what follows.
    pictures : list of str
        Which of `SUMS` (B, T) and `PICTURES` (T, B, pixels) are wanted, too.

    Returns
    -------
    dict of {str: ndarray}
        "logits" (B, T, classes), "counts" (B, T, nodes), and those that are wanted.
    """
    num_pixels = prod(tables.shapes[0])
    num_classes = prod(tables.shapes[tables.header["output"]])
    results = {
        "logits": np.empty((num_images, num_steps, num_classes), np.float32),
        "counts": np.zeros((num_images, num_steps, len(tables.nodes)), np.int32),
    }
    for name in pictures:
        if name in PICTURES:
            results[name] = np.empty((num_steps, num_images, num_pixels), PICTURES[name])
        else:
            results[name] = np.empty((num_images, num_steps), np.float32)
    return results


def new_runs(num_images: int, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return an array of Run, in which each image points to its part of these arrays.

    Parameters
    ----------
    num_images : int
        Number of images.
    arrays : dict of {str: ndarray}
        By their names in Run. They must stay in memory until the kernel has run.
    """
    runs = np.zeros(num_images, RUN)
    numbers = np.arange(num_images)
    for name, array in arrays.items():
        image_axis = 1 if name in STEPS_FIRST else 0
        runs[name] = array.ctypes.data + array.strides[image_axis] * numbers
    return runs


def collect_outputs(
    runs: np.ndarray, results: dict, pictures: list[str], model, tables: Tables
) -> dict[str, torch.Tensor]:
    """Return what the kernel has filled in, under the names that `make_output` takes.

    The docstring of ``running/loop.py`` says what each is. There the timestep is the
    first axis, in most arrays of the kernel the image is.

    Parameters
    ----------
    runs : ndarray of Run, shape (B,)
        After the kernel has run.
    results : dict of {str: ndarray}
        Its arrays, as `new_results` makes them.
    pictures : list of str
        Which of `SUMS` and `PICTURES` are wanted.
    model : VGG_SNN_STDB_wFeedback
        The network.
    tables : Tables
        The same for the kernel.

    Returns
    -------
    dict of {str: Tensor of shape (T, B, ...)}
        "compared" has one row, (1, B): the kernel adds it up over all timesteps, and
        `make_output` takes the sum over rows.
    """
    outputs = {}
    outputs["compared"] = torch.from_numpy(runs["comparisons"].astype(np.int64))[None]
    # (B, T, nodes): the first nodes are the layers, in the order of `names`.
    layer_counts = results["counts"][..., : len(tables.names)].astype(np.float32)
    outputs["spikes"] = torch.from_numpy(layer_counts).transpose(0, 1)
    outputs["logits"] = torch.from_numpy(results["logits"]).transpose(0, 1)
    for name in pictures:
        values = torch.from_numpy(results[name])
        if name in SUMS:  # (B, T)
            outputs[name] = values.transpose(0, 1)
        elif name == "prediction":  # (T, B, pixels), as all pictures
            outputs[name] = in_space(values, model.image_shape)
        else:  # flags, which are bytes in the kernel
            outputs[name] = in_space(values.bool(), model.image_shape)
    return outputs


def add_events(counter, pool: StatePool, model, num_steps: int) -> None:
    """Add to an OperationCounter what the kernel has counted.

    Parameters
    ----------
    counter : OperationCounter
        Its counts are added to.
    pool : StatePool
        The states that have counted.
    model : VGG_SNN_STDB_wFeedback
        The network.
    num_steps : int
        Timesteps of images that were counted.
    """
    tables = pool.tables
    for name in (*tables.names, *model.graph.pools):
        counter.sent[name] += events_sent(pool, tables.numbers[name])
    module_names = {module: name for name, module in model.named_modules()}
    # What reaches the first layer of a chain is what its source sends, as counted
    # above. What reaches a later one is in its map. Two chains from one source that
    # begin with the same layers have a map each before such a layer; one counts.
    counted = set()  # (source, layers up to that which counts)
    for counting_map in tables.maps:
        layer = counting_map.modules[-1]
        way = (counting_map.source, *counting_map.modules)
        # Only linear layers have operations to count, not pools and scales.
        if isinstance(layer, LINEAR) and way not in counted:
            counted.add(way)
            counter.inputs[module_names[layer]] += events_sent(pool, counting_map.node)
    # In a phased network each layer charges in one phase.
    num_phases = schedule_of(model.graph).phases if model.timing.is_phased else 1
    counter.active_steps += num_steps // num_phases


def events_sent(pool: StatePool, n: int) -> torch.Tensor:
    """Return (2, N): how often each neuron sent 1 or -1, and another value."""
    events = torch.from_numpy(pool.counted_events(n)).double()
    return in_space(events, pool.tables.shapes[n]).flatten(1)


class GraphEngine(Engine):
    """Runs a GraphSNN event by event, with the spikes of its step()."""

    def check(self) -> None:
        """Raise ModelError if the kernel cannot run the graph as it is now.

        If it can, the tables of the graph are laid out afterwards.
        """
        for name, module in self.model.graph.modules.items():
            # The kernel has a form of some classes of modules. It does not call
            # modules, so it would leave their hooks out.
            if is_hooked(module) or not has_form(module):
                kind = type(module).__name__
                raise ModelError(
                    f"node {name!r} ({kind}) has no form on the kernel: it runs dense"
                )
        # One setting of the kernel says for all nodes whether neurons fire before or
        # after they are charged. Integrators do not fire, so for them it says nothing.
        updates = {neuron.update for neuron in self.model.neurons().values() if neuron.fires}
        if len(updates) > 1:
            raise ModelError(
                "some neurons fire before they are charged, and some after: it runs dense"
            )
        self.prepare_pool()  # it raises ModelError for all else that does not run

    def __call__(self, recordings: list[KernelEvents], timesteps: int, record_specs: dict) -> dict:
        """Run recordings of events.

        Parameters
        ----------
        recordings : list of KernelEvents
            The events of each recording: B of them. Their arrays have the dtypes that
            KernelEvents names, and are contiguous, since the kernel reads them by their
            addresses. They must not change during the call.
        timesteps : int
            Number of timesteps ``T``.
        record_specs : dict of {str: RecordSpec}
            What is recorded, of each layer; see running/recording.py.

        Returns
        -------
        dict of {object: Tensor of shape (T, B, ...)}
            "logits" (T, B, classes) float32, as added up so far; by the name of each
            layer its spikes (T, B) float32; and by (layer, kind) what is recorded.
        """
        pool = self.prepare_pool()
        settings = self.settings(timesteps)
        results = new_results(pool.tables, len(recordings), timesteps)
        runs = new_runs(len(recordings), results)
        runs["steps"] = timesteps
        for run, recording in zip(runs, recordings, strict=True):
            # `run` is a view of a row: what is set in it is set in `runs`.
            run["first"] = recording.first.ctypes.data
            run["events"] = recording.neurons.ctypes.data
            if recording.values is not None:  # else each event brings 1
                run["values"] = recording.values.ctypes.data
        recorded = self._run_recorded(pool, runs, results, settings, record_specs)
        outputs = {}
        for (name, kind), values in recorded.items():
            shape = pool.tables.shapes[pool.tables.numbers[name]]
            outputs[name, kind] = arrange_recorded(
                values, len(recordings), shape, record_specs[name]
            )
        # (B, T, nodes) -> (T, B, nodes), of which the first nodes are the layers
        counts = torch.from_numpy(results["counts"].astype(np.float32)).transpose(0, 1)
        for n, name in enumerate(pool.tables.names):
            outputs[name] = counts[..., n]
        outputs["logits"] = torch.from_numpy(results["logits"]).transpose(0, 1).contiguous()
        return outputs

    def settings(self, timesteps: int) -> Settings:
        """Return the kernel's settings for so many timesteps of the graph."""
        is_delayed = any(neuron.update is delayed for neuron in self.model.neurons().values())
        return Settings(
            immediate=not is_delayed, decoded_scale=1, logits_scale=1, timesteps=timesteps
        )

    def _run_recorded(self, pool, runs, results, settings, record_specs):
        """Run recordings; return lists of arrays by (layer, kind): what is recorded.

        The arrays are those of all timesteps of the first recording, then of the next.
        """
        recorded = {}
        for name, spec in record_specs.items():
            if name == "output":  # the logits show it
                continue
            for kind in spec.kinds:
                recorded[name, kind] = []
        if not recorded:
            pool.run(runs, settings)
            return recorded
        for n in range(len(runs)):
            self._record(pool, runs[n : n + 1], results, settings, recorded)
        return recorded

    def _record(self, pool, whole_run, results, settings, recorded):
        """Run one recording, timestep by timestep, and append what is recorded.

        The kernel keeps spikes and potentials of the latest timestep alone. So there is
        a call for each timestep, by a Run of one timestep. Its pointers lead to the
        part of the arrays that the timestep has in the whole run.

        Parameters
        ----------
        pool : StatePool
            Of the network. The recording gets a state of its own, not one of these.
        whole_run : ndarray of Run, shape (1,)
            The recording. It is not changed, but the arrays are to which it points.
        results : dict of {str: ndarray}
            The arrays of all recordings, as `new_results` makes them.
        settings : Settings
            Of the kernel.
        recorded : dict of {(str, str): list of ndarray}
            Layer and kind -> arrays (N,) of timesteps; this appends one for each.
        """
        # Arrays of Run with a part for each timestep -> bytes of such a part. The
        # kernel takes them to begin at the timestep that it runs. `events` and `values`
        # stay: `first` says where a timestep begins in them.
        bytes_per_step = {
            "first": np.dtype(np.int32).itemsize,  # (T + 1,)
            "logits": results["logits"].strides[1],  # (B, T, classes)
            "counts": results["counts"].strides[1],  # (B, T, nodes)
        }
        state = pool.new(settings)
        # Only the first timestep begins at rest. A Run that names a state goes on from
        # where that is; one without would begin at rest itself.
        no_key = (0, 0)  # of random numbers, of which events need none; nor does image 0
        pool.library.network_reset(state.address, *no_key, 0)
        step_run = whole_run.copy()
        step_run["state"] = state.address
        step_run["steps"] = 1
        for t in range(int(whole_run["steps"][0])):
            for name, num_bytes in bytes_per_step.items():
                step_run[name] = whole_run[name] + t * num_bytes
            pool.library.network_runs(state.address, step_run.ctypes.data, 1)
            # Neurons that nothing has reached may have yet to get their leak. So this
            # comes before potentials are read.
            pool.library.network_settle(state.address)
            for (name, kind), values in recorded.items():
                n = pool.tables.numbers[name]
                if kind == "membrane":
                    # potentials() is the state's own array, which the next timestep
                    # writes over.
                    values.append(state.potentials(n).copy())
                else:
                    values.append(state.spikes(n))  # a new array


def arrange_recorded(
    arrays: list[np.ndarray], num_recordings: int, shape: tuple, spec: RecordSpec
) -> torch.Tensor:
    """Return what was recorded of a layer as one Tensor.

    Parameters
    ----------
    arrays : list of ndarray of shape (N,)
        B * T of them: all timesteps of the first recording, then those of the next. The
        N neurons are in the kernel's order, by row, column and channel.
    num_recordings : int
        B.
    shape : (C, H, W)
        In which the neurons lie in the kernel; N = C * H * W.
    spec : RecordSpec
        Shape of the layer in the network, and which of its neurons are wanted.

    Returns
    -------
    Tensor of shape (T, B, ...)
        The values of the wanted neurons.
    """
    values = np.stack(arrays).reshape(num_recordings, -1, arrays[0].size)  # (B, T, N)
    values = torch.from_numpy(values).transpose(0, 1)  # (T, B, N)
    values = in_space(values, shape)  # (T, B, C, H, W)
    return spec.select(values.reshape(*values.shape[:2], *spec.shape))
