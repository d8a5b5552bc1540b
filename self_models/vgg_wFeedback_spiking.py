"""The SNN: the ANN's network run with spikes for T steps; parts decide what it sees, when it stops and how it predicts."""

import functools
import inspect
import itertools
from dataclasses import replace

import torch
from torch import nn

from self_models.basics import ModelError
from self_models.basics.images import background, checked_images, class_names, find_image_shape, has_colour
from self_models.basics.settings import Configured, settings_in
from self_models.fast import batched
from self_models.network.network_settings import CHANGEABLE, SpikingSettings, check_together
from self_models.network.neurons import PhasedNeuron, SpikingLayers, SpikingNeuron
from self_models.network.plans import find_plan
from self_models.network.stages import add_biases, build_stages, encoder_parts, list_layers, new_bias, pass_on
from self_models.network.surrogates import SURROGATES
from self_models.network.wiring import modules_of, unknown, wire
from self_models.objectives import contrast, once  # noqa: F401  (register their gates)
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES
from self_models.running.draws import draws_for
from self_models.running.outputs import SNNOutput, Sums, by_step
from self_models.running.recording import asked_by, recorded, recorded_now
from self_models.running.steps import (
    ActiveParts,
    RunState,
    all_steps,
    decayed,
    prediction_targets,
    show_image,
    stacked,
    summed,
)
from self_models.running.stream import Stream
from self_models.vgg_wFeedback import mixed_precision


class VGG_SNN_STDB_wFeedback(Configured, SpikingLayers, nn.Module):
    """Input spikes -> encoder -> (decoder -> prediction p[t]) and (classifier -> output O), T times; logits = O.

    The classifier's last layer does not spike, it accumulates. Settings: SpikingSettings in network_settings.py, and those of
    its parts: gate (objectives/gates.py: what the input neurons see next), rule (stopping.py: when an image stops, in
    evaluation) and readout (readouts.py: how the decoder's output predicts). feedback_interval k: the decoder runs at every
    k-th step only, on the encoder's output summed since it last ran. Raises ModelError for settings that make no network.
    """

    Settings = SpikingSettings
    parts = {"gate": GATES, "rule": RULES, "readout": READOUTS}  # noqa: RUF012
    positional = (
        "vgg_name", "activation", "labels", "timesteps", "leak", "default_threshold", "alpha", "beta", "dropout", "kernel_size",
        "dataset", "fc_width", "plan", "readout", "update", "encoding", "readout_leak", "readout_slew", "feedback_interval",
        "learn_threshold", "learn_leak", "image_shape",
    )  # fmt: skip
    Neuron = SpikingNeuron  # of all layers, or a class derived from it; of a phased network PhasedNeuron
    objective = "none"  # in the records
    bptt_segments = 0  # see set_bptt_segments
    precision = "float32"  # of matrix products in training, float32 or bfloat16; membranes are always float32
    engine = None  # an EventEngine, or None: this module's own forward, the dense engine
    batched = True  # whether forward takes whole layers over many steps where it can, see fast/batched; else step() by step()
    watcher = None  # an OperationCounter, while one counts
    _wired = ()  # the modules as they were when they were looked at, their Wiring, and what is unknown among them

    def __init__(self, *args, **settings):
        super().__init__()
        self.configure(args, settings)
        own, plan = self.settings, find_plan(self.settings["vgg_name"], self.settings["plan"])
        self.image_shape, self.classes = find_image_shape(own), class_names(own)
        self.background = background(own)
        self.has_feedback = bool(plan.decoder)
        self.change()
        self.features, self.generate, self.classifier = build_stages(
            plan,
            self.image_shape,
            own,
            nonlinearity=self.new_neuron,
            output_nonlinearity=self.new_neuron("generate") if self.readout.spiking else None,
        )
        if own["bias"]:
            add_biases(filter(None, (self.features, self.generate, self.classifier)))
        if own["output_bias"]:
            self.classifier[-1].bias = new_bias(self.classifier[-1])
        self.to(memory_format=torch.channels_last)

    def new_neuron(self, stage, channels=None):
        """A layer of neurons, as they begin, of the stage of this name. channels: of its current; None for the decoder's last."""
        own = self.settings
        names = "update", "default_threshold", "leak", "learn_threshold", "learn_leak", "initial_potential", "membrane_floor"
        surrogate = SURROGATES.find(own["activation"])(own["alpha"], own["beta"])
        return (PhasedNeuron if self.phased else self.Neuron)(surrogate, *(own[name] for name in names))

    def change(self, **settings):
        """Change settings of a model that is built: those of its gate, its rule and its read-out, and CHANGEABLE. Returns the
        model. Raises ModelError for any other, or a value that cannot be; then nothing changes."""
        for name in settings.keys() & settings_in(self.Settings).keys():
            if name not in CHANGEABLE:
                raise ModelError(f"{name} cannot be changed in a model that is built: build another")
        before, self.settings = self.settings, self.checked(self.settings | settings)
        try:
            parts = self.make_parts(colour=has_colour(self.image_shape[0]))
            check_together(self, **parts)
        except ModelError:
            self.settings = before
            raise
        self.gate, self.rule, self.readout = parts["gate"], parts["rule"], parts["readout"]
        self.encoding = ENCODINGS.find(self.settings["encoding"])
        for neuron in self.neurons().values():
            neuron.floor = self.settings["membrane_floor"]
        return self

    timesteps = property(lambda self: self.settings["timesteps"])  # to read: change() sets it
    feedback_interval = property(lambda self: self.settings["feedback_interval"])
    phased = property(lambda self: self.settings["update"] == "phased")  # whether layers charge, and then fire, T steps each
    frames = property(lambda self: self.timesteps if self.settings["recorded_frames"] else 0)  # of a recording that it takes
    predicts = property(lambda self: self.has_feedback or self.gate.completes)  # whether there is something to show

    @property
    def latency(self):
        """Timesteps until an image is answered: T, or T for each phase, after those in which the image arrives in parts."""
        return self.timesteps if not self.phased else self.gate.least_steps - 1 + self.wiring.phases * self.timesteps

    def phase(self, step):
        """The phase of a phased network in which this step lies, from 0; -1 before the image has arrived."""
        return max(-1, (step + 1 - self.gate.least_steps) // self.timesteps)

    def sends(self, step):
        """Whether the input neurons may send in the step of this number."""
        return not self.phased or self.phase(step) < 1

    def answers(self, step):
        """Whether the outputs take what reaches them in the step of this number."""
        return not self.phased or self.phase(step) == self.wiring.depths[self.wiring.output] - 1

    def overridden(self, but=()):
        """The name of a method that this model's class, derived from this one, has made its own, or the model alone, but for
        these; '' if there is none: what runs a network other than by its step() does not know it."""
        replaced = (name for name in vars(self) if callable(getattr(type(self), name, None)))
        return next((name for name in (*own_methods(type(self), VGG_SNN_STDB_wFeedback), *replaced) if name not in but), "")

    @property
    def runs_by(self):
        """'dense' where layers take many steps at once, 'reference' where step() is taken as it is written."""
        return "dense" if self.batched and not batched.why_not(self) else "reference"

    @property
    def wiring(self):
        """Which layers' spikes go where, see network/wiring.py."""
        return self._looked_at()[1]

    @property
    def unknown(self):
        """The first part that no architecture makes, in words, '' for none: see network/wiring.py."""
        return self._looked_at()[2]

    def _looked_at(self):
        modules = modules_of(self)
        seen = modules, [*map(type, modules)]  # a module may become one of another class
        if not self._wired or self._wired[0] != seen:
            self._wired = seen, wire(self), unknown(self)
        return self._wired

    def set_bptt_segments(self, segments):
        """Train in this many segments of the T steps, whose steps the backward pass computes again instead of keeping them:
        memory for T / segments steps at a third more time. 0: keep all; "auto": the square root of T. Raises ModelError for
        another number."""
        segments = round(self.timesteps**0.5) if segments == "auto" else segments
        if not 0 <= segments <= self.timesteps:
            raise ModelError(f"bptt_segments must be 0 (keep all timesteps) to the {self.timesteps} timesteps, not {segments}")
        self.bptt_segments = segments

    def start(self, x, draws=None, asked=None, streams=False):
        """A run at rest for images x (B, C, H, W), or recordings (B, T, C, H, W). draws: see draws_for; asked: of asked_by, what
        is recorded, for which step() is taken step by step; streams: whether others may come after these images: then each call
        of the stream lists the stages anew."""
        recording, x = (None, x) if x.dim() == 4 else (x, x[:, 0])
        at_once = self.runs_by == "dense" and not asked
        if self.phased:
            depths = self.wiring.depths
            for node, neuron in enumerate(self.neurons().values(), 1):
                neuron.phase, neuron.steps = depths[node] - 1, self.timesteps
        stages = {} if streams else self.stages_for(x, at_once)
        logits = x.new_zeros(len(x), self.settings["labels"])
        return RunState(
            x, self.gate.start(x), logits, torch.zeros_like(x), stages, draws_for(x, draws), asked or {},
            streams=streams, recording=recording, gate=type(self.gate), at_once=at_once,
        )  # fmt: skip

    def stages_for(self, x, at_once):
        """A run's stages, name -> layers, (position, module) pairs, on images x (B, C, H, W). at_once: as in RunState."""
        stages = {name: list_layers(stage) for name, stage in self.named_children()}
        stages |= zip(("before_fork", "after_fork"), encoder_parts(self.features), strict=True)
        return batched.prepared(self, stages, x) if at_once else stages

    def step(self, run, image, u):
        """One time step, in place: the network as its equations. image: what is shown in it, u: uniform in [0, 1), (B, C, H, W).
        Returns what this step shows, see running/steps.py."""
        show_image(self, run, image)  # a recording shows another one in each step
        view = run.view
        signal = self.encoding.send(view.unexplained(), u) if self.sends(run.steps) else torch.zeros_like(image)  # input spikes
        run.spikes, now = {"input": view.sent(signal)}, [run.steps]
        run.note("input", signal, now)
        if self.gate.begins_anew(view):
            run.forget("features", "before_fork")
        shared = self.propagate(run, "features", "before_fork", signal)  # encoder, as far as the decoder needs it
        run.logits = decayed(run.logits, self.settings["output_leak"])
        waits = self.gate.waits(view)
        if not waits:
            features = self.propagate(run, "features", "after_fork", shared)
            drive = self.propagate(run, "classifier", "classifier", features.flatten(1))
            if self.answers(run.steps):
                run.logits = run.logits + drive.to(run.logits.dtype)
        idle, decodes = self.decoder_idle(view), self.decodes(view, run.steps)
        if self.has_feedback and not idle:
            run.waiting = run.waiting + shared
        decoded = None
        if decodes:
            run.note("decoder", run.waiting, now)
            decoded = self.propagate(run, "generate", "generate", run.waiting)
            run.waiting = 0
        run.active_parts.append(ActiveParts(waits, idle, decodes))
        shown = self.read_out_and_gate(run, decoded)
        shown |= {"logits": run.logits, "spikes": run.spike_counts(self.wiring.names)}
        return shown | recorded_now(run, self.neurons())

    def propagate(self, run, stage, part, signal):
        """One step of a part of a stage, layer by layer: the signal (B, ...) that comes out."""
        for position, layer in run.stages[part]:
            name = f"{stage}.{position}"
            if isinstance(layer, SpikingNeuron):
                signal, run.memory[name] = layer(signal, run.memory.get(name))
                run.spikes[name] = signal
            else:
                signal = pass_on(layer, signal, run.memory, name, run.draws)
            if isinstance(layer, SpikingNeuron | nn.MaxPool2d):
                run.note(name, signal, [run.steps])
        return signal

    def decoder_idle(self, view):
        """Whether no prediction is wanted of what is seen in this step."""
        return self.has_feedback and not self.gate.wants(view)

    def decodes(self, view, step):
        """Whether the decoder runs in the step of this number."""
        return self.has_feedback and not self.decoder_idle(view) and (step + 1) % self.feedback_interval == 0

    def read_out_and_gate(self, run, decoded):
        """The end of a step, in place: the prediction, and what is seen next. decoded: the decoder's output (B, C, H, W), or None
        where there is none, or it does not run in this step. Returns what the step shows of both."""
        run.steps += 1
        view, prediction, compared = run.view, None, None
        if self.predicts:
            if decoded is not None:
                run.readout_sum = self.integrate(run.readout_sum, decoded, view)
            prediction = self.gate.complete(self.prediction(run), view)
            if self.gate.reacts and (decoded is not None or self.gate.completes):
                compared = self.gate.compared(view)
                run.view = self.gate.next_view(run.image, self.on_pixel_scale(prediction), view)
            elif self.gate.reacts:
                compared = 0
        if self.rule.stops and not self.training:  # asked by all_steps() in running/steps.py
            run.reached.append(replace(run, memory=None, reached=None))
        if isinstance(compared, int):
            compared = torch.zeros(len(run.image), dtype=torch.int64, device=run.image.device)
        if not self.predicts:
            return {}
        shown = {"prediction": prediction, "predicted": run.view.predicted, "is_open": view.is_open, "compared": compared}
        return {name: values for name, values in shown.items() if values is not None}

    def integrate(self, readout_sum, decoded, view):
        """The read-out's sum after the decoder has run, (B, C, H, W), held where the gate says so."""
        moved, held = self.readout.integrate(readout_sum, decoded), self.gate.held(view)
        return moved if held is None else torch.where(held, readout_sum, moved)

    def prediction(self, run):
        """What is predicted after the decoder's output so far, (B, C, H, W); 0 without a decoder."""
        return self.readout.prediction(run.readout_sum) if self.has_feedback else 0.0

    def on_pixel_scale(self, predictions):
        """Predictions (..., B, C, H, W) on the scale on which a gate compares them with the image."""
        return self.readout.on_pixel_scale(predictions) if self.has_feedback else predictions

    def __call__(self, x, *args, **kwargs):
        """forward, of checked images; in evaluation by the engine, where there is one, which checks them, unless x wants a
        gradient."""
        wants_gradient = torch.is_grad_enabled() and getattr(x, "requires_grad", False)
        if self.engine and not self.training and not wants_gradient and not kwargs.get("place"):
            return self.engine(x, *args, **kwargs)
        return super().__call__(checked_images(x, self, self.frames), *args, **kwargs)

    def forward(self, x, uniforms=None, draws=None, seed=None, frames=True, record=None, place=None):
        """x: (B, C, H, W), or recordings (B, T, C, H, W) -> SNNOutput. draws, seed: of input encoding and dropout masks, see
        draws_for; uniforms: (T, B, C, H, W), the draws u[t] in [0, 1) of the input encoding. frames: else predictions, errors,
        predicted and is_open are None, and sums has their place. record: see asked_by. place: a SequenceState, of images that
        come after others, in the steps that it says, on draws. Raises ModelError for other images, another number of draws, or
        what cannot be recorded."""
        asked, draws = asked_by(record, self.wiring), draws_for(x, draws, seed)
        with mixed_precision(self, x):
            if place:
                return place.go_on(self, x, draws, frames, asked)
            run = self.start(x, draws, asked)
            shown, steps, _ = all_steps(self, run, self.latency, uniforms, frames)
        return self.output(x, shown, steps, asked)

    def stream(self, seed=0):
        """A Stream: this network, streaming: its images change. seed: of its draws."""
        return Stream(self, seed)

    def segment(self, run, draws, frames):
        """(the run after T steps, what they show) of a run that stays as it is, on draws (T, B, C, H, W)."""
        first, sent = run.steps, {} if self.watcher else None
        run = replace(run, memory=dict(run.memory), reached=[], active_parts=[], sent=sent, counts={})
        each = (self.step(run, run.shown_now(), u) for u in draws)
        shown = batched.advance(self, run, draws) if run.at_once else stacked([*each])
        if frames:
            return run, shown
        if run.recording is None:
            return run, summed(shown, run.image, run.image)
        seen, targets = by_step(run.recording), prediction_targets(self, run.recording)
        return run, summed(shown, seen[first : run.steps], targets[first : run.steps])

    def output(self, x, shown, steps, asked):
        """SNNOutput of a run on images, or recordings, x. shown: what its steps show; steps: how many each image took (B,)."""
        predictions, spikes, names = shown.get("prediction"), shown["spikes"], self.wiring.names
        return SNNOutput(
            logits=shown["logits"][-1],
            predictions=predictions,
            errors=None if predictions is None else (prediction_targets(self, x, steps) - predictions) ** 2,
            spikes=dict(zip(names, spikes.sum(0).unbind(-1), strict=True)),
            steps=steps,
            predicted=shown.get("predicted"),
            is_open=shown.get("is_open"),
            comparisons=shown["compared"].sum(0) if "compared" in shown else torch.zeros_like(steps),
            sums=Sums(shown.get("error"), shown.get("open_share")) if predictions is None and self.predicts else None,
            logits_by_step=shown["logits"],
            spikes_by_step=dict(zip(names, spikes.unbind(-1), strict=True)),
            recorded=recorded(asked, shown),
        )


@functools.cache
def own_methods(cls, base):
    """Names of the methods of base that cls, derived from it, has made its own, but for new_neuron, which its neurons tell of."""
    below = itertools.takewhile(lambda one: one is not base, cls.__mro__)
    own = ((name, value) for one in below for name, value in vars(one).items() if hasattr(base, name) and name[:2] != "__")
    methods = (name for name, value in own if inspect.isroutine(value) or isinstance(value, property))
    return [name for name in methods if name != "new_neuron"]
