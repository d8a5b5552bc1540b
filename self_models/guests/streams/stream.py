"""A streaming network: it answers at every step while its images change, and keeps its state in between."""

from dataclasses import dataclass, replace

import torch

from self_models.basics import ModelError
from self_models.basics.devices import kept_in_memory
from self_models.basics.images import checked_images, dtype_of
from self_models.basics.settings import COUNT, WHOLE, required, settings_in
from self_models.engines.fingerprint import fingerprint
from self_models.runtime.draws import EVALUATION, Draws
from self_models.runtime.loop import run_timesteps, show_image
from self_models.runtime.recording import parse_record, shapes_of_layers

MEMBRANES = "membranes."  # how potentials are called in a state_dict; other fields of neurons' state FIELD.LAYER
MEMORY = "memory."  # and what a step of one's own keeps in a run's memory


class Stream:
    """stream(images, steps) -> SNNOutput of these steps: the network goes on from where it is, looking at images (B, C, H, W).
    The first call says how many images there are at once, each with a network of its own. Until reset() that number stays, and so
    do dtype, device, settings and weights. No stopping rule is asked. Draws follow
    from the seed, the image's place in the batch and the stream's own step, so a stream in pieces is the same as one at once.
    steps: taken so far. Either engine runs it, and goes on from the other's state; what is recorded the dense one."""

    def __init__(self, model, seed=0):
        self.model, self.seed = model, seed
        self.reset()

    def reset(self):
        """Bring the network to rest, at step 0; then the batch may be another."""
        self.steps, self._began, self._run, self._engine = 0, None, None, None

    @torch.no_grad()
    def __call__(self, images, steps=1, frames=True, record=None):
        """frames, record: as in the model's forward. Raises ModelError for images that the model does not take, where what stays
        until reset() has changed, for a gate that cannot go on with other images, or a model in training mode; then the stream is
        as it was."""
        model, steps = self.model, required(COUNT, "steps", steps)
        x, asked = checked_images(images, model), parse_record(record, model)
        check_goes_on(model)
        may_serve = model.engine and x.device.type == "cpu" and not asked
        began, engine = (
            self._check_began(x),
            model.engine if may_serve and model.engine.serves() else Dense(model),
        )
        if self._run is None:
            self._run, self._began = engine.begun(x, self._draws(len(x))), began
        elif engine != self._engine:
            self._run = engine.restored(self.state_dict(), self._draws(len(x)))
        self._engine = engine
        output, self._run = engine.go_on(self._run, x, steps, frames, asked)
        self.steps += steps
        return output

    def _check_began(self, x):
        """What stays until reset(). Raises ModelError where it is other than when the stream began."""
        model = self.model
        modules, tensors = fingerprint(model)
        if self._began is None:
            self._tensors = kept_in_memory(tensors)
        parts = model.gate, model.readout
        settings = (
            model.settings,
            [getattr(part, name) for part in parts for name in settings_in(type(part))],
        )
        images = len(x), x.dtype, x.device
        now = {
            "number, dtype or device of the images": images,
            "settings": settings,
            "weights or modules": modules,
        }
        for what, was in (self._began or now).items():
            if was != now[what]:
                raise ModelError(
                    f"the {what} of this stream changed since it began: call reset() to begin anew"
                )
        return now

    def _draws(self, count):
        return Draws(self.seed, EVALUATION, torch.arange(count))

    @torch.no_grad()
    def state_dict(self):
        """What the next step needs: seed, steps, tensors (B, ...)."""
        tensors = {} if self._run is None else self._engine.state_of(self._run)
        return {"seed": self.seed, "steps": self.steps, **tensors}

    def load_state_dict(self, state):
        """Go on from what state_dict gave. Raises ModelError where it is damaged or another network's; then nothing changes."""
        seed, steps = (required(WHOLE, name, state.get(name)) for name in ("seed", "steps"))
        if steps:
            check_state(self.model, state)
        self.reset()
        self.seed, self.steps = seed, steps
        if steps:
            self._engine = Dense(self.model)
            self._run = self._engine.restored(state, self._draws(len(state["image"])))
            self._began = self._check_began(state["image"])


def check_goes_on(model):
    """Raises ModelError where the model cannot go on with another image: its gate is for one, or its maximum pools count."""
    if model.training:
        raise ModelError("a stream is for evaluation: call eval() of the model first")
    if model.timing.is_phased:
        raise ModelError(
            "update phased answers one image after the other: a streaming network needs immediate, or delayed"
        )
    if not model.gate.follows_changes:
        raise ModelError(
            f"gate {model.settings['gate']} is for one image: a streaming network needs block, or open"
        )
    if model.graph.pools and model.settings["max_pool"] == "count":
        raise ModelError(
            "max_pool count never forgets an image: a streaming network needs max_pool or, or no M"
        )


@dataclass(frozen=True)
class Dense:
    """A stream in the dense engine: its runs are RunStates. The event engine has the same four methods."""

    model: object

    def begun(self, x, draws):
        """A run on images x, at rest."""
        return self.model.start(x, draws, is_open_ended=True)

    def go_on(self, run, x, steps, frames, asked):
        """(the SNNOutput of a run's next steps, in which it sees images x, the run after them); asked: what is recorded."""
        model = self.model
        run = replace(run, record=asked)
        show_image(model, run, x)
        if model.runs_dense(asked) == (run.engine is None):
            run.engine = model.dense_engine(x, asked)
        shown, taken, run = run_timesteps(model, run, steps, return_frames=frames)
        return model.make_output(x, shown, taken, asked), run

    def state_of(self, run):
        """What the next step needs, name -> tensor (B, ...): of the run's state what is there."""
        view = run.view
        held = {"image": run.image, "logits": run.logits, "readout_sum": run.readout_sum}
        held |= {
            "is_open": view.is_open,
            "predicted": view.predicted,
            "explained": view.explained,
            "events": view.events,
        }
        held |= (
            {} if view.events is None else {"seen": view.image}
        )  # else it is the image where that is open
        for name, state in (run.graph_state.layer_states | run.memory).items():
            values = state._asdict() if hasattr(state, "_asdict") else {"": state}
            held |= {key_of(field, name): value for field, value in values.items()}
        return {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}

    def restored(self, state, draws):
        """The run of which that is the state_dict."""
        run, view = self.begun(state["image"], draws), {}
        if run.view.is_open is not None:
            view = {
                name: state[name]
                for name in ("is_open", "predicted", "explained", "events")
                if name in state
            }
            view["image"] = (
                state["seen"] if "seen" in state else run.image * view.get("is_open", 1)
            )
        memory = {
            key.removeprefix(MEMORY): value
            for key, value in state.items()
            if key.startswith(MEMORY)
        }
        graph_state = run.graph_state.copy()
        for name, neuron in self.model.neurons().items():
            if (key := key_of("v", name)) in state:
                at_rest = neuron.at_rest(state[key])
                keys = {field: key_of(field, name) for field in at_rest._fields}
                graph_state.layer_states[name] = at_rest._replace(
                    **{field: state[key] for field, key in keys.items() if key in state}
                )
        rest = {name: state[name] for name in ("logits", "readout_sum", "steps")}
        return replace(
            run,
            view=run.view._replace(**view),
            graph_state=graph_state,
            memory=run.memory | memory,
            **rest,
        )


def forms_of(model):
    """Name -> (shape of each image, (C, H, W) or (N,); dtype) of what a state may have. Outputs are added up as membranes are."""
    spaces, neurons, kind = shapes_of_layers(model), model.neurons(), dtype_of(model)
    forms = dict.fromkeys(("image", "readout_sum", "explained", "seen"), (model.image_shape, kind))
    forms |= dict.fromkeys(("is_open", "predicted", "events"), (model.image_shape, torch.bool))
    forms |= {
        MEMBRANES + name: (spaces[name], neuron.threshold.dtype)
        for name, neuron in neurons.items()
    }
    return forms | {"logits": (spaces["output"], next(iter(neurons.values())).threshold.dtype)}


def check_state(model, state):
    """Raises ModelError unless that can be the state of a stream of this model."""
    forms, image = forms_of(model), state.get("image")
    wrong = {"image", "logits", "readout_sum"} - state.keys()
    if not (model.is_custom or model.unknown_part):  # parts of one's own keep what they like
        wrong |= state.keys() - forms.keys() - {"seed", "steps"}
    for name in (forms.keys() & state.keys()) - wrong:
        if not fits(state[name], *forms[name], image):
            wrong.add(name)
    if wrong:
        first = "image" if "image" in wrong else min(wrong)
        raise ModelError(f"{first}: this state is damaged, or that of another network's stream")
    checked_images(image, model)


def fits(value, shape, dtype, image):
    """Whether a part of a state is a finite tensor (B, *shape) of this dtype, as ``image`` (B, ...) is."""
    if not isinstance(value, torch.Tensor) or not isinstance(image, torch.Tensor):
        return False
    if image.dim() == 0 or value.shape != (len(image), *shape):
        return False
    return value.dtype == dtype and value.device == image.device and bool(value.isfinite().all())


def key_of(field, name):
    """What a field of a layer's state is called in a state_dict; '' for what is kept under a name without fields."""
    return (MEMBRANES if field == "v" else f"{field}." if field else MEMORY) + name
