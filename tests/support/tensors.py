"""Tensors in double precision, and loops over their numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

B, N, M, D, C = 3, 7, 4, 5, 4  # tasks, nodes, other nodes, dimensions, classes
FLOATS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers around zero."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from 0 to 1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(a: Tensor, b: Tensor, function: object) -> Tensor:
    """(…, n, d), (…, m, d) -> (…, n, m) by a function of two lists of numbers."""
    out = a.new_empty(*a.shape[:-1], b.shape[-2])
    for lead in (
        torch.cartesian_prod(*(torch.arange(s) for s in a.shape[:-2])).view(-1, a.ndim - 2).tolist()
    ):
        for i, x in enumerate(a[tuple(lead)].tolist()):
            for j, y in enumerate(b[tuple(lead)].tolist()):
                out[(*lead, i, j)] = function(x, y)  # type: ignore[operator]
    return out


def weights(seed: int = 0) -> Tensor:
    """(B, N, C) soft labels; class 2 has no weight in task 1, nodes 5 and 6 of task 2 are
    padding.
    """
    w = uniform(B, N, C, seed=seed)
    w[1, :, 2] = 0
    w[2, 5:] = 0
    w[0, 0] = torch.tensor([0.0, 1, 0, 0])
    return w


def naive_prototypes(z: Tensor, w: Tensor) -> Tensor:
    """(B, C, d) means of nodes by their label weights, number by number."""
    out = torch.zeros(z.shape[0], w.shape[2], z.shape[2], dtype=torch.float64)
    for b in range(z.shape[0]):
        for c in range(w.shape[2]):
            total = sum(w[b, :, c].tolist())
            for k in range(z.shape[2]):
                if total > 0:
                    out[b, c, k] = (
                        sum(float(w[b, i, c] * z[b, i, k]) for i in range(z.shape[1])) / total
                    )
    return out


LEADS = pytest.mark.parametrize("lead", [(B,), (2, B), (2, 2, B)], ids=str)
