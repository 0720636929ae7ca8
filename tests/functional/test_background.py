"""Classes against the rest, and the background."""

from __future__ import annotations

import torch

from graphfsl.functional.background import beside_background


def test_it_is_the_probability_that_all_are_as_told() -> None:
    p = torch.rand(7, 3)
    found = beside_background(p)
    for row in range(7):
        for column in range(4):
            right = 0.0
            for c in range(3):
                own = p[row, c] if c + 1 == column else 1 - p[row, c]
                right += float(own.log())
            assert abs(float(found[row, column]) - right) < 1e-4


def test_one_class_is_there_from_a_half_on() -> None:
    p = torch.tensor([[0.0], [0.49], [0.51], [1.0]])
    found = beside_background(p)
    assert found.argmax(-1).tolist() == [0, 0, 1, 1] and bool(found.isfinite().all())
    torch.testing.assert_close(found.softmax(-1)[:, 1:], p, atol=1e-5, rtol=1e-5)
