"""Within-class covariance normalisation: its equation and its limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.wccn import WCCN
from graphfsl.testing import DIM
from tests.support.base_classes import base_features


def within(x: Tensor, y: Tensor) -> Tensor:
    """The within-class covariance W (d, d)."""
    means, row = class_means(x, y)
    left = x - means[row]
    return left.mT @ left / len(x)


def test_samples_of_a_class_vary_alike_in_all_directions() -> None:
    x, y, _ = base_features()
    part = WCCN(DIM, shrink=1e-6, unit=False)
    part.fit_base(x, y)
    before, after = (within(f, y) for f in (x, part.of_base(x)))
    size = before.diagonal().mean()  # which stays
    torch.testing.assert_close(after, size * torch.eye(DIM), atol=1e-3, rtol=0)


def test_the_map_is_its_equation() -> None:
    x, y, _ = base_features()
    part = WCCN(DIM, shrink=0.5)
    part.fit_base(x, y)
    means, row = class_means(x, y)
    w = sum(torch.outer(r, r) for r in (x - means[row]).double()) / len(x)
    s = w * DIM / w.trace() + 0.5 * torch.eye(DIM)
    root = part.map.double()
    torch.testing.assert_close(root @ s @ root, torch.eye(DIM).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(part.of_base(x), F.normalize(x @ part.map, dim=-1))


def test_much_shrinkage_leaves_directions_as_they_are() -> None:
    x, y, _ = base_features()
    part = WCCN(DIM, shrink=1e6)
    part.fit_base(x, y)
    torch.testing.assert_close(part.of_base(x), F.normalize(x, dim=-1), atol=1e-4, rtol=0)


def test_mistakes_are_one_line() -> None:
    x, y, _ = base_features()
    with pytest.raises(InputError, match="shrink must be above 0"):
        WCCN(DIM, shrink=0)
    means, row = class_means(x, y)
    with pytest.raises(InputError, match="those of the base classes do not"):
        WCCN(DIM).fit_base(means[row], y)
