"""Prototypical Networks: closed forms and the paper's identities."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.io.errors import InputError
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import WAY
from tests.support.episodes import features


def test_protonet_equals_a_loop() -> None:
    episode = features(shot=3)
    found = ProtoNet().score(episode)
    for b in range(2):
        for i in range(episode.x.shape[1]):
            for k in range(WAY):
                own = [episode.x[b, s] for s in range(episode.n_support) if episode.w[b, s, k] > 0]
                center = sum(own) / len(own)
                assert torch.isclose(
                    found[b, i, k], -((episode.x[b, i] - center) ** 2).sum(), atol=1e-9
                )


def test_protonet_does_not_see_a_common_shift() -> None:
    episode = features()
    shifted = ProtoNet().score(episode.replace(x=episode.x + 3.0))
    torch.testing.assert_close(shifted, ProtoNet().score(episode), atol=1e-9, rtol=1e-9)


def test_protonet_gradient_by_prototype() -> None:
    q, c = (
        torch.randn(1, 1, 4, dtype=torch.float64),
        torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True),
    )
    (g,) = torch.autograd.grad(ProtoNet().logits(q, c)[0, 0, 1], c)
    torch.testing.assert_close(g[0, 1], 2 * (q - c)[0, 1])
    assert not g[0, 0].any()


def test_protonet_is_equivariant_to_classes() -> None:
    episode, order = features(), torch.tensor([2, 0, 1])
    for distance in ("sqeuclidean", "cosine"):
        head = ProtoNet(distance).double()
        turned = head.score(episode.replace(w=episode.w[..., order]))
        torch.testing.assert_close(turned, head.score(episode)[..., order])


def test_one_shot_protonet_is_the_nearest_neighbor() -> None:
    episode = features(shot=1)
    torch.testing.assert_close(
        ProtoNet().score(episode), NearestNeighbor().score(episode), atol=1e-9, rtol=1e-9
    )


def test_cosine_ignores_length_and_starts_at_its_scale() -> None:
    episode = features(shot=1)
    head = ProtoNet("cosine", scale=7.0).double()
    torch.testing.assert_close(head.score(episode.replace(x=5 * episode.x)), head.score(episode))
    expected = 7 * F.cosine_similarity(episode.x[0, -1], episode.x[0, 0], dim=0)
    assert torch.isclose(head.score(episode)[0, -1, 0], expected, atol=1e-6)
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        ProtoNet("cosin")


def test_a_fixed_temperature_scores_as_a_learned_one_does_at_first_and_is_no_weight() -> None:
    episode = features(shot=2)
    learned, fixed = (ProtoNet("cosine", 7.0, learned).double() for learned in (True, False))
    assert torch.equal(fixed.score(episode), learned.score(episode))
    assert not fixed.state_dict() and not list(fixed.parameters())
    with pytest.raises(InputError, match="have no temperature"):
        ProtoNet(learned=False)
