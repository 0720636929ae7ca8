"""Contrastive pretraining without labels.

Chen, Kornblith, Norouzi, Hinton 2020 (SimCLR), https://arxiv.org/abs/2002.05709
"""

from __future__ import annotations

from torch import Tensor, nn

from graphfsl.core.learner import Encode, Objective
from graphfsl.functional.contrastive import nt_xent
from graphfsl.io.errors import require

__all__ = ["SimCLR"]


class SimCLR(Objective):
    """Teach an encoder to recognise two augmented views of one image among those of all others.

        l_ij = -log( exp(sim(z_i, z_j) / t) / sum_{k != i} exp(sim(z_i, z_k) / t) )   (equation 1)

    with z = g(f(x)), sim the cosine, i and j two augmentations of one image.

    Args:
        dim: d, the length of f(x).
        temperature: t. The augmentation is the run's, `pretrain.augment`, of which SimCLR needs
            much.
        hidden, out: sizes of the projection g, an MLP of two layers.

    Shapes:
        forward: images (B, n, *S), labels (B, n) -> scalar; the first two of B are views of the
            same images.

    Source:
        equation 1 and algorithm 1.
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
        """The loss of a batch whose first two rows are views of the same images: a scalar.

        Args:
            encode: images (m, *S) -> vectors (m, d).
            x: (B, n, *S) images.
            y: (B, n) labels, which are not read.
        """
        one, two = self.project(encode(x[:2].flatten(0, 1))).chunk(2)
        return nt_xent(one, two, self.temperature)
