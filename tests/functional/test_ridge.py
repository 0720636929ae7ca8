"""Ridge regression against scikit-learn, and its derivatives."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge

from graphfsl.functional.ridge import ridge
from tests.support.linear_classifiers import SHAPES, check_gradient, random, support


@pytest.mark.parametrize("dim", [3, 30])
def test_ridge_is_that_of_scikit_learn(dim: int) -> None:
    z, w, _ = support(2, 3, 4, dim, unit=False)
    sample = torch.linspace(0.1, 3, 12, dtype=torch.float64)
    found = ridge(z, w * sample[:, None], torch.tensor(0.7, dtype=torch.float64))
    for i in range(2):
        reference = Ridge(0.7, fit_intercept=False).fit(z[i].numpy(), w[i].numpy(), sample.numpy())
        torch.testing.assert_close(found[i], torch.tensor(reference.coef_), atol=1e-9, rtol=1e-9)


@SHAPES
def test_ridge_has_derivatives(n: int, dim: int) -> None:
    penalty = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    check_gradient(lambda z, w: ridge(z, w, penalty), *random(2, n, dim, 3), second=True)
    z, w = random(2, n, dim, 3)
    assert torch.autograd.gradcheck(lambda p: ridge(z, w, p), (penalty,))
