"""The SNN: the ANN's network run with spikes for T steps; parts decide what it sees, when it stops and how it predicts."""

import functools
from dataclasses import replace
from types import FunctionType

import torch
from torch import nn

from self_models import assembly
from self_models.basics import ModelError
from self_models.basics.images import checked_images, has_colour
from self_models.config import (
    Network,
    SNNConfig,
    check_together,
)
from self_models.layers.architectures import find_plan
from self_models.layers.neurons import SpikingLayers, SpikingNeuron
from self_models.layers.stages import build_stages
from self_models.layers.surrogates import SURROGATES
from self_models.objectives import contrast  # noqa: F401  (registers its gate)
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES
from self_models.runtime.draws import draws_for
from self_models.runtime.graph import Graph, chained, graph_of_stages
from self_models.runtime.known_parts import is_hooked, modules_of, unknown
from self_models.runtime.loop import (
    all_steps,
    prediction_targets,
    show_image,
    stacked,
    summed,
)
from self_models.runtime.outputs import INPUT, SNNOutput, Sums, by_step
from self_models.runtime.recording import asked_by, recorded, recorded_now
from self_models.runtime.state import RunState
from self_models.runtime.timing import timing_of
from self_models.vgg_wFeedback import mixed_precision


class VGG_SNN_STDB_wFeedback(Network, SpikingLayers):
    """Input spikes -> encoder -> (decoder -> prediction p[t]) and (classifier -> output O), T times; logits = O.

    step() is the program: the input neurons send what the gate leaves of the image (a View); one step of the graph of layers; O
    adds up what the classifier's last layer sends, which does not spike; the read-out makes the decoder's output a prediction,
    and with it the gate makes the next View. All else runs the same faster, and is held against it.

    Settings: SNNConfig in config.py, and those of its parts: gate (objectives/gates.py: what the input neurons
    see next), rule (stopping.py: when an image stops, in evaluation) and readout (readouts.py: how the decoder's output
    predicts). Raises ModelError for settings that make no network."""

    Settings = SNNConfig
    parts = {"gate": GATES, "rule": RULES, "readout": READOUTS}  # noqa: RUF012
    Neuron = SpikingNeuron  # of all layers, or a class derived from it
    objective = "none"  # in the records
    bptt_segments = 0  # see set_bptt_segments
    precision = "float32"  # of matrix products in training, float32 or bfloat16; membranes are always float32
    engine = None  # what runs it in evaluation in place of its own forward, see load(), or None
    stays = None  # why load(engine="auto") left it to its own forward
    batched = True  # whether forward takes many steps of a layer at once where it can; else step() by step()
    watcher = None  # an OperationCounter, while one counts
    _seen = ()  # the modules as they were when they were looked at, their Graph, layers, and what is unknown among them

    # --- one timestep: the equations

    def step(self, run, image, u):
        """One time step, in place: the network as its equations. image: the input, u: uniform in [0, 1), both (B, C, H, W).
        Returns what there is to report of this step, see runtime/loop.py."""
        show_image(self, run, image)  # a recording shows another one in each step
        signal = self.input_spikes(run, u)
        run.spikes = {"input": run.view.sent(signal)}
        run.note("input", signal, [run.steps])
        sent = self.propagate(run, signal)
        kept = self.decayed(run.logits, self.settings["output_leak"])
        run.logits = kept + self.output_current(run, sent["output"])
        shown = self.read_out_and_gate(run, sent.get("decoded"))
        shown |= {"logits": run.logits, "spikes": run.spike_counts(self.layers)}
        return shown | recorded_now(run.asked, run.spikes, run.memory, self.neurons())

    def sends(self, step):
        """Whether the input neurons may send in the step of this number."""
        return step < self.timing.active_input_steps(self, step + 1)

    def input_spikes(self, run, u):
        """What the input neurons send in the coming step, (B, C, H, W). u: uniform in [0, 1), of the same shape."""
        return (
            self.encoding.send(run.view.unexplained(), u)
            if self.sends(run.steps)
            else torch.zeros_like(run.image)
        )

    def propagate(self, run, signal):
        """One step of all layers, in place, on what the input sends: name of a layer, or of an end -> what it sends (B, ...)."""
        return self._run_graph(self.graph, run, signal)

    def through(self, run, name, signal):
        """One step of the nn.Sequential in the attribute of this name, in place: what comes out of it for a signal (B, ...)."""
        modules = {
            f"{name}.{position}": module
            for position, module in getattr(self, name).named_children()
        }
        graph = Graph(modules, chained(modules), signal.shape[1:], {"end": [*modules][-1]})
        run.memory = graph.masks(run.draws, signal.device) | run.memory
        return self._run_graph(graph, run, signal)["end"]

    def _run_graph(self, graph, run, signal):
        """One step of a Graph, in place: its step()'s return; the run notes what neurons and pools send."""
        sent = graph.step(run.memory, signal)
        run.spikes |= {name: sent[name] for name in graph.neuron_names}
        for name in (*graph.neuron_names, *graph.pools):
            run.note(name, sent[name], [run.steps])
        return sent

    def output_current(self, run, drive):
        """What of the last layer's sums (B, labels) the logits take in the coming step: all, unless its timing says other."""
        return self.timing.output_current(self, run, drive.to(run.logits.dtype))

    def decayed(self, values, keep):
        """What is left after a step of values (B, ...) that keep this part of themselves, a number, or one for each image (B,)."""
        if isinstance(keep, torch.Tensor):
            keep = keep.view(-1, *[1] * (values.dim() - 1))
        return values * keep

    def read_out_and_gate(self, run, decoded):
        """The end of a step, in place: the prediction, and what is seen next. decoded: the decoder's output (B, C, H, W), or None
        without a decoder. Returns what the step shows of both."""
        run.steps += 1
        view, shown = run.view, {}
        if self.has_feedback:
            run.readout_sum = self.integrate(run.readout_sum, decoded, view)
            shown["prediction"] = prediction = self.prediction(run)
            if self.gate.reacts:
                shown["compared"] = self.gate.compared(view)
                run.view = self.gate.next_view(run.image, self.on_pixel_scale(prediction), view)
            # of two steps, on purpose: predicted is what the next step sees, is_open what this one saw
            shown |= {"predicted": run.view.predicted, "is_open": view.is_open}
        if self.rule.stops and not self.training:  # asked by all_steps() in runtime/loop.py
            run.reached.append(replace(run, memory=None, reached=None))
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

    # --- a run

    def __call__(self, x, *args, record=None, **kwargs):
        """forward, of checked images; in evaluation by the engine, where there is one that serves, which checks them, unless x
        wants a gradient or something is recorded."""
        wants_gradient = torch.is_grad_enabled() and getattr(x, "requires_grad", False)
        is_plain = not (self.training or wants_gradient or record)
        if self.engine and is_plain and self.engine.serves():
            return self.engine.run(x, *args, **kwargs)
        return super().__call__(
            checked_images(x, self, self.frames), *args, record=record, **kwargs
        )

    def forward(self, x, uniforms=None, draws=None, seed=None, frames=True, record=None):
        """x: (B, C, H, W), or recordings (B, T, C, H, W) -> SNNOutput. draws, seed: of input encoding and dropout masks, see
        draws_for; uniforms: (T, B, C, H, W), the draws u[t] in [0, 1) of the input encoding. frames: else predictions, errors,
        predicted and is_open are None, and sums has their place. record: see asked_by. Raises ModelError for other images,
        another number of draws, or what cannot be recorded."""
        asked, draws = asked_by(record, self), draws_for(x, draws, seed)
        with mixed_precision(self, x):
            run = self.start(x, draws, asked)
            shown, steps, _ = all_steps(self, run, self.latency, uniforms, frames)
        return self.output(x, shown, steps, asked)

    def start(self, x, draws=None, asked=None, is_open_ended=False):
        """A run at rest for images x (B, C, H, W), or recordings (B, T, C, H, W). draws: see draws_for; asked: of asked_by, what
        is recorded, for which step() is taken step by step; is_open_ended: whether others may come after these images."""
        recording, x = (None, x) if x.dim() == 4 else (x, x[:, 0])
        logits = x.new_zeros(len(x), self.settings["labels"])
        draws = draws_for(x, draws)
        memory = self.graph.masks(draws, x.device)
        self.timing.prepare(self)
        memory |= self.timing.initial_memory(self, x)
        return RunState(
            x,
            self.gate.start(x),
            logits,
            torch.zeros_like(x),
            draws,
            asked or {},
            is_open_ended=is_open_ended,
            recording=recording,
            memory=memory,
            engine=self.dense_engine(x, asked),
        )

    def segment(self, run, draws, frames):
        """(the run after T steps, what they show) of a run that stays as it is, on draws (T, B, C, H, W)."""
        first, noted = run.steps, {} if self.watcher else None
        run = replace(run, memory=dict(run.memory), reached=[], noted=noted, counts={})
        if run.engine is not None:
            shown = run.engine.run(self, run, draws)
        else:
            shown = stacked([self.step(run, run.shown_now(), u) for u in draws])
        if frames:
            return run, shown
        if run.recording is None:
            return run, summed(shown, run.image, run.image)
        seen, targets = by_step(run.recording), prediction_targets(self, run.recording)
        return run, summed(shown, seen[first : run.steps], targets[first : run.steps])

    def output(self, x, shown, steps, asked, names=None):
        """SNNOutput of a run on images, or recordings, x. shown: what its steps show; steps: how many each image took (B,);
        names: of the layers, if they are known."""
        predictions, spikes, names = shown.get("prediction"), shown["spikes"], names or self.layers
        return SNNOutput(
            logits=shown["logits"][-1],
            predictions=predictions,
            errors=None
            if predictions is None
            else (prediction_targets(self, x, steps) - predictions) ** 2,
            spikes=dict(zip(names, spikes.sum(0).unbind(-1), strict=True)),
            steps=steps,
            predicted=shown.get("predicted"),
            is_open=shown.get("is_open"),
            comparisons=shown["compared"].sum(0)
            if "compared" in shown
            else torch.zeros_like(steps),
            sums=Sums(shown.get("error"), shown.get("open_share"))
            if predictions is None and self.has_feedback
            else None,
            logits_by_step=shown["logits"],
            spikes_by_step=dict(zip(names, spikes.unbind(-1), strict=True)),
            recorded=recorded(asked, shown),
        )

    def stream(self, seed=0):
        """A Stream: this network, streaming: its images change. seed: of its draws."""
        return assembly.load_object(assembly.STREAM)(self, seed)

    def set_bptt_segments(self, segments):
        """Train in this many segments of the T steps, whose steps the backward pass computes again instead of keeping them:
        memory for T / segments steps at a third more time. 0: keep all; "auto": the square root of T."""
        self.bptt_segments = round(self.timesteps**0.5) if segments == "auto" else segments

    # --- how it is made and changed

    def build(self):
        """Make the layers, and settle what the settings ask of them."""
        plan = find_plan(self.settings["vgg_name"], self.settings["plan"])
        self.has_feedback = bool(plan.decoder)
        self.change()
        last = self.new_neuron("generate") if self.readout.spiking else None
        stages = build_stages(plan, self.image_shape, self.settings, self.new_neuron, last)
        self.features, self.generate, self.classifier = stages

    def make_graph(self):
        """The Graph of the layers as they are now."""
        return graph_of_stages(self.features, self.generate, self.classifier, self.image_shape)

    def new_neuron(self, stage, channels=None):
        """A layer of neurons, as they begin, of the stage of this name. channels: of its current; None for the decoder's last."""
        own = self.settings
        names = (
            "update",
            "default_threshold",
            "leak",
            "learn_threshold",
            "learn_leak",
            "initial_potential",
            "membrane_floor",
        )
        surrogate = SURROGATES.find(own["activation"])(own["alpha"], own["beta"])
        neuron_class = self.timing.neuron_class(self)
        return neuron_class(surrogate, *(own[name] for name in names))

    def change(self, **settings: object) -> "VGG_SNN_STDB_wFeedback":
        """Change settings of a network that is built.

        Parameters
        ----------
        **settings
            Gate, rule and read-out, by name or as objects, their settings, and those in
            ``CHANGEABLE`` of config.py.

        Returns
        -------
        VGG_SNN_STDB_wFeedback
            The same network.

        Raises
        ------
        ModelError
            For any other setting, or a value that cannot be. Then nothing changes.
        """
        settings, new_parts = self.separate_parts(settings)
        for name in settings:
            if name in self.fixed_settings():
                raise ModelError(
                    f"{name} cannot be changed in a model that is built: build another"
                )
        settings_before = self.settings
        parts_before = self.own_parts
        try:
            self._set_settings(settings, new_parts)
            self.check_in_force(settings.keys(), self.settings)
            parts = self.make_parts(colour=has_colour(self.image_shape[0]))
            check_together(self, parts["gate"], parts["rule"])
        except ModelError:
            self.settings = settings_before
            self.own_parts = parts_before
            raise
        self.gate = parts["gate"]
        self.rule = parts["rule"]
        self.readout = parts["readout"]
        self.encoding = ENCODINGS.find(self.settings["encoding"])
        for neuron in self.neurons().values():
            neuron.floor = self.settings["membrane_floor"]
        return self

    # --- what it is

    timesteps = property(lambda self: self.settings["timesteps"])  # to read: change() sets it
    timing = property(
        lambda self: timing_of(self.settings["update"])
    )  # when layers charge, and fire
    has_colour = property(lambda self: has_colour(self.image_shape[0]))
    output_leak = property(lambda self: self.settings["output_leak"])
    frames = property(
        lambda self: self.timesteps if self.settings["recorded_frames"] else 0
    )  # of a recording that it takes

    @property
    def latency(self):
        """Timesteps until an image is answered."""
        return self.timing.latency(self)

    @property
    def sends_values(self):
        """True if what the input neurons send may be other than 0 and 1."""
        return (
            self.has_colour
            or getattr(self.gate, "residual", False)
            or not self.encoding.uses_draws
        )

    # what takes what from which, see runtime/graph.py; its ends are 'output', and 'decoded' with a decoder
    graph = property(lambda self: self._looked_at()[1])
    layers = property(
        lambda self: self._looked_at()[2]
    )  # 'input', then the spiking layers by name, those beside the stages last
    unknown = property(
        lambda self: self._looked_at()[3]
    )  # the first part that no architecture makes, in words, or None

    def _looked_at(self):
        modules = modules_of(self)
        seen = modules, [*map(type, modules)]  # a module may become one of another class
        if not self._seen or self._seen[0] != seen:
            self._seen = seen, self.make_graph(), [INPUT, *self.neurons()], unknown(self)
        return self._seen

    # --- what runs it: its step(), or an engine of assembly

    @property
    def runs_by(self):
        """What runs it in evaluation: 'event', 'dense' where layers take many steps at once, or 'reference', its step()."""
        if self.engine and self.engine.serves():
            return "event"
        return "dense" if self.runs_dense({}) else "reference"

    # True if it replaces methods or has forward hooks: then it runs by step()
    is_custom = property(lambda self: self.replaces() or any(map(is_hooked, modules_of(self))))

    def replaces(self, but=()):
        """True if this model's class, or the model itself, has a method of its own in place of one here, but for these."""
        cls, here = type(self), VGG_SNN_STDB_wFeedback
        own = {
            name
            for name in methods_here()
            if name in vars(self) or getattr(cls, name) is not getattr(here, name)
        }
        return bool(own.difference(but))

    def runs_dense(self, asked):
        """True where layers take many steps at once, by the dense engine; else step() is taken. asked: what is recorded."""
        if asked or not self.batched:
            return False
        return assembly.load_object(assembly.ENGINES["dense"]).supports(self) is None

    def dense_engine(self, x, asked):
        """The dense engine for a run on images x (B, C, H, W), or None where it takes step(). asked: what is recorded."""
        if not self.runs_dense(asked):
            return None
        return assembly.load_object(assembly.ENGINES["dense"])(self, x)

    def refresh(self):
        """Have the engine prepare again, after a change of weights that nobody counts: in place through `.data`,
        a NumPy array or another process, or of inference tensors. Every evaluation begins with it."""
        if self.engine:
            self.engine.refresh()


@functools.cache
def methods_here():
    """Names of the methods and properties of VGG_SNN_STDB_wFeedback, but for those that make what is looked at itself."""
    names = {*dir(VGG_SNN_STDB_wFeedback)}.difference(
        dir(nn.Module), ("new_neuron", "build", "make_graph")
    ) | {"forward"}
    return {
        name
        for name in names
        if isinstance(getattr(VGG_SNN_STDB_wFeedback, name), property | FunctionType)
    }
