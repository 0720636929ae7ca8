"""Interventional few-shot learning: its equations, and what it is without an adjustment."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.ifsl import IFSL
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.testing import DIM
from tests.support.base_classes import base_features


def task() -> Episode:
    g = torch.Generator().manual_seed(1)
    w = torch.zeros(1, 9, 3)
    w[0, torch.arange(6), torch.arange(6) // 2] = 1
    return Episode(torch.randn(1, 9, DIM, generator=g), w, 6, 3)


@pytest.mark.parametrize(
    ("adjustment", "chunks", "length"),
    [("feature", 2, 3), ("class", 2, 6), ("both", 2, 3), ("both", 4, 2), ("both", 8, 2)],
)
def test_scores_are_the_mean_over_pieces_one_by_one(
    adjustment: str, chunks: int, length: int
) -> None:
    features, labels, _ = base_features()
    head = IFSL(DIM, adjustment, chunks)
    head.fit_base(features, labels)
    episode = task()
    unit = F.normalize(features, dim=-1)
    mu = torch.stack([unit[labels == b].mean(0) for b in labels.unique()])
    x = F.normalize(F.normalize(episode.x[0], dim=-1) - mu.mean(0), dim=-1)
    rows = []
    for node in x:
        cosine = torch.stack([F.cosine_similarity(node, m - mu.mean(0), dim=0) for m in mu])
        rows.append((8 * cosine).softmax(0) @ (mu - mu.mean(0)))
    xbar = torch.stack(rows)

    pieces = [slice(start, start + length) for start in range(0, DIM, length)]
    total = torch.zeros(9, 3)
    for piece in pieces:
        read = F.normalize(x[:, piece], dim=-1)
        if adjustment != "feature":
            read = torch.cat([read, xbar[:, piece]], -1)
        means = torch.stack([read[2 * c : 2 * c + 2].mean(0) for c in range(3)])
        for node in range(9):
            total[node] += (-10 * (read[node] - means).square().sum(-1)).log_softmax(-1)
    torch.testing.assert_close(head.score(episode)[0], total / len(pieces), atol=1e-4, rtol=1e-4)


def test_one_piece_without_base_classes_is_the_nearest_mean() -> None:
    episode = task()
    plain = (10 * SimpleShot(DIM, "l2n").score(episode)).log_softmax(-1)
    torch.testing.assert_close(IFSL(DIM, "feature", 1).score(episode), plain)
    torch.testing.assert_close(IFSL(DIM, "class").score(episode), plain)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(InputError, match=r"ifsl\.chunks must be 1 or more, not 0"):
        IFSL(DIM, chunks=0)
    with pytest.raises(InputError, match="adjustment"):
        IFSL(DIM, "sample")
    with pytest.raises(InputError, match="temperature and scale must be above 0"):
        IFSL(DIM, scale=0.0)
