"""Spread within classes, beside loops and numpy."""

from __future__ import annotations

import numpy as np
import torch

from graphfsl.functional.within_class import (
    class_means,
    covariance_roots,
    within_class_directions,
)
from graphfsl.testing import DIM
from tests.support.base_classes import base_features


def test_class_means_are_those_of_a_loop_where_labels_are_missing() -> None:
    x, y, _ = base_features(classes=4, each=5)
    means, row = class_means(x, 3 * y + 1)
    assert torch.equal(row, y)
    torch.testing.assert_close(means, torch.stack([x[y == c].mean(0) for c in range(4)]))


def test_roots_squared_are_the_covariances_of_numpy() -> None:
    x, y, _ = base_features(classes=3, each=7)
    x = x.double()
    means, row = class_means(x, y)
    own, pooled = covariance_roots(x - means[row], row, 3)
    for c in range(3):
        expected = torch.from_numpy(np.cov(x[y == c].numpy().T))
        torch.testing.assert_close(own[c] @ own[c], expected)
    every = sum(6 * np.cov(x[y == c].numpy().T) for c in range(3)) / (21 - 3)
    torch.testing.assert_close(pooled @ pooled, torch.from_numpy(np.asarray(every)))


def test_a_class_of_one_sample_has_no_covariance() -> None:
    own, pooled = covariance_roots(torch.zeros(1, DIM), torch.zeros(1, dtype=torch.long), 1)
    assert not own.any() and not pooled.any()


def test_directions_are_the_widest_of_principal_components() -> None:
    x, y, _ = base_features(classes=6, each=200)
    means, row = class_means(x, y)
    directions = within_class_directions(x - means[row], 2)
    values, vectors = torch.linalg.eigh(torch.cov((x - means[row]).mT))
    expected = vectors[:, values.argsort(descending=True)[:2]]
    torch.testing.assert_close((directions.mT @ expected).abs(), torch.eye(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(directions.mT @ directions, torch.eye(2), atol=1e-5, rtol=0)


def test_there_are_no_more_directions_than_samples() -> None:
    assert within_class_directions(torch.randn(3, DIM), DIM).shape == (DIM, 3)
