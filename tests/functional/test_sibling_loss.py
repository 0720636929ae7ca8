"""The probability of a parent is that of its children together."""

from __future__ import annotations

import math

import torch

from graphfsl.functional.sibling_loss import sibling_loss


def test_it_is_the_loop_over_queries_and_siblings() -> None:
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 5, 4, generator=g).double().requires_grad_()
    y = torch.tensor([[0, 1, 2, 3, 0], [3, 2, -1, 1, -100]])
    parent = torch.tensor([[0, 0, 1, 2], [5, 5, 5, 6]])
    siblings = parent.unsqueeze(2) == parent.unsqueeze(1)
    nats = []
    for b in range(2):
        for q in range(5):
            if y[b, q] < 0:
                continue
            p = scores[b, q].softmax(-1)
            own = sum(p[c] for c in range(4) if parent[b, c] == parent[b, y[b, q]])
            nats.append(-torch.as_tensor(own).log())
    found = sibling_loss(scores, y, siblings)
    torch.testing.assert_close(found, torch.stack(nats).mean())
    (slope,) = torch.autograd.grad(found, scores)
    (wanted,) = torch.autograd.grad(torch.stack(nats).mean(), scores)
    torch.testing.assert_close(slope, wanted)


def test_without_siblings_it_is_cross_entropy_and_with_all_it_is_nothing() -> None:
    scores = torch.tensor([[[1.0, 2.0, -math.inf]]]).requires_grad_()
    y = torch.tensor([[0]])
    alone = sibling_loss(scores, y, torch.eye(3).bool()[None])
    torch.testing.assert_close(alone, torch.tensor(math.log(1 + math.e)))
    (slope,) = torch.autograd.grad(alone, scores)
    assert slope.isfinite().all()
    every = sibling_loss(scores, y, torch.ones(1, 3, 3).bool())
    torch.testing.assert_close(every, torch.tensor(0.0))
    assert sibling_loss(scores, torch.tensor([[-1]]), torch.eye(3).bool()[None]) == 0
