"""Embedding propagation."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.episode import Episode
from graphfsl.io.errors import InputError
from graphfsl.methods.graph.embedding_propagation import EmbeddingPropagation
from tests.support.episodes import features_and_target
from tests.support.propagation import inverse, padded, std_affinity


def test_embedding_propagation_equals_a_loop() -> None:
    episode = padded()
    out = EmbeddingPropagation().forward(episode)
    assert (
        (out.w is episode.w)
        and out.n_support == episode.n_support
        and torch.equal(out.mask, episode.mask)
    )
    for b in range(2):
        x = episode.x[b, episode.mask[b]]
        p = inverse(std_affinity(x), 0.5, 1e-4)
        torch.testing.assert_close(p, p.mT)
        assert (p >= 0).all()
        torch.testing.assert_close(out.x[b, episode.mask[b]], p @ x)


def test_embedding_propagation_of_alpha_zero_is_the_identity() -> None:
    episode, _ = features_and_target()
    assert torch.equal(EmbeddingPropagation(0.0).forward(episode).x, episode.x)
    with pytest.raises(InputError, match="alpha"):
        EmbeddingPropagation(1.0)


def test_embedding_propagation_does_not_keep_a_shift() -> None:
    """The graph sees no shift, but rows of P do not sum to one: EP(z + c) = EP(z) + P 1 c."""
    episode, _ = features_and_target(batch=1)
    ep = EmbeddingPropagation()
    gained = ep.forward(episode.replace(x=episode.x + 3)).x - ep.forward(episode).x
    expected = 3 * inverse(std_affinity(episode.x[0]), 0.5, 1e-4).sum(1)
    torch.testing.assert_close(gained, expected[None, :, None].expand_as(gained))
    assert (gained > 4).all()


def test_one_query_alone_is_not_answered_as_in_company() -> None:
    episode, _ = features_and_target(unlabeled=0)
    k = episode.n_support
    alone = Episode(episode.x[:, : k + 1], episode.w[:, : k + 1], k, 1)
    z, company = EmbeddingPropagation().forward(alone).x, EmbeddingPropagation().forward(episode).x
    assert not torch.allclose(z, company[:, : k + 1], atol=1e-3)
