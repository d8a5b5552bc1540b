"""The ANN: a VGG that classifies, and a decoder that predicts its input from its features."""

from contextlib import nullcontext

import torch

from self_models import assembly
from self_models.basics import ModelError
from self_models.basics.images import checked_images, has_colour
from self_models.config import ANNConfig, Network
from self_models.layers.architectures import find_plan
from self_models.layers.norms import ACTIVATIONS, NORMS, QCFS
from self_models.layers.stages import build_stages, pass_on
from self_models.runtime.draws import draws_for
from self_models.runtime.graph import in_a_row
from self_models.runtime.outputs import ANNOutput, Sums

PRECISIONS = ("float32", "bfloat16")


class VGG_wFeedback(Network):
    """f0 = F(x);  f[t] = f[t-1] + F(x - p[t-1]);  p[t] = G(f[t]);  logits = C(f[T-1])

    ReLU in encoder F and classifier C, LeakyReLU(0.01) in decoder G; or QCFS in all. Images (B, C, H, W) in [-1, 1] in
    colour, else in [0, 1]. Settings: ANNConfig in config.py. An architecture without feedback runs one step, and so
    does a network with a norm. Raises ModelError for settings that make no network."""

    Settings = ANNConfig
    precision = (
        "float32"  # of matrix products in training, one of PRECISIONS; evaluation is in float32
    )
    frames = property(
        lambda self: self.settings["recorded_frames"]
    )  # of a recording that it takes; 0: it takes images

    def build(self):
        """Make the layers. Raises ModelError for settings that contradict each other."""
        plan = find_plan(self.settings["vgg_name"], self.settings["plan"])
        self.timesteps = self.settings["timesteps"]
        if self.timesteps > 1 and not plan.decoder:
            raise ModelError(
                f"{self.settings['vgg_name']} has no decoder: the ANN needs one for more than 1 timestep"
            )
        if self.timesteps > 1 and self.settings["norm"] != "none":
            raise ModelError(
                f"norm {self.settings['norm']} keeps one set of statistics, but the passes of {self.timesteps} timesteps differ: "
                "give 1 timestep, or norm none"
            )
        self.features, self.generate, self.classifier = build_stages(
            plan, self.image_shape, self.settings, self._nonlinearity
        )
        if self.settings["whitening"]:
            width, most = self.features[0].out_channels, 2 * self.features[0].weight[0].numel()
            if width % 2 or width > most:
                raise ModelError(
                    f"whitening: the plan's first number, {width}, must be even, and at most {most}"
                )
            self.features[0].weight.requires_grad_(
                False
            )  # filled from training images, see ann_wFeedback.py

    def _nonlinearity(self, stage, channels):
        own = self.settings
        return NORMS[own["norm"]](
            channels, ACTIVATIONS[own["activation_ann"]](stage, own), own["norm_scale"]
        )

    @torch.no_grad()
    def clamp_dynamics(self):
        """Bring learned bounds of the nonlinearity back above 0; call after each optimiser step."""
        for module in self.modules():
            if isinstance(module, QCFS):
                module.bound.clamp_(min=1e-2)

    @property
    def has_feedback(self):
        return self.generate is not None

    def forward(self, x, draws=None, seed=None, frames=True):
        """x: (B, C, H, W), or recordings (B, T, C, H, W), of each of which it sees the mean frame, -> ANNOutput. draws, seed: of
        the dropout masks, see draws_for; frames: else predictions and errors are None, and sums has their place. Raises
        ModelError for other images, see checked_images."""
        x = checked_images(x, self, self.frames)
        x = x.mean(1) if self.frames else x
        with mixed_precision(self, x):
            logits, predictions = self.run(x, draws_for(x, draws, seed) if self.training else None)
        if not predictions:
            return ANNOutput(logits, None, None)
        predictions = torch.stack(predictions)
        errors = (x - predictions) ** 2
        if frames:
            return ANNOutput(logits, predictions, errors)
        return ANNOutput(logits, None, None, Sums(errors.sum((2, 3, 4)), None))

    def run(self, x, draws):
        """(logits, list of T predictions)"""
        masks, activation = (
            {},
            torch.tanh if has_colour(self.image_shape[0]) else torch.sigmoid,
        )  # masks are held over all passes
        encoder = list(self.features.named_children())

        def stage(name, layers, signal):
            for position, layer in layers:
                signal = pass_on(layer, signal, masks, f"{name}.{position}", draws)
            return signal

        def encode(signal):
            forked = stage("features", encoder[: self.features.fork], signal)
            return forked, stage("features", encoder[self.features.fork :], forked)

        def predict():
            return activation(stage("generate", decoder, forked))

        (forked, f), predictions = encode(x), []
        if self.has_feedback:
            decoder = list(self.generate.named_children())
            if self.training:
                dense = assembly.load_object(assembly.ENGINES["dense"])
                nodes = dense.joined_decoder(
                    in_a_row(decoder), decoder[-1][0], len(x) * self.timesteps, x.shape[2:]
                )
                decoder = [(node.name, node.module) for node in nodes]
            predictions.append(predict())
            for _ in range(1, self.timesteps):
                forked, f = (
                    so_far + more
                    for so_far, more in zip((forked, f), encode(x - predictions[-1]), strict=True)
                )
                predictions.append(predict())
        return stage("classifier", self.classifier.named_children(), f.flatten(1)).to(
            x.dtype
        ), predictions


def mixed_precision(model, x):
    """Context in which a model in training computes its matrix products as model.precision says; else as they are computed
    around it."""
    return in_precision(model.precision, x.device) if model.training else nullcontext()


def in_precision(precision, device):
    """Context in which matrix products are computed in one of PRECISIONS."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
