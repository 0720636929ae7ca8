"""MetaOptNet: the SVM with the authors' price."""

from __future__ import annotations

import torch

from graphfsl.functional.svm import crammer_singer
from graphfsl.methods.heads.metaoptnet import MetaOptNet
from tests.support.linear_classifiers import linear_episode


def test_metaoptnet_is_the_svm_of_the_authors_price() -> None:
    """C 0.1 and gamma 1 where none is given."""
    episode = linear_episode(5, 5, 16)
    support, weight = episode.x[:, episode.support], episode.w[:, episode.support]
    want = episode.x @ crammer_singer(support, weight, 0.1).mT
    torch.testing.assert_close(MetaOptNet().double().score(episode), want)
    assert (want - episode.x @ crammer_singer(support, weight, 1.0).mT).abs().max() > 0.1
