"""Propagation on a sparse graph, by conjugate gradients.

The closed form would need n x n numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graphfsl.functional.conjugate_gradients import conjugate_gradients
from graphfsl.functional.statistics import or_one

ROWS = 500  # of a block that one thread sums: two would wait for each other, up to 64 columns


def union(index: Int[Tensor, "n k"], weight: Float[Tensor, "n k"]) -> Float[Tensor, "n n"]:
    """The sparse matrix of the edges that either end names: W = A + A^T.

    Args:
        index: (n, k) the other end of each edge of node i.
        weight: (n, k) a_ij; an edge that both ends name counts from both.

    Returns:
        (n, n) sparse CSR.
    """
    n, k = index.shape
    start = torch.arange(n, device=index.device).repeat_interleave(k)
    return both_ways(torch.stack([start, index.flatten()]), weight.flatten(), n)


def both_ways(
    edges: Int[Tensor, "2 e"], weight: Float[Tensor, " e"], n: int
) -> Float[Tensor, "n n"]:
    """The sparse matrix of a list of edges in both directions: W = A + A^T.

    Args:
        edges: (2, e) the ends i and j.
        weight: (e,) a_ij; repeated edges are summed.
        n: how many nodes.

    Returns:
        (n, n) sparse CSR.
    """
    ends = torch.cat([edges, edges.flip(0)], 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CSR is in beta
        return torch.sparse_coo_tensor(ends, weight.repeat(2), (n, n)).coalesce().to_sparse_csr()


def symmetric_sparse(w: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Normalise sparse affinities by the degrees of both ends: S = D^-1/2 W D^-1/2.

    Args:
        w: (n, n) sparse CSR, not negative.

    Returns:
        (n, n) sparse CSR; a node without edges has none in S.
    """
    degree = w @ torch.ones(len(w), dtype=w.dtype, device=w.device)
    scale = or_one(degree).rsqrt()
    rows = torch.arange(len(w), device=w.device).repeat_interleave(w.crow_indices().diff())
    values = w.values() * scale[rows] * scale[w.col_indices()]
    return torch.sparse_csr_tensor(w.crow_indices(), w.col_indices(), values, w.shape)


@torch.no_grad()
def propagate_sparse(
    s: Float[Tensor, "n n"], y: Float[Tensor, "n m"], alpha: float, tolerance: float = 1e-8
) -> Float[Tensor, "n m"]:
    """`propagate` on a sparse graph: F = (I - alpha S)^-1 Y by conjugate gradients.

    I - alpha S is positive definite, and the error halves in about sqrt((1 + alpha) / (1 - alpha))
    / 3 steps. Each column has steps of its own and rests once it is solved, so that what is solved
    beside it changes nothing.

    Args:
        s: (n, n) sparse CSR, symmetric, with spectrum in [-1, 1].
        y: (n, m) label weights, or other right sides.
        alpha: how far labels go, in [0, 1).
        tolerance: the residual of a column that is solved, as a share of its right side.

    Returns:
        (n, m), without a derivative.
    """
    return propagate_with(lambda p: torch.addmm(p, s, p, alpha=-alpha), y, alpha, tolerance)


@torch.no_grad()
def propagate_with(
    apply: Callable[[Float[Tensor, "n m"]], Float[Tensor, "n m"]],
    y: Float[Tensor, "n m"],
    alpha: float,
    tolerance: float = 1e-8,
) -> Float[Tensor, "n m"]:
    """`propagate_sparse` where the graph is known by its products alone.

    Args:
        apply: P (n, m) -> (I - alpha S) P, for S as in `propagate_sparse`.
        y: see `propagate_sparse`.
        alpha: see `propagate_sparse`.
        tolerance: see `propagate_sparse`.

    Returns:
        (n, m), without a derivative.
    """
    bound = math.sqrt((1 + alpha) / (1 - alpha)) * math.log(2 / tolerance) / 2
    steps = 10 + math.ceil(2 * bound)
    return conjugate_gradients(lambda p, _: apply(p), y, steps, tolerance, _dots, may_stop=True)


def _dots(a: Float[Tensor, "n m"], b: Float[Tensor, "n m"]) -> Float[Tensor, " m"]:
    """sum_i a_im b_im in double precision.

    The number of columns does not change the order of the sum.
    """
    blocks = zip(a.split(ROWS), b.split(ROWS), strict=True)
    return torch.stack([(x * y).sum(0, dtype=torch.float64) for x, y in blocks]).sum(0)
