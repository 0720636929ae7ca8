"""Meta-Baseline: the cosine to class means."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.functional.prototypes import prototypes
from graphfsl.methods.heads.meta_baseline import MetaBaseline
from tests.support.episodes import features


def test_meta_baseline_is_the_cosine_of_the_mean() -> None:
    episode, head = features(shot=2), MetaBaseline(scale=10.0).double()
    w = prototypes(episode.x, episode.w)
    expected = 10 * F.cosine_similarity(episode.x[:, :, None], w[:, None], -1)
    torch.testing.assert_close(head.score(episode), expected, atol=1e-6, rtol=1e-6)
