"""The SNN: the ANN's network run with spikes for T timesteps.

``VGG_SNN_STDB_wFeedback.step`` is one timestep, with the equations of
docs/explanation/model.md beside the code. The rest of the class runs timesteps, and
makes and describes the network. Parts decide what it sees (a gate), when it stops (a
rule) and how it predicts (a read-out).
"""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import nn

from self_models import plugins
from self_models.config import (
    Network,
    SNNConfig,
    check_together,
)
from self_models.data.images import has_colour, prepare_images
from self_models.errors import ModelError
from self_models.feedback import contrast  # noqa: F401  (registers its gate)
from self_models.feedback.encoders import ENCODINGS
from self_models.feedback.gates import GATES
from self_models.feedback.readouts import READOUTS
from self_models.feedback.stopping import RULES
from self_models.networks.architectures import get_architecture
from self_models.networks.stages import build_stages
from self_models.neurons.spiking import SpikingLayers, SpikingNeuron
from self_models.neurons.surrogates import SURROGATES
from self_models.running.draws import Draws, draws_for
from self_models.running.graph import Graph, chain_edges, graph_of_stages, named_layers
from self_models.running.known_layers import find_unknown_part, is_hooked, modules_of
from self_models.running.loop import (
    Outputs,
    prediction_targets,
    run_timesteps,
    show_image,
    stack_outputs,
    sum_over_pixels,
)
from self_models.running.outputs import INPUT, SNNOutput, Sums, frames_by_step
from self_models.running.recording import RecordSpec, collect_records, parse_record, record_step
from self_models.running.state import RunState, View
from self_models.running.timing import EveryTimestep, timing_of
from self_models.vgg_wFeedback import mixed_precision


class VGG_SNN_STDB_wFeedback(Network, SpikingLayers):
    """An SNN that classifies images over ``T`` timesteps, and predicts them.

    Input spikes go through an encoder to a decoder, which predicts the image, and to a
    classifier, whose summed outputs are the logits. ``step`` is the specification of a
    timestep. The engines compute the same faster, and are tested against it.

    `SNNConfig` has its settings, with those of its parts: the gate decides what the
    input neurons see next, the rule when an image stops (in evaluation), and the
    read-out how the decoder's output becomes a prediction. They lie in ``feedback/``.

    Attributes
    ----------
    features, generate, classifier : nn.Sequential
        Encoder, decoder and classifier. ``generate`` is None without a decoder.
    gate, rule, readout : Gate, Rule and Readout
        The exchangeable parts, see above.
    encoding : Encoding
        What the input neurons send for what they see.
    Neuron : type
        Class of all layers of neurons: SpikingNeuron, or one derived from it.
    objective : str
        Name of the class in records.
    bptt_segments : int
        See `set_bptt_segments`.
    precision : {"float32", "bfloat16"}
        Precision of matrix products in training. Membrane potentials are always in
        float32.
    engine : EventEngine or None
        What runs an evaluation in place of ``forward``; see ``load()``.
    stays : str or None
        Why ``load(engine="auto")`` left it to ``forward``.
    batched : bool
        Whether ``forward`` runs many timesteps of a layer at once where it can, and not
        ``step`` by ``step``.
    operation_counter : OperationCounter or None
        What counts operations at present.

    Raises
    ------
    ModelError
        For settings that make no network.
    """

    Settings = SNNConfig
    parts = {"gate": GATES, "rule": RULES, "readout": READOUTS}  # noqa: RUF012
    Neuron = SpikingNeuron
    objective = "none"
    bptt_segments = 0
    precision = "float32"
    engine = None
    stays = None
    batched = True
    operation_counter = None
    _last_structure = None  # see _structure

    # --- one timestep: the equations

    def step(self, run: RunState, image: torch.Tensor, u: torch.Tensor) -> Outputs:
        """Run one timestep.

        This is the definition. ``forward`` usually runs the same faster, many timesteps
        of a layer at once (``running/dense/run.py``), and calls this method where a
        network has parts or methods of its own.

        Parameters
        ----------
        run : RunState
            What the timestep before has left. It is changed.
        image : Tensor of shape (B, C, H, W)
            The images x; of recordings the frames of this timestep.
        u : Tensor of shape (B, C, H, W), 0 to 1
            Uniform samples for the input encoding.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            Outputs of this timestep. The docstring of ``running/loop.py`` lists the
            keys.
        """
        show_image(self, run, image)

        # Encode what the gate leaves of the image, x̃:
        #   poisson   s = sign(x̃) if u <= |x̃|, else 0
        #   direct    s = x̃
        signal = self.input_spikes(run, u)
        run.spikes = {INPUT: run.view.spiking_inputs(signal)}
        run.log_activity(INPUT, signal, [run.steps])

        # Propagate through all layers, in order. Each takes the current I = W s + b:
        #   immediate   V' = λ V + I        s = H(V'/θ - 1)     V <- V' - θ s
        #   delayed     s = H(V/θ - 1)      V <- λ V + I - θ s
        sent = self.propagate(run, signal)

        # Read out the classifier, whose last layer does not spike:
        #   O <- μ O + W s
        mu = self.settings["output_leak"]
        run.logits = self.decayed(run.logits, mu) + self.output_current(run, sent["output"])

        # Read out the decoder, whose output is d, and let the gate compare p, on the
        # pixels' scale, with x. For a gate that blocks and lets pixels open again:
        #   R <- ρ R + d        p = sigmoid(R), for example
        #   open[t+1] = not |p - x| < ε        x̃[t+1] = x where open[t+1], else 0
        outputs = self.read_out_and_gate(run, sent.get("decoded"))

        outputs |= {"logits": run.logits, "spikes": run.count_spikes(self.layers)}
        layer_states = run.graph_state.layer_states
        return outputs | record_step(run.record, run.spikes, layer_states, self.neurons())

    def input_spikes(self, run: RunState, u: torch.Tensor) -> torch.Tensor:
        """Return what the input neurons send in the coming timestep.

        Parameters
        ----------
        run : RunState
            State before it.
        u : Tensor of shape (B, C, H, W), 0 to 1
            Uniform samples.

        Returns
        -------
        Tensor of shape (B, C, H, W)
            -1, 0 or 1; with the encoding ``direct`` pixel values.
        """
        if not self.input_is_active(run.steps):
            return torch.zeros_like(run.image)
        return self.encoding.send(run.view.unexplained(), u)

    def propagate(self, run: RunState, signal: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run one timestep of all layers.

        Parameters
        ----------
        run : RunState
            It is changed.
        signal : Tensor of shape (B, C, H, W)
            What the input neurons send.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            What each layer sends. "output": the current of the classifier's last layer;
            "decoded": the decoder's output, if there is a decoder.
        """
        return run_graph(self.graph, run, signal)

    def output_current(self, run: RunState, current: torch.Tensor) -> torch.Tensor:
        """Return what the logits gain in this timestep: W s of the last layer.

        Parameters
        ----------
        run : RunState
            State of the run.
        current : Tensor of shape (B, num_classes)
            The last layer's sums.

        Returns
        -------
        Tensor of shape (B, num_classes)
            All of them, unless the timing of the layers says otherwise.
        """
        return self.timing.output_current(self, run, current.to(run.logits.dtype))

    def decayed(self, values: torch.Tensor, keep: torch.Tensor | float) -> torch.Tensor:
        """Return what is left of values after a timestep.

        Parameters
        ----------
        values : Tensor of shape (B, ...)
            The values.
        keep : float, or Tensor of shape (B,), 0 to 1
            The fraction that is kept; 1 means no decay.

        Returns
        -------
        Tensor of shape (B, ...)
            ``keep * values``.
        """
        if isinstance(keep, torch.Tensor):
            keep = keep.view(-1, *[1] * (values.dim() - 1))
        return values * keep

    def read_out_and_gate(self, run: RunState, decoded: torch.Tensor | None) -> Outputs:
        """End a timestep: predict the image, and decide what is seen in the next one.

        Parameters
        ----------
        run : RunState
            It is changed.
        decoded : Tensor of shape (B, C, H, W) or None
            The decoder's output d. None without a decoder.

        Returns
        -------
        dict of {str: Tensor of shape (B, ...)}
            "prediction", "compared", "predicted" and "is_open", if there are such.
        """
        run.steps += 1
        view = run.view
        outputs = {}
        if self.has_feedback:
            # R <- ρ R + d
            run.readout_sum = self.integrate(run.readout_sum, decoded, view)
            # p = p(R)
            prediction = self.prediction(run)
            outputs["prediction"] = prediction
            if self.gate.reacts:
                # open[t+1] = not |p - x| < ε (and open[t], if blocking is permanent)
                # x̃[t+1] = x where open[t+1], else 0
                outputs["compared"] = self.gate.compared(view)
                run.view = self.gate.next_view(run.image, self.on_pixel_scale(prediction), view)
            # Of two timesteps, on purpose: `predicted` is what the next one sees, and
            # `is_open` what this one has seen.
            outputs["predicted"] = run.view.predicted
            outputs["is_open"] = view.is_open
        if self.rule.stops and not self.training:  # run_timesteps() will ask the rule
            run.step_states.append(replace(run, graph_state=None, memory=None, step_states=None))
        return {name: values for name, values in outputs.items() if values is not None}

    def integrate(
        self, readout_sum: torch.Tensor | int, decoded: torch.Tensor, view: View
    ) -> torch.Tensor:
        """Return the read-out's sum R after the decoder has run.

        Parameters
        ----------
        readout_sum : Tensor of shape (B, C, H, W)
            R before.
        decoded : Tensor of shape (B, C, H, W)
            The decoder's output d.
        view : View
            What the input neurons have seen. The gate may hold R at some pixels.

        Returns
        -------
        Tensor of shape (B, C, H, W)
            ρ R + d, or R where it is held.
        """
        moved = self.readout.integrate(readout_sum, decoded)
        held = self.gate.held(view)
        if held is None:
            return moved
        return torch.where(held, readout_sum, moved)

    def prediction(self, run: RunState) -> torch.Tensor | float:
        """Return the prediction p of the image.

        Parameters
        ----------
        run : RunState
            With the read-out's sum so far.

        Returns
        -------
        Tensor of shape (B, C, H, W), or 0.0 without a decoder
            The prediction, which the loss compares with the image.
        """
        if not self.has_feedback:
            return 0.0
        return self.readout.prediction(run.readout_sum)

    def on_pixel_scale(self, predictions: torch.Tensor | float) -> torch.Tensor | float:
        """Return predictions on the scale on which a gate compares them with the image.

        Parameters
        ----------
        predictions : Tensor of shape (..., B, C, H, W), or a number without a decoder
            What ``prediction`` returns.

        Returns
        -------
        Tensor of the same shape, or the number
            See the table of read-outs in docs/explanation/model.md.
        """
        if not self.has_feedback:
            return predictions
        return self.readout.on_pixel_scale(predictions)

    def through(self, run: RunState, name: str, signal: torch.Tensor) -> torch.Tensor:
        """Run one timestep of an nn.Sequential of your own.

        Parameters
        ----------
        run : RunState
            It is changed: the state of these layers is kept and recorded as that of all
            others.
        name : str
            Name of the attribute that holds the nn.Sequential.
        signal : Tensor of shape (B, ...)
            What arrives at its first layer.

        Returns
        -------
        Tensor of shape (B, ...)
            What its last layer sends.
        """
        # The state is in `run`, under the layers' names. So the graph can be made anew
        # in each timestep, and follows layers that are replaced.
        modules = named_layers(name, getattr(self, name))
        last_layer = list(modules)[-1]
        graph = Graph(modules, chain_edges(modules), signal.shape[1:], {"end": last_layer})
        # A dropout mask is drawn in the first timestep, and then kept for all others.
        new_masks = graph.draw_masks(run.draws, signal.device)
        run.graph_state.masks = new_masks | run.graph_state.masks
        return run_graph(graph, run, signal)["end"]

    def input_is_active(self, step: int) -> bool:
        """Return whether the input neurons may send in the timestep of this number."""
        return step < self.timing.active_input_steps(self, step + 1)

    # --- a run of many timesteps

    def __call__(
        self, x: torch.Tensor, *args: Any, record: Mapping | str | None = None, **kwargs: Any
    ) -> SNNOutput:
        """Run the network on images, by its engine or by ``forward``; see `forward`.

        An engine runs evaluations, unless it cannot serve, a gradient for the images is
        wanted, or something is recorded.
        """
        wants_gradient = torch.is_grad_enabled() and getattr(x, "requires_grad", False)
        is_plain_evaluation = not (self.training or wants_gradient or record)
        if self.engine and is_plain_evaluation and self.engine.serves():
            return self.engine.run(x, *args, **kwargs)  # which checks the images, too
        x = prepare_images(x, self, self.frames)
        return super().__call__(x, *args, record=record, **kwargs)

    def forward(
        self,
        x: torch.Tensor,
        uniforms: torch.Tensor | None = None,
        draws: Draws | None = None,
        seed: int | None = None,
        frames: bool = True,
        record: Mapping | str | None = None,
    ) -> SNNOutput:
        """Run the network on images for T timesteps.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W), or recordings (B, T, C, H, W)
            Colour images in [-1, 1], others in [0, 1], or bytes of 0 to 255.
        uniforms : Tensor of shape (T, B, C, H, W), 0 to 1, optional
            The samples u of the input encoding.
        draws : Draws, optional
            Random numbers of the input encoding, if there are no ``uniforms``, and of
            dropout masks. Without draws and seed, torch's generator gives a seed.
        seed : int, optional
            Seed of these random numbers, instead of ``draws``.
        frames : bool, default True
            Whether to return predictions, errors, ``predicted`` and ``is_open``. If
            False, the output has ``sums`` in their place.
        record : mapping, "all" or None
            What to record, such as {"features.1": ("spikes", "membrane", [0, 7])}: of a
            layer its spikes, membrane potentials or both, of all neurons or of those
            with these numbers. "all": both, of all layers.

        Returns
        -------
        SNNOutput
            Logits, predictions, spikes and more.

        Raises
        ------
        ModelError
            If the images have another shape or type, if the draws are of another number
            of images, or if something cannot be recorded.
        """
        record_specs = parse_record(record, self)
        draws = draws_for(x, draws, seed)
        with mixed_precision(self, x):
            run = self.start(x, draws, record_specs)
            outputs, steps_taken, _ = run_timesteps(self, run, self.latency, uniforms, frames)
        return self.make_output(x, outputs, steps_taken, record_specs)

    def start(
        self,
        x: torch.Tensor,
        draws: Draws | None = None,
        record: Mapping[str, RecordSpec] | None = None,
        is_open_ended: bool = False,
    ) -> RunState:
        """Return the state before the first timestep: the network at rest.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W), or recordings (B, T, C, H, W)
            The images.
        draws : Draws, optional
            Random numbers of the run; see ``draws_for``.
        record : mapping of {str: RecordSpec}, optional
            What to record of each layer. If there is anything, ``step`` runs each
            timestep.
        is_open_ended : bool, default False
            Whether other images may come after these, as in a stream.

        Returns
        -------
        RunState
            The state, which ``step`` changes.
        """
        if x.dim() == 4:
            recording = None
            image = x
        else:
            recording = x
            image = x[:, 0]
        draws = draws_for(image, draws)
        self.timing.prepare(self)
        graph_state = self.timing.initial_state(self, image)
        graph_state.masks = self.graph.draw_masks(draws, image.device)
        return RunState(
            image=image,
            view=self.gate.start(image),
            logits=image.new_zeros(len(image), self.settings["labels"]),
            readout_sum=torch.zeros_like(image),
            draws=draws,
            record=record or {},
            is_open_ended=is_open_ended,
            recording=recording,
            graph_state=graph_state,
            engine=self.dense_engine(image, record),
        )

    def run_chunk(
        self, run: RunState, draws: torch.Tensor, return_frames: bool
    ) -> tuple[RunState, Outputs]:
        """Run some timesteps.

        Parameters
        ----------
        run : RunState
            State before them. It is not changed, so that a backward pass can run them
            again.
        draws : Tensor of shape (t, B, C, H, W), 0 to 1
            Uniform samples of each timestep.
        return_frames : bool
            Whether the outputs have predictions and masks for every pixel, or sums over
            pixels in their place.

        Returns
        -------
        run : RunState
            State after these timesteps.
        outputs : dict of {str: Tensor of shape (t, B, ...)}
            Their outputs.
        """
        first_step = run.steps
        run = replace(
            run,
            graph_state=run.graph_state.copy(),
            memory=dict(run.memory),
            step_states=[],
            activity={} if self.operation_counter else None,
            counts={},
        )
        if run.engine is not None:
            outputs = run.engine.run(self, run, draws)
        else:
            outputs = stack_outputs([self.step(run, run.current_frame(), u) for u in draws])
        if return_frames:
            return run, outputs
        images = run.image
        targets = run.image
        if run.recording is not None:
            timesteps = slice(first_step, run.steps)
            images = frames_by_step(run.recording)[timesteps]
            targets = prediction_targets(self, run.recording)[timesteps]
        return run, sum_over_pixels(outputs, images, targets)

    def make_output(
        self,
        x: torch.Tensor,
        outputs: Outputs,
        steps_taken: torch.Tensor,
        record: Mapping[str, RecordSpec],
        names: Collection[str] | None = None,
    ) -> SNNOutput:
        """Arrange the outputs of all timesteps as an SNNOutput.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W), or recordings (B, T, C, H, W)
            The images.
        outputs : dict of {str: Tensor of shape (T, B, ...)}
            Outputs of all timesteps, as ``run_timesteps`` returns them.
        steps_taken : Tensor of shape (B,), int64
            Number of timesteps after which each image stopped.
        record : mapping of {str: RecordSpec}
            What was recorded.
        names : collection of str, optional
            Names of "input" and of the layers, if the caller has them.

        Returns
        -------
        SNNOutput
            The output.
        """
        predictions = outputs.get("prediction")
        errors = None
        sums = None
        if predictions is not None:
            errors = (prediction_targets(self, x, steps_taken) - predictions) ** 2
        elif self.has_feedback:
            sums = Sums(outputs.get("error"), outputs.get("open_share"))
        if "compared" in outputs:
            comparisons = outputs["compared"].sum(0)
        else:
            comparisons = torch.zeros_like(steps_taken)
        spikes = outputs["spikes"]  # (T, B, num_layers)
        names = names or self.layers
        return SNNOutput(
            logits=outputs["logits"][-1],
            predictions=predictions,
            errors=errors,
            spikes=dict(zip(names, spikes.sum(0).unbind(-1), strict=True)),
            steps=steps_taken,
            predicted=outputs.get("predicted"),
            is_open=outputs.get("is_open"),
            comparisons=comparisons,
            sums=sums,
            logits_by_step=outputs["logits"],
            spikes_by_step=dict(zip(names, spikes.unbind(-1), strict=True)),
            recorded=collect_records(record, outputs),
        )

    def stream(self, seed: int = 0) -> Any:
        """Return a stream of this network, whose images may change while it runs.

        Parameters
        ----------
        seed : int
            Seed of its random numbers.

        Returns
        -------
        Stream
            At rest, before its first timestep.
        """
        return plugins.load_object(plugins.STREAM)(self, seed)

    def set_bptt_segments(self, segments: int | str) -> None:
        """Train in segments of the T timesteps.

        The backward pass runs the timesteps of a segment again, in place of keeping
        what it needs of them: this takes memory for T / segments timesteps, and a third
        more time.

        Parameters
        ----------
        segments : int or "auto"
            Number of segments. 0 keeps all timesteps; "auto": the square root of T.
        """
        if segments == "auto":
            segments = round(self.timesteps**0.5)
        self.bptt_segments = segments

    # --- how it is made and changed

    def build(self) -> None:
        """Make the parts and the layers that the settings describe.

        `Network` calls it once, at the end of its constructor.
        """
        plan = get_architecture(self.settings["vgg_name"], self.settings["plan"])
        # In this order: parts are refused that need a decoder where there is none, and
        # the read-out says whether the decoder's last layer spikes.
        self.has_feedback = bool(plan.decoder)
        self.change()  # changes nothing, but makes gate, rule and read-out
        last_neurons = None
        if self.readout.spiking:
            last_neurons = self.new_neuron("generate")
        self.features, self.generate, self.classifier = build_stages(
            plan, self.image_shape, self.settings, self.new_neuron, last_neurons
        )

    def make_graph(self) -> Graph:
        """Return the graph of the layers as they are now."""
        return graph_of_stages(self.features, self.generate, self.classifier, self.image_shape)

    def new_neuron(self, stage: str, channels: int | None = None) -> SpikingNeuron:
        """Return a new layer of neurons.

        Parameters
        ----------
        stage : {"features", "generate", "classifier"}
            The stage for which it is made.
        channels : int or None
            Number of channels of its current. None for the decoder's last layer.

        Returns
        -------
        SpikingNeuron
            With the threshold and leak of the settings.
        """
        settings = self.settings
        make_surrogate = SURROGATES.find(settings["activation"])
        neuron_class = self.timing.neuron_class(self)
        return neuron_class(
            make_surrogate(settings["alpha"], settings["beta"]),
            settings["update"],
            settings["default_threshold"],
            settings["leak"],
            settings["learn_threshold"],
            settings["learn_leak"],
            settings["initial_potential"],
            settings["membrane_floor"],
        )

    def change(self, **settings: Any) -> "VGG_SNN_STDB_wFeedback":
        """Change settings of a network that is built.

        Parameters
        ----------
        **settings
            New values by name. May be changed: gate, rule and read-out, by name or as
            objects; their settings; timesteps, encoding, predict, output_leak,
            membrane_floor and surprise.

        Returns
        -------
        VGG_SNN_STDB_wFeedback
            The same network.

        Raises
        ------
        ModelError
            If a setting cannot be changed, or has no such value. Then nothing changes.
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

    @property
    def timesteps(self) -> int:
        """Number of timesteps ``T``. To change it, call ``change``."""
        return self.settings["timesteps"]

    @property
    def timing(self) -> EveryTimestep:
        """When layers charge, and when they fire."""
        return timing_of(self.settings["update"])

    @property
    def has_colour(self) -> bool:
        """Whether its images have three channels, in [-1, 1]."""
        return has_colour(self.image_shape[0])

    @property
    def output_leak(self) -> float:
        """Part μ of the logits that is kept per timestep, 0 to 1."""
        return self.settings["output_leak"]

    @property
    def frames(self) -> int:
        """Number of frames of a recording that it takes; 0 if it takes images."""
        if not self.settings["recorded_frames"]:
            return 0
        return self.timesteps

    @property
    def latency(self) -> int:
        """Number of timesteps until an image is answered."""
        return self.timing.latency(self)

    @property
    def has_analog_input(self) -> bool:
        """Whether the input neurons may send other values than 0 and 1."""
        sends_errors = getattr(self.gate, "residual", False)
        return self.has_colour or sends_errors or not self.encoding.uses_draws

    @property
    def graph(self) -> Graph:
        """Which layer takes what from which.

        Returns
        -------
        Graph
            Its ends are "output", and with a decoder "decoded".
        """
        return self._structure().graph

    @property
    def layers(self) -> list[str]:
        """Names of "input" and the spiking layers, those beside the stages last."""
        return self._structure().layers

    @property
    def unknown_part(self) -> str | None:
        """The first part that no architecture makes, for a message, or None."""
        return self._structure().unknown_part

    def _structure(self):
        """Return the Structure of the modules, made anew whenever they change."""
        modules = modules_of(self)
        classes = list(map(type, modules))  # a module may become one of another class
        last = self._last_structure
        if last is None or last.modules != modules or last.classes != classes:
            self._last_structure = Structure(
                modules=modules,
                classes=classes,
                graph=self.make_graph(),
                layers=[INPUT, *self.neurons()],
                unknown_part=find_unknown_part(self),
            )
        return self._last_structure

    # --- what runs it: its step(), or an engine of plugins

    @property
    def runs_by(self) -> str:
        """What runs an evaluation.

        Returns
        -------
        {"event", "dense", "reference"}
            "event": the engine that ``load()`` gave it. "dense": the dense engine,
            which runs many timesteps of a layer at once. "reference": ``step``.
        """
        if self.engine and self.engine.serves():
            return "event"
        if self.runs_dense({}):
            return "dense"
        return "reference"

    @property
    def is_custom(self) -> bool:
        """Whether it replaces methods, or has forward hooks. Then ``step`` runs it."""
        return self.replaces() or any(map(is_hooked, modules_of(self)))

    def replaces(self, but: Collection[str] = ()) -> bool:
        """Return whether the network replaces a method of this class by its own.

        Parameters
        ----------
        but : collection of str
            Names of methods that do not count.

        Returns
        -------
        bool
            True if its class, or the object itself, has such a method.
        """
        own_class = type(self)
        for name in replaceable_methods().difference(but):
            is_own = getattr(own_class, name) is not getattr(VGG_SNN_STDB_wFeedback, name)
            if is_own or name in vars(self):
                return True
        return False

    def runs_dense(self, record: Mapping[str, RecordSpec]) -> bool:
        """Return whether the dense engine can run it, and not ``step``.

        Parameters
        ----------
        record : mapping of {str: RecordSpec}
            What is to be recorded, which only ``step`` can.

        Returns
        -------
        bool
            False also if ``batched`` is.
        """
        if record or not self.batched:
            return False
        return plugins.load_object(plugins.ENGINES["dense"]).supports(self) is None

    def dense_engine(self, x: torch.Tensor, record: Mapping[str, RecordSpec] | None) -> Any:
        """Return a dense engine for a run.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            Images of the run.
        record : mapping of {str: RecordSpec} or None
            What is to be recorded.

        Returns
        -------
        DenseEngine or None
            None if ``step`` must run it.
        """
        if not self.runs_dense(record):
            return None
        return plugins.load_object(plugins.ENGINES["dense"])(self, x)

    def refresh(self) -> None:
        """Have the engine prepare again.

        This is needed after changes of weights that it cannot notice. Such are changes
        in place by ``.data``, a NumPy array or another process, and changes of
        inference tensors. Every evaluation of the scripts begins with it.
        """
        if self.engine:
            self.engine.refresh()


def run_graph(graph: Graph, run: RunState, signal: torch.Tensor) -> dict[str, torch.Tensor]:
    """Run one timestep of a graph.

    Parameters
    ----------
    graph : Graph
        The graph of a network, or of a part of it.
    run : RunState
        It is changed. It keeps what neurons send, and notes it for whoever counts
        operations.
    signal : Tensor of shape (B, ...)
        What arrives at the graph's input.

    Returns
    -------
    dict of {str: Tensor of shape (B, ...)}
        What each node, and each end, sends.
    """
    sent = graph.step(run.graph_state, signal)
    for name in graph.neuron_names:
        run.spikes[name] = sent[name]
    for name in (*graph.neuron_names, *graph.pools):
        run.log_activity(name, sent[name], [run.steps])
    return sent


@dataclass(frozen=True)
class Structure:
    """What follows from the modules of a network, and is kept until they change.

    Attributes
    ----------
    modules : list of nn.Module
        The network and its modules.
    classes : list of type
        Their classes.
    graph : Graph
        Which layer takes what from which.
    layers : list of str
        "input", and the names of the spiking layers.
    unknown_part : str or None
        The first part that no architecture makes.
    """

    modules: list[nn.Module]
    classes: list[type]
    graph: Graph
    layers: list[str]
    unknown_part: str | None


@functools.cache
def replaceable_methods() -> frozenset[str]:
    """Return the names of the methods and properties of VGG_SNN_STDB_wFeedback.

    Without those of every nn.Module but ``forward``, and without those that make the
    layers and the graph: what these make is looked at itself.
    """
    names = set(dir(VGG_SNN_STDB_wFeedback))
    names -= {*dir(nn.Module), "new_neuron", "build", "make_graph"}
    names.add("forward")
    methods = set()
    for name in names:
        if isinstance(getattr(VGG_SNN_STDB_wFeedback, name), property | FunctionType):
            methods.add(name)
    return frozenset(methods)
