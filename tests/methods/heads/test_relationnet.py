"""Relation Networks: convolution of concatenated maps, the paper's loss, BatchNorm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment.builder import build
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.relationnet import RelationNet
from graphfsl.testing import DIM, WAY, TinyEncoder, episodes


def test_relationnet_refuses_vectors_of_pixels_and_of_users() -> None:
    with pytest.raises(InputError, match="reads feature maps, not vectors"):
        build({"encoder": "pixels", "head": "relationnet"}, (1, 8, 8), 3)
    with pytest.raises(InputError, match="reads feature maps"):
        RelationNet((8,))


def test_relationnet_begins_as_the_authors_does() -> None:
    torch.manual_seed(0)
    head = RelationNet((64, 8, 8), width=256, hidden=512)
    for conv in (head.support_conv, head.query_conv, head.second_conv):
        assert float(conv.weight.std()) == pytest.approx(math.sqrt(2 / (9 * 256)), rel=0.01)
        assert conv.bias is None or not bool(conv.bias.any())
    for layer in (head.linear[0], head.linear[2]):
        assert float(layer.weight.std()) == pytest.approx(0.01, rel=0.1) and bool(
            (layer.bias == 1).all()
        )


MAPS = (5, 6, 6)


def maps(**options: int) -> Episode:
    episode, _ = episodes(**options)
    return episode.replace(x=torch.randn(*episode.x.shape[:2], *MAPS))


def test_relationnet_equals_convolution_of_concatenated_maps() -> None:
    """One convolution of [s; q] for each pair, as the paper draws it, with the sum (not the mean)
    over shots.
    """
    episode, head = maps(shot=2), RelationNet(MAPS).eval()
    for norm in head.norms:
        nn.init.uniform_(norm.running_mean)
    weight = torch.cat([head.support_conv.weight, head.query_conv.weight], 1)
    found = head.score(episode)
    for b in range(2):
        for i in (0, 5, -1):
            for c in range(WAY):
                s = sum(episode.x[b, j] for j in range(episode.n_support) if episode.w[b, j, c] > 0)
                r = F.conv2d(
                    torch.cat([s, episode.x[b, i]])[None],  # type: ignore[list-item]
                    weight,
                    head.support_conv.bias,
                    padding=1,
                )
                r = F.max_pool2d(F.relu(head.norms[0](r)), 2)
                r = F.max_pool2d(F.relu(head.norms[1](head.second_conv(r))), 2)
                torch.testing.assert_close(
                    found[b, i, c], head.linear(r.flatten(1))[0, 0], atol=1e-5, rtol=1e-4
                )


def test_relationnet_takes_sum_or_mean_over_shots() -> None:
    """Three equal shots are one shot to the mean, and thrice its map to the sum."""
    one, summed, mean = (
        maps(shot=1),
        RelationNet(MAPS).eval(),
        RelationNet(MAPS, shots="mean").eval(),
    )
    mean.load_state_dict(summed.state_dict())
    torch.testing.assert_close(mean.score(one), summed.score(one))
    k = one.n_support

    def thrice(t: torch.Tensor) -> torch.Tensor:
        return torch.cat([t[:, :k].repeat_interleave(3, 1), t[:, k:]], 1)

    three = Episode(thrice(one.x), thrice(one.w), 3 * k, one.n_query)
    torch.testing.assert_close(
        mean.score(three)[:, 3 * k :], mean.score(one)[:, k:], atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(summed.score(three)[:, 3 * k :], summed.score(one)[:, k:], atol=1e-3)


def test_relationnet_loss_is_the_mean_square_of_the_sigmoids() -> None:
    episode, (_, target) = maps(), episodes()
    head = RelationNet(MAPS).eval()
    r = head.score(episode)[:, episode.query].sigmoid()
    expected = (r - F.one_hot(target.query, WAY)).square().mean()
    torch.testing.assert_close(head.criterion(head.score(episode), target, episode), expected)
    ce = RelationNet(MAPS, loss="ce").eval()
    scores = ce.score(episode)
    expected = F.cross_entropy(scores[:, episode.query].flatten(0, 1), target.query.flatten())
    torch.testing.assert_close(ce.criterion(scores, target, episode), expected)


def test_relationnet_stores_statistics_of_queries_beside_classes() -> None:
    episode, head = maps(shot=2), RelationNet(MAPS).train()
    norm = head.norms[0]
    norm.momentum = 1.0  # type: ignore[assignment]
    head.score(episode)
    s = torch.einsum("bnc,bnijk->bcijk", episode.w, episode.x)
    q = episode.x[:, episode.query]
    pairs = head.support_conv(s.flatten(0, 1)).unflatten(0, (2, -1))[:, None] + head.query_conv(
        q.flatten(0, 1)
    ).unflatten(0, (2, -1)).unsqueeze(2)
    torch.testing.assert_close(norm.running_mean, pairs.mean((0, 1, 2, 4, 5)), atol=1e-5, rtol=1e-4)


def test_relationnet_apart_is_training_mode_on_the_query_pairs() -> None:
    """The authors never leave training mode: statistics of the support, of the queries and of the
    pairs of queries.
    """
    episode, _ = episodes(batch=1, unlabeled=0)
    model = Pipeline(TinyEncoder(), head=RelationNet((DIM, 2, 2)), batch_norm="apart").eval()
    found = model(episode)
    assert model.transductive
    encoder, head = model.encoder.train(), model.head
    support, query = (encoder(episode.x[0, part]) for part in (episode.support, episode.query))
    s = head.support_conv(torch.einsum("nc,nijk->cijk", episode.w[0, episode.support], support))
    r = (s[None] + head.query_conv(query)[:, None]).flatten(0, 1)
    first, second = (nn.BatchNorm2d(64).train() for _ in range(2))
    r = F.max_pool2d(F.relu(first(r)), 2)
    r = F.relu(second(head.second_conv(r)))
    torch.testing.assert_close(
        found[0].flatten(), head.linear(r.flatten(1)).flatten(), atol=1e-4, rtol=1e-4
    )


def test_relationnet_follows_the_policy_and_running_is_inductive() -> None:
    model = Pipeline(nn.Identity(), head=RelationNet(MAPS))
    assert not model.transductive
    model.set_batch_norm("joint")
    assert model.transductive and model.head.batch_norm == "joint"
    assert any(isinstance(m, BatchNorm) for m in model.head.modules())


def test_relationnet_refuses_another_loss() -> None:
    with pytest.raises(InputError, match="unknown loss 'mce'; did you mean"):
        RelationNet(MAPS, loss="mce")


def test_relationnet_answers_maps_that_were_encoded_once_the_same() -> None:
    from graphfsl.data import Split, Transform
    from graphfsl.experiment.builder import build
    from graphfsl.loops.evaluation import encode_once, evaluate

    y = torch.arange(6).repeat_interleave(8)
    split = Split(
        torch.randint(0, 256, (48, 1, 28, 28), dtype=torch.uint8), y, tuple("abcdef"), "noise/test"
    )
    model = build(
        {"encoder": {"name": "conv4_maps", "width": 4}, "head": "relationnet"}, split.shape, 5
    ).eval()
    on_maps, maps = encode_once(model, split, Transform(), 10**6)
    assert maps.x.shape == (48, 4 * 5 * 5)
    from graphfsl.data import Episodes

    episode, _ = Episodes(split, way=5, shot=1, query=2).batch([0, 1])
    encoded, _ = Episodes(maps, way=5, shot=1, query=2).batch([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(on_maps(encoded), model(episode), atol=1e-5, rtol=1e-4)
    assert "inductive" in str(evaluate(model, split, way=5, shot=1, query=2, episodes=30))
