"""Facts of TFA."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.heads.tfa import Tfa


def regions() -> Episode:
    """Two objects of a class, one of another, four background regions, and three queries."""
    g = torch.Generator().manual_seed(2)
    w = torch.zeros(1, 10, 3)
    for node, column in enumerate([1, 1, 2, 0, 0, 0, 0]):
        w[0, node, column] = 1
    return Episode(torch.randn(1, 10, 6, generator=g), w, 7, 3, relabeled=False)


def test_it_is_the_authors_last_layer_trained_on_the_shots() -> None:
    given = regions()
    z, label = F.normalize(given.x[0], dim=-1), given.w[0, :7].argmax(-1)
    means = torch.stack([z[:7][label == column].mean(0) for column in range(3)])
    w = F.normalize(means, dim=-1).requires_grad_()
    sgd = torch.optim.SGD([w], lr=0.02, momentum=0.9, weight_decay=0.0001)
    for _ in range(10):
        sgd.zero_grad()
        F.cross_entropy(20 * z[:7] @ w.T, label).backward()
        sgd.step()
        w.data = F.normalize(w.data, dim=-1)
    torch.testing.assert_close(Tfa(steps=10)(given)[0], 20 * z[7:] @ w.detach().T)


def test_training_fits_the_shots() -> None:
    given = regions()
    label = given.w[:, :7].argmax(-1)
    before, after = (Tfa(steps=steps).score(given)[:, :7] for steps in (0, 60))
    losses = [float(F.cross_entropy(scores[0], label[0])) for scores in (before, after)]
    assert losses[1] < 0.5 * losses[0]
    assert bool((after.argmax(-1) == label).all())
