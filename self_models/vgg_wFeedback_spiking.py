"""The SNN: the ANN's network run with spikes for T steps; parts decide what it sees, when it stops and how it predicts."""

from dataclasses import replace

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from self_models.basics.errors import ModelError
from self_models.basics.images import checked_images
from self_models.basics.settings import Configured, declared
from self_models.network.datasets import background, class_names, find_image_shape
from self_models.network.declared import SpikingSettings
from self_models.network.neurons import SpikingNeuron, count_events
from self_models.network.plans import find_plan
from self_models.network.stages import build_stages, decoder_layers, encoder_parts, list_layers, run_stage
from self_models.network.surrogates import SURROGATES
from self_models.objectives import contrast, once  # noqa: F401  (register their gates)
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES
from self_models.running.draws import draws_for
from self_models.running.leaving import run_until_stopped
from self_models.running.outputs import SNNOutput
from self_models.running.steps import Frame, RunState, join_frames, stack_frames
from self_models.vgg_wFeedback import mixed_precision


class VGG_SNN_STDB_wFeedback(Configured, nn.Module):
    """Input spikes -> encoder -> (decoder -> prediction p[t]) and (classifier -> output O), T times; logits = O.

    The classifier's last layer does not spike, it accumulates. Settings: SpikingSettings in network/declared.py, and those of
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
    objective = "none"  # in the records
    bptt_segments = 0  # see set_bptt_segments
    precision = "float32"  # of matrix products in training, float32 or bfloat16; membranes are always float32
    waits = rests = False  # whether in this step the layers after the fork wait, and whether the decoder rests
    engine = None  # an EventEngine, or None: this module's own forward, the dense engine

    def __init__(self, *args, **settings):
        super().__init__()
        self.configure(args, settings)
        own, plan = self.settings, find_plan(self.settings["vgg_name"], self.settings["plan"])
        self.image_shape, self.classes = find_image_shape(own), class_names(own)
        self.background = background(own)
        self.has_feedback = bool(plan.decoder)
        self.change()
        surrogate = SURROGATES.find(own["activation"])(own["alpha"], own["beta"])

        def neuron(stage, channels=None):
            return SpikingNeuron(
                surrogate, own["update"], own["default_threshold"], own["leak"], own["learn_threshold"], own["learn_leak"]
            )

        self.features, self.generate, self.classifier = build_stages(
            plan,
            self.image_shape,
            own,
            nonlinearity=neuron,
            output_nonlinearity=neuron("generate") if self.readout.spiking else None,
        )
        self.to(memory_format=torch.channels_last)

    def change(self, **settings):
        """Change settings of a model that is built: those of its gate, its rule and its read-out, timesteps, encoding and
        feedback_interval. Raises ModelError for any other, or a value that cannot be; then nothing is changed."""
        changeable = ("timesteps", "encoding", "feedback_interval", "gate", "rule")
        for name in settings.keys() & declared(self.Settings).keys():
            if name not in changeable:
                raise ModelError(f"{name} cannot be changed in a model that is built: build another")
        before, self.settings = self.settings, self.checked(settings, kept=self.settings)
        try:
            parts = self.make_parts(colour=self.image_shape[0] > 1)
            self._check_parts(**parts)
        except ModelError:
            self.settings = before
            raise
        self.gate, self.rule, self.readout = parts["gate"], parts["rule"], parts["readout"]
        self.encoding = ENCODINGS.find(self.settings["encoding"])

    timesteps = property(lambda self: self.settings["timesteps"])  # to read: change() sets it
    feedback_interval = property(lambda self: self.settings["feedback_interval"])
    predicts = property(lambda self: self.has_feedback or self.gate.completes)  # whether there is something to show

    def _check_parts(self, gate, rule, readout):
        steps, interval = self.settings["timesteps"], self.settings["feedback_interval"]
        if interval > steps:
            raise ModelError(f"feedback_interval must be 1 to the {steps} timesteps, not {interval}")
        gate.check(self.has_feedback, self.settings["encoding"])
        if steps < gate.least_steps:
            raise ModelError(f"timesteps: with these settings of its gate the network answers from step {gate.least_steps} on")
        if gate.completes and self.has_feedback and not readout.on_scale:
            name, other = self.settings["readout"], self.settings["gate"]
            raise ModelError(
                f"readout {name} predicts 0.5 to 1 of a grey image, and gate {other} wants the image's scale: choose another"
            )
        if rule.looks_at_input and not ((self.has_feedback or gate.completes) and gate.reacts):
            raise ModelError(f"rule {self.settings['rule']} needs a plan with feedback and a gate that blocks; choose another")

    def neurons(self):
        """Name -> spiking layer, in the order encoder, decoder, classifier."""
        return {name: module for name, module in self.named_modules() if isinstance(module, SpikingNeuron)}

    @property
    def thresholds(self):
        """Threshold of each spiking layer, in the order encoder, decoder, classifier."""
        return [neuron.threshold.item() for neuron in self.neurons().values()]

    @torch.no_grad()
    def set_thresholds(self, thresholds):
        """Set the threshold of each spiking layer, in the same order. Raises ModelError for a wrong number or value."""
        neurons, thresholds = self.neurons(), [float(value) for value in thresholds]
        if len(thresholds) != len(neurons):
            raise ModelError(f"{len(thresholds)} thresholds given for {len(neurons)} spiking layers: {', '.join(neurons)}")
        if not all(value > 0 for value in thresholds):
            raise ModelError(f"thresholds must be above 0: {thresholds}")
        for neuron, value in zip(neurons.values(), thresholds, strict=True):
            neuron.threshold.fill_(value)

    @torch.no_grad()
    def set_leak(self, leak):
        """Set the leak of every spiking layer, 0 to 1. Raises ModelError for another."""
        leak = self.declared()["leak"].check("leak", leak)
        for neuron in self.neurons().values():
            neuron.leak.fill_(leak)

    def set_bptt_segments(self, segments):
        """Train in this many segments of the T steps, whose steps the backward pass computes again instead of keeping them:
        memory for T / segments steps at a third more time. 0: keep all; "auto": the square root of T. Raises ModelError for
        another number."""
        segments = round(self.timesteps**0.5) if segments == "auto" else segments
        if not 0 <= segments <= self.timesteps:
            raise ModelError(f"bptt_segments must be 0 (keep all steps) to the {self.timesteps} timesteps, not {segments}")
        self.bptt_segments = segments

    def clamp_dynamics(self):
        """Bring learned thresholds and leaks back into their range; call after each optimiser step."""
        for neuron in self.neurons().values():
            neuron.clamp_dynamics()

    def integrate(self, trace, decoded, view):
        """The read-out's trace after the decoder has run, (B, C, H, W), held where the gate says so."""
        moved, rests = self.readout.integrate(trace, decoded), self.gate.rests(view)
        return moved if rests is None else torch.where(rests, trace, moved)

    def start(self, x, draws=None):
        """A run at rest for images x (B, C, H, W). draws: see draws_for. In training, chains of the decoder's linear layers are
        folded into one where that pays."""
        signals = len(x) * self.timesteps // self.feedback_interval
        decoder = decoder_layers(self.generate, signals, x.shape[2:]) if self.has_feedback else []
        return RunState(x, self.gate.start(x), trace=torch.zeros_like(x), decoder=decoder, draws=draws_for(x, draws))

    def step(self, run, draws):
        """One step, in place. draws: uniform in [0, 1), (B, C, H, W). Returns a Frame."""
        return Frame(*(None if frames is None else frames[0] for frames in self.advance(run, draws[None])))

    def advance(self, run, draws):
        """T steps, one in evaluation, in place. draws: uniform in [0, 1), (T, B, C, H, W). Returns a Frame of (T, B, C, H, W).

        The classifier takes all steps as one batch. So do encoder and decoder in training, unless the gate makes the input of a
        step depend on the prediction of the step before.
        """
        sees_all = self.training and not self.gate.reacts
        parts = [self.perceive(run, part) for part in draws.split(len(draws) if sees_all else 1)]
        so_far = self.classify(run, [codes for codes, _ in parts])
        spikes = None if self.training else torch.stack([*self.spikes_so_far(run).values()], -1)[None]
        return join_frames([frames for _, frames in parts])._replace(logits=so_far, spikes=spikes)

    def classify(self, run, parts):
        """The classifier on the encoder's output, in place. parts: the output of some steps each, (t, B, ...), or None for a step
        in which the layers after the fork wait; only first ones do. Returns the logits after each step (T, B, labels)."""
        waited, codes = sum(part is None for part in parts), [part.flatten(2) for part in parts if part is not None]
        none = run.image.new_zeros(waited, len(run.image), self.settings["labels"])
        if not codes:
            run.logits = none[-1]
            return none
        drives = run_stage("classifier", list_layers(self.classifier), torch.cat(codes), run.memory, run.draws)
        so_far = run.logits + drives.to(run.image.dtype).cumsum(0)
        run.logits = so_far[-1]
        return torch.cat([none, so_far])

    def perceive(self, run, draws):
        """T steps of encoder and decoder on what the input neurons see now, in place. draws: (T, B, C, H, W). Returns the
        encoder's output (T, B, ...), None for a step in which its layers after the fork wait, and a Frame of (T, B, C, H, W)."""
        signal = self.encoding.send(run.view.unexplained(), draws)
        run.input_count = run.input_count + count_events(run.view.sent(signal))
        before_fork, after_fork = encoder_parts(self.features)
        self.waits, self.rests = self.gate.waits(run.view), self.has_feedback and not self.gate.wants(run.view)
        forked = run_stage("features", before_fork, signal, run.memory, run.draws)
        encoded = None if self.waits else run_stage("features", after_fork, forked, run.memory, run.draws)
        if not self.has_feedback:
            return encoded, stack_frames([self.show(run, None) for _ in draws])
        decodes = [not self.rests and (run.steps + t) % self.feedback_interval == 0 for t in range(1, len(draws) + 1)]
        inflow = forked if self.feedback_interval == 1 else self.gather(run, forked, decodes)
        decoded = iter(run_stage("generate", run.decoder, inflow, run.memory, run.draws)) if any(decodes) else iter(())
        return encoded, stack_frames([self.show(run, next(decoded) if now else None) for now in decodes])

    def gather(self, run, forked, decodes):
        """What the decoder gets at the steps at which it runs, (t, B, ...): forked, its input, summed since it last ran."""
        inflow = []
        for codes, now in zip(forked, decodes, strict=True):
            run.waiting = run.waiting + codes
            if now:
                inflow.append(run.waiting)
                run.waiting = 0
        return torch.stack(inflow) if inflow else forked[:0]

    def show(self, run, decoded):
        """One step of the read-out, in place: the prediction, what it costs, and what is seen next. decoded: the decoder's
        output (B, C, H, W), or None where there is none, or it does not run in this step. Returns a Frame."""
        run.steps += 1
        if not self.predicts:
            return Frame()
        view = run.view
        if decoded is not None:
            run.trace = self.integrate(run.trace, decoded, view)
        prediction = self.gate.complete(self.readout.prediction(run.trace) if self.has_feedback else 0.0, view)
        if decoded is not None or self.gate.completes:
            run.compared = run.compared + self.gate.compared(view)
            run.view = self.gate.next_view(run.image, self.guess(prediction), view)
        return Frame(prediction, (run.image - prediction) ** 2, run.view.predicted, view.is_open)

    def guess(self, predictions):
        """Predictions (..., B, C, H, W) on the scale on which a gate compares them with the image."""
        return self.readout.guess(predictions) if self.has_feedback else predictions

    def __call__(self, x, *args, **kwargs):
        """forward, of checked images; in evaluation by the engine, where there is one, which checks them, unless x wants a
        gradient."""
        wants_gradient = torch.is_grad_enabled() and getattr(x, "requires_grad", False)
        if self.engine and not self.training and not wants_gradient:
            return self.engine(x, *args, **kwargs)
        return super().__call__(checked_images(x, self), *args, **kwargs)

    def forward(self, x, uniforms=None, draws=None, seed=None):
        """x: (B, C, H, W) -> SNNOutput. draws, seed: of input encoding and dropout masks, see draws_for; uniforms: (T, B, C, H,
        W), the draws u[t] in [0, 1) of the input encoding. Raises ModelError for other images or another number of draws."""
        draws = draws_for(x, draws, seed)
        if self.rule.stops and not self.training:
            return run_until_stopped(self, x, uniforms, draws)
        with mixed_precision(self, x):
            run, frames = self.run_segments(x, uniforms, draws)
        return self.output(run, frames, torch.full((len(x),), self.timesteps, device=x.device))

    def run_segments(self, x, uniforms, draws):
        """(RunState, Frame) of all T steps, segment by segment."""
        run, frames, length = self.start(x, draws), [], self.segment_length()
        for drawn in self.drawn(x, uniforms, draws, length):
            keeps = not self.training or self.bptt_segments == 0 or run.steps + length >= self.timesteps
            run, shown = self.segment(run, drawn) if keeps else checkpoint(self.segment, run, drawn, use_reentrant=False)
            frames.append(shown)
        return run, join_frames(frames)

    def segment(self, run, draws):
        """advance() that leaves its run as it is: (the run after these steps, their frames)."""
        run = replace(run, memory=dict(run.memory))
        return run, self.advance(run, draws)

    def segment_length(self):
        """Steps that run together: one in evaluation, all or a segment in training."""
        return -(-self.timesteps // max(1, self.bptt_segments)) if self.training else 1

    def drawn(self, x, uniforms, draws, length=1):
        """The draws of all steps, `length` of them at a time, (length, B, C, H, W): uniforms if given, else those of draws."""
        if uniforms is not None and uniforms.shape != (self.timesteps, *x.shape):
            raise ModelError(f"uniforms must have shape {(self.timesteps, *x.shape)}, not {tuple(uniforms.shape)}")
        if not self.encoding.uses_draws:
            uniforms = x.new_zeros(()).expand(self.timesteps, *x.shape)
        if uniforms is not None:
            return iter(uniforms.split(length))
        starts = range(0, self.timesteps, length)
        return (draws.uniforms(min(length, self.timesteps - t), self.image_shape, x.device, t) for t in starts)

    def spikes_so_far(self, run):
        """Layer name -> spikes per image since the start (B,): 'input', then each spiking layer."""
        none = torch.zeros_like(run.input_count)  # of a decoder that has not run yet, with feedback_interval > 1
        counts = {name: run.memory[name].count if name in run.memory else none for name in self.neurons()}
        return {"input": run.input_count} | counts

    def output(self, run, frames, steps):
        """SNNOutput of a finished run. frames: its Frame of (T, B, C, H, W); steps: how many each image took (B,)."""
        spikes = self.spikes_so_far(run)
        return SNNOutput(
            run.logits,
            frames.prediction,
            frames.error,
            spikes,
            steps,
            frames.predicted,
            frames.is_open,
            comparisons=run.compared + torch.zeros_like(steps),
            logits_by_step=frames.logits,
            spikes_by_step=frames.spikes_by_step(spikes),
        )
