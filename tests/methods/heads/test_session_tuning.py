"""Facts of fine-tuning on new samples alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.session_tuning import SessionTuning


def episode() -> Episode:
    """Two base classes, one class of an earlier session, and a new one of two samples."""
    g = torch.Generator().manual_seed(1)
    w = torch.zeros(1, 9, 4)
    for node, (column, weight) in enumerate([(0, 3), (1, 3), (2, 2), (3, 1), (3, 1)]):
        w[0, node, column] = weight
    session = torch.tensor([[0, 0, 1, 2]])
    return Episode(torch.randn(1, 9, 5, generator=g), w, 5, 4, relabeled=False, session=session)


def by_hand(given: Episode, steps: int, lr: float) -> Tensor:
    """The class weights after both sessions, by autograd."""
    z = F.normalize(given.x[0], dim=-1)
    w = F.normalize(torch.stack([*given.x[0, :3], z[3:5].mean(0)]), dim=-1)
    for samples, label, seen in (([2], 2, 3), ([3, 4], 3, 4)):
        for _ in range(steps):
            w = w.detach().requires_grad_()
            logits = 16 * z[samples] @ w[:seen].T
            loss = F.cross_entropy(logits, torch.full((len(samples),), label))
            (slope,) = torch.autograd.grad(loss, w)
            w = F.normalize(w - lr * slope, dim=-1)
    return w


def test_weights_follow_the_gradient_of_each_session_in_turn() -> None:
    given = episode()
    w = by_hand(given, steps=4, lr=0.1).detach()
    found = SessionTuning(steps=4, lr=0.1)(given)
    torch.testing.assert_close(found[0], 16 * F.normalize(given.x[0, 5:], dim=-1) @ w.T)


def test_without_steps_it_is_class_means() -> None:
    given = episode()
    c = torch.stack([*given.x[0, :3], F.normalize(given.x[0, 3:5], dim=-1).mean(0)])
    expected = 16 * F.cosine_similarity(given.x[0, 5:, None], c, dim=-1)
    torch.testing.assert_close(SessionTuning(steps=0)(given)[0], expected)
