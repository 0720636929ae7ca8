"""RFS: the logistic regression of the authors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.functional.logistic_regression import logistic_regression
from graphfsl.methods.heads.rfs import RFS
from tests.support.linear_classifiers import linear_episode


def test_rfs_is_the_regression_of_the_authors() -> None:
    """By default scikit-learn's LogisticRegression(C=1) on features of length 1, whatever length
    they had.
    """
    episode = linear_episode()
    episode = episode.replace(
        x=episode.x * torch.linspace(0.1, 20, episode.x.shape[1])[:, None], w=episode.w
    )
    found = RFS().double().score(episode)
    for b in range(2):
        z = F.normalize(episode.x[b], dim=-1).numpy()
        theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10000)
        theirs.fit(z[episode.support], episode.w[b, episode.support].argmax(-1).numpy())
        log_p = torch.from_numpy(theirs.predict_log_proba(z))
        torch.testing.assert_close(found[b].log_softmax(-1), log_p, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "shot", "length"),
    [({}, 100, 1.0), ({"normalize": False}, 20, 20.0)],
    ids=["many shots", "long features"],
)
def test_rfs_is_solved_where_logits_are_large(
    options: dict[str, Any], shot: int, length: float
) -> None:
    """At the minimum no gradient is left, whether many shots or long features let the logits
    grow.
    """
    both, head = linear_episode(5, shot, 64), RFS(**options).double()
    episode = Episode(
        length * both.x[:1], both.w[:1], both.n_support, both.n_query, relabeled=False
    )
    z = F.normalize(episode.x, dim=-1) if head.normalize else episode.x
    support, w = z[:, episode.support], episode.w[:, episode.support]
    with torch.no_grad():
        found = head.score(episode)
        weight, bias = logistic_regression(support, w, steps=30, inner=30)
    error = (support @ weight.mT + bias.unsqueeze(1)).softmax(-1) - w
    assert (weight + error.mT @ support).abs().max() < 1e-9 and error.sum(1).abs().max() < 1e-9
    torch.testing.assert_close(found, z @ weight.mT + bias.unsqueeze(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("of_old_classes", [False, True])
def test_rfs_is_solved_where_nodes_weigh_much(of_old_classes: bool) -> None:
    """Also where a node stands for 500 samples, as that of an old class does in a session, it is
    the regression of the authors.
    """
    plain = linear_episode()
    session = torch.zeros(len(plain.x), plain.way, dtype=torch.long) if of_old_classes else None
    episode = plain.replace(w=500 * plain.w, relabeled=not of_old_classes, session=session)
    found = RFS().double().score(episode)[0].softmax(-1)
    z = F.normalize(episode.x[0], dim=-1).numpy()
    theirs = LogisticRegression(C=500.0, tol=1e-10, max_iter=10000)
    theirs.fit(z[episode.support], episode.w[0, episode.support].argmax(-1).numpy())
    p = torch.from_numpy(theirs.predict_proba(z))
    torch.testing.assert_close(found, p, atol=1e-4, rtol=0)
