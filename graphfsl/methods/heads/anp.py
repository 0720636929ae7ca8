"""Attentive neural processes: each point asks those that are known near to it.

Kim et al. 2019, https://arxiv.org/abs/1901.05761
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.io.errors import require
from graphfsl.methods.heads.cnp import CNP
from graphfsl.nn.mlp import relu_layers

__all__ = ["ANP"]


class ANP(CNP):
    """A conditional neural process in which attention takes the place of the mean.

        r(x) = concat_heads sum_i softmax_i(q(x)' q(x_i) / sqrt(d_k)) r_i

    with r_i, g and the loss those of `CNP`. The mean over all known points blurs what each of them
    says; attention lets the answer pass through them.

    Args:
        dim: d, the length of the features.
        outputs: D, the length of a value.
        width: of all layers, of r and of q.
        layers: of h; g has one less, q has two.
        heads: of the attention, each of width / heads numbers.

    Shapes:
        score: features (B, n, d), values (B, n, D) -> (2, B, n, D): standard deviations, and as the
            answer the means.

    Source:
        section 3, the deterministic path with multihead attention.

    Deviations:
        no latent variable, so that an answer is one Gaussian; no self-attention among the known
        points.
    """

    def __init__(
        self, dim: int, outputs: int = 1, width: int = 128, layers: int = 4, heads: int = 8
    ) -> None:
        super().__init__(dim, outputs, width, layers)
        require(
            heads >= 1 and width % heads == 0,
            f"anp.heads must divide anp.width {width}, not be {heads}",
        )
        self.heads = heads
        self.q = relu_layers(dim, width, width)

    def representation(self, episode: Episode, r: Tensor, known: Tensor) -> Tensor:
        """What each node is told by the known points that are like it: (B, n, width)."""
        q = self._of_heads(self.q(episode.x))
        keys = q[:, :, episode.labeled]
        logits = q @ keys.mT / keys.shape[-1] ** 0.5
        there = known.mT.unsqueeze(1)  # (B, 1, 1, k)
        lowest = torch.finfo(logits.dtype).min
        share = logits.masked_fill(there == 0, lowest).softmax(-1) * there  # 0 where none is known
        told: Tensor = share @ self._of_heads(r)
        return told.transpose(1, 2).flatten(2)

    def _of_heads(self, z: Tensor) -> Tensor:
        """(B, n, width) -> (B, heads, n, width / heads)."""
        parts: Tensor = z.unflatten(-1, (self.heads, -1))
        return parts.transpose(1, 2)
