"""How the nodes of an episode are joined: one dense adjacency, by name and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.schema import make
from graphfsl.functional.affinity import cosine_power, joined, median_distance, pairs, rbf
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.knn import nearest
from graphfsl.functional.propagation import stochastic, symmetric
from graphfsl.io.errors import InputError, require, unknown

KINDS = ("rbf", "cosine", "complete", "learned")
NORMALIZE = ("symmetric", "row")


class NodeScale(nn.Sequential):
    """A positive scale for each node: sigma_i = g(x_i), (…, d) -> (…, 1).

    Source:
        Liu et al. 2019 (TPN), on vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.Linear(dim, 32),
            nn.ReLU(),
            nn.Linear(32, 8),
            nn.ReLU(),
            nn.Linear(8, 1),
            nn.Softplus(),
        )


class Adjacency(nn.Module):
    """Weights >= 0 of the edges between all nodes of an episode, from j (columns) to i (rows).

    The diagonal is zero, and so are the rows and columns of padding.

    Args:
        dim: d, the length of the features.
        kind: "rbf", exp(-d_ij^2 / (2 scale^2)); "cosine", max(0, cos)^power; "complete", 1 between
            all pairs; "learned", softmax_j of a network of |x_i - x_j| (Garcia & Bruna 2018).
        scale: of "rbf": a number, "median" (scale^2 = half the median of d^2 over the episode's
            pairs), or "learned", exp(-mean_c((x_i / sigma_i - x_j / sigma_j)^2) / 2) with a network
            for sigma (Liu et al. 2019).
        power: of "cosine".
        k: None for all edges, else the k heaviest of each node, of either end.
        mutual: keep an edge only where it is among the k heaviest of both ends.
        labels: an edge between two labeled nodes is the probability that they share their class (1
            or 0).
        normalize: None, "symmetric" (D^-1/2 A D^-1/2) or "row" (D^-1 A).
        hidden: width of the network of "learned".

    Shapes:
        forward: an episode of features (B, n, d) -> (B, n, n).

    Raises:
        InputError: for an unknown kind, and for options outside of their range.
    """

    def __init__(
        self,
        dim: int,
        kind: str = "rbf",
        scale: float | str = "median",
        power: float = 3.0,
        k: int | None = None,
        mutual: bool = False,
        labels: bool = False,
        normalize: str | None = None,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise unknown("kind of adjacency", kind, KINDS)
        if normalize is not None and normalize not in NORMALIZE:
            raise unknown("normalize of adjacency", normalize, NORMALIZE)
        require(
            not isinstance(scale, str) or scale in ("median", "learned"),
            f"adjacency.scale must be a number, 'median' or 'learned', not {scale!r}",
        )
        if (k is not None and k < 1) or (not isinstance(scale, str) and scale <= 0):
            raise InputError(
                f"adjacency: k must be 1 or more and scale above 0, not {k} and {scale}"
            )
        self.kind, self.scale, self.power = kind, scale, power
        self.k, self.mutual, self.labels, self.normalize = k, mutual, labels, normalize
        self.sigma = NodeScale(dim) if kind == "rbf" and scale == "learned" else None
        layers = [nn.Linear(dim, hidden), nn.LeakyReLU(), nn.Linear(hidden, 1)]
        self.psi = nn.Sequential(*layers) if kind == "learned" else None

    @property
    def learns(self) -> bool:
        """Whether it has parameters."""
        return self.sigma is not None or self.psi is not None

    def forward(self, episode: Episode) -> Tensor:
        """Features (B, n, d) of an episode -> edge weights (B, n, n), zero at padding."""
        real = pairs(episode.mask)
        a = self.similarity(episode.x, episode.mask, real).masked_fill(~real, 0)
        if self.labels:
            known = episode.w.sum(-1) > 0
            same = joined(episode.w.to(a.dtype)).masked_fill(~real, 0)
            a = torch.where(known.unsqueeze(-1) & known.unsqueeze(-2), same, a)
        if self.k is not None:
            a = nearest(a, self.k, self.mutual)
        if self.normalize is None:
            return a
        return symmetric(a) if self.normalize == "symmetric" else stochastic(a)

    def similarity(self, x: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """Features (B, n, d), mask (B, n), pairs of real nodes (B, n, n) -> weights (B, n, n)."""
        if self.kind == "complete":
            return real.to(x.dtype)
        if self.kind == "cosine":
            return cosine_power(x, self.power)
        if self.psi is not None:
            psi: Tensor = self.psi((x.unsqueeze(-2) - x.unsqueeze(-3)).abs()).squeeze(-1)
            # A node without neighbours has nothing to share out: its row stays zero.
            return psi.masked_fill(~real, torch.finfo(psi.dtype).min).softmax(-1)
        if self.sigma is not None:
            z = x / self.sigma(x)
            return rbf(squared_euclidean(z, z) / x.shape[-1], 1.0)
        d = squared_euclidean(x, x)
        if isinstance(self.scale, str):
            return torch.exp(-d / median_distance(d, mask))
        return rbf(d, float(self.scale))


def make_adjacency(entry: str | Mapping[str, Any], dim: int, where: str) -> Adjacency:
    """The adjacency of "cosine", or of {kind: rbf, scale: learned, k: 10}, with options checked."""
    options = {"kind": entry} if isinstance(entry, str) else entry
    adjacency: Adjacency = make(Adjacency, options, where, dim=dim)
    return adjacency
