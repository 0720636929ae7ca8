"""Pairwise distances and similarities."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def squared_euclidean(
    a: Float[Tensor, "*lead n d"], b: Float[Tensor, "*lead m d"]
) -> Float[Tensor, "*lead n m"]:
    """Squared distances of all rows of a from all rows of b.

        ||a_i - b_j||^2 = ||a_i||^2 + ||b_j||^2 - 2 a_i . b_j, at least zero

    Both are first moved by the first row of b, which changes no distance: what all rows of a table
    have in common would otherwise take the digits of their differences. It is one row, not their
    mean, since others may be padding.

    Args:
        a: (…, n, d).
        b: (…, m, d).

    Returns:
        (…, n, m).
    """
    if b.shape[-2]:
        centre = b[..., :1, :].detach()
        a, b = a - centre, b - centre
    squares = a.square().sum(-1).unsqueeze(-1) + b.square().sum(-1).unsqueeze(-2)
    if a.ndim == 3:  # in one pass
        return torch.baddbmm(squares, a, b.mT, alpha=-2).clamp_min(0)
    return (squares - 2 * a @ b.mT).clamp_min(0)


def nearest_row(
    a: Float[Tensor, "n d"], blocks: Iterable[Float[Tensor, "_ d"]]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """The row of a long table that is nearest to each row of a.

    Args:
        a: (n, d).
        blocks: the table, some rows (m, d) at a time.

    Returns:
        (n,) the row's number in the whole table, and (n,) its distance, infinity for no table.
    """
    nearest = a.new_full((len(a),), float("inf"))
    row, before = torch.zeros(len(a), dtype=torch.long, device=a.device), 0
    for block in blocks:
        # without the shortcut by products, which takes the digits of small differences
        distances = torch.cdist(a, block, compute_mode="donot_use_mm_for_euclid_dist")
        least, place = distances.min(1)
        row = torch.where(least < nearest, place + before, row)
        nearest, before = torch.minimum(nearest, least), before + len(block)
    return row, nearest


def cosine(
    a: Float[Tensor, "*lead n d"], b: Float[Tensor, "*lead m d"]
) -> Float[Tensor, "*lead n m"]:
    """Cosines of the angles between all rows of a and all rows of b.

    Args:
        a: (…, n, d).
        b: (…, m, d).

    Returns:
        (…, n, m) in [-1, 1]; 0 for a row of zeros.
    """
    return a @ F.normalize(b, dim=-1).mT / length(a)


def length(a: Float[Tensor, "*lead n d"]) -> Float[Tensor, "*lead n 1"]:
    """Euclidean lengths, which may divide.

    Args:
        a: (…, n, d).

    Returns:
        (…, n, 1), at least 1e-12.
    """
    norm: Tensor = torch.linalg.vector_norm(a, dim=-1, keepdim=True).clamp_min(1e-12)
    return norm
