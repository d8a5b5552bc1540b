"""What a network takes as images: checked, never rescaled in silence."""

import numpy as np
import torch

from self_models.basics.errors import ModelError

TOLERANCE = 1e-4  # how far floats may lie outside their range: interpolation rounds


def scaled(images):
    """uint8 images (B, C, H, W) as float32: grey in [0, 1], colour in [-1, 1]."""
    images = images.float().div_(255)
    return images if images.shape[1] == 1 else images.mul_(2).sub_(1)


def light(images):
    """How bright each value of images (..., C, H, W) is, 0 (black) to 1: |x| of grey ones in [0, 1], (x + 1) / 2 of colour in
    [-1, 1]."""
    return images.abs() if images.shape[-3] == 1 else (images + 1) / 2


def of_light(values):
    """Images (..., C, H, W) in their range, of which values in [0, 1] are the light."""
    return values if values.shape[-3] == 1 else 2 * values - 1


def checked_images(x, model):
    """x (B, C, H, W), a tensor or array, as the model takes it, in the dtype of its weights: uint8 scaled, floats in their range
    as they are.

    Raises ModelError for anything else; on a GPU, which would have to be waited for, the values are not looked at.
    """
    lowest = 0 if model.image_shape[0] == 1 else -1
    wanted = f"a tensor or array (B, {', '.join(map(str, model.image_shape))}), uint8, or float32 or float64 in [{lowest}, 1]"
    x = tensor_of(x)
    if not isinstance(x, torch.Tensor):
        raise ModelError(f"images must be {wanted}, not a {type(x).__name__}: read_images takes files")
    if x.dim() != 4 or tuple(x.shape[1:]) != model.image_shape:
        raise ModelError(f"images must be {wanted}, not of shape {tuple(x.shape)}")
    if x.dtype not in (torch.uint8, torch.float32, torch.float64):
        raise ModelError(f"images must be {wanted}, not {x.dtype}".replace("torch.", ""))
    if x.dtype == torch.uint8:
        x = scaled(x)
    elif x.numel() and x.device.type == "cpu":
        low, high = torch.stack(x.detach().aminmax()).tolist()
        if not (low >= lowest - TOLERANCE and high <= 1 + TOLERANCE):  # not where one is NaN
            raise ModelError(f"images must be {wanted}; these lie in [{low:g}, {high:g}]")
    return x.to(model.features[0].weight.dtype)


def tensor_of(values):
    """A NumPy array as the tensor that shares its memory, anything else as it is."""
    return torch.from_numpy(values) if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" else values


def check_labels(labels, images, classes):
    """Raises ModelError unless labels is a tensor (N,) of whole numbers, one of 0 to classes - 1 for each of the N images."""
    wanted = f"labels must be a tensor ({images},) of whole numbers, 0 to {classes - 1}"
    if not isinstance(labels, torch.Tensor):
        raise ModelError(f"{wanted}, not a {type(labels).__name__}")
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.shape != (images,):
        raise ModelError(f"{wanted}, not {labels.dtype} of shape {tuple(labels.shape)}".replace("torch.", ""))
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ModelError(f"{wanted}; these are {labels.min()} to {labels.max()}")
