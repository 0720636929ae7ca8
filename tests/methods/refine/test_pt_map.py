"""PT-MAP against a loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.estimator import FewShotClassifier
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Split
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.refine.pt_map import PTMAP
from graphfsl.methods.refine.tim import TIM
from tests.support.sinkhorn import sinkhorn
from tests.support.transductive import HEAD, batch, means, parts, refined, task, unit


def pt_map(episode: Episode, steps: int, columns: Any) -> Tensor:
    """P (Q, C) of algorithm 1; columns(L) are the sums of P's columns for log-scores L, None for
    soft k-means.
    """
    s, q, y = parts(episode)
    s, q = (unit((x + 1e-6).sqrt()) for x in (s, q))
    s, q = (unit(x - x.mean(0)) for x in (s, q))
    mu, labels = means(s, y), F.one_hot(torch.tensor(y), 3).double()
    for step in range(steps + 1):
        log_p = -10 * torch.cdist(q, mu).square()
        p = (
            log_p.softmax(-1)
            if columns is None
            else sinkhorn(log_p, torch.ones(len(q)).double(), columns, 300)
        )
        if step < steps:
            for c in range(3):
                estimate = (labels[:, c] @ s + p[:, c] @ q) / (labels[:, c].sum() + p[:, c].sum())
                mu[c] = mu[c] + 0.2 * (estimate - mu[c])
    return p


@pytest.mark.parametrize("steps", [0, 1, 20])
def test_pt_map_equals_a_loop(steps: int) -> None:
    episode, _ = task((6, 3, 3), spread=0.3)
    q = episode.query
    p = pt_map(episode, steps, torch.full((3,), 4.0, dtype=torch.float64))
    found = refined(PTMAP(steps=steps), episode)[0, q].softmax(-1)
    torch.testing.assert_close(found, p, atol=1e-4, rtol=0)
    free = refined(PTMAP(steps=steps, share=0.0), episode)[0, q].softmax(-1)
    torch.testing.assert_close(free, pt_map(episode, steps, None), atol=1e-6, rtol=0)


def test_pt_map_gives_every_class_as_many_queries() -> None:
    episode = batch(task((8, 3, 1)), task((2, 2, 2), seed=1), task((3, 2), seed=2))
    p = (
        refined(PTMAP(), episode)[:, episode.query].softmax(-1)
        * episode.mask[:, episode.query, None]
    )
    torch.testing.assert_close(
        p.sum(1), torch.tensor([[4.0, 4, 4], [2, 2, 2], [2.5, 2.5, 0]]).double(), atol=1e-5, rtol=0
    )


def test_negative_features_are_refused_and_those_of_an_augmentation_count_as_zero() -> None:
    episode, _ = task()
    x = episode.x - 0.4
    assert (x < 0).any()
    assert torch.equal(
        refined(PTMAP(), episode.replace(x=x)), refined(PTMAP(), episode.replace(x=x.clamp_min(0)))
    )
    x = torch.rand(40, 6)
    split = Split(x, torch.arange(4).repeat_interleave(10), tuple("abcd"), "positive")
    model, setting = Pipeline(head=HEAD, refine=PTMAP()), {"way": 2, "query": 2, "episodes": 3}
    assert 0 <= evaluate(model, split, **setting).mean <= 1
    x[7, 3] = -0.5
    with pytest.raises(InputError, match=r"none below 0, but the smallest is -0\.5"):
        evaluate(model, split, **setting)
    assert 0 <= evaluate(Pipeline(head=HEAD, refine=TIM(steps=1)), split, **setting).mean <= 1
    with pytest.raises(InputError, match="none below 0"):
        FewShotClassifier({"head": "protonet", "refine": "pt_map"}).fit(x.numpy(), split.y.numpy())


@pytest.mark.parametrize("lam", [10.0, 1000.0])
def test_pt_map_is_balanced_for_any_lambda(lam: float) -> None:
    p = refined(PTMAP(lam=lam), batch(task((8, 3, 1), spread=0.3)))[:, 6:].softmax(-1)
    torch.testing.assert_close(p.sum(1), torch.full((1, 3), 4.0).double(), atol=1e-5, rtol=0)
