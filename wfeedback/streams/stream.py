"""A stream: a network that answers in every timestep while its images change."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from self_models.data.images import dtype_of, prepare_images
from self_models.devices import kept_in_memory
from self_models.errors import ModelError
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.draws import EVALUATION, SEED, Draws
from self_models.running.fingerprint import fingerprint
from self_models.running.loop import run_timesteps, show_image
from self_models.running.outputs import SNNOutput
from self_models.running.recording import parse_record, shapes_of_layers
from self_models.running.state import RunState, View
from self_models.settings import COUNT, WHOLE, required, settings_in

if TYPE_CHECKING:
    from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

# Keys of a state_dict begin with these. Other fields of a layer's state: FIELD.LAYER.
MEMBRANES = "membranes."
MEMORY = "memory."  # what neurons and steps of one's own keep

StateDict = dict[str, Any]  # "seed", "steps", and tensors (B, ...)


class StreamEngine(Protocol):
    """What runs a stream: ``Dense`` here, or the event engine.

    A *run* is the state of the engine between two calls.
    """

    def begun(self, x: torch.Tensor, draws: Draws) -> Any:
        """Return a run on images x (B, C, H, W), at rest."""

    def go_on(
        self, run: Any, x: torch.Tensor, steps: int, frames: bool, record_specs: dict
    ) -> tuple[SNNOutput, Any]:
        """Run so many timesteps on images x; return their output, and the run after."""

    def state_of(self, run: Any) -> dict[str, torch.Tensor]:
        """Return what the next timestep needs, by its key in a state_dict."""

    def restored(self, state: StateDict, draws: Draws) -> Any:
        """Return the run of which this is the state_dict."""


class Stream:
    """A network that keeps its state from call to call, while its images change.

    ``model.stream(seed)`` makes one. Each image of a batch is seen by a network of its
    own. The first call fixes their number; it must stay until ``reset()``, as must the
    images' dtype and device, the settings and the weights.

    ``timesteps`` and ``rule`` have no effect, since a stream has no end. The input's
    random spikes follow from the seed, the image's place in the batch and the stream's
    own timestep, so eight calls of one timestep give the same as one call of eight.

    Both engines can run it, and each can go on from the other's state. The dense one
    runs it if something is recorded.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network, in evaluation mode.
    seed : int
        Seed of the input's random spikes.

    Attributes
    ----------
    steps : int
        Timesteps taken so far.
    """

    def __init__(self, model: "VGG_SNN_STDB_wFeedback", seed: int = 0):
        self.model = model
        self.seed = required(SEED, "seed", seed)
        self.reset()

    def reset(self) -> None:
        """Begin anew at timestep 0, at rest. The batch may then have another size."""
        self.steps = 0
        self._run = None  # of the engine
        self._engine = None  # which has taken the latest timesteps
        self._fixed = None  # the FixedParts, which must not change until the next reset()
        self._tensors = None  # see _keep_fixed()

    @torch.no_grad()
    def __call__(
        self,
        images: torch.Tensor,
        steps: int = 1,
        frames: bool = True,
        record: str | dict | None = None,
    ) -> SNNOutput:
        """Run the next timesteps.

        Parameters
        ----------
        images : Tensor of shape (B, C, H, W)
            What the networks see in these timesteps.
        steps : int
            How many timesteps.
        frames : bool
            Whether to return predictions for each pixel; see the model's ``forward``.
        record : "all", dict or None
            What to record of which layer; see the model's ``forward``.

        Returns
        -------
        SNNOutput
            Its spikes, predictions and timesteps are those of this call. Its logits
            have been summed since the stream began.

        Raises
        ------
        ModelError
            If the model does not take the images or is in training mode, if its gate
            cannot go on with other images, or if something has changed that must stay
            until ``reset()``. The stream then is as it was.
        """
        model = self.model
        # First everything is checked, down to _engine_for(). Nothing of the stream has
        # changed if one of these raises an error.
        steps = required(COUNT, "steps", steps)
        images = prepare_images(images, model)
        specs = parse_record(record, model)
        check_can_stream(model)
        fixed = fixed_parts(model, images)
        if self._fixed is not None:
            check_unchanged(self._fixed, fixed)
        engine = self._engine_for(images, specs)

        if self._run is None:
            self._run = engine.begun(images, draws_of_stream(self.seed, len(images)))
            self._keep_fixed(fixed)
        elif engine != self._engine:
            # state_dict() asks the engine that has run so far, self._engine, for its
            # state. So this comes before self._engine is set.
            draws = draws_of_stream(self.seed, len(images))
            self._run = engine.restored(self.state_dict(), draws)
        self._engine = engine
        output, self._run = engine.go_on(self._run, images, steps, frames, specs)
        self.steps += steps
        return output

    def _keep_fixed(self, fixed: "FixedParts") -> None:
        """Keep what must stay from now on, for comparison in later calls.

        It has ids and addresses of the model's tensors. Their memory is kept, too, lest
        Python and torch give the same ids and addresses to new tensors.
        """
        self._fixed = fixed
        self._tensors = kept_in_memory(fixed.tensors)

    def _engine_for(self, images: torch.Tensor, specs: dict) -> StreamEngine:
        """Return what runs the next timesteps: the event engine where it can."""
        engine = self.model.engine
        if engine and images.device.type == "cpu" and not specs and engine.serves():
            return engine
        return Dense(self.model)

    @torch.no_grad()
    def state_dict(self) -> StateDict:
        """Return the state, from which another stream can go on.

        Returns
        -------
        dict of {str: object}
            "seed" and "steps", and tensors (B, ...) if the stream has begun.
        """
        tensors = {}
        if self._run is not None:
            tensors = self._engine.state_of(self._run)
        return {"seed": self.seed, "steps": self.steps, **tensors}

    def load_state_dict(self, state: StateDict) -> None:
        """Go on from a state that ``state_dict`` has returned.

        Parameters
        ----------
        state : dict of {str: object}
            State of a stream of the same network.

        Raises
        ------
        ModelError
            If it is damaged, or of another network. Nothing changes then.
        """
        # Everything is checked before anything changes: what follows reset() does not
        # fail for a state that check_state() lets pass. A stream that has not begun,
        # with 0 steps, has no tensors to check or to restore.
        seed = required(SEED, "seed", state.get("seed"))
        steps = required(WHOLE, "steps", state.get("steps"))
        if steps:
            check_state(self.model, state)
        self.reset()
        self.seed = seed
        self.steps = steps
        if steps:
            images = state["image"]
            self._engine = Dense(self.model)
            draws = draws_of_stream(seed, len(images))
            self._run = self._engine.restored(state, draws)
            self._keep_fixed(fixed_parts(self.model, images))


def draws_of_stream(seed: int, count: int) -> Draws:
    """Return what makes the random numbers of a stream's input, for so many images."""
    return Draws(seed, EVALUATION, torch.arange(count))


class FixedParts(NamedTuple):
    """What must stay as it is from a stream's first timestep to its ``reset()``.

    Attributes
    ----------
    values : dict of {str: object}
        What it is called in a message -> a value that is equal as long as it stays.
    tensors : list of Tensor
        Parameters and buffers of the model, whose ids and addresses are among
        ``values``.
    """

    values: dict[str, object]
    tensors: list[torch.Tensor]


def fixed_parts(model: "VGG_SNN_STDB_wFeedback", images: torch.Tensor) -> FixedParts:
    """Return what must stay while a stream of these images goes on, as it is now."""
    fingerprint_of_model, tensors = fingerprint(model)
    values_of_parts = []  # which may be changed without the model's settings
    for part in (model.gate, model.readout):
        for name in settings_in(type(part)):
            values_of_parts.append(getattr(part, name))
    values = {
        "number, dtype or device of the images": (len(images), images.dtype, images.device),
        "settings": (model.settings, values_of_parts),
        "weights or modules": fingerprint_of_model,
    }
    return FixedParts(values, tensors)


def check_unchanged(before: FixedParts, now: FixedParts) -> None:
    """Raise ModelError, with the first of the parts that has changed, if one has."""
    for name, value in before.values.items():
        if value != now.values[name]:
            raise ModelError(
                f"the {name} of this stream changed since it began: call reset() to begin anew"
            )


def check_can_stream(model: "VGG_SNN_STDB_wFeedback") -> None:
    """Raise ModelError for a model that cannot go on with another image."""
    if model.training:
        raise ModelError("a stream is for evaluation: call eval() of the model first")
    if model.timing.is_phased:
        raise ModelError(
            "update phased answers one image after the other: "
            "a streaming network needs immediate, or delayed"
        )
    if not model.gate.follows_changes:
        raise ModelError(
            f"gate {model.settings['gate']} is for one image: "
            "a streaming network needs block, or open"
        )
    if model.graph.pools and model.settings["max_pool"] == "count":
        raise ModelError(
            "max_pool count never forgets an image: a streaming network needs max_pool or, or no M"
        )


# --- the dense engine


@dataclass(frozen=True)
class Dense:
    """A StreamEngine that runs a stream in PyTorch: its runs are RunStates.

    Attributes
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    """

    model: "VGG_SNN_STDB_wFeedback"

    def begun(self, x: torch.Tensor, draws: Draws) -> RunState:
        """Return a run on images x, at rest."""
        return self.model.start(x, draws, is_open_ended=True)

    def go_on(
        self, run: RunState, x: torch.Tensor, steps: int, frames: bool, record_specs: dict
    ) -> tuple[SNNOutput, RunState]:
        """Run the next timesteps of a stream.

        Parameters
        ----------
        run : RunState
            The networks. It is not changed: what goes on is a shallow copy, in which
            show_image() and the timesteps replace fields, and tensors and dicts that
            both have are not written to.
        x : Tensor of shape (B, C, H, W)
            Images that they see in these timesteps.
        steps : int
            Number of timesteps.
        frames : bool
            As in the model's ``forward``.
        record_specs : dict of {str: RecordSpec}
            What is recorded of each layer in these timesteps.

        Returns
        -------
        output : SNNOutput
            Of these timesteps.
        run : RunState
            The networks after them.
        """
        model = self.model
        run = replace(run, record=record_specs)  # the copy
        # The gate compares the new images with the latest prediction, so it has to see
        # them before the first of these timesteps.
        show_image(model, run, x)
        # What is recorded asks for the model's step(), one timestep after the other.
        # Otherwise a DenseEngine may take many at once. A stream may change between the
        # two from call to call: the state that they hand on is the same.
        if not model.runs_dense(record_specs):
            run.engine = None
        elif run.engine is None:
            run.engine = model.dense_engine(x, record_specs)
        outputs, steps_taken, run = run_timesteps(model, run, steps, return_frames=frames)
        return model.make_output(x, outputs, steps_taken, record_specs), run

    def state_of(self, run: RunState) -> dict[str, torch.Tensor]:
        """Return what the next timestep needs: of the run's state what is there.

        Keys are "image", "logits", fields of the View and so on; ``membranes.LAYER``
        and ``FIELD.LAYER`` for the state of a layer, see `state_key`; and
        ``memory.NAME`` for what has no fields. What is no Tensor is left out, such as
        the fields of a View that its gate does not use.
        """
        view = run.view
        state = {
            "image": run.image,
            "logits": run.logits,
            "readout_sum": run.readout_sum,
            "is_open": view.is_open,
            "predicted": view.predicted,
            "explained": view.explained,
            "events": view.events,
        }
        if view.events is not None:  # otherwise the view is the image where that is open
            state["seen"] = view.image
        states = run.graph_state.layer_states | run.memory
        for name, memory in states.items():
            if hasattr(memory, "_asdict"):
                for field, value in memory._asdict().items():
                    state[state_key(field, name)] = value
            else:
                state[f"{MEMORY}{name}"] = memory
        return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}

    def restored(self, state: StateDict, draws: Draws) -> RunState:
        """Return the run of which this is the state_dict."""
        # At rest; what the state has then takes the place of what is there.
        run = self.begun(state["image"], draws)
        graph_state = run.graph_state.copy()
        graph_state.layer_states |= restored_layer_states(self.model, state)
        return replace(
            run,
            view=restored_view(run, state),
            graph_state=graph_state,
            memory=run.memory | restored_memory(state),
            logits=state["logits"],
            readout_sum=state["readout_sum"],
            steps=state["steps"],
        )


def restored_view(run: RunState, state: StateDict) -> View:
    """Return the View of a state_dict, for a run at rest on its images."""
    if run.view.is_open is None:  # a gate that sees the image as it is
        return run.view
    fields = {}
    for name in ("is_open", "predicted", "explained", "events"):
        if name in state:
            fields[name] = state[name]
    if "seen" in state:
        fields["image"] = state["seen"]
    else:
        fields["image"] = run.image * fields.get("is_open", 1)
    return run.view._replace(**fields)


def restored_memory(state: StateDict) -> dict[str, object]:
    """Return what timesteps of one's own have kept, of a state_dict."""
    memory = {}
    for key, value in state.items():
        if key.startswith(MEMORY):
            memory[key.removeprefix(MEMORY)] = value
    return memory


def restored_layer_states(model: "VGG_SNN_STDB_wFeedback", state: StateDict) -> dict[str, object]:
    """Return the states of a model's layers, of a state_dict."""
    states = {}
    for name, neuron in model.neurons().items():
        potential = state.get(state_key("v", name))
        if potential is None:
            continue
        at_rest = neuron.at_rest(potential)
        fields = {}
        for field in at_rest._fields:
            key = state_key(field, name)
            if key in state:
                fields[field] = state[key]
        states[name] = at_rest._replace(**fields)
    return states


# --- states


def state_key(field: str, name: str) -> str:
    """Return the key in a state_dict of a field of a layer's state."""
    if field == "v":
        return f"{MEMBRANES}{name}"
    return f"{field}.{name}"


class TensorForm(NamedTuple):
    """What a part of a state is to be.

    Attributes
    ----------
    shape : tuple of int
        For each image: (C, H, W) or (N,).
    dtype : torch.dtype
        Of its values.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype


def forms_of(model: "VGG_SNN_STDB_wFeedback") -> dict[str, TensorForm]:
    """Return the form of each part that a stream's state may have, by its key.

    Outputs are added up as membranes are, so they have their dtype.
    """
    spaces = shapes_of_layers(model)
    neurons = model.neurons()
    pixels = TensorForm(model.image_shape, dtype_of(model))
    switches = TensorForm(model.image_shape, torch.bool)
    forms = dict.fromkeys(("image", "readout_sum", "explained", "seen"), pixels)
    forms |= dict.fromkeys(("is_open", "predicted", "events"), switches)
    for name, neuron in neurons.items():
        forms[f"{MEMBRANES}{name}"] = TensorForm(spaces[name], neuron.threshold.dtype)
    first: SpikingNeuron = next(iter(neurons.values()))
    forms["logits"] = TensorForm(spaces["output"], first.threshold.dtype)
    return forms


def check_state(model: "VGG_SNN_STDB_wFeedback", state: StateDict) -> None:
    """Check that a state_dict has the keys, shapes and dtypes of a stream of a model.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        The network.
    state : dict of {str: object}
        See ``Stream.state_dict``, which has begun.

    Raises
    ------
    ModelError
        With one key that is wrong, "image" before all others; with all keys that are
        missing; or if the model does not take the state's image.
    """
    forms = forms_of(model)  # key -> shape for each image, and dtype
    image = state.get("image")
    missing = {"image", "logits", "readout_sum"} - state.keys()
    unexpected = set()
    # Neurons and timesteps of a user's own class may keep whatever they need in a
    # state, under any key. Only of known classes can a key be too much.
    has_own_parts = model.is_custom or model.unknown_part
    if not has_own_parts:
        unexpected = state.keys() - forms.keys() - {"seed", "steps"}
    misfits = set()
    for name in forms.keys() & state.keys():
        if not fits(state[name], forms[name], image):
            misfits.add(name)
    wrong = missing | unexpected | misfits
    if wrong:
        first = "image" if "image" in wrong else min(wrong)
        raise ModelError(f"{first}: this state is damaged, or that of another network's stream")
    # What it returns is not needed here: it is called for its check of the image.
    prepare_images(image, model)
    missing = needed_keys(model, image) - state.keys()
    if missing:
        raise ModelError(
            f"missing in this state: {', '.join(sorted(missing))}; it is damaged, or that of "
            "another network's stream"
        )


def needed_keys(model: "VGG_SNN_STDB_wFeedback", image: torch.Tensor) -> set[str]:
    """Return the keys that a state of a model's stream on these images must have.

    They are what the gate has of a view from the beginning, such as "is_open", and what
    the first timestep adds. Neurons of a user's own class may keep no potential.
    """
    engine = Dense(model)
    keys = set(engine.state_of(engine.begun(image, draws_of_stream(0, len(image)))))
    if not (model.is_custom or model.unknown_part):
        keys.update(f"{MEMBRANES}{name}" for name in model.neurons())
        if model.settings.get("residual"):
            keys.add("explained")
    return keys


def fits(value: object, form: TensorForm, image: object) -> bool:
    """Return whether a part of a state is a finite tensor (B, ...) of this form.

    The batch size B, and the device, are those of the state's ``image``.
    """
    if not isinstance(value, torch.Tensor) or not isinstance(image, torch.Tensor):
        return False
    if image.dim() == 0 or value.shape != (len(image), *form.shape):
        return False
    has_type = value.dtype == form.dtype and value.device == image.device
    return has_type and bool(value.isfinite().all())
