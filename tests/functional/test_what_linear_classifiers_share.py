"""What logistic regression, ridge regression and the SVM share: padding and weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.logistic_regression import logistic_regression
from graphfsl.functional.ridge import ridge
from graphfsl.functional.svm import crammer_singer
from tests.support.linear_classifiers import SHAPES, random, support

SOLVERS = pytest.mark.parametrize(
    "solve",
    [
        lambda z, w: logistic_regression(z, w)[0],
        lambda z, w: ridge(z, w, torch.tensor(0.5).to(z)),
        crammer_singer,
    ],
    ids=["logistic_regression", "ridge", "crammer_singer"],
)


@SOLVERS
@SHAPES
def test_padding_and_empty_tasks_change_nothing(
    solve: Callable[..., Tensor], n: int, dim: int
) -> None:
    z, w = random(2, n, dim, 3)
    alone = solve(z, w)
    more_z, more_w = F.pad(z, (0, 0, 0, 3), value=100.0), F.pad(w, (0, 0, 0, 3))
    torch.testing.assert_close(solve(more_z, more_w), alone, atol=1e-8, rtol=1e-8)
    z = torch.cat([z, z[:1]]).requires_grad_()
    found = solve(z, torch.cat([w, 0 * w[:1]]))
    torch.testing.assert_close(found[:2], alone, atol=1e-8, rtol=1e-8)
    assert (found[2] == 0).all()
    found.square().sum().backward()
    assert torch.isfinite(z.grad).all() and (z.grad[2] == 0).all()


@SOLVERS
def test_a_node_twice_is_a_node_of_weight_two(solve: Callable[..., Tensor]) -> None:
    z, w, _ = support(2, 3, 2, 8)
    twice = solve(torch.cat([z, z], 1), torch.cat([w, w], 1))
    torch.testing.assert_close(twice, solve(z, 2 * w), atol=1e-7, rtol=1e-6)
