"""The ANN: a VGG that classifies, and a decoder that predicts its input.

Per image, with encoder F, decoder G and classifier C:

    f[0] = F(x)
    p[t] = G(f[t])
    f[t] = f[t-1] + F(x - p[t-1])
    logits = C(f[T-1])
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from self_models import plugins
from self_models.config import ANNConfig, Network
from self_models.data.images import has_colour, prepare_images
from self_models.errors import ModelError
from self_models.networks.architectures import get_architecture
from self_models.networks.stages import build_stages, pass_on
from self_models.neurons.norms import ACTIVATIONS, NORMS, QCFS
from self_models.running.draws import Draws, draws_for
from self_models.running.graph import nodes_in_a_row
from self_models.running.outputs import ANNOutput, Sums

PRECISIONS = ("float32", "bfloat16")


class VGG_wFeedback(Network):
    """An ANN that classifies images, and predicts them from its features.

    Its activations are ReLU in encoder and classifier and LeakyReLU(0.01) in the
    decoder, or QCFS in all of them. In ``T`` passes the prediction is refined; a
    network without a decoder, or with a norm, runs one pass. `ANNConfig` has its
    settings.

    Attributes
    ----------
    features, generate, classifier : nn.Sequential
        Encoder, decoder and classifier. ``generate`` is None without a decoder.
    timesteps : int
        Number of passes ``T``.
    precision : {"float32", "bfloat16"}
        Precision of matrix products in training. Evaluations are in float32.

    Raises
    ------
    ModelError
        If the settings make no network.
    """

    Settings = ANNConfig
    precision = "float32"

    # --- one pass after the other: the equations

    def run_passes(
        self, x: torch.Tensor, draws: Draws | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run all passes.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W)
            The images.
        draws : Draws or None
            Random numbers of dropout masks, which all passes share. None in evaluation.

        Returns
        -------
        logits : Tensor of shape (B, num_classes)
            After the last pass.
        predictions : list of T Tensors of shape (B, C, H, W)
            After each pass; empty without a decoder.
        """
        masks = {}
        predictions = []
        # f[0] = F(x)
        forked, features = self._encode(x, masks, draws)
        if self.has_feedback:
            decoder = self._decoder_layers(len(x), x.shape[2:])
            # p[0] = G(f[0])
            predictions.append(self._predict(decoder, forked, masks, draws))
            for _ in range(1, self.timesteps):
                # f[t] = f[t-1] + F(x - p[t-1])
                prediction_error = x - predictions[-1]
                more_forked, more_features = self._encode(prediction_error, masks, draws)
                forked = forked + more_forked
                features = features + more_features
                # p[t] = G(f[t])
                predictions.append(self._predict(decoder, forked, masks, draws))
        # logits = C(f[T-1])
        classifier = self.classifier.named_children()
        logits = run_layers("classifier", classifier, features.flatten(1), masks, draws)
        return logits.to(x.dtype), predictions

    def _encode(self, signal, masks, draws):
        """Return the features where the decoder takes them, and those at the end."""
        layers = list(self.features.named_children())
        fork = self.features.fork
        forked = run_layers("features", layers[:fork], signal, masks, draws)
        return forked, run_layers("features", layers[fork:], forked, masks, draws)

    def _predict(self, decoder, forked, masks, draws):
        """Return the decoder's prediction, on the scale of the image."""
        decoded = run_layers("generate", decoder, forked, masks, draws)
        if has_colour(self.image_shape[0]):
            return torch.tanh(decoded)
        return torch.sigmoid(decoded)

    def _decoder_layers(self, batch_size, image_size):
        """Return names and layers of the decoder. In training some may run as one."""
        layers = list(self.generate.named_children())
        if not self.training:
            return layers
        dense = plugins.load_object(plugins.ENGINES["dense"])
        last_name, _ = layers[-1]
        nodes = dense.fold_decoder(
            nodes_in_a_row(layers), last_name, batch_size * self.timesteps, image_size
        )
        return [(node.name, node.module) for node in nodes]

    # --- a run

    def forward(
        self,
        x: torch.Tensor,
        draws: Draws | None = None,
        seed: int | None = None,
        frames: bool = True,
    ) -> ANNOutput:
        """Classify and predict images.

        Parameters
        ----------
        x : Tensor of shape (B, C, H, W), or recordings (B, T, C, H, W)
            Colour images in [-1, 1], others in [0, 1], or bytes of 0 to 255. Of a
            recording it sees the mean frame.
        draws : Draws, optional
            Random numbers of dropout masks, if there is no ``seed``.
        seed : int, optional
            Seed of these random numbers.
        frames : bool, default True
            Whether to return predictions and errors. If False, the output has sums over
            pixels in their place.

        Returns
        -------
        ANNOutput
            Logits, predictions and errors.

        Raises
        ------
        ModelError
            If the images have another shape or type.
        """
        x = prepare_images(x, self, self.frames)
        if self.frames:
            x = x.mean(1)
        with mixed_precision(self, x):
            draws = draws_for(x, draws, seed) if self.training else None
            logits, predictions = self.run_passes(x, draws)
        if not predictions:
            return ANNOutput(logits, None, None)
        predictions = torch.stack(predictions)
        errors = (x - predictions) ** 2
        if frames:
            return ANNOutput(logits, predictions, errors)
        return ANNOutput(logits, None, None, Sums(errors.sum((2, 3, 4)), None))

    @property
    def has_feedback(self) -> bool:
        """Whether there is a decoder."""
        return self.generate is not None

    @property
    def frames(self) -> int:
        """Number of frames of a recording that it takes; 0 if it takes images."""
        return self.settings["recorded_frames"]

    # --- how it is made

    def build(self) -> None:
        """Make the layers; see `Network`.

        Raises
        ------
        ModelError
            For settings that contradict each other.
        """
        plan = get_architecture(self.settings["vgg_name"], self.settings["plan"])
        self.timesteps = self.settings["timesteps"]
        if self.timesteps > 1 and not plan.decoder:
            raise ModelError(
                f"{self.settings['vgg_name']} has no decoder: "
                "the ANN needs one for more than 1 timestep"
            )
        if self.timesteps > 1 and self.settings["norm"] != "none":
            raise ModelError(
                f"norm {self.settings['norm']} keeps one set of statistics, "
                f"but the passes of {self.timesteps} timesteps differ: "
                "give 1 timestep, or norm none"
            )
        self.features, self.generate, self.classifier = build_stages(
            plan, self.image_shape, self.settings, self._nonlinearity
        )
        if self.settings["whitening"]:
            self._fix_whitening()

    def _nonlinearity(self, stage, channels):
        """Return a new nonlinearity of a stage, with the norm before it."""
        norm = NORMS[self.settings["norm"]]
        activation = ACTIVATIONS[self.settings["activation_ann"]](stage, self.settings)
        return norm(channels, activation, self.settings["norm_scale"])

    def _fix_whitening(self):
        """Fix the first convolution, which whitening filters will fill."""
        first = self.features[0]
        num_filters = first.out_channels
        max_filters = 2 * first.weight[0].numel()  # each filter, and its negative
        if num_filters % 2 or num_filters > max_filters:
            raise ModelError(
                f"whitening: the plan's first number, {num_filters}, "
                f"must be even, and at most {max_filters}"
            )
        first.weight.requires_grad_(False)  # ann_wFeedback.py fills it from training images

    @torch.no_grad()
    def clamp_dynamics(self) -> None:
        """Bring learned bounds of QCFS above 0; call it after each optimiser step."""
        for module in self.modules():
            if isinstance(module, QCFS):
                module.bound.clamp_(min=1e-2)


def run_layers(
    stage: str,
    layers: Iterable[tuple[str, nn.Module]],
    signal: torch.Tensor,
    masks: dict,
    draws: Draws | None,
) -> torch.Tensor:
    """Run layers of a stage one after the other.

    Parameters
    ----------
    stage : str
        Name of the stage, such as "features".
    layers : iterable of (str, nn.Module)
        Their names in the stage, and the layers.
    signal : Tensor of shape (B, ...)
        What arrives.
    masks : dict
        Dropout masks by name of the layer, which are drawn when they are missing.
    draws : Draws or None
        Random numbers of the masks. None in evaluation.

    Returns
    -------
    Tensor of shape (B, ...)
        What the last layer gives.
    """
    for position, layer in layers:
        signal = pass_on(layer, signal, masks, f"{stage}.{position}", draws)
    return signal


def mixed_precision(model: Network, x: torch.Tensor) -> AbstractContextManager:
    """Return the context in which a network runs.

    Parameters
    ----------
    model : Network
        An ANN or SNN. In training its ``precision`` counts; an evaluation computes as
        is usual around it.
    x : Tensor
        Its images; only their device counts.

    Returns
    -------
    context manager
        To be entered by ``with``.
    """
    if model.training:
        return in_precision(model.precision, x.device)
    return nullcontext()


def in_precision(precision: str, device: torch.device) -> AbstractContextManager:
    """Return a context in which matrix products are computed in a precision.

    Parameters
    ----------
    precision : {"float32", "bfloat16"}
        The precision.
    device : torch.device
        Where they are computed.

    Returns
    -------
    context manager
        To be entered by ``with``.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
