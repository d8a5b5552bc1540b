"""The SNN: the ANN's network run with spikes for T steps, with one hook through which an objective changes its input."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import torch
from torch import nn

from self_models.encoders import find_encoder
from self_models.errors import ModelError
from self_models.neurons import HeldDropout, SpikingNeuron, count_events
from self_models.outputs import SNNOutput, make_readout
from self_models.plans import find_plan
from self_models.stages import build_stages, run_stage
from self_models.surrogates import make_spike_function
from self_models.vgg_wFeedback import check_dropout, check_images, check_timesteps, find_image_shape


class View(NamedTuple):
    """What the input neurons see in a step: image (B, C, H, W); is_open, bool, neurons that may spike; predicted, bool,
    pixels within epsilon of the latest prediction; attended, bool, pixels of which a prediction is made. A mask is None from
    a model that has no use for it."""

    image: torch.Tensor
    is_open: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    attended: torch.Tensor | None = None


@dataclass
class Run:
    """Everything that one step hands to the next, batch first."""

    image: torch.Tensor  # (B, C, H, W)
    view: View
    logits: torch.Tensor | int = 0  # (B, labels) once a step has run
    trace: torch.Tensor | int = 0  # (B, C, H, W), decoder output summed over the steps so far
    waiting: torch.Tensor | int = 0  # encoder output summed since the decoder last ran
    steps: int = 0  # taken so far
    compared: torch.Tensor | int = 0  # pixels compared with their prediction so far (B,)
    input_count: torch.Tensor | int = 0  # (B,)
    memory: dict = field(default_factory=dict)  # module name -> state

    def select(self, keep):
        """The same run for the images of keep, an index or a mask over the batch."""
        return Run(**{f.name: _select(getattr(self, f.name), keep) for f in fields(self)})


class Step(NamedTuple):
    """What one step shows: prediction and error (B, C, H, W), predicted and is_open (bool), None where not there."""

    prediction: torch.Tensor | None = None
    error: torch.Tensor | None = None
    predicted: torch.Tensor | None = None
    is_open: torch.Tensor | None = None


class VGG_SNN_STDB_wFeedback(nn.Module):
    """Input spikes -> encoder -> (decoder -> prediction p[t]) and (classifier -> output O), T times; logits = O.

    The classifier's last layer does not spike, it accumulates. dataset, image_shape, vgg_name and plan are as in the ANN.
    activation: surrogate gradient, Linear or STDB (alpha, beta). leak: membrane kept per step, 0 to 1. readout, update,
    encoding: see outputs.py, neurons.py, encoders.py. readout_leak: part of the read-out's trace kept per step.
    readout_slew: see integrate.
    feedback_interval k: the decoder runs at every k-th step only, on the encoder's output summed since it last ran.
    learn_*: train each layer's threshold or leak. Raises ModelError for settings that make no network.

    An objective overrides `look`, the hook, and where it needs to `start` (what is seen first), `integrate` (the read-out)
    and `compared` (what it costs).
    """

    objective = "none"  # in the records
    engine = None  # an EventEngine, or None: this module's own forward, the dense engine

    def __init__(
        self,
        vgg_name="VGG5_wFeedback",
        activation="Linear",
        labels=10,
        timesteps=50,
        leak=1.0,
        default_threshold=1.0,
        alpha=0.3,
        beta=0.01,
        dropout=0.3,
        kernel_size=3,
        dataset="MNIST",
        fc_width=4096,
        plan=None,
        readout="spike_count",
        update="delayed",
        encoding="poisson",
        readout_leak=1.0,
        readout_slew=0.0,
        feedback_interval=1,
        learn_threshold=False,
        learn_leak=False,
        image_shape=None,
    ):
        super().__init__()
        self.settings = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        check_timesteps(timesteps)
        check_dropout(dropout)
        if not 0 <= readout_leak <= 1:
            raise ModelError(f"readout_leak must be between 0 and 1 (1 = no leak), not {readout_leak}")
        if not 1 <= feedback_interval <= timesteps:
            raise ModelError(f"feedback_interval must be 1 to the {timesteps} timesteps, not {feedback_interval}")
        self.timesteps = timesteps
        self.feedback_interval = feedback_interval
        self.image_shape = find_image_shape(dataset, image_shape)
        self.encode = find_encoder(encoding)
        self.readout = make_readout(readout, self.image_shape[0])
        if not readout_slew >= 0:
            raise ModelError(f"readout_slew must be at least 0 (0 = no limit), not {readout_slew}")
        self.readout_leak, self.readout_slew = readout_leak, readout_slew
        spike = make_spike_function(activation, alpha, beta)

        def neuron(stage):
            return SpikingNeuron(spike, update, default_threshold, leak, learn_threshold, learn_leak)

        self.features, self.generate, self.classifier = build_stages(
            find_plan(vgg_name, plan),
            self.image_shape,
            labels,
            fc_width,
            kernel_size,
            nonlinearity=neuron,
            drop=lambda p=dropout: HeldDropout(p),
            output_nonlinearity=neuron("generate") if self.readout.spiking else None,
        )
        self.to(memory_format=torch.channels_last)

    @property
    def has_feedback(self):
        return self.generate is not None

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
        if not 0 <= leak <= 1:
            raise ModelError(f"leak must be between 0 and 1 (1 = no leak), not {leak}")
        for neuron in self.neurons().values():
            neuron.leak.fill_(leak)

    def clamp_dynamics(self):
        """Bring learned thresholds and leaks back into their range; call after each optimiser step."""
        for neuron in self.neurons().values():
            neuron.clamp_dynamics()

    def look(self, image, guess, view):
        """The hook of the objectives: what the input neurons see next, once the prediction of this step is known.

        image, guess: (B, C, H, W) on the same scale; view: what they saw in this step. Without an objective: the same.
        """
        return view

    def integrate(self, trace, decoded, view):
        """The read-out's trace after the decoder has run: leak, then add its last layer's output, (B, C, H, W).

        readout_slew s > 0 limits the move to +-s: s tanh(output / s). With the membrane_linear read-out and s < 2 epsilon no
        prediction can jump over a pixel's tolerance band.
        """
        if self.readout_slew:
            decoded = self.readout_slew * torch.tanh(decoded / self.readout_slew)
        return self.readout_leak * trace + decoded

    def compared(self, view):
        """How many pixels `look` compares with their prediction, per image (B,); none without an objective."""
        return 0

    def start(self, x):
        """A run at rest for images x (B, C, H, W)."""
        check_images(x, self.image_shape)
        return Run(x, View(x), trace=torch.zeros_like(x))

    def step(self, run, draws):
        """One step, in place. draws: uniform in [0, 1), (B, C, H, W). Returns a Step."""
        return self.read_out(run, self.advance(run, draws))

    def advance(self, run, draws):
        """One step of all layers, in place; returns the decoder's output (B, C, H, W), None where it did not run."""
        signal = self.encode(run.view.image, draws)
        run.input_count = run.input_count + count_events(signal != 0)
        encoded = run_stage("features", self.features, signal, run.memory)
        run.logits = run.logits + run_stage("classifier", self.classifier, encoded.flatten(1), run.memory)
        run.steps += 1
        if not self.has_feedback:
            return None
        run.waiting = run.waiting + encoded
        if run.steps % self.feedback_interval:
            return None
        decoded, run.waiting = run_stage("generate", self.generate, run.waiting, run.memory), 0
        return decoded

    def read_out(self, run, decoded):
        """What follows a step of the layers, in place: the prediction from the decoder's output, and the look at it."""
        if not self.has_feedback:
            return Step()
        is_open = run.view.is_open
        if decoded is not None:
            run.trace = self.integrate(run.trace, decoded, run.view)
        prediction = self.readout.prediction(run.trace)
        if decoded is not None:
            run.compared = run.compared + self.compared(run.view)
            run.view = self.look(run.image, self.readout.guess(prediction), run.view)
        return Step(prediction, (run.image - prediction) ** 2, run.view.predicted, is_open)

    def forward(self, x, uniforms=None):
        """x: (B, C, H, W) -> SNNOutput. uniforms: (T, B, C, H, W), the draws u[t] in [0, 1) of the input encoding, else
        the global random generator draws. Raises ModelError for another image shape or number of draws."""
        run = self.start(x)
        steps = [self.step(run, draws) for draws in self.draws(x, uniforms)]
        return self.output(run, stack_steps(steps), torch.full((len(x),), self.timesteps, device=x.device))

    def draws(self, x, uniforms):
        """The draws of each step in turn, T tensors shaped like x."""
        if uniforms is None:
            return (torch.rand_like(x) for _ in range(self.timesteps))
        if uniforms.shape != (self.timesteps, *x.shape):
            raise ModelError(f"uniforms must have shape {(self.timesteps, *x.shape)}, not {tuple(uniforms.shape)}")
        return iter(uniforms)

    def spikes_so_far(self, run):
        """Layer name -> spikes per image since the start (B,): 'input', then each spiking layer."""
        return {"input": run.input_count} | {name: run.memory[name].count for name in self.neurons()}

    def output(self, run, frames, steps):
        """SNNOutput of a finished run. frames: its Steps, stacked; steps: how many each image took (B,)."""
        return SNNOutput(
            run.logits,
            frames.prediction,
            frames.error,
            self.spikes_so_far(run),
            steps,
            frames.predicted,
            frames.is_open,
            comparisons=run.compared + torch.zeros_like(steps),
        )

    def drive_into(self, name, run, draws):
        """One step up to the named spiking layer: the drive W a[t] that reaches it, (B, ...)."""
        signal = self.encode(run.view.image, draws)
        encoded = run_stage("features", self.features, signal, run.memory, until=name)
        if name.startswith("features."):
            return encoded
        stage = name.split(".")[0]
        inflow = encoded.flatten(1) if stage == "classifier" else encoded
        return run_stage(stage, getattr(self, stage), inflow, run.memory, until=name)


def stack_steps(steps):
    """A list of T Steps as one Step whose tensors are (T, B, C, H, W)."""
    return Step(*(None if frames[0] is None else torch.stack(frames) for frames in zip(*steps, strict=True)))


def _select(value, keep):
    if isinstance(value, torch.Tensor):
        return value[keep]
    if isinstance(value, dict):
        return {name: _select(state, keep) for name, state in value.items()}
    if isinstance(value, tuple):
        return type(value)(*(_select(part, keep) for part in value))
    return value
