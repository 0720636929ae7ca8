"""The path of the group lasso against scikit-learn and FISTA."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.functional.group_lasso import leaving, shrink


def basis(n: int = 14, r: int = 3) -> Tensor:
    """Orthonormal columns (2, n, r)."""
    x = torch.randn(2, n, r, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.linalg.qr(x)[0]


def test_errors_leave_zero_in_the_order_of_scikit_learn() -> None:
    """The path of gamma is that of MultiTaskLasso on (I - H)."""
    from sklearn.linear_model import MultiTaskLasso

    u, g = basis(), torch.Generator().manual_seed(6)
    y = F.one_hot(torch.randint(3, (2, 14), generator=g), 3).double()
    found = leaving(u, y, penalties=12, smallest=1e-2, steps=200)
    for b in range(2):
        x = torch.eye(14).double() - u[b] @ u[b].T
        free = x @ y[b]
        most = float(free.norm(dim=-1).max())
        count = torch.zeros(14)
        for k in range(12):
            penalty = most * 1e-2 ** ((k + 1) / 12)
            lasso = MultiTaskLasso(
                alpha=penalty / 14, fit_intercept=False, max_iter=50_000, tol=1e-12
            )
            gamma = torch.from_numpy(lasso.fit(x.numpy(), free.numpy()).coef_.T)
            count += gamma.norm(dim=-1) > 1e-6
        assert count.min() < count.max()
        # the first to leave has k and all of lambda
        assert torch.equal((found[b] - 1e-6).floor().float(), count)


def test_the_path_is_that_of_fista() -> None:
    """Beck and Teboulle 2009, equations 4.1 to 4.3, node by node; without its momentum ten steps
    end elsewhere.
    """
    u, g = basis(20, 5), torch.Generator().manual_seed(7)
    y = F.one_hot(torch.randint(3, (2, 20), generator=g), 3).double()
    found = leaving(u, y, penalties=8, smallest=1e-3, steps=4)
    for b in range(2):
        hat = u[b] @ u[b].T
        free = y[b] - hat @ y[b]
        most = max(float(row.norm()) for row in free)
        x = torch.zeros(20, 3).double()
        count, last = [0] * 20, [float(row.norm()) / most for row in free]
        for k in range(8):
            penalty = most * 1e-3 ** ((k + 1) / 8)
            z, t = x, 1.0
            for _ in range(4):
                step = [max(0.0, 1 - penalty / float(row.norm())) * row for row in free + hat @ z]
                new, s = torch.stack(step), (1 + math.sqrt(1 + 4 * t**2)) / 2
                z, x, t = new + (t - 1) / s * (new - x), new, s
            for i, row in enumerate(free + hat @ x):
                reach = float(row.norm()) / penalty
                count[i] += reach > 1
                last[i] = reach if reach <= 1 else last[i]
        expected = torch.tensor(
            [c + v for c, v in zip(count, last, strict=True)], dtype=torch.float64
        )
        torch.testing.assert_close(found[b], expected)


def test_few_steps_of_the_path_give_its_order() -> None:
    u, g = basis(40, 5), torch.Generator().manual_seed(7)
    y = F.one_hot(torch.randint(3, (2, 40), generator=g), 3).double()
    few, many = leaving(u, y), leaving(u, y, steps=300)
    assert (few.floor() - many.floor()).abs().sum() <= 2
    # no ties, which the order of the pool would decide
    assert all(few[b].unique().numel() == 40 for b in range(2))


def test_shrinking_is_the_proximal_map() -> None:
    z = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = shrink(z, torch.full((1, 1, 1), 1.2, dtype=torch.float64))[0]
    for i in range(5):
        x = z[0, i].clone().mul(0.5).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [x], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-14
        )

        def closure(
            x: Tensor = x, i: int = i, optimizer: torch.optim.Optimizer = optimizer
        ) -> Tensor:
            optimizer.zero_grad()
            value = 0.5 * (x - z[0, i]).square().sum() + 1.2 * (x.square().sum() + 1e-16).sqrt()
            value.backward()
            return value

        optimizer.step(closure)
        torch.testing.assert_close(found[i], x.detach(), atol=1e-4, rtol=1e-4)
