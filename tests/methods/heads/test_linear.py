"""The linear head."""

from __future__ import annotations

import math

from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features


def test_linear_scores_no_absent_class() -> None:
    episode = features()
    w = episode.w.clone()
    w[..., 1] = 0
    scores = Linear(DIM, WAY).double().score(episode.replace(w=w))
    assert bool((scores[..., 1] == -math.inf).all()) and bool(scores[..., [0, 2]].isfinite().all())
    adapted = MAML(Pipeline(head=Linear(DIM, WAY)).double(), steps=2)
    assert bool(adapted(episode.replace(w=w))[..., [0, 2]].isfinite().all())
