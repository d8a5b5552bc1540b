"""The event engine: a trained SNN's spikes one by one, so that a run costs what its activity costs, not what its layers hold.

Same results as the model's own forward, the dense engine: the same draws give the same spikes, but for those that rounding
decides (see docs/explanation/event_engine.md). Evaluation only, on the CPU, in float32.
"""

import math

import numpy as np
import torch

from self_models.basics.errors import ModelError
from self_models.basics.images import checked_images
from self_models.fast.compiling import WHY_NOT, in_words, try_out
from self_models.fast.event.compiled.counts import blank
from self_models.fast.event.compiled.run import new_results, run_images
from self_models.fast.event.costs import LARGE_BATCH, LOOKED_AT, dense_pays
from self_models.fast.event.counts import Counted, counted_runs, new_activity, no_activity
from self_models.fast.event.layouts import KeptLayout
from self_models.fast.event.settings import kernel_settings, why_not
from self_models.fast.event.threads import CHUNK, LeftOn, Rooms, in_rows, spread
from self_models.running.chunks import check_uniforms
from self_models.running.draws import draws_for, in_space
from self_models.running.recording import Recorder
from self_models.running.steps import Frame
from self_models.running.stream import shapes_of


class EventEngine:
    """Runs an SNN event by event: engine(x, uniforms) is model(x, uniforms), an SNNOutput.

    The model's weights are laid out at the first run, and again when they have changed, for which they are compared at every run
    (see layouts.py); epsilon, rule and the like are read at every run. Images are spread over torch.get_num_threads() threads.
    Raises ModelError without numba.

    chooses: a batch whose first images spike so much that the dense engine should be faster is given to that, see costs.py, and
    so is every batch of a model that check() refuses. What is recorded the dense engine runs anyhow.
    runs: images so far, by engine.
    frozen: set it where no weight changes any more: then they are not compared.
    """

    frozen = False

    def __init__(self, model, chooses=False):
        try_out()
        if WHY_NOT:
            raise numba_failed(WHY_NOT[0])
        self.model, self.chooses, self.runs = model, chooses, {"event": 0, "dense": 0}
        self._kept, self._rooms, self._counted = KeptLayout(model), None, None

    def check(self):
        """Raises ModelError where the model, as it is now, cannot run: one that overrides a method of the SNN's, has a part
        without a compiled form, or is larger than the memory that is free."""
        if words := why_not(self.model) or self._kept.why_not():
            raise ModelError(words)

    def _laid_out(self):
        layout = self._kept.prepare()
        self._rooms = self._rooms or Rooms(layout, no_activity(layout.net))
        return layout

    def _forget_changed(self):
        if self._kept.forget_changed(self.frozen):
            if self._counted:
                raise ModelError("the weights or settings changed while operations were counted")
            self._rooms = None

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
        return LeftOn(self._laid_out(), draws, kernel_settings(self.model, draws, 0))

    def go_on(self, left_on, x, steps, frames, recorder):
        """(the SNNOutput of a stream's next steps, in which its networks see images x, the LeftOn after them). recorder: of
        nothing, see engine_of of running/stream.py."""
        output = self._run(x, None, left_on.draws, frames, steps, left_on)
        self.runs["event"] += len(x)
        return output, left_on

    def state_of(self, left_on):
        """As state_of of running/stream.py."""
        layout = self._laid_out()
        left_on.take_up(layout, self._rooms.activity.maps, kernel_settings(self.model, left_on.draws, 0))
        left_on.settle()
        return left_on.state_dict(shapes_of(self.model))

    def restored(self, state, draws):
        """The LeftOn of which that is the state_dict."""
        left_on, model, steps = self.begun(state["image"], draws), self.model, state["steps"]
        if not model.gate.reacts:  # whatever the gate was that it comes from
            state = {name: value for name, value in state.items() if name not in ("is_open", "predicted")}
        left_on.load(state, steps, steps // model.feedback_interval if model.has_feedback else 0)
        return left_on

    @property
    def name(self):
        """Which engines have run images so far, for a record."""
        return " and ".join(name for name, images in self.runs.items() if images) or "event"

    # --- counting

    def start_counting(self):
        """Count the inputs of each linear module from now on."""
        if self.serves():
            layout = self._laid_out()
            self._rooms, self._counted = Rooms(layout, new_activity(layout)), {"steps": 0, "decodes": 0}

    def stop_counting(self):
        """The Counted runs since start_counting, but for those of the dense engine."""
        rooms, counted = self._rooms, self._counted
        if counted is None:
            return Counted({}, {})
        self._rooms = self._counted = None
        return counted_runs(rooms.layout, rooms.counted(), **counted)

    # --- a run

    def _run(self, x, uniforms, draws, frames, steps=None, left_on=None):
        """The SNNOutput; None where the dense engine should be faster. steps, left_on: of a stream, how many, and its state."""
        model, batch, settings = self.model, len(x), kernel_settings(self.model, draws, steps)
        layout, rooms, steps = self._laid_out(), self._rooms, settings.timesteps
        count, size = x.shape[1] if x.dim() > 4 else 1, math.prod(layout.shapes[0])
        images, given = in_rows(x.float()).reshape(batch, count, size), np.zeros((0, 0, 0), np.float32)
        if uniforms is not None:
            given = in_rows(uniforms.float())
        labels, shown = layout.shapes[layout.net.output][0], frames and model.has_feedback
        results = new_results(images[:, 0], steps, len(layout.shapes), labels, shown)
        index = draws.index.numpy()
        if left_on:
            left_on.take_up(layout, rooms.activity.maps, settings)

        def work(room, first, last):
            state, pixels = (left_on.state, left_on.pixels) if left_on else (room.state, room.pixels)
            run_images(layout.net, state, room.activity, pixels, settings, images, given, index, results, first, last)

        looked_at = LOOKED_AT if self.chooses and batch >= LARGE_BATCH and not left_on else 0
        if looked_at:
            room = rooms.take()
            here = blank(room.activity)  # which counts only if they do
            work(room._replace(activity=here), 0, looked_at)
            rooms.free.append(room)
            if dense_pays(layout, results.counts[:looked_at], results.steps[:looked_at], batch):
                return None
            room.activity.events[:] += here.events
        try:
            spread(work, rooms, looked_at, batch, batch if left_on else CHUNK)
        except MemoryError:
            raise
        except Exception as error:
            raise numba_failed(in_words(error)) from error
        if self._counted:
            self._counted["steps"] += int(results.steps.sum())
            self._counted["decodes"] += int(results.decodes.sum())
        return self._output(x, results, frames)

    def _output(self, x, results, frames):
        """The SNNOutput of what a run has filled in."""
        model = self.model
        counts = results.counts[..., : len(model.wiring.names)].astype(np.float32)
        found = {"logits": results.logits, "spikes": counts}
        if model.has_feedback and not frames:
            found |= {"error": results.error, **({"open_share": results.open_share} if model.gate.reacts else {})}
        found = {name: torch.from_numpy(values).transpose(0, 1) for name, values in found.items()}
        if model.has_feedback and frames:
            names = ("prediction", "predicted", "is_open") if model.gate.reacts else ("prediction",)
            found |= {name: in_space(torch.from_numpy(getattr(results, name)), model.image_shape) for name in names}
        compared = torch.from_numpy(results.comparisons)[None]
        return model.output(x, Frame(**found, compared=compared), torch.from_numpy(results.steps), Recorder())


def numba_failed(reason):
    """The ModelError that says so."""
    return ModelError(
        f"the event engine needs the package numba, which fails here ({reason}): pip install numba, or use --engine dense"
    )
