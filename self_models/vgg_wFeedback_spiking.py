"""The SNN: the ANN's network run with spikes for T steps; parts decide what it sees, when it stops and how it predicts."""

from dataclasses import replace

import torch
from torch import nn

from self_models.basics.errors import ModelError
from self_models.basics.images import background, checked_images, class_names, find_image_shape, has_colour
from self_models.basics.settings import Configured, declared
from self_models.network.declared import CHANGEABLE, SpikingSettings
from self_models.network.forward import decoder_layers, run_stage
from self_models.network.neurons import HeldDropout, SpikingLayers, SpikingNeuron, count_events
from self_models.network.plans import find_plan
from self_models.network.stages import add_biases, build_stages, encoder_parts, list_layers
from self_models.network.surrogates import SURROGATES
from self_models.network.wiring import modules_of, wire
from self_models.objectives import contrast, once  # noqa: F401  (register their gates)
from self_models.objectives.encoders import ENCODINGS
from self_models.objectives.gates import GATES
from self_models.objectives.readouts import READOUTS
from self_models.objectives.stopping import RULES
from self_models.running.chunks import all_steps
from self_models.running.draws import draws_for
from self_models.running.outputs import SNNOutput, Sums
from self_models.running.recording import Recorder
from self_models.running.steps import Frame, RunState, Schedule, accumulated, gathered, joined, placed, stack_frames
from self_models.running.stream import Stream
from self_models.running.turning import aims, check_recordings, seen_and_aims, shown_next
from self_models.vgg_wFeedback import mixed_precision


class VGG_SNN_STDB_wFeedback(Configured, SpikingLayers, nn.Module):
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
    engine = None  # an EventEngine, or None: this module's own forward, the dense engine
    watcher = None  # an OperationCounter, while one counts
    _wired = ()  # the modules as they were when they were wired, and their Wiring

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
            names = ("update", "default_threshold", "leak", "learn_threshold", "learn_leak", "initial_potential", "bias")
            return SpikingNeuron(surrogate, *(own[name] for name in names), own["membrane_floor"])

        self.features, self.generate, self.classifier = build_stages(
            plan,
            self.image_shape,
            own,
            nonlinearity=neuron,
            output_nonlinearity=neuron("generate") if self.readout.spiking else None,
        )
        if own["bias"]:
            add_biases(filter(None, (self.features, self.generate, self.classifier)))
        self.to(memory_format=torch.channels_last)

    def change(self, **settings):
        """Change settings of a model that is built: those of its gate, its rule and its read-out, and CHANGEABLE. Returns the
        model. Raises ModelError for any other, or a value that cannot be; then nothing changes."""
        for name in settings.keys() & declared(self.Settings).keys():
            if name not in CHANGEABLE:
                raise ModelError(f"{name} cannot be changed in a model that is built: build another")
        before, self.settings = self.settings, self.checked(settings, kept=self.settings)
        try:
            parts = self.make_parts(colour=has_colour(self.image_shape[0]))
            self._check_parts(**parts)
        except ModelError:
            self.settings = before
            raise
        self.gate, self.rule, self.readout = parts["gate"], parts["rule"], parts["readout"]
        self.encoding = ENCODINGS.find(self.settings["encoding"])
        self.set_floor(self.settings["membrane_floor"])
        return self

    timesteps = property(lambda self: self.settings["timesteps"])  # to read: change() sets it
    feedback_interval = property(lambda self: self.settings["feedback_interval"])
    frames = property(lambda self: self.timesteps if self.settings["recorded_frames"] else 0)  # of a recording that it takes
    predicts = property(lambda self: self.has_feedback or self.gate.completes)  # whether there is something to show

    def _check_parts(self, gate, rule, readout):
        steps, interval = self.settings["timesteps"], self.settings["feedback_interval"]
        if interval > steps:
            raise ModelError(f"feedback_interval must be 1 to the {steps} timesteps, not {interval}")
        gate.check(self.has_feedback, self.settings["encoding"])
        check_recordings(self.settings, gate)
        if self.settings["surprise"] and not gate.reopens:
            raise ModelError("surprise: it is what opens again, which needs gate block and blocking dynamic: choose them")
        if steps < gate.least_steps:
            raise ModelError(f"timesteps: with these settings of its gate the network answers from step {gate.least_steps} on")
        if gate.completes and self.has_feedback and not readout.on_scale:
            name, other = self.settings["readout"], self.settings["gate"]
            raise ModelError(
                f"readout {name} predicts 0.5 to 1 of a grey image, and gate {other} wants the image's scale: choose another"
            )
        if rule.looks_at_input and not ((self.has_feedback or gate.completes) and gate.reacts):
            raise ModelError(f"rule {self.settings['rule']} needs a plan with feedback and a gate that blocks; choose another")

    @property
    def wiring(self):
        """Which layers' spikes go where, see network/wiring.py."""
        modules = modules_of(self)
        if not self._wired or self._wired[0] != modules:
            self._wired = modules, wire(self)
        return self._wired[1]

    def set_bptt_segments(self, segments):
        """Train in this many segments of the T steps, whose steps the backward pass computes again instead of keeping them:
        memory for T / segments steps at a third more time. 0: keep all; "auto": the square root of T. Raises ModelError for
        another number."""
        segments = round(self.timesteps**0.5) if segments == "auto" else segments
        if not 0 <= segments <= self.timesteps:
            raise ModelError(f"bptt_segments must be 0 (keep all steps) to the {self.timesteps} timesteps, not {segments}")
        self.bptt_segments = segments

    def integrate(self, trace, decoded, view):
        """The read-out's trace after the decoder has run, (B, C, H, W), held where the gate says so."""
        moved, rests = self.readout.integrate(trace, decoded), self.gate.rests(view)
        return moved if rests is None else torch.where(rests, trace, moved)

    def start(self, x, draws=None, recorder=None):
        """A run at rest for images x (B, C, H, W), or recordings (B, T, C, H, W). draws: see draws_for; recorder: a Recorder, or
        None. In training, chains of the decoder's linear layers are folded into one where that pays."""
        recording, x = (None, x) if x.dim() == 4 else (x, x[:, 0])
        stages = dict(zip(("before_fork", "after_fork"), encoder_parts(self.features), strict=True))
        stages["classifier"] = list_layers(self.classifier)
        if self.has_feedback:
            stages["generate"] = decoder_layers(self.generate, len(x) * self.timesteps // self.feedback_interval, x.shape[2:])
        if not self.training:  # without dropout, which does nothing
            stages = {name: [one for one in layers if not isinstance(one[1], HeldDropout)] for name, layers in stages.items()}
        logits = x.new_zeros(len(x), self.settings["labels"])
        if self.watcher:
            self.watcher.begin()
        draws, recorder, view = draws_for(x, draws), recorder or Recorder(), self.gate.start(x)
        run = RunState(x, view, logits, torch.zeros_like(x), stages, draws, self.watcher, recorder, last=self.timesteps)
        return replace(run, recording=recording)

    def step(self, run, draws):
        """One step, in place. draws: uniform in [0, 1), (B, C, H, W). Returns the Frame of this step."""
        shown = self.advance(run, draws[None]).at(0)
        if run.watcher:
            run.watcher.settle(run.schedules, len(run.image))
        return shown

    def advance(self, run, draws):
        """T steps, in place. draws: uniform in [0, 1), (T, B, C, H, W). Returns their Frame, with pictures.

        A layer takes all steps as one batch, but for encoder and decoder where the gate makes the input of a step depend on the
        prediction of the step before.
        """
        run.reached, run.schedules, counts = [], [], {name: [] for name in self.wiring.names}
        parts = [self.perceive(run, part, counts) for part in draws.split(1 if self.gate.reacts else len(draws))]
        logits = self.classify(run, joined([codes.flatten(2) for codes, _ in parts]), len(draws), counts)
        none = [draws.new_zeros(draws.shape[:2])]  # of neurons beside the stages, which nobody has run
        spikes = torch.stack([joined(one or none) for one in counts.values()], -1)
        shown = stack_frames([frame for _, frames in parts for frame in frames])
        return shown._replace(logits=logits, spikes=spikes, **run.recorder.taken())

    def perceive(self, run, draws, counts):
        """T steps of encoder and decoder on what the input neurons see now, in place. draws: (T, B, C, H, W). Adds to counts what
        their layers send. Returns the encoder's output (t, B, ...), of the last t steps, and a Frame of each step."""
        view, steps = shown_next(self, run, len(draws)), range(run.steps, run.steps + len(draws))
        signal = self.encoding.send(view.unexplained(), draws)
        sent = view.sent(signal)
        counts["input"].append(count_events(sent))
        run.recorder.note_input(sent)
        waits, rests = self.gate.waits(view), self.has_feedback and not self.gate.wants(view)
        decodes = [self.has_feedback and not rests and (step + 1) % self.feedback_interval == 0 for step in steps]
        run.schedules.append(Schedule(run.steps, waits, rests, decodes))
        if self.gate.begins_anew(view):
            for position, _ in run.stages["before_fork"]:
                run.memory.pop(f"features.{position}", None)
        forked = self.through(run, "features", "before_fork", signal, steps, counts)
        encoded = self.through(run, "features", "after_fork", forked[:0] if waits else forked, steps, counts)
        decoded = [None] * len(draws)
        if self.has_feedback:
            inflow = forked if self.feedback_interval == 1 else gathered(run, forked, decodes)
            chosen = [step for step, now in zip(steps, decodes, strict=True) if now]
            output = self.through(run, "generate", "generate", inflow if chosen else inflow[:0], chosen, counts, steps)
            output = iter([*[torch.zeros_like(run.image)] * (len(chosen) - len(output)), *output])
            decoded = [next(output) if now else None for now in decodes]
        return encoded, [self.show(run, codes) for codes in decoded]

    def classify(self, run, codes, steps, counts):
        """The classifier on the encoder's output of so many steps, (t, B, ...) of the last t of them, in place. Returns the
        logits after each step (T, B, labels)."""
        drives = self.through(run, "classifier", "classifier", codes, range(run.steps - steps, run.steps), counts)
        drives = drives.to(run.image.dtype)
        so_far = run.logits + drives[:0].sum(0)  # 0, so that a loss has a gradient where nothing has arrived
        so_far = accumulated(so_far, drives, steps, self.settings["output_leak"], at_once=self.training)
        run.logits = so_far[-1]
        return so_far

    def through(self, run, name, part, signal, steps, counts, among=None):
        """A part of the stage of this name, in place: see run_stage. steps: numbers of those in which it runs; the signal is of
        their last ones. Adds to counts each layer's spikes per step and image, (T, B), of the steps among; default: these."""
        sent, among, watch = {}, steps if among is None else among, None
        neurons = {f"{name}.{at}": module for at, module in run.stages[part] if isinstance(module, SpikingNeuron)}
        kept = run.recorder.begin(neurons, run.memory)
        if run.watcher:
            watch = lambda key, signal, count: run.watcher.note(key, signal, steps[len(steps) - count :])  # noqa: E731
        final = among[-1] + 1 == run.last
        signal = run_stage(name, run.stages[part], signal, run.memory, run.draws, sent, watch, final, kept)
        for key in neurons:
            counts[key].append(placed(sent.get(key), steps, among, run.image))
        run.recorder.end(kept, steps, among, run.image)
        return signal

    def show(self, run, decoded):
        """One step of the read-out, in place: the prediction, and what is seen next. decoded: the decoder's output (B, C, H, W),
        or None where there is none, or it does not run in this step. Returns a Frame."""
        run.steps += 1
        view, prediction, compared = run.view, None, None
        if self.predicts:
            if decoded is not None:
                run.trace = self.integrate(run.trace, decoded, view)
            prediction = self.gate.complete(self.readout.prediction(run.trace) if self.has_feedback else 0.0, view)
            if self.gate.reacts and (decoded is not None or self.gate.completes):
                compared = self.gate.compared(view)
                run.view = self.gate.next_view(run.image, self.guess(prediction), view)
            elif self.gate.reacts:
                compared = 0
        if self.rule.stops and not self.training:
            run.reached.append(replace(run, memory=None, reached=None))
        if isinstance(compared, int):
            compared = torch.zeros(len(run.image), dtype=torch.int64, device=run.image.device)
        return Frame(prediction, run.view.predicted, view.is_open, compared=compared) if self.predicts else Frame()

    def guess(self, predictions):
        """Predictions (..., B, C, H, W) on the scale on which a gate compares them with the image."""
        return self.readout.guess(predictions) if self.has_feedback else predictions

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
        predicted and is_open are None, and sums has their place. record: see Recorder. place: a Place, of images that come after
        others, in the steps that it says, on draws. Raises ModelError for other images, another number of draws, or what cannot
        be recorded."""
        recorder, draws = Recorder(record, self.wiring), draws_for(x, draws, seed)
        with mixed_precision(self, x):
            if place:
                return place.go_on(self, x, draws, frames, recorder)
            run = self.start(x, draws, recorder)
            shown, steps, _ = all_steps(self, run, self.timesteps, uniforms, frames)
        return self.output(x, shown, steps, recorder)

    def stream(self, seed=0):
        """A Stream: this network, left on while its images change. seed: of its draws."""
        return Stream(self, seed)

    def segment(self, run, draws, frames):
        """advance() that leaves its run as it is: (the run after these steps, their Frame)."""
        run, first = replace(run, memory=dict(run.memory)), run.steps
        shown = self.advance(run, draws)
        return run, shown if frames else shown.summed(*seen_and_aims(self, run, first))

    def output(self, x, frames, steps, recorder):
        """SNNOutput of a run on images, or recordings, x. frames: its Frame (T, B, ...); steps: how many each image took (B,)."""
        counts = (frames.spikes, frames.spikes.sum(0))
        by_step, total = (dict(zip(self.wiring.names, each.unbind(-1), strict=True)) for each in counts)
        summed = frames.prediction is None and self.predicts
        return SNNOutput(
            frames.logits[-1],
            frames.prediction,
            None if frames.prediction is None else (aims(self, x, steps) - frames.prediction) ** 2,
            total,
            steps,
            frames.predicted,
            frames.is_open,
            torch.zeros_like(steps) if frames.compared is None else frames.compared.sum(0),
            Sums(frames.error, frames.open_share) if summed else None,
            frames.logits,
            by_step,
            recorder.recorded(frames.fired, frames.membranes, frames.logits),
        )
