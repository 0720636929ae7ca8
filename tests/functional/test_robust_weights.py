"""Weights under which a wrong label counts less."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.functional.prototypes import prototypes
from graphfsl.functional.robust_weights import (
    median_weights,
    similarity_weights,
    trimmed_weights,
)


def median(x: Tensor, w: Tensor | None = None, steps: int = 200) -> Tensor:
    """The spatial median of one class's nodes (n, d) with weights (n,)."""
    w = torch.ones(len(x), 1).to(x) if w is None else w[:, None]
    return prototypes(x[None], median_weights(x[None], w[None], steps))[0, 0]


def test_the_median_of_three_zeros_and_a_ten_is_zero() -> None:
    x = torch.tensor([[0.0], [0.0], [0.0], [10.0]]).double()
    assert abs(float(median(x))) < 1e-3
    assert abs(float(x.mean()) - 2.5) < 1e-9


def test_it_minimises_the_sum_of_distances() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 3).double()
    m = median(x).requires_grad_()
    (gradient,) = torch.autograd.grad((x - m).norm(dim=1).sum(), m)
    assert gradient.norm() < 1e-6


def test_it_turns_with_the_nodes_and_is_the_mean_of_two() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3).double()
    turn = torch.linalg.qr(torch.randn(3, 3).double())[0]
    torch.testing.assert_close(median(x @ turn), median(x) @ turn)
    torch.testing.assert_close(median(x[:2]), x[:2].mean(0))
    torch.testing.assert_close(median(x[:1]), x[0])


def test_weight_two_is_two_nodes() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3).double()
    w = torch.tensor([2.0, 1.0, 1.0, 1.0]).double()
    torch.testing.assert_close(median(x, w), median(torch.cat([x, x[:1]])))


def test_a_node_where_the_iteration_stands_gives_a_number() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).double()
    assert median(x).abs().max() < 1e-6
    same = torch.ones(4, 2).double()
    torch.testing.assert_close(median(same), same[0])


def test_absent_classes_and_padding_weigh_nothing() -> None:
    x = torch.randn(2, 6, 3)
    w = torch.zeros(2, 6, 3)
    w[:, :4, 0] = 1
    w[:, 4, 1] = 0.5
    for found in (median_weights(x, w), trimmed_weights(x, w, 0.3), similarity_weights(x, w, 0.1)):
        assert torch.equal(found > 0, (found > 0) & (w > 0))
        torch.testing.assert_close(found.sum(1), w.sum(1))
        assert found.isfinite().all()


def test_the_farthest_nodes_are_left_out() -> None:
    x = torch.tensor([[0.0], [0.1], [-0.1], [5.0], [9.0]])[None]
    w = torch.ones(1, 5, 1)
    assert (trimmed_weights(x, w, 0.4)[0, :, 0] > 0).tolist() == [True, True, True, False, False]
    assert (trimmed_weights(x, w, 0.39)[0, :, 0] > 0).tolist() == [True, True, True, True, False]
    assert torch.equal(trimmed_weights(x, w, 0.0), w)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_similar_nodes_weigh_as_a_loop_says(temperature: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3).double()
    found = similarity_weights(x[None], torch.ones(1, 5, 1).double(), temperature)[0, :, 0]
    score = []
    for i in range(5):
        others = [j for j in range(5) if j != i]
        cosines = [torch.nn.functional.cosine_similarity(x[i], x[j], dim=0) for j in others]
        score.append(torch.stack(cosines).mean())
    expected = 5 * (torch.stack(score) / temperature).softmax(0)
    torch.testing.assert_close(found, expected)
