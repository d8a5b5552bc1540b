"""The event engine: a trained SNN's spikes one by one, by the kernel, so that a run costs what its activity costs.

Same results as the model's own forward, the dense engine: the same draws give the same spikes, but for those that rounding
decides (see docs/explanation/event_engine.md). Evaluation only, on the CPU.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from self_models.basics import ModelError
from self_models.basics.images import checked_images
from self_models.kernel.build import Run, library
from self_models.kernel.costs import LARGE_BATCH, LOOKED_AT, dense_pays
from self_models.kernel.kept import Kept
from self_models.kernel.state import CHUNK, LeftOn, in_rows
from self_models.kernel.tables import settings_of, whole_form
from self_models.running.chunks import check_uniforms
from self_models.running.draws import draws_for, in_space, key_for
from self_models.running.recording import Recorder
from self_models.running.steps import Frame
from self_models.running.stream import dtypes_of, shapes_of


class Inputs(NamedTuple):
    """How often each input was not 0, (C, H, W): where all of a step's inputs were -1 or 1, and in other steps. steps: how many
    there were in all, of all images."""

    binary: torch.Tensor
    other: torch.Tensor
    steps: int


class Counted(NamedTuple):
    """modules: linear module -> Inputs; neurons: spiking layer, maximum pool or 'input' -> Inputs of what it feeds, which are its
    spikes."""

    modules: dict
    neurons: dict


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
        self._kept, self._counting, self._counted = Kept(model), None, None

    def check(self):
        """Raises ModelError where the model, as it is now, cannot run: one that overrides a method of the SNN's, has a part that
        the kernel has no form of, or is larger than the memory that is free."""
        if words := self._kept.why_not():
            raise ModelError(words)

    @property
    def _rooms(self):
        return self._counting or self._kept.prepare()

    def _forget_changed(self):
        if self._kept.forget_changed(self.frozen) and self._counting:
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

    def go_on(self, left_on, x, steps, frames, recorder):
        """(the SNNOutput of a stream's next steps, in which its networks see images x, the LeftOn after them). recorder: of
        nothing, see engine_of of running/stream.py."""
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
        left_on.load(state, steps, steps // model.feedback_interval if model.has_feedback else 0)
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
            self._kept.prepare()
            self._counting, self._counted = self._kept.prepare(counting=True), {"steps": 0, "decodes": 0}

    def stop_counting(self):
        """The Counted runs since start_counting, but for those of the dense engine."""
        rooms, counted = self._counting, self._counted
        if rooms is None:
            return Counted({}, {})
        self._counting = self._counted = None
        return counted_runs(rooms, **counted)

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
            if pays and self._counting:
                rooms.forget(looked_in)  # what was counted there does not count
            else:
                rooms.free += looked_in
            if pays:
                return None
        rooms.run(runs, settings, looked_at, batch, batch if left_on else CHUNK)
        if self._counting:
            self._counted["steps"] += int(runs["taken"].sum())
            self._counted["decodes"] += int(runs["decodes"].sum())
        return self._output(x, results, runs, frames)

    def _output(self, x, results, runs, frames):
        """The SNNOutput of what a run has filled in."""
        model, shown = self.model, model_shows(self.model, frames)
        counts = results["counts"][..., : len(model.wiring.names)].astype(np.float32)
        found = {"logits": results["logits"], "spikes": counts, **{name: results[name] for name in shown if name in SUMS}}
        found = {name: torch.from_numpy(values).transpose(0, 1) for name, values in found.items()}
        for name in shown:
            if name not in SUMS:
                values = torch.from_numpy(results[name])
                found[name] = in_space(values if name == "prediction" else values.bool(), model.image_shape)
        compared, taken = (torch.from_numpy(runs[name].astype(np.int64)) for name in ("comparisons", "taken"))
        return model.output(x, Frame(**found, compared=compared[None]), taken, Recorder())


SUMS, RUN = ("error", "open_share"), np.dtype(Run)


def model_shows(model, frames):
    """Fields of a Frame that a run shows beside logits and spikes."""
    if not model.has_feedback:
        return ()
    names = ("prediction", "predicted", "is_open") if frames else SUMS
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
        kinds = {"prediction": np.float32, "predicted": np.uint8, "is_open": np.uint8}
        results |= {name: np.empty((steps, batch, pixels), kind) for name, kind in kinds.items()}
    return results


def runs_of(images, given, results, draws, steps, stops, ahead):
    """An array of Run, one for each image: images (B, F, Q); given: uniforms (T, B, Q), or None; results: of new_results."""
    batch, frames, pixels = images.shape
    runs = np.zeros(batch, RUN)
    by_step = {name for name in ("prediction", "predicted", "is_open") if name in results}
    arrays = {"frames": images, **results} | ({} if given is None else {"uniforms": given})
    for name, array in arrays.items():
        runs[name] = array.ctypes.data + array.strides[name in by_step or name == "uniforms"] * np.arange(batch)
    runs["stride"], runs["count"], runs["steps"], runs["stops"], runs["ahead"] = batch * pixels, frames, steps, stops, ahead
    runs["key0"], runs["key1"] = key_for(draws.seed, "input")
    runs["number"], runs["epoch"] = draws.index.numpy(), draws.epoch
    return runs


def counted_runs(rooms, steps, decodes):
    """What Rooms have counted in this many steps of images, at `decodes` of which the decoder ran, as Counted."""
    tables, modules, neurons = rooms.tables, {}, {}
    feedback, of_map = set(tables.order[tables.header["forward"] :].tolist()), tables.maps

    def inputs(node, target):
        binary, other = (in_space(torch.from_numpy(row), tables.shapes[node]) for row in rooms.counted(node))
        return Inputs(binary, other, decodes if target in feedback else steps)

    for target, connection in tables.links.items():
        for count, module in enumerate(connection.modules if target < tables.maps else ()):
            found = inputs(of_map if count else connection.source, target)
            of_map += count > 0
            modules.setdefault(module, found)  # the encoder's last modules feed the classifier, then the decoder
    for node, name in (*enumerate(tables.names), *((pool.target, pool.name) for pool in tables.pools)):
        neurons[name] = inputs(node, node)
    return Counted(modules, neurons)
