"""Distances keep their gradient."""

from __future__ import annotations

import torch

from graphfsl.functional.distances import squared_euclidean


def test_distances_keep_their_gradient() -> None:
    a, b = (
        torch.randn(2, 5, 4).double().requires_grad_(),
        torch.randn(2, 3, 4).double().requires_grad_(),
    )
    torch.autograd.gradcheck(squared_euclidean, (a, b))
    torch.autograd.gradgradcheck(squared_euclidean, (a, b))
    with torch.no_grad():
        torch.testing.assert_close(
            squared_euclidean(a, b), (a[:, :, None] - b[:, None]).square().sum(-1)
        )
        empty = squared_euclidean(a, b[:, :0])
        assert empty.shape == (2, 5, 0)
