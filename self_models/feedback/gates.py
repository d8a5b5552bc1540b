"""Input gates: what the input neurons see in the next timestep.

After each timestep the network's prediction of the image is known. A gate compares the
two and decides which input neurons stay *open*, that is, may send spikes in the next
timestep. A gate is a dataclass of its settings with a few methods on tensors. Register
it under a name in `GATES`: the name becomes a choice of ``--gate``, and each setting a
flag.

In this file ``B`` is the number of images, and ``(C, H, W)`` the shape of an image.
"""

from dataclasses import dataclass

import torch

from self_models.errors import ModelError
from self_models.running.state import View
from self_models.settings import NOT_NEGATIVE, Choice, Registry, Switch, objective_setting, setting

GATES = Registry("gate")


# --- no gate


@GATES.register("open")
@dataclass
class Gate:
    """No blocking: every input neuron sees its pixel, whatever is predicted.

    This is also the base class of all gates. A gate of your own overrides the methods.

    Attributes
    ----------
    reacts : bool
        Whether what the input neurons see depends on predictions.
    follows_changes : bool
        Whether the gate can go on when another image replaces the present one.
    reopens : bool
        Whether a closed input neuron can open again, by itself or for another image.
    stays_in_evaluation : bool
        Whether a network that was trained with this gate is evaluated with it, too,
        unless another gate is asked for.
    """

    reacts = False
    follows_changes = True
    reopens = False
    stays_in_evaluation = False

    def check(self, has_feedback: bool) -> None:
        """Check that the gate can work in a network.

        Parameters
        ----------
        has_feedback : bool
            Whether the network has a decoder, which predicts the image.

        Raises
        ------
        ModelError
            If the gate needs predictions and there are none.
        """

    def start(self, image: torch.Tensor) -> View:
        """Return what the input neurons see in the first timestep.

        Parameters
        ----------
        image : Tensor of shape (B, C, H, W)
            The images.

        Returns
        -------
        View
            What they see.
        """
        return View(image)

    def next_view(self, image: torch.Tensor, prediction: torch.Tensor, view: View) -> View:
        """Return what the input neurons see in the next timestep.

        Parameters
        ----------
        image : Tensor of shape (B, C, H, W)
            The images.
        prediction : Tensor of shape (B, C, H, W)
            The prediction after this timestep, on the scale of the image.
        view : View
            What the input neurons have seen in this timestep.

        Returns
        -------
        View
            What they see in the next one.
        """
        return view

    def on_image_change(
        self,
        image: torch.Tensor,
        prediction: torch.Tensor,
        view: View,
        changed: torch.Tensor,
    ) -> View:
        """Return what the input neurons see once another image is shown.

        Parameters
        ----------
        image : Tensor of shape (B, C, H, W)
            The new images.
        prediction : Tensor of shape (B, C, H, W)
            The latest prediction, on the scale of the image.
        view : View
            What the input neurons have seen so far.
        changed : Tensor of shape (B, C, H, W), bool
            Where the new image differs from the one before.

        Returns
        -------
        View
            What they see in the next timestep.
        """
        return self.start(image)

    def held(self, view: View) -> torch.Tensor | None:
        """Return the pixels whose prediction is held at its present value.

        Parameters
        ----------
        view : View
            What the input neurons see.

        Returns
        -------
        Tensor of shape (B, C, H, W), bool, or None
            Where predictions are held. None means nowhere.
        """
        return None

    def judged_by(
        self, image: torch.Tensor, is_open: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | bool]:
        """Return what predictions are compared with. Pictures show it.

        Parameters
        ----------
        image : Tensor of shape (B, C, H, W)
            The images.
        is_open : Tensor of shape (B, C, H, W), bool
            The input neurons that are open.

        Returns
        -------
        target : Tensor of shape (B, C, H, W)
            What predictions are compared with.
        where : Tensor of shape (B, C, H, W), bool, or True
            Where they are compared. True means everywhere.
        """
        return image, True

    def compared(self, view: View) -> torch.Tensor:
        """Count the comparisons that `next_view` makes after a timestep.

        Parameters
        ----------
        view : View
            What the input neurons have seen in this timestep.

        Returns
        -------
        Tensor of shape (B,), int64
            For each image, how many pixels are compared with their prediction.
        """
        return torch.zeros(len(view.image), dtype=torch.int64, device=view.image.device)


GATES.base = Gate


# --- objective 1: a pixel that is predicted is blocked


@dataclass
class Tolerance(Gate):
    """What counts as predicted: ``|prediction - image| < epsilon``.

    Base class of the gates that compare a prediction with the image.

    Attributes
    ----------
    epsilon : float, >= 0
        Tolerance, on the scale of the image. With 0 nothing counts as predicted.
    together : bool
        Whether a pixel counts as predicted only if all its channels are.
    """

    epsilon: float = setting(
        0.1,
        NOT_NEGATIVE,
        "pixels predicted within ±epsilon are blocked, on the image's scale; 0: none; "
        "typed alone it means --gate block",
        group="gate",
        common=True,
    )
    together: bool = setting(
        False, Switch(), "a pixel is predicted only if all its channels are", group="gate"
    )

    def check(self, has_feedback: bool) -> None:
        """Raise ModelError if there is a tolerance, but no decoder that predicts."""
        if self.epsilon and not has_feedback:
            raise ModelError(
                "epsilon: blocking needs a decoder: choose an architecture named "
                "..._wFeedback, or epsilon 0"
            )

    def is_predicted(self, image: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """Return which pixels are predicted well enough.

        Parameters
        ----------
        image : Tensor of shape (B, C, H, W)
            What the prediction is compared with.
        prediction : Tensor of shape (B, C, H, W)
            The prediction, on the scale of the image.

        Returns
        -------
        Tensor of shape (B, C, H, W), bool
            Where ``|prediction - image| < epsilon``; with ``together`` in all channels.
        """
        predicted = (prediction - image).abs() < self.epsilon
        if self.together:
            predicted = predicted.all(1, keepdim=True).expand_as(predicted)
        return predicted


@GATES.register("block")
@dataclass
class Blocking(Tolerance):
    """Objective 1: the input neuron of a predicted pixel is blocked.

    Blocked means that the input is 0 from the next timestep on.

    Attributes
    ----------
    blocking : {"permanent", "dynamic"}
        Whether a blocked pixel stays blocked for good, or opens again as soon as a
        prediction misses it.
    latch : bool
        Whether the prediction of a blocked pixel is held, so that it cannot drift off.
    residual : bool
        Whether an open pixel sends its prediction error, image minus prediction with
        its sign, instead of its value (predictive coding, Rao & Ballard 1999).
    """

    blocking: str = objective_setting(
        "permanent",
        Choice(("permanent", "dynamic")),
        "permanent: once blocked, always blocked; dynamic: a blocked pixel may reopen",
        group="gate",
    )
    latch: bool = setting(
        False, Switch(), "hold the prediction of a blocked pixel", group="gate", common=True
    )
    residual: bool = setting(
        False,
        Switch(),
        "an open pixel sends its prediction error instead of its value",
        group="gate",
    )
    reacts = True

    @property
    def reopens(self) -> bool:
        """Whether a blocked pixel can open again."""
        return self.blocking == "dynamic"

    def start(self, image: torch.Tensor) -> View:
        """Open every pixel, because nothing has been predicted yet."""
        everywhere = torch.ones_like(image, dtype=torch.bool)
        return View(image, is_open=everywhere, predicted=~everywhere)

    def next_view(self, image: torch.Tensor, prediction: torch.Tensor, view: View) -> View:
        """Close what is predicted; see `Gate.next_view` for the arguments.

        With ``residual`` the view also has the prediction, which is taken away from
        the image before it is sent.
        """
        predicted = self.is_predicted(image, prediction)
        is_open = self._still_open(predicted, view)
        explained = None
        if self.residual:
            explained = prediction.detach()  # it is an input, so no gradient passes
        # Where a pixel is closed the image is 0, which sends nothing. This is not
        # black, which is -1 in colour images.
        return View(
            image=image * is_open, is_open=is_open, predicted=predicted, explained=explained
        )

    def on_image_change(
        self,
        image: torch.Tensor,
        prediction: torch.Tensor,
        view: View,
        changed: torch.Tensor,
    ) -> View:
        """Judge each changed pixel anew by its prediction, and leave the others.

        See `Gate.on_image_change` for the arguments.
        """
        if self.together:  # a change in one channel is a change of the whole pixel
            changed = changed.any(1, keepdim=True).expand_as(changed)
        now_predicted = self.is_predicted(image, prediction)
        predicted = torch.where(changed, now_predicted, view.predicted)
        now_open = self._still_open(predicted, view)
        is_open = torch.where(changed, now_open, view.is_open)
        # A blocked pixel is 0, and so sends nothing. The prediction is still the latest
        # one, so `explained`, what is taken away from open pixels, stays as it is.
        return view._replace(image=image * is_open, is_open=is_open, predicted=predicted)

    def _still_open(self, predicted: torch.Tensor, view: View) -> torch.Tensor:
        """Return which pixels are open once these are predicted, (B, C, H, W) bool."""
        if self.reopens:
            return ~predicted
        return view.is_open & ~predicted  # a closed pixel stays closed

    def held(self, view: View) -> torch.Tensor | None:
        """Hold the predictions of blocked pixels, with ``latch``."""
        if self.latch:
            return ~view.is_open
        return None

    def compared(self, view: View) -> torch.Tensor:
        """Count the pixels that could change from open to closed, or back.

        Each channel of a pixel counts. See `Gate.compared` for the argument and the
        result.
        """
        if not self.epsilon:  # nothing counts as predicted, so nothing is compared
            return super().compared(view)
        is_compared = view.is_open
        if self.reopens:  # closed pixels are compared, too: they may have to open
            is_compared = torch.ones_like(view.is_open)
        if view.attended is not None:
            is_compared = is_compared & view.attended
        return is_compared.sum((1, 2, 3))


# --- a link: what is predicted is not sent


@GATES.register("reconstruct")
@dataclass
class Reconstruct(Tolerance):
    """A link between a sensor and a receiver that both make the same prediction.

    A pixel that the prediction misses by epsilon or more is open: the sensor sends it,
    which counts as one event. The network is the receiver. It sees the frame as it can
    rebuild it: the sent pixels, and the prediction of all others.
    """

    reacts = True
    reopens = True

    def start(self, image: torch.Tensor) -> View:
        """Send every pixel, because nothing has been predicted yet."""
        everywhere = torch.ones_like(image, dtype=torch.bool)
        return View(image, is_open=everywhere, predicted=~everywhere, events=everywhere)

    def next_view(self, image: torch.Tensor, prediction: torch.Tensor, view: View) -> View:
        """Rebuild the image from its prediction and the pixels that this misses.

        The missed pixels are sent, and are the events of the link. Gradients pass
        through the prediction. See `Gate.next_view` for the arguments.
        """
        predicted = self.is_predicted(image, prediction)
        rebuilt = torch.where(predicted, prediction, image)
        return View(image=rebuilt, is_open=~predicted, predicted=predicted, events=~predicted)

    def on_image_change(
        self,
        image: torch.Tensor,
        prediction: torch.Tensor,
        view: View,
        changed: torch.Tensor,
    ) -> View:
        """Send what the prediction misses of the new image, as in each timestep."""
        return self.next_view(image, prediction, view)

    def compared(self, view: View) -> torch.Tensor:
        """Count every pixel, since the sensor compares all of them."""
        pixels_per_image = view.is_open[0].numel()
        return torch.full_like(super().compared(view), pixels_per_image)
