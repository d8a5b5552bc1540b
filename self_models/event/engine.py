"""The event engine: a trained SNN's spikes one by one, so that a run costs what its activity costs, not what its layers hold.

Same results as the model's own forward, the dense engine: the same draws give the same spikes, but for those that rounding
decides (see docs/event_engine.md). Evaluation only, on the CPU, in float32.
"""

import functools
import inspect
import itertools
import math
import threading
from collections import namedtuple

import numpy as np
import torch

from self_models.basics.compiled import WHY_NOT, in_words, try_out
from self_models.basics.devices import free_memory
from self_models.basics.errors import ModelError
from self_models.basics.images import checked_images
from self_models.event.costs import dense_pays
from self_models.event.counts import NOTHING, blank, counted_runs, new_activity
from self_models.event.kernels import FIRST_V, new_state
from self_models.event.network import lay_out, memory_of
from self_models.network.neurons import UPDATES, NeuronState, count_events
from self_models.running.draws import draws_for, key_for
from self_models.running.outputs import SNNOutput, Sums, errors_by_step, open_share_by_step
from self_models.running.steps import stack_frames
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

RUNNING = ("forward", "segment", "step", "advance", "perceive", "through", "gather")  # how a model runs, not what it sees
HOOKS = (*RUNNING, "start", "show", "integrate", "drawn", "output")
PARTS = {"gate": "kernels", "rule": "kernel", "readout": "kernels"}  # setting -> attribute with the part's compiled form
CHUNK = 4  # images that a thread takes at once
LOOKED_AT, LARGE_BATCH = 2, 16  # images whose spikes decide for a batch, and batches large enough for that


class EventEngine:
    """Runs an SNN event by event: engine(x, uniforms) is model(x, uniforms), an SNNOutput.

    The model's weights are laid out at the first run, and again when they have changed (but for a change through `.data`,
    which torch does not count); epsilon, rule and the like are read at every run. A model runs as a whole in compiled code; one
    that overrides a hook, or has a part without a compiled form, runs step by step, that on dense images as it is, its layers
    event by event. Images are spread over torch.get_num_threads() threads. Raises ModelError without numba, for a model on a
    GPU, with an update other than delayed and immediate, a forward of its own, or a stopping rule in a model run step by step,
    and where the folded weights are larger than the free memory.

    chooses: a batch whose first images spike so much that the dense engine should be faster is given to that, see costs.py, and
    so is every batch while the folded weights do not fit.
    runs: images so far, by engine.
    """

    def __init__(self, model, chooses=False):
        try_out()
        if WHY_NOT:
            raise numba_failed(WHY_NOT[0])
        self.model, self.layout, self._version, self._free, self._activity = model, None, None, [], NOTHING
        self.chooses, self.runs = chooses, {"event": 0, "dense": 0}
        self._parameters = [(module._parameters, name) for module in model.modules() for name in module._parameters]
        cls = type(model)
        same = lambda hooks: all(getattr(cls, hook) is getattr(VGG_SNN_STDB_wFeedback, hook) for hook in hooks)  # noqa: E731
        if not same(RUNNING):
            raise ModelError(f"the event engine does not know how {cls.__name__} runs: use --engine dense")
        self._has_own_hooks = not same(HOOKS)
        if any(neuron.update not in (UPDATES["delayed"], UPDATES["immediate"]) for neuron in model.neurons().values()):
            raise ModelError("the event engine knows the updates delayed and immediate: use --engine dense")

    @property
    def compiled(self):
        """The compiled functions, of the parts that were registered when first asked for; no attribute, since a module cannot be
        copied."""
        from self_models.event import run

        return run

    @property
    def is_whole(self):
        """Whether the model, as it is now, runs as a whole in compiled code."""
        parts = {type(getattr(self.model, name)): kernel for name, kernel in PARTS.items()}
        known = parts.keys() | {self.model.encoding} <= self.compiled.PARTS
        return known and not self._has_own_hooks and all(is_compiled(*part) for part in parts.items())

    def check(self):
        """Raises ModelError where the model, as it is now, cannot run."""
        if getattr(self.model.gate, "wait", False):
            raise ModelError("the event engine lets no layer wait (setting wait of gate once): use --engine dense")
        if self.model.rule.stops and not self.is_whole:
            raise ModelError(f"the event engine does not stop images of {type(self.model).__name__} as it is: use --engine dense")
        if self.layout is None and (words := self._too_large()):
            raise ModelError(words)

    def _too_large(self):
        """Why the model does not fit into the free memory, or ''. Nothing is taken for the answer."""
        needed, free = memory_of(self.model).total(torch.get_num_threads()) / 1e9, free_memory()
        if free is None or needed <= free / 1e9:
            return ""
        return f"the event engine needs {needed:.1f} GB for this network and {free / 1e9:.1f} GB are free: use --engine dense"

    def __call__(self, x, uniforms=None, draws=None, seed=None, frames=True):
        """x: (B, C, H, W) -> SNNOutput. uniforms, draws, seed: as in the model's forward. frames: else predictions, errors,
        predicted and is_open are None, and sums has their place. Raises ModelError as forward does."""
        x = checked_images(x, self.model)
        if x.device.type != "cpu":
            raise ModelError("the event engine runs on the CPU: use --device cpu, or --engine dense")
        self._forget_changed()
        draws = draws_for(x, draws, seed)
        fits = not self.chooses or self.layout is not None or not self._too_large()
        output = self._by_events(x, uniforms, draws, frames) if fits else None
        self.runs["event" if output else "dense"] += len(x)
        if output is None:
            with torch.no_grad():
                return self.model.forward(x, uniforms, draws)
        return output

    def _by_events(self, x, uniforms, draws, frames):
        """The SNNOutput; None where the dense engine should be faster."""
        self.prepare()
        drawn = self.model.drawn(x, uniforms, draws)
        output = self._whole(x, uniforms, draws, frames) if self.is_whole else self._stepwise(x, drawn, draws, frames)
        if output and self._activity.events.size:
            self._steps[0] += output.steps.sum().item()
        return output

    @property
    def name(self):
        """Which engines have run images so far, for a record."""
        return " and ".join(name for name, images in self.runs.items() if images) or "event"

    def start_counting(self):
        """Count the inputs of each linear module from now on."""
        self._forget_changed()
        self.prepare()
        self._activity, self._free, self._steps = new_activity(self.layout), [], [0, 0]

    def stop_counting(self):
        """The Counted runs since start_counting."""
        activity = self._activity
        for _, counted, _ in self._free:
            add_up(activity, counted)
        self._activity, self._free = NOTHING, []
        return counted_runs(self.layout, activity, *self._steps)

    def _forget_changed(self):
        """Let go of a layout, and what belongs to it, that is no longer the model's."""
        version = [self.model.gate.completes, self.model.feedback_interval]
        for parameters, name in self._parameters:
            value = parameters[name]
            if value is not None:
                version += id(value), value._version
        if version != self._version:
            if self._activity.events.size:
                raise ModelError("the weights or settings changed while operations were counted")
            self.layout, self._version, self._free = None, version, []  # before the next one takes its memory

    def prepare(self):
        """Fold the weights, as the first run does by itself. Raises ModelError as check does."""
        self.check()
        if self.layout is None:
            self.layout = lay_out(self.model)

    # --- whole runs

    def _whole(self, x, uniforms, draws, frames):
        """The SNNOutput; None where the dense engine should be faster."""
        model, batch, steps = self.model, len(x), self.model.timesteps
        images = pixels_of(x)
        shape = (steps, batch, images.shape[1]) if frames and model.predicts else (0, 0, 0)
        results = self.compiled.Results(
            logits=np.empty((batch, steps, self.layout.shapes[self.layout.net.output][0]), np.float32),
            counts=np.zeros((batch, steps, len(self.layout.shapes)), np.int32),
            steps=np.zeros(batch, np.int64),
            comparisons=np.zeros(batch, np.int64),
            decodes=np.zeros(batch, np.int64),
            errors=np.zeros((batch, steps), np.float32),
            open_share=np.zeros((batch, steps), np.float32),
            predictions=np.empty(shape, np.float32),
            predicted=np.empty(shape, np.bool_),
            is_open=np.empty(shape, np.bool_),
        )
        settings, index, given = kernel_settings(model, draws), draws.index.numpy(), np.zeros((0, 0, 0), np.float32)
        if uniforms is not None:
            given = pixels_of(uniforms.flatten(0, 1)).reshape(steps, batch, -1)

        def work(state, activity, pixels, first, last):
            self.compiled.run_images(
                self.layout.net, state, activity, settings, pixels, images, given, index, results, first, last
            )

        looked_at = LOOKED_AT if self.chooses and batch >= LARGE_BATCH else 0
        if looked_at:
            state, activity, pixels = self._room()
            here = blank(self._activity)  # which counts only if they do
            work(state, here, pixels, 0, looked_at)
            self._free.append((state, activity, pixels))
            if dense_pays(self.layout, results.counts[:looked_at], results.steps[:looked_at], batch):
                return None
            add_up(activity, here)
        self._spread(work, batch, looked_at)
        if self._activity.events.size:
            self._steps[1] += int(results.decodes.sum())
        return self._output(x, results, frames)

    def _output(self, x, results, frames):
        model = self.model
        blocks = model.gate.reacts
        spikes, total = self._spikes(results.counts)
        prediction = predicted = is_open = errors = sums = None
        if frames and model.predicts:
            prediction, predicted, is_open = (
                frames_of(part, x) for part in (results.predictions, results.predicted, results.is_open)
            )
            errors = (x - prediction) ** 2
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
        )

    def _spread(self, work, batch, done=0):
        """Call work(state, activity, pixels, first, last) for chunks of the batch, but for its first images if done, here and in
        more threads if it is large."""
        chunks, lock, failures, left = itertools.count(), threading.Lock(), [], batch - done
        chunk = max(1, min(CHUNK, -(-left // torch.get_num_threads())))

        def take():
            room = self._room()
            try:
                while True:
                    with lock:
                        first = done + next(chunks) * chunk
                    if first >= batch or failures:
                        break
                    work(*room, first, min(first + chunk, batch))
            except BaseException as error:
                failures.append(error)
            self._free.append(room)

        others = [threading.Thread(target=take) for _ in range(min(torch.get_num_threads(), -(-left // chunk)) - 1)]
        for thread in others:
            thread.start()
        take()
        for thread in others:
            thread.join()
        for error in failures:
            if isinstance(error, MemoryError) or not isinstance(error, Exception):
                raise error
            raise numba_failed(in_words(error)) from error

    def _room(self):
        """A State, an Activity and Pixels that no other thread is using."""
        try:
            return self._free.pop()
        except IndexError:
            from self_models.event.pixels import new_pixels

            return new_state(self.layout.net), blank(self._activity), new_pixels(math.prod(self.model.image_shape))

    # --- step by step

    def _stepwise(self, x, drawn, draws, frames):
        model, net = self.model, self.layout.net
        run, states, steps = model.start(x, draws), [new_state(net) for _ in x], []
        counts = np.zeros((len(x), model.timesteps, len(self.layout.shapes)), np.int32)
        logits = slice(net.nodes[net.output, FIRST_V], net.nodes[net.output, FIRST_V] + self.layout.shapes[net.output][0])
        for t, (uniforms,) in enumerate(drawn):
            signal = model.encoding.send(run.view.unexplained(), uniforms)
            decoded = self._advance(run, states, signal, counts[:, t])
            counts[:, t, 0] = count_events(run.view.sent(signal)[None]).numpy()
            run.logits = torch.from_numpy(np.stack([state.v[logits] for state in states]))
            steps.append(model.show(run, decoded)._replace(logits=run.logits))
        spikes, total = self._spikes(counts)
        run.input_count = total["input"]
        run.memory = {name: NeuronState(None, None, count) for name, count in total.items()}
        output = model.output(run, stack_frames(steps), torch.full((len(x),), model.timesteps))._replace(spikes_by_step=spikes)
        if frames:
            return output
        sums = Sums(errors_by_step(output), open_share_by_step(output, x))
        return output._replace(predictions=None, errors=None, predicted=None, is_open=None, sums=sums)

    def _spikes(self, counts):
        """(B, T, nodes) array -> layer name -> (T, B), and their sums over the steps, layer name -> (B,), float32."""
        parts = (part.T.astype(np.float32) for part in (counts, counts.sum(1, dtype=np.int64)))
        return tuple(dict(zip(self.layout.names, torch.from_numpy(part).unbind(), strict=False)) for part in parts)

    def _advance(self, run, states, signal, counts):
        """As the model's advance, on what the input neurons send (B, C, H, W); fills in the step's spikes, counts (B, nodes)."""
        interval, net = self.model.feedback_interval, self.layout.net
        rests = self.model.has_feedback and not self.model.gate.wants(run.view)
        decodes = self.model.has_feedback and not rests and (run.steps + 1) % interval == 0
        decodes_at = run.steps // interval if decodes else -1
        if self._activity.events.size:
            self._steps[1] += int(decodes) * len(signal)
        sent = pixels_of(signal)
        every, decoded = np.arange(sent.shape[1], dtype=np.int32), np.zeros_like(sent)

        def work(state, activity, pixels, first, last):
            for b in range(first, last):
                self.compiled.advance(
                    net, states[b], activity, every, sent[b], run.steps, decodes_at, rests, counts[b], decoded[b]
                )

        self._spread(work, len(sent))
        return frames_of(decoded[None], signal)[0] if decodes_at >= 0 else None


def add_up(activity, part):
    """Add to an Activity what another one has counted."""
    for total, more in ((activity.events, part.events), (activity.inputs, part.inputs)):
        total += more


def numba_failed(reason):
    """The ModelError that says so."""
    return ModelError(
        f"the event engine needs the package numba, which fails here ({reason}): pip install numba, or use --engine dense"
    )


@functools.cache
def is_compiled(cls, kernel):
    """Whether a part has a compiled form, its attribute `kernel`, and no class below the one that it is of has a method."""
    below = itertools.takewhile(lambda base: kernel not in vars(base), cls.__mro__)
    methods = {name for base in below for name, value in vars(base).items() if inspect.isroutine(value)}
    return getattr(cls, kernel, None) is not None and all(name.startswith("__") for name in methods)


def kernel_settings(model, draws):
    """What compiled code reads of a model: settings that are declared so, names as numbers, its images' shape, the draws' key."""
    registered = tuple(part for registry in model.parts.values() for part in registry.values())
    held = model.settings | vars(model.gate) | vars(model.rule) | vars(model.readout)  # a part may have been changed in place
    values = {name: one.scalar(held.get(name, one.default)) for name, one in read_by_kernels(type(model), registered)}
    values = {name: np.float32(value) if isinstance(value, float) else value for name, value in values.items()}
    channels, _, width = model.image_shape
    values |= {"has_feedback": model.has_feedback, "completes": model.gate.completes}
    values |= {"colour": channels > 1, "channels": channels, "width": width}
    values |= {"uses_draws": model.encoding.uses_draws, "epoch": draws.epoch, "key": key_for(draws.seed, "input")}
    return settings_class(tuple(values))._make(values.values())


@functools.cache
def read_by_kernels(cls, registered):
    """The (name, Setting) pairs that compiled code reads of models of this class, while these parts are registered."""
    return [(name, one) for name, one in cls.declared().items() if one.kernel]


@functools.cache
def settings_class(names):
    """The named tuple of these settings, under a name of this module, where numba's cache on disk finds it again."""
    global KernelSettings
    KernelSettings = namedtuple("KernelSettings", names)
    return KernelSettings


def pixels_of(x):
    """(B, C, H, W) -> contiguous float32 array (B, H W C), the order of the input node."""
    return np.ascontiguousarray(x.detach().float().numpy().transpose(0, 2, 3, 1)).reshape(len(x), math.prod(x.shape[1:]))


def frames_of(values, x):
    """(T, B, H W C) array -> tensor (T, B, C, H, W), for images x (B, C, H, W)."""
    channels, height, width = x.shape[1:]
    return torch.from_numpy(values).reshape(len(values), len(x), height, width, channels).permute(0, 1, 4, 2, 3)
