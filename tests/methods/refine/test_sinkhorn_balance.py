"""Scores that are balanced over the queries."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.methods.refine.sinkhorn_balance import SinkhornBalance
from tests.support.sinkhorn import sinkhorn
from tests.support.transductive import HEAD, batch, refined, task


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squared_distances_of_raw_features_are_balanced(dtype: torch.dtype) -> None:
    """16-way, 15 queries a class: scores differ by a thousand, and all rows are sure."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(16).repeat(16)
    x = 4 * torch.rand(16, 100, generator=g)[y] + 8 * torch.rand(256, 100, generator=g)
    episode = Episode(x[None].to(dtype), F.one_hot(y, 16)[None].to(dtype), 16, 240)
    episode = episode.replace(w=episode.w * (torch.arange(256) < 16).unsqueeze(-1), relabeled=False)
    scores = HEAD.score(episode)[:, episode.query]
    assert (scores.amax(-1) - scores.amin(-1)).max() > 300
    own = F.one_hot(scores.argmax(-1), 16).sum(1)
    assert own.min() < 10 and own.max() > 20
    for refiner in (SinkhornBalance(), SinkhornBalance(temperature=0.01)):
        p = refined(refiner, episode)[:, episode.query].softmax(-1)
        torch.testing.assert_close(
            p.sum(1), torch.full((1, 16), 15.0, dtype=dtype), atol=2e-3, rtol=0
        )


def test_sinkhorn_balance_balances_the_scores_of_its_head() -> None:
    episode = batch(task((8, 3, 1)), task((3, 2), seed=2))
    scores = HEAD.score(episode)[:, episode.query] / 0.5
    rows = episode.mask[:, episode.query].double()
    found = refined(SinkhornBalance(temperature=0.5), episode)[:, episode.query]
    p = rows.unsqueeze(-1) * found.softmax(-1)
    columns = torch.tensor([[4.0, 4, 4], [2.5, 2.5, 0]]).double()
    torch.testing.assert_close(p.sum(1), columns, atol=1e-4, rtol=0)
    torch.testing.assert_close(p, sinkhorn(scores, rows, columns, 3000), atol=1e-4, rtol=0)
