"""R2D2: ridge regression with a constant feature."""

from __future__ import annotations

import torch
from sklearn.linear_model import Ridge

from graphfsl.methods.heads.r2d2 import R2D2
from tests.support.linear_classifiers import linear_episode


def test_r2d2_is_ridge_regression_with_a_constant_feature() -> None:
    """Equations 6 and 7: the constant is regularised with the rest, so that it is no free
    intercept.
    """
    episode = linear_episode()
    episode = episode.replace(x=episode.x + 2, w=episode.w, relabeled=False)
    found = R2D2(lamda=0.5, alpha=3.0).double().score(episode)
    for b in range(2):
        z = torch.cat([episode.x[b], torch.ones(episode.x.shape[1], 1).double()], 1)
        ours = Ridge(alpha=0.5, fit_intercept=False, tol=1e-12)
        ours.fit(z[episode.support], episode.w[b, episode.support])
        torch.testing.assert_close(
            found[b], 3 * torch.from_numpy(ours.predict(z)), atol=1e-5, rtol=1e-5
        )


def test_r2d2_begins_with_the_constants_of_the_authors() -> None:
    """lambda 50 and alpha 10, in the answer and not only by name."""
    episode = linear_episode()
    torch.testing.assert_close(
        R2D2().double().score(episode), R2D2(lamda=50, alpha=10).double().score(episode)
    )
    assert (
        R2D2().double().score(episode) - R2D2(lamda=1.0).double().score(episode)
    ).abs().max() > 0.1
