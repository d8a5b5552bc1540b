"""The ANN: a VGG that classifies, and a decoder that predicts its input from its features."""

import torch
from torch import nn

from self_models.basics.errors import ModelError, choose
from self_models.basics.images import checked_images
from self_models.network.plans import IMAGE_SHAPES, find_plan
from self_models.network.stages import build_stages, list_layers, run_stage
from self_models.running.draws import draws_for
from self_models.running.outputs import ANNOutput, image_activation

PRECISIONS = ("float32", "bfloat16")


class VGG_wFeedback(nn.Module):
    """f0 = F(x);  f[t] = f[t-1] + F(x - p[t-1]);  p[t] = G(f[t]);  logits = C(f[T-1])

    ReLU in encoder F and classifier C, LeakyReLU(0.01) in decoder G. Images (B, C, H, W) in [0, 1] with one channel,
    else in [-1, 1]. dataset gives the image's shape; image_shape=(C, H, W) overrides it, plan=[encoder, decoder] overrides
    vgg_name. A plan without feedback runs one step. Raises ModelError for settings that make no network.
    """

    precision = "float32"  # of matrix products in training, one of PRECISIONS; evaluation is always float32

    def __init__(
        self,
        vgg_name="VGG5_wFeedback",
        timesteps=1,
        labels=10,
        dataset="MNIST",
        kernel_size=3,
        dropout=0.2,
        fc_width=4096,
        plan=None,
        image_shape=None,
    ):
        super().__init__()
        self.settings = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        found = find_plan(vgg_name, plan)
        check_timesteps(timesteps)
        check_dropout(dropout)
        if timesteps > 1 and not found.decoder:
            raise ModelError(f"{vgg_name} has no decoder: the ANN needs one for more than 1 timestep")
        self.timesteps = timesteps
        self.image_shape = find_image_shape(dataset, image_shape)
        self.activation = image_activation(self.image_shape[0])
        self.features, self.generate, self.classifier = build_stages(
            found,
            self.image_shape,
            labels,
            fc_width,
            kernel_size,
            nonlinearity=lambda stage: nn.LeakyReLU(0.01) if stage == "generate" else nn.ReLU(),
            dropout=dropout,
        )
        self.to(memory_format=torch.channels_last)

    @property
    def has_feedback(self):
        return self.generate is not None

    def forward(self, x, draws=None, seed=None):
        """x: (B, C, H, W) -> ANNOutput. draws, seed: of the dropout masks, see draws_for. Raises ModelError for other images, see
        checked_images."""
        x = checked_images(x, self)
        with mixed_precision(self, x):
            logits, predictions = self.run(x, draws_for(x, draws, seed) if self.training else None)
        if not predictions:
            return ANNOutput(logits, None, None)
        predictions = torch.stack(predictions)
        return ANNOutput(logits, predictions, (x - predictions) ** 2)

    def run(self, x, draws):
        """(logits, list of T predictions)"""
        masks = {}  # held over all passes

        def stage(name, signal):
            return run_stage(name, list_layers(getattr(self, name)), signal[None], masks, draws)[0]

        f, predictions = stage("features", x), []
        if self.has_feedback:
            predictions.append(self.activation(stage("generate", f)))
            for _ in range(1, self.timesteps):
                f = f + stage("features", x - predictions[-1])
                predictions.append(self.activation(stage("generate", f)))
        return stage("classifier", f.flatten(1)).to(x.dtype), predictions


def mixed_precision(model, x):
    """Context in which a model in training computes its matrix products as model.precision says."""
    enabled = model.training and model.precision == "bfloat16"
    return torch.autocast(x.device.type, torch.bfloat16, enabled=enabled)


def find_image_shape(dataset, image_shape=None):
    """(C, H, W) as given, else that of the named data set. Raises ModelError for no such shape, or an unknown data set."""
    shape = tuple(image_shape or choose("dataset", dataset, IMAGE_SHAPES))
    if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ModelError(f"image_shape must be three whole numbers above 0, (C, H, W), not {shape}")
    return shape


def check_timesteps(timesteps):
    """Raises ModelError for fewer than 1 step."""
    if timesteps < 1:
        raise ModelError(f"timesteps must be at least 1, not {timesteps}")


def check_dropout(p):
    """Raises ModelError unless p is a probability below 1."""
    if not 0 <= p < 1:
        raise ModelError(f"dropout must be at least 0 and below 1, not {p}")
