"""Baseline and Baseline++: gradient descent as torch does it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.methods.heads.baseline import Baseline, BaselinePlusPlus
from tests.support.linear_classifiers import linear_episode


def test_baseline_descends_as_torch_does() -> None:
    """Full batches, zero weights: torch.optim.SGD on a linear layer, bias decayed too."""
    episode = linear_episode()
    for i in range(2):
        z, y = episode.x[i, : episode.n_support], episode.w[i, : episode.n_support]
        layer = torch.nn.Linear(8, 3).double()
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(
            layer.parameters(), 0.01, momentum=0.9, dampening=0.9, weight_decay=0.001
        )
        for _ in range(2 * 30):  # six nodes in batches of four
            optimizer.zero_grad()
            F.cross_entropy(layer(z), y).backward()
            optimizer.step()
        found = Baseline(epochs=30).double().score(episode)[i]
        torch.testing.assert_close(found, layer(episode.x[i]), atol=1e-12, rtol=1e-12)


def test_the_baselines_weigh_nodes_and_classes_by_their_labels() -> None:
    """Half a label counts half, a soft one for several classes: the weighted mean of torch's
    cross-entropies.
    """
    episode = linear_episode()
    w = (
        episode.w[:, : episode.n_support]
        * torch.linspace(0.2, 2, episode.n_support, dtype=torch.float64)[:, None]
    )
    w[:, 0, 1] = 0.7
    soft = episode.replace(w=F.pad(w, (0, 0, 0, episode.n_query)), relabeled=False)
    for i in range(2):
        z, y = episode.x[i, : episode.n_support], w[i]
        v = torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        unit = F.normalize(z, dim=-1)
        direction = (y.T @ unit / y.sum(0)[:, None]).requires_grad_()
        g = torch.full((3, 1), 3**-0.5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD(
            [v, bias, direction, g], 0.01, momentum=0.9, dampening=0.9, weight_decay=0.001
        )
        for _ in range(2 * 10):
            optimizer.zero_grad()
            logits = z @ v.T + bias, 2 * unit @ (g * F.normalize(direction, dim=-1)).T
            sum(-(y * f.log_softmax(-1)).sum() / y.sum() for f in logits).backward()
            optimizer.step()
        found = Baseline(epochs=10).double().score(soft)[i]
        torch.testing.assert_close(found, episode.x[i] @ v.T + bias, atol=1e-10, rtol=1e-10)
        found = BaselinePlusPlus(epochs=10).score(soft)[i]
        want = 2 * F.normalize(episode.x[i], dim=-1) @ (g * F.normalize(direction, dim=-1)).T
        torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-10)


def test_baseline_plus_plus_descends_as_torch_does() -> None:
    episode = linear_episode()
    for i in range(2):
        z, y = (
            F.normalize(episode.x[i, : episode.n_support], dim=-1),
            episode.w[i, : episode.n_support],
        )
        v = (y.T @ z / y.sum(0)[:, None]).requires_grad_()
        g = torch.full((3, 1), 3**-0.5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([v, g], 0.01, momentum=0.9, dampening=0.9, weight_decay=0.001)
        for _ in range(2 * 30):
            optimizer.zero_grad()
            F.cross_entropy(2 * z @ (g * F.normalize(v, dim=-1)).T, y).backward()
            optimizer.step()
        found = BaselinePlusPlus(epochs=30).score(episode)[i]
        want = 2 * F.normalize(episode.x[i], dim=-1) @ (g * F.normalize(v, dim=-1)).T
        torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-10)
