"""Logistic regression against scikit-learn, and its derivatives."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from graphfsl.functional.logistic_regression import logistic_regression
from tests.support.linear_classifiers import SHAPES, check_gradient, random, support


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("way", "shot", "dim", "unit", "c"),
    [(5, 1, 64, True, 1.0), (5, 5, 64, True, 1.0), (20, 5, 160, True, 1.0), (5, 5, 64, True, 10.0),
     (5, 5, 64, False, 1.0), (5, 20, 8, False, 1.0), (2, 5, 64, True, 1.0)],
)  # fmt: skip
def test_logistic_regression_is_that_of_scikit_learn(
    way: int, shot: int, dim: int, unit: bool, c: float, dtype: torch.dtype
) -> None:
    z, w, query = support(2, way, shot, dim, unit, dtype)
    with torch.no_grad():
        coef, bias = logistic_regression(z, w, c)
    for i in range(2):
        # Of two classes scikit-learn fits the difference v = W_1 - W_0, and 1/2 ||W||^2 is 1/4
        # ||v||^2.
        reference = LogisticRegression(C=2 * c if way == 2 else c, max_iter=10_000, tol=1e-9)
        reference.fit(z[i].double().numpy(), w[i].argmax(-1).numpy())
        sides = (
            torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
            if way == 2
            else torch.ones(1, 1).double()
        )
        want, offset = (
            sides * torch.tensor(reference.coef_),
            sides[:, 0] * torch.tensor(reference.intercept_),
        )
        torch.testing.assert_close(coef[i].double(), want, atol=1e-4, rtol=0)
        torch.testing.assert_close(bias[i].double(), offset, atol=1e-4, rtol=0)
        scores = query[i].double() @ want.T + offset
        torch.testing.assert_close(
            (query[i] @ coef[i].T + bias[i]).double(), scores, atol=2e-4, rtol=0
        )
        assert abs(bias[i].sum()) < 1e-5


def test_logistic_regression_honours_weights() -> None:
    z, w, _ = support(1, 3, 4, 16)
    sample = torch.linspace(0.1, 3, 12, dtype=torch.float64)
    coef, _ = logistic_regression(z, w * sample[:, None])
    reference = LogisticRegression(C=1.0, max_iter=10_000, tol=1e-10)
    reference.fit(z[0].numpy(), w[0].argmax(-1).numpy(), sample.numpy())
    torch.testing.assert_close(coef[0], torch.tensor(reference.coef_), atol=1e-6, rtol=0)


@SHAPES
@pytest.mark.parametrize("c", [1.0, 1e3])
def test_logistic_regression_has_no_gradient_left(n: int, dim: int, c: float) -> None:
    z, w = random(2, n, dim, 3)
    coef, bias = logistic_regression(3 * z, w, c, steps=40)
    f = (3 * z @ coef.mT + bias[:, None]).masked_fill((w.sum(1) == 0)[:, None], float("-inf"))
    error = w.sum(-1, keepdim=True) * f.softmax(-1) - w
    assert (coef / c + error.mT @ (3 * z)).abs().max() < 1e-9
    assert error.sum(1).abs().max() < 1e-9
    assert (coef[1, 2] == 0).all() and bias[1, 2] == 0


@SHAPES
def test_logistic_regression_has_first_and_second_derivatives(n: int, dim: int) -> None:
    check_gradient(
        lambda z, w: logistic_regression(z, w, steps=8, inner=10),
        *random(2, n, dim, 3),
        second=True,
    )
