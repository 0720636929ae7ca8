"""Classifiers of cosines follow the gradient, with directions of length 1."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.functional.cosine_classifier import tuned_cosines


def test_it_is_sgd_with_momentum_and_rows_that_are_normalised_in_place() -> None:
    g = torch.Generator().manual_seed(3)
    z = F.normalize(torch.randn(7, 4, generator=g, dtype=torch.float64), dim=-1)
    start = F.normalize(torch.randn(3, 4, generator=g, dtype=torch.float64), dim=-1)
    label = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    share = F.one_hot(label, 3).double() / 7
    seen = torch.ones(3, dtype=torch.bool)
    found = tuned_cosines(start, z, share, seen, 5, 0.1, 20.0, momentum=0.9, decay=0.01)

    w = start.clone().requires_grad_()
    sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        sgd.zero_grad()
        F.cross_entropy(20 * z @ w.T, label).backward()
        sgd.step()
        w.data = F.normalize(w.data, dim=-1)
    torch.testing.assert_close(found, w.detach())


def test_directions_of_classes_that_are_not_told_apart_stay() -> None:
    z = F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    start = torch.eye(3)
    share = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]) / 4
    seen = torch.tensor([True, True, False])
    found = tuned_cosines(start, z, share, seen, 3, 0.1, 16.0)
    torch.testing.assert_close(found[2], start[2])
    assert not torch.allclose(found[:2], start[:2])
