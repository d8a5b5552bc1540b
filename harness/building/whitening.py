"""A fixed first layer that whitens the training images' patches: what it sends is uncorrelated, each channel of variance 1."""

import torch
import torch.nn.functional as F

SMALL = 5e-4  # added to each variance, so that faint patterns are not blown up
PATCHES = 5_000_000  # from about so many the patterns are found, of images evenly spread over the set


@torch.no_grad()
def whiten_first_layer(model, images):
    """Fill an ANN's first convolution with the whitening filters of an ImageSet's patches, and their negatives; a line on it."""
    weight = model.features[0].weight
    each, size = weight.shape[0] // 2, weight.shape[-1]
    used = max(1, PATCHES // images.images[0, 0].numel())
    index = torch.arange(0, len(images), -(-len(images) // used))
    filters, share = whitening_filters((images.batch(part).images.flatten(0, -4) for part in index.split(100)), size, each)
    weight.copy_(torch.cat([filters, -filters]).view_as(weight))
    return f"whitening: {each} patterns of {size}x{size} pixels have {100 * share:.1f} % of {len(index)} images' variance"


def whitening_filters(batches, size, count):
    """(`count` filters (count, C size size), their share of all variance): the leading eigenvectors of the patches' covariance,
    each divided by the root of its eigenvalue + 5e-4. batches: of images (B, C, H, W)."""
    number, sums, squares = 0, 0.0, 0.0
    for images in batches:
        patches = F.unfold(images.double(), size).transpose(1, 2).flatten(0, 1)
        number, sums, squares = number + len(patches), sums + patches.sum(0), squares + patches.t() @ patches
    mean = sums / number
    variances, patterns = (found.flip(-1) for found in torch.linalg.eigh(squares / number - mean.outer(mean)))
    filters = patterns[:, :count] / (variances[:count].clamp(min=0) + SMALL).sqrt()
    return filters.t().float(), (variances[:count].sum() / variances.sum()).item()
