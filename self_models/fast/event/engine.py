"""The event engine: a trained SNN's spikes one by one, so that a run costs what its activity costs, not what its layers hold.

Same results as the model's own forward, the dense engine: the same draws give the same spikes, but for those that rounding
decides (see docs/event_engine.md). Evaluation only, on the CPU, in float32.
"""

import math

import numpy as np
import torch

from self_models.basics.errors import ModelError
from self_models.basics.images import checked_images
from self_models.fast.compiling import WHY_NOT, in_words, try_out
from self_models.fast.event.compiled.counts import blank
from self_models.fast.event.compiled.recording import new_recorded
from self_models.fast.event.costs import LARGE_BATCH, LOOKED_AT, dense_pays
from self_models.fast.event.counts import Counted, counted_runs, new_activity, no_activity
from self_models.fast.event.layouts import KeptLayout
from self_models.fast.event.settings import kernel_settings, why_not
from self_models.fast.event.threads import CHUNK, LeftOn, Rooms, spread
from self_models.running.chunks import check_uniforms
from self_models.running.draws import draws_for
from self_models.running.outputs import SNNOutput, Sums
from self_models.running.recording import KINDS, Recorder, spaces_of
from self_models.running.turning import aims


class EventEngine:
    """Runs an SNN event by event: engine(x, uniforms) is model(x, uniforms), an SNNOutput.

    The model's weights are laid out at the first run, and again when they have changed, for which they are compared at every run
    (see layouts.py); epsilon, rule and the like are read at every run. Images are spread over torch.get_num_threads() threads.
    Raises ModelError without numba.

    chooses: a batch whose first images spike so much that the dense engine should be faster is given to that, see costs.py, and
    so is every batch of a model that check() refuses.
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
        """Raises ModelError where the model, as it is now, cannot run: one that overrides a method of the SNN's, or has a part
        without a compiled form; with a gate that waits beside a leak, or an update other than delayed and immediate; or larger
        than the memory that is free."""
        if words := why_not(self.model) or self._kept.why_not():
            raise ModelError(words)

    def prepare(self):
        """The model's Layout, its weights folded now if they are not. Raises ModelError as check does."""
        self._forget_changed()
        self.check()
        return self._laid_out()

    def _laid_out(self):
        layout = self._kept.prepare()
        self._rooms = self._rooms or Rooms(layout, no_activity(layout.net))
        return layout

    def _forget_changed(self):
        if self._kept.forget_changed(self.frozen):
            if self._counted:
                raise ModelError("the weights or settings changed while operations were counted")
            self._rooms = None

    def _serves(self):
        """Whether the model runs here; where not, and there is no choice, raises ModelError as check does."""
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
        recorder = Recorder(record, self.model.wiring)
        output = self._run(x, uniforms, draws, frames, recorder) if self._serves() else None
        self.runs["event" if output else "dense"] += len(x)
        if output is None:
            with torch.no_grad():
                return self.model.forward(x, uniforms, draws, frames=frames, record=record)
        return output

    # --- a stream

    def serves_stream(self):
        """Whether a stream of the model as it is now runs here; where not, and there is no choice, raises ModelError as check."""
        return self._serves()

    def begun(self, x, draws):
        """The LeftOn of images x with these Draws, at rest."""
        return LeftOn(self._laid_out(), draws, kernel_settings(self.model, draws, 0))

    def go_on(self, left_on, x, steps, frames, recorder):
        """(the SNNOutput of a stream's next steps, in which its networks see images x, the LeftOn after them)"""
        output = self._run(x, None, left_on.draws, frames, recorder, steps, left_on)
        self.runs["event"] += len(x)
        return output, left_on

    def state_of(self, left_on):
        """As state_of of running/stream.py."""
        layout = self._laid_out()
        left_on.take_up(layout, self._rooms.activity.maps, kernel_settings(self.model, left_on.draws, 0))
        left_on.settle()
        return left_on.state_dict(spaces_of(self.model.wiring))

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
        if self._serves():
            layout = self._laid_out()
            self._rooms, self._counted = Rooms(layout, new_activity(layout)), {"steps": 0, "decodes": 0, "waited": 0}

    def stop_counting(self):
        """The Counted runs since start_counting, but for those of the dense engine."""
        rooms, counted = self._rooms, self._counted
        if counted is None:
            return Counted({}, {})
        self._rooms = self._counted = None
        return counted_runs(rooms.layout, rooms.counted(), **counted)

    # --- a run

    def _run(self, x, uniforms, draws, frames, recorder, steps=None, left_on=None):
        """The SNNOutput; None where the dense engine should be faster. steps, left_on: of a stream, how many, and its state."""
        from self_models.fast.event.compiled import run  # now, see settings.why_not

        model, batch, settings = self.model, len(x), kernel_settings(self.model, draws, steps)
        steps = settings.timesteps
        layout, rooms = self._laid_out(), self._rooms
        count = x.shape[1] if x.dim() > 4 else 1
        images = pixels_of(x.flatten(0, -4)).reshape(batch, count, math.prod(layout.shapes[0]))
        given = np.zeros((0, 0, 0), np.float32)
        if uniforms is not None:
            given = pixels_of(uniforms.flatten(0, 1)).reshape(steps, *images[:, 0].shape)
        labels, shown = layout.shapes[layout.net.output][0], frames and model.predicts
        asked = ([(layout.names.index(name), one.neurons) for name, one in recorder.of(kind)] for kind in KINDS)
        recorded = new_recorded(layout.net, steps, batch, *asked)
        results = run.new_results(images[:, 0], steps, len(layout.shapes), labels, shown, recorded)
        index = draws.index.numpy()
        if left_on:
            left_on.take_up(layout, rooms.activity.maps, settings)

        def work(room, first, last):
            state, pixels = (left_on.state, left_on.pixels) if left_on else (room.state, room.pixels)
            run.run_images(layout.net, state, room.activity, pixels, settings, images, given, index, results, first, last)

        looked_at = LOOKED_AT if self.chooses and batch >= LARGE_BATCH and not left_on else 0
        if looked_at:
            room = rooms.take()
            here = blank(room.activity)  # which counts only if they do
            work(room._replace(activity=here), 0, looked_at)
            rooms.free.append(room)
            if dense_pays(layout, results.counts[:looked_at], results.steps[:looked_at], batch, settings.least_steps - 1):
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
            self._counted["waited"] += int(np.minimum(results.steps, settings.least_steps - 1).sum())
        return self._output(layout.names, x, results, frames, recorder)

    def _output(self, names, x, results, frames, recorder):
        model = self.model
        blocks = model.gate.reacts
        spikes, total = (  # layer name -> (T, B), and over all steps (B,)
            dict(zip(names, torch.from_numpy(part.T.astype(np.float32)).unbind(), strict=False))
            for part in (results.counts, results.counts.sum(1, dtype=np.int64))
        )
        prediction = predicted = is_open = errors = sums = None
        if frames and model.predicts:
            prediction, predicted, is_open = (
                frames_of(part, x) for part in (results.predictions, results.predicted, results.is_open)
            )
            errors = (aims(model, x, torch.from_numpy(results.steps)) - prediction) ** 2
        elif not frames:
            errors_sum = torch.from_numpy(results.errors).T if model.predicts else None
            share = torch.from_numpy(results.open_share).T if blocks and model.predicts else None
            sums = Sums(errors_sum, share)
        logits = torch.from_numpy(results.logits).transpose(0, 1)
        return SNNOutput(
            logits[-1],
            prediction,
            errors,
            total,
            torch.from_numpy(results.steps),
            predicted if blocks else None,
            is_open if blocks else None,
            torch.from_numpy(results.comparisons),
            sums,
            logits,
            spikes,
            recorder.recorded(*(torch.from_numpy(part) for part in results.recorded[:2]), logits),
        )


def numba_failed(reason):
    """The ModelError that says so."""
    return ModelError(
        f"the event engine needs the package numba, which fails here ({reason}): pip install numba, or use --engine dense"
    )


def pixels_of(x):
    """(B, C, H, W) -> contiguous float32 array (B, H W C), the order of the input node."""
    return np.ascontiguousarray(x.detach().float().numpy().transpose(0, 2, 3, 1)).reshape(len(x), math.prod(x.shape[1:]))


def frames_of(values, x):
    """(T, B, H W C) array -> tensor (T, B, C, H, W), for images or recordings x (B, ..., C, H, W)."""
    channels, height, width = x.shape[-3:]
    return torch.from_numpy(values).reshape(len(values), len(x), height, width, channels).permute(0, 1, 4, 2, 3)
