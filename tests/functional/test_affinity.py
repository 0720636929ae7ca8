"""Affinities against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphfsl.functional.affinity import (
    cosine_power,
    joined,
    median_distance,
    pairs,
    rbf,
    std_scaled,
)
from graphfsl.functional.distances import squared_euclidean
from tests.support.tensors import B, C, D, N, normal


def padded() -> Tensor:
    """(B, N) bool: all, five and one real nodes."""
    mask = torch.ones(B, N, dtype=torch.bool)
    mask[1, [2, 6]] = False
    mask[2, 1:] = False
    return mask


def real_distances(z: Tensor, mask: Tensor) -> list[list[float]]:
    """The squared distances of all ordered pairs of different real nodes, task by task."""
    ids = [m.nonzero().squeeze(1).tolist() for m in mask]
    return [
        [float((z[b, i] - z[b, j]).detach().square().sum()) for i in v for j in v if i != j]
        for b, v in enumerate(ids)
    ]


def test_rbf_and_cosine_power_equal_a_loop() -> None:
    z = normal(B, N, D)
    found, power = rbf(squared_euclidean(z, z), 1.7), cosine_power(z, 3.0)
    for b in range(B):
        for i in range(N):
            for j in range(N):
                distance = float((z[b, i] - z[b, j]).detach().square().sum())
                assert found[b, i, j].item() == pytest.approx(math.exp(-distance / (2 * 1.7**2)))
                cos = float(z[b, i] @ z[b, j] / z[b, i].norm() / z[b, j].norm())
                assert power[b, i, j].item() == pytest.approx(max(cos, 0.0) ** 3)


def test_the_median_is_that_of_real_pairs() -> None:
    z, mask = normal(B, N, D), padded()
    found = median_distance(squared_euclidean(z, z), mask)
    assert found.shape == (B, 1, 1)
    for b, distances in enumerate(real_distances(z, mask)[:2]):
        assert found[b].item() == pytest.approx(sorted(distances)[(len(distances) - 1) // 2])
    assert torch.isfinite(found).all(), "a task of one node has no pair, and still a scale"


def test_the_scale_of_epnet_is_the_deviation_of_real_pairs() -> None:
    z, mask = normal(B, N, D).requires_grad_(), padded()
    found = std_scaled(z, mask)
    for b, distances in enumerate(real_distances(z, mask)[:2]):
        mean = sum(distances) / len(distances)
        std = math.sqrt(sum((d - mean) ** 2 for d in distances) / (len(distances) - 1))
        i, j = mask[b].nonzero().squeeze(1)[[0, -1]].tolist()
        assert found[b, i, j].item() == pytest.approx(
            math.exp(-float((z[b, i] - z[b, j]).detach().square().sum()) / std)
        )
    found.sum().backward()
    assert torch.isfinite(z.grad).all()


def test_pairs_are_of_different_real_nodes() -> None:
    found, mask = pairs(padded()), padded()
    for b in range(B):
        for i in range(N):
            for j in range(N):
                assert bool(found[b, i, j]) is (i != j and bool(mask[b, i]) and bool(mask[b, j]))


def test_joined_is_the_probability_of_one_class() -> None:
    w = normal(B, N, C).abs()
    w[0, 2] = 0
    found = joined(w)
    assert not found[0, 2].any() and not found[0, :, 2].any()
    p, q = w[1, 0] / w[1, 0].sum(), w[1, 3] / w[1, 3].sum()
    assert found[1, 0, 3].item() == pytest.approx(sum(float(p[c] * q[c]) for c in range(C)))
