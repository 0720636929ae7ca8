"""Pixels and the cells of feature maps: labels become shares of cells, scores become pixels."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.statistics import or_one

FLOOR = -100.0  # log-probability of a class that is absent, or as good as that


def cell_shares(
    w: Float[Tensor, "M C H W"], size: tuple[int, int]
) -> Float[Tensor, "M C {size[0]} {size[1]}"]:
    """The share of every cell that a class covers: the mean of the pixels' label weights.

    Where a map's sides do not divide the image's, neighbouring cells share the row between them.

    Args:
        w: (M, C, H, W) label weights of pixels; a pixel that has none counts for no class.
        size: (h, w) of the feature map.

    Returns:
        (M, C, h, w).
    """
    return F.adaptive_avg_pool2d(w, size)


def equal_images(shares: Float[Tensor, "B k C h w"]) -> Float[Tensor, "B k C h w"]:
    """Scale label weights so that in every class each image that shows it weighs the same.

    The weights of a class keep their sum over all images. Its weighted mean is then the mean over
    images of masked means, as PANet's, and not that of all pixels together, in which a large object
    would outweigh a small one. Weights of one image stay as they are.

    Args:
        shares: (B, k, C, h, w) of k images.

    Returns:
        (B, k, C, h, w).
    """
    of_image = shares.sum((-2, -1), keepdim=True)
    shown = (of_image > 0).sum(1, keepdim=True).clamp_min(1)
    equal = of_image.sum(1, keepdim=True) / shown
    return shares * (equal / or_one(of_image))


def pixel_log_probabilities(
    scores: Float[Tensor, "B Q h w C"], size: tuple[int, int]
) -> Float[Tensor, "B Q C H W"]:
    """Scores of cells as log-probabilities of pixels, bilinear between the middles of cells.

    A class without support has the smallest value that there is, exp(FLOOR), so that nothing near
    it becomes no number.

    Args:
        scores: (B, Q, h, w, C).
        size: (H, W) of the image.

    Returns:
        (B, Q, C, H, W), not normalised between cells.
    """
    logs = scores.float().log_softmax(-1).clamp_min(FLOOR).movedim(-1, 2)
    pixels: Tensor = F.interpolate(logs.flatten(0, 1), size, mode="bilinear", align_corners=False)
    of_images: Tensor = pixels.unflatten(0, logs.shape[:2])
    return of_images
