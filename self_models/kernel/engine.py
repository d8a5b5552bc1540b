"""The event engine: a trained SNN's spikes one by one, by the kernel, so that a run costs what its activity costs.

Same results as the model's own forward, the dense engine: the same draws give the same spikes, but for those that rounding
decides (see docs/explanation/event_engine.md). Evaluation only, on the CPU.
"""

import math

import numpy as np
import torch

from self_models.basics import ModelError
from self_models.basics.images import checked_images
from self_models.kernel.build import Run, library
from self_models.kernel.costs import LARGE_BATCH, LOOKED_AT, dense_pays
from self_models.kernel.kept import Kept
from self_models.kernel.state import CHUNK, LeftOn, in_rows
from self_models.kernel.tables import settings_of, whole_form
from self_models.network.stages import LINEAR
from self_models.running.draws import draws_for, in_space, key_for
from self_models.running.steps import check_uniforms
from self_models.running.stream import dtypes_of, shapes_of


class EventEngine:
    """Runs an SNN event by event: engine(x, uniforms) is model(x, uniforms), an SNNOutput.

    The model's weights are laid out at the first run, and again when they have changed, for which they are compared at every run
    (see kept.py); epsilon, rule and the like are read at every run. Images are spread over torch.get_num_threads() threads.
    Raises ModelError without a C compiler.

    chooses: a batch whose first images spike so much that the dense engine should be faster is given to that, see costs.py, and
    so is every batch of a model that check() refuses. What is recorded the dense engine runs anyhow.
    runs: images so far, by engine.
    frozen: set it where no weight changes any more: then they are not compared.
    """

    frozen = False

    def __init__(self, model, chooses=False):
        library("int8" if whole_form(model) else "float32")
        self.model, self.chooses, self.runs = model, chooses, {"event": 0, "dense": 0}
        self._kept, self._counted = Kept(model), None

    def check(self):
        """Raises ModelError where the model, as it is now, cannot run: one that overrides a method of the SNN's, has a part that
        the kernel has no form of, or is larger than the memory that is free."""
        if words := self._kept.why_not():
            raise ModelError(words)

    @property
    def _rooms(self):
        return self._kept.prepare(counting=self._counted is not None)

    def _forget_changed(self):
        if self._kept.forget_changed(self.frozen) and self._counted is not None:
            raise ModelError("the weights or settings changed while operations were counted")

    def serves(self):
        """Whether the model, as it is now, runs here; where not, and there is no choice, raises ModelError as check does."""
        self._forget_changed()
        try:
            self.check()
        except ModelError:
            if not self.chooses:
                raise
            return False
        return True

    def __call__(self, x, uniforms=None, draws=None, seed=None, frames=True, record=None):
        """x: (B, C, H, W), or recordings (B, T, C, H, W) -> SNNOutput. uniforms, draws, seed, record: as in the model's forward.
        frames: else predictions, errors, predicted and is_open are None, and sums has their place. Raises ModelError as forward
        and check do."""
        x = checked_images(x, self.model, self.model.frames)
        if x.device.type != "cpu":
            raise ModelError("the event engine runs on the CPU: use --device cpu, or --engine dense")
        draws = draws_for(x, draws, seed)
        check_uniforms(uniforms, self.model.timesteps, x[:, 0] if self.model.frames else x)
        output = self._run(x, uniforms, draws, frames) if record is None and self.serves() else None
        self.runs["event" if output else "dense"] += len(x)
        if output is None:
            with torch.no_grad():
                return self.model.forward(x, uniforms, draws, frames=frames, record=record)
        return output

    # --- a stream

    def begun(self, x, draws):
        """The LeftOn of images x with these Draws, at rest."""
        rooms = self._rooms
        return LeftOn(rooms, draws, settings_of(self.model, rooms.tables), self.model.gate.reacts)

    def go_on(self, left_on, x, steps, frames, asked=None):
        """(the SNNOutput of a stream's next steps, in which its networks see images x, the LeftOn after them). asked: nothing,
        see engine_of of running/stream.py."""
        output = self._run(x, None, left_on.draws, frames, steps, left_on)
        self.runs["event"] += len(x)
        return output, left_on

    def state_of(self, left_on):
        """As state_of of running/stream.py."""
        self._take_up(left_on)
        left_on.settle()
        return left_on.state_dict(shapes_of(self.model), dtypes_of(self.model))

    def restored(self, state, draws):
        """The LeftOn of which that is the state_dict."""
        left_on, model, steps = self.begun(state["image"], draws), self.model, state["steps"]
        if not model.gate.reacts:  # whatever the gate was that it comes from
            state = {name: value for name, value in state.items() if name not in ("is_open", "predicted")}
        left_on.load(state, steps)
        return left_on

    def _take_up(self, left_on):
        rooms = self._rooms
        settings = settings_of(self.model, rooms.tables)
        left_on.take_up(rooms, settings, self.model.gate.reacts)
        return settings

    @property
    def name(self):
        """Which engines have run images so far, for a record."""
        return " and ".join(name for name, images in self.runs.items() if images) or "event"

    # --- counting

    def start_counting(self):
        """Count the inputs of each linear module from now on."""
        if self.serves():
            self._counted = 0

    def stop_counting(self, events):
        """Add to Events, see counting/operations.py, what was counted since start_counting."""
        if rooms := self._kept.rooms.pop(True, None):
            add_events(events, rooms, self.model, self._counted)
        self._counted = None

    # --- a run

    def _run(self, x, uniforms, draws, frames, steps=None, left_on=None):
        """The SNNOutput; None where the dense engine should be faster. steps, left_on: of a stream, how many, and its state."""
        model, rooms, batch = self.model, self._rooms, len(x)
        tables, settings = rooms.tables, self._take_up(left_on) if left_on else settings_of(model, rooms.tables)
        steps = steps or model.latency
        images = in_rows(x.float()).reshape(batch, x.shape[1] if x.dim() > 4 else 1, math.prod(tables.shapes[0]))
        given = None if uniforms is None else in_rows(uniforms.float())
        results = new_results(
            tables, batch, steps, images.shape[2], model.has_feedback and frames, model.has_feedback and not frames
        )
        runs = runs_of(
            images, given, results, draws, steps, model.rule.stops and not left_on, model.settings["predict"] == "next"
        )
        if left_on:
            runs["state"] = [room.address for room in left_on.states]
        looked_at = LOOKED_AT if self.chooses and not whole_form(model) and batch >= LARGE_BATCH and not left_on else 0
        if looked_at:
            kept, rooms.free = rooms.free, []
            rooms.run(runs, settings, 0, looked_at, looked_at)
            looked_in, rooms.free = rooms.free, kept
            pays = dense_pays(tables, results["counts"][:looked_at], runs["taken"][:looked_at], batch)
            if pays and self._counted is not None:
                rooms.forget(looked_in)  # what was counted there does not count
            else:
                rooms.free += looked_in
            if pays:
                return None
        rooms.run(runs, settings, looked_at, batch, batch if left_on else CHUNK)
        if self._counted is not None:
            self._counted += int(runs["taken"].sum())
        return self._output(x, results, runs, frames)

    def _output(self, x, results, runs, frames):
        """The SNNOutput of what a run has filled in."""
        model, found = self.model, {"spikes": results["counts"][..., : len(self.model.wiring.names)].astype(np.float32)}
        found |= {name: results[name] for name in ("logits", *model_shows(model, frames))}
        shown = {}
        for name, values in found.items():
            values = torch.from_numpy(values)
            if name in PICTURES:
                shown[name] = in_space(values if name == "prediction" else values.bool(), model.image_shape)
            else:
                shown[name] = values.transpose(0, 1)
        compared, taken = (torch.from_numpy(runs[name].astype(np.int64)) for name in ("comparisons", "taken"))
        return model.output(x, shown | {"compared": compared[None]}, taken, {})


SUMS, RUN = ("error", "open_share"), np.dtype(Run)
PICTURES = {"prediction": np.float32, "predicted": np.uint8, "is_open": np.uint8}


def model_shows(model, frames):
    """What steps of a run show beside logits and spikes, see running/steps.py."""
    names = (*(PICTURES if frames else SUMS),) if model.has_feedback else ()
    return names if model.gate.reacts else names[:1]


def new_results(tables, batch, steps, pixels, frames, sums):
    """Name of Run -> array that a run fills in: logits (B, T, labels), counts (B, T, nodes), error and open_share (B, T), if sums
    are wanted; prediction, predicted and is_open (T, B, Q), if frames are."""
    labels = tables.shapes[tables.header["output"]][0]
    results = {
        "logits": np.empty((batch, steps, labels), np.float32),
        "counts": np.zeros((batch, steps, len(tables.nodes)), np.int32),
    }
    if sums:
        results |= {name: np.empty((batch, steps), np.float32) for name in SUMS}
    if frames:
        results |= {name: np.empty((steps, batch, pixels), kind) for name, kind in PICTURES.items()}
    return results


def runs_of(images, given, results, draws, steps, stops, ahead):
    """An array of Run, one for each image: images (B, F, Q); given: uniforms (T, B, Q), or None; results: of new_results."""
    batch, frames, pixels = images.shape
    runs = np.zeros(batch, RUN)
    arrays = {"frames": images, **results} | ({} if given is None else {"uniforms": given})
    for name, array in arrays.items():
        runs[name] = array.ctypes.data + array.strides[name in PICTURES or name == "uniforms"] * np.arange(batch)
    runs["stride"], runs["count"], runs["steps"], runs["stops"], runs["ahead"] = batch * pixels, frames, steps, stops, ahead
    runs["key0"], runs["key1"] = key_for(draws.seed, "input")
    runs["number"], runs["epoch"] = draws.index.numpy(), draws.epoch
    return runs


def add_events(events, rooms, model, steps):
    """Add to Events what Rooms have counted in this many steps of images."""
    tables, wiring, done = rooms.tables, model.wiring, set()
    names, of_map = {module: name for name, module in model.named_modules()}, tables.maps

    def sent_by(node):
        """How often each neuron has sent 1 or -1, and another value, (2, N)."""
        return in_space(torch.from_numpy(rooms.events(node)).double(), tables.shapes[node]).flatten(1)

    for node, name in (*enumerate(tables.names), *((pool.target, pool.name) for pool in tables.pools)):
        events.sent[name] += sent_by(node).sum(0)
    for one in (*wiring.forward, *wiring.feedback):
        events.arrived[names[one.modules[-1]]] += sent_by(one.source).sum(0)
    for target, one in tables.links.items():
        for count, module in enumerate(one.modules if target < tables.maps else ()):
            node, of_map = of_map if count else one.source, of_map + (count > 0)
            if (
                isinstance(module, LINEAR) and module not in done
            ):  # the encoder's last modules feed the classifier and the decoder
                events.inputs[names[module]] += sent_by(node)
            done.add(module)
    events.ran += steps // (wiring.phases if model.phased else 1)  # of a phased network each layer charges in one phase
