"""How samples of a class spread around its mean: directions and covariances."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def class_means(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, "C d"], Int[Tensor, " n"]]:
    """The mean of each class that occurs, in the order of the labels.

    Args:
        features: (n, d).
        labels: (n,) 0 or more; numbers may be missing between them.

    Returns:
        means (C, d), and the row (n,) of each sample's class among them.
    """
    _, row, count = labels.unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(count), features.shape[1]).index_add_(0, row, features)
    return sums / count[:, None], row


def within_class_directions(residuals: Float[Tensor, "n d"], rank: int) -> Float[Tensor, "d r"]:
    """Orthonormal directions in which samples differ most from their class means.

    Args:
        residuals: (n, d) samples less their class means.
        rank: r, at most; there are no more than n or d.

    Returns:
        (d, r), the widest first.
    """
    most = min(*residuals.shape)
    tried = min(rank + 10, most)  # a few more than wanted make the last of them exact
    directions: Tensor = torch.svd_lowrank(residuals, tried, niter=4)[2]
    return directions[:, : min(rank, most)]


def covariance_roots(
    places: Float[Tensor, "n r"], row: Int[Tensor, " n"], classes: int
) -> tuple[Float[Tensor, "C r r"], Float[Tensor, "r r"]]:
    """Symmetric square roots of covariances: root @ root is the covariance.

    Args:
        places: (n, r) samples less their class means.
        row: (n,) the class of each, below `classes`.
        classes: C.

    Returns:
        Of each class (C, r, r), over n_c - 1, zero where it has one sample; and of all classes
        together (r, r), over n - C.
    """
    scatter = torch.stack([places[row == c].mT @ places[row == c] for c in range(classes)])
    freedom = (torch.bincount(row, minlength=classes) - 1).clamp_min(0).to(places.dtype)
    own = scatter / freedom.clamp_min(1)[:, None, None]
    pooled = scatter.sum(0) / freedom.sum().clamp_min(1)
    return _root(own), _root(pooled)


def _root(covariance: Float[Tensor, "*B r r"]) -> Float[Tensor, "*B r r"]:
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * values.clamp_min(0).sqrt().unsqueeze(-2)) @ vectors.mT
    return root
