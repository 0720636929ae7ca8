"""PFENet's prior: how near a pixel is to the nearest pixel of the object, without parameters.

Tian, Zhao, Shu, Yang, Li, Jia 2020, "Prior Guided Feature Enrichment Network for Few-Shot
Segmentation", https://arxiv.org/abs/2008.01449
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.background import beside_background
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import hide_absent
from graphfsl.io.errors import require

__all__ = ["PFENet"]


class PFENet(Head):
    """Answer with the training-free prior mask of PFENet.

        c_q = max over support pixels s of the class of cos(x_q, x_s)        (equations 3, 4)
        Y_q = (c_q - min c) / (max c - min c + 1e-7), over one query image   (equation 5)

    Of several shots the mean of Y is taken. Y is the probability of the class; where nodes are
    cells of images, the first class is the background, which has what no other class takes. Nodes
    that are whole images have no other cells to be scaled by: their score is scale * c_q for every
    class.

    Args:
        scale: of the cosine of nodes that are whole images, which is not learned.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        section 3.2; with the network that reads the prior PASCAL-5i 60.8 and 61.9 mIoU.

    Deviations:
        the prior alone: the feature enrichment module, which is trained, is left out. A support
        cell is of the class of which it shows most. Features are not masked before the last stage
        of the encoder.
    """

    cannot_export = "takes one class after the other, so that a graph would hold their number"

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__()
        require(scale > 0, f"pfenet.scale must be above 0, not {scale}")
        self.scale = scale

    def score(self, episode: Episode) -> Tensor:
        """Log-probabilities of cells, or scaled cosines of whole images: (B, n, C)."""
        w = episode.w[:, episode.labeled]
        of_class = (w > 0) & (w == w.amax(-1, keepdim=True))  # (B, k, C)
        near = cosine(episode.x, episode.x[:, episode.labeled])  # (B, n, k)
        if episode.cells is None:
            nearest = [_largest(near, of_class[..., c]) for c in range(episode.way)]
            return hide_absent(self.scale * torch.stack(nearest, -1), episode.w)

        cells = episode.cells_per_image
        of_images = near.unflatten(-1, (-1, cells))  # (B, n, shots, cells)
        shown = of_class.unflatten(1, (-1, cells))
        columns = [self.prior(of_images, shown[..., c], cells) for c in range(1, episode.way)]
        return hide_absent(beside_background(torch.stack(columns, -1)), episode.w)

    @staticmethod
    def prior(near: Tensor, shown: Tensor, cells: int) -> Tensor:
        """Y (B, n) of one class: the mean over the support images that show it.

        Args:
            near: (B, n, S, cells) cosines of all nodes to the cells of each support image.
            shown: (B, S, cells) which of these are of the class.
            cells: of an image.
        """
        c = _largest(near, shown).unflatten(1, (-1, cells))  # (B, images, cells, S)
        low, high = c.amin(2, keepdim=True), c.amax(2, keepdim=True)
        there = shown.any(-1)[:, None, None]
        y = torch.where(there, (c - low) / (high - low + 1e-7), 0)
        mean: Tensor = y.sum(-1) / there.sum(-1).clamp_min(1)
        return mean.flatten(1)


def _largest(near: Tensor, shown: Tensor) -> Tensor:
    """The largest of the last axis among those that are shown; -1, the least cosine, of none."""
    return near.masked_fill(~shown.unsqueeze(1), -1.0).amax(-1)
