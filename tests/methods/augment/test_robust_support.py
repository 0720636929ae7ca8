"""Support nodes that resemble no other node of their class weigh less."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.robust_support import RobustSupport
from graphfsl.methods.heads.protonet import ProtoNet
from tests.support.episodes import features


@pytest.mark.parametrize("estimator", ["median", "trimmed", "similarity"])
def test_a_wrong_label_moves_a_class_mean_less(estimator: str) -> None:
    """Four nodes around (1, 0) and one that is really of the class around (-1, 0)."""
    torch.manual_seed(0)
    x = torch.randn(1, 10, 4) * 0.1
    x[:, :4, 0] += 1
    x[:, 4:, 0] -= 1
    w = torch.nn.functional.one_hot(torch.arange(10) // 5, 2).float()[None]
    given = prototypes(x, w)[0, 0, 0]
    found = RobustSupport(estimator)(Episode(x, w, 10, 0))
    moved = prototypes(found.x, found.w)[0, 0, 0]
    assert given < 0.7
    assert moved > 0.9 if estimator != "median" else moved > 0.85
    torch.testing.assert_close(found.w.sum(1), w.sum(1))


def test_mean_and_two_shots_change_nothing() -> None:
    episode = features(shot=2)
    assert RobustSupport("mean")(episode) is episode
    for estimator in ("median", "trimmed", "similarity"):
        found = RobustSupport(estimator)(episode)
        plain, robust = (
            Pipeline(augment=part, head=ProtoNet()).double().eval()(episode)
            for part in (None, RobustSupport(estimator))
        )
        torch.testing.assert_close(found.w, episode.w)
        torch.testing.assert_close(robust, plain)


def test_queries_and_pool_keep_their_weights() -> None:
    episode = features(shot=4, unlabeled=2).label_pool(torch.full((2, 6, 3), 0.25).double())
    found = RobustSupport()(episode)
    assert torch.equal(found.w[:, episode.n_support :], episode.w[:, episode.n_support :])
    assert not torch.equal(found.w[:, episode.support], episode.w[:, episode.support])


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="estimator"):
        RobustSupport("mode")
    with pytest.raises(InputError, match="trim in"):
        RobustSupport("trimmed", trim=1.0)
