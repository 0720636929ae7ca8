"""Problems for linear classifiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode


def support(
    batch: int, way: int, shot: int, dim: int, unit: bool = True, dtype: Any = torch.float64
) -> Any:
    """Nodes (B, n, d) around class means, one-hot weights (B, n, C), other nodes (B, m, d)."""
    g = torch.Generator().manual_seed(way * 1000 + shot * 100 + dim)
    mean = 0.3 * torch.randn(batch, way, 1, dim, generator=g, dtype=torch.float64)
    x = (mean + torch.randn(batch, way, shot + 3, dim, generator=g, dtype=torch.float64)).to(dtype)
    x = F.normalize(x, dim=-1) if unit else x
    w = torch.eye(way, dtype=dtype).repeat_interleave(shot, 0).expand(batch, -1, -1).contiguous()
    return x[:, :, :shot].flatten(1, 2), w, x[:, :, shot:].flatten(1, 2)


def random(batch: int, n: int, dim: int, way: int) -> tuple[Tensor, Tensor]:
    """Small nodes and soft label weights; class way - 1 is absent from task 1, whose last node is
    padding.
    """
    g = torch.Generator().manual_seed(n * 10 + dim)
    z = torch.randn(batch, n, dim, generator=g, dtype=torch.float64)
    w = torch.rand(batch, n, way, generator=g, dtype=torch.float64)
    z[0, 1] = z[0, 0]
    w[1, :, way - 1] = w[1, n - 1] = 0
    return z, w


SHAPES = pytest.mark.parametrize(("n", "dim"), [(5, 7), (7, 2)], ids=["n<=d", "n>d"])


def check_gradient(
    function: Callable[..., Any], z: Tensor, w: Tensor, second: bool = False
) -> None:
    """First (and second) derivatives are those of finite differences."""
    seen = w > 0  # a label that is not there stays so
    z, w = z.requires_grad_(), w.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, w: function(z, w * seen), (z, w), fast_mode=True)
    if second:
        assert torch.autograd.gradgradcheck(
            lambda z, w: function(z, w * seen), (z, w), fast_mode=True
        )


def linear_episode(way: int = 3, shot: int = 2, dim: int = 8) -> Episode:
    """Two tasks of `support`, the other nodes as queries."""
    z, w, query = support(2, way, shot, dim)
    return Episode(
        torch.cat([z, query], 1), F.pad(w, (0, 0, 0, query.shape[1])), z.shape[1], query.shape[1]
    )
