"""Contrastive loss between two views of the same samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def nt_xent(
    one: Float[Tensor, " n d"], two: Float[Tensor, " n d"], temperature: float
) -> Float[Tensor, ""]:
    """The contrastive loss: each sample is to be recognised in its other view.

    It is the mean of -log( exp(cos(z_i, z_j) / t) / sum_{k != i} exp(cos(z_i, z_k) / t) ) over all
    2n rows z_i of both views; z_j is the same sample in the other view.

    Args:
        one: (n, d) the first view of each sample.
        two: (n, d) the second view.
        temperature: t.

    Returns:
        A scalar.

    Source:
        Chen, Kornblith, Norouzi, Hinton 2020, https://arxiv.org/abs/2002.05709, equation 1.
    """
    z = F.normalize(torch.cat([one, two]), dim=-1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = (z @ z.mT / temperature).masked_fill(itself, float("-inf"))
    other_view = torch.arange(len(z), device=z.device).roll(len(one))
    return F.cross_entropy(similarity, other_view)
