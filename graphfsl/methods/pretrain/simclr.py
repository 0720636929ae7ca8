"""Contrastive pretraining without labels. Chen, Kornblith, Norouzi, Hinton 2020 (SimCLR),
https://arxiv.org/abs/2002.05709
"""

from __future__ import annotations

from torch import Tensor, nn

from graphfsl.core.learner import Encode, Objective
from graphfsl.functional.contrastive import nt_xent
from graphfsl.io.errors import require

__all__ = ["SimCLR"]


class SimCLR(Objective):
    """l_ij = -log( exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t) ),  z = g(f(x)),
    sim the cosine, i and j two augmentations of one image (equation 1).

    temperature: t. dim: d, the length of f(x). hidden, out: sizes of the projection g, an MLP of
    two layers. The augmentation is the run's: `pretrain.augment`, of which SimCLR needs much.

    forward: images (B, n, *S), the first two of B being views of the same images, labels (B, n) ->
        scalar.
    Source: equation 1 and algorithm 1.
    """

    family = "self-supervised"
    views = 2

    def __init__(
        self, dim: int, temperature: float = 0.5, hidden: int = 128, out: int = 64
    ) -> None:
        super().__init__()
        require(temperature > 0, f"simclr.temperature must be above 0, not {temperature}")
        self.temperature = temperature
        self.project = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, encode: Encode, x: Tensor, y: Tensor) -> Tensor:
        one, two = self.project(encode(x[:2].flatten(0, 1))).chunk(2)
        return nt_xent(one, two, self.temperature)
