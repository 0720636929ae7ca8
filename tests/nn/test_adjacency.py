"""Adjacencies against loops."""

from __future__ import annotations

import math

import pytest
import torch

from graphfsl.core.episode import Episode
from graphfsl.core.graph import similarity
from graphfsl.nn.adjacency import Adjacency
from graphfsl.testing import DIM
from tests.support.episodes import features, padded_features


@pytest.mark.parametrize("scale", ["median", 1.5, "learned"])
def test_rbf_equals_a_loop(scale: float | str) -> None:
    episode, adjacency = padded_features(), Adjacency(DIM, "rbf", scale).double()
    found = adjacency(episode)
    for b in range(2):
        real = episode.mask[b].nonzero().squeeze(1).tolist()
        x = episode.x[b]
        distance = {
            (i, j): float((x[i] - x[j]).square().sum()) for i in real for j in real if i != j
        }
        middle = sorted(distance.values())[(len(distance) - 1) // 2]
        for i in range(len(x)):
            for j in range(len(x)):
                if (i, j) not in distance:
                    expected = 0.0
                elif scale == "median":
                    expected = math.exp(-distance[i, j] / middle)
                elif scale == "learned":
                    assert adjacency.sigma is not None
                    difference = x[i] / adjacency.sigma(x[i]) - x[j] / adjacency.sigma(x[j])
                    expected = math.exp(-0.5 * float(difference.detach().square().mean()))
                else:
                    expected = math.exp(-distance[i, j] / (2 * 1.5**2))
                assert found[b, i, j].item() == pytest.approx(expected, abs=1e-9)


def test_cosine_and_learned_weights() -> None:
    episode = padded_features()
    cosine, learned = (
        Adjacency(DIM, "cosine", power=2.0).double(),
        Adjacency(DIM, "learned").double(),
    )
    x = episode.x[1]
    expected = max(0.0, float(torch.cosine_similarity(x[0], x[3], 0))) ** 2
    assert cosine(episode)[1, 0, 3].item() == pytest.approx(expected)
    a = learned(episode)
    assert learned.psi is not None
    psi = [
        learned.psi((x[2] - x[j]).abs()) if j != 2 else torch.tensor([-1e9]) for j in range(len(x))
    ]
    torch.testing.assert_close(a[1, 2], torch.cat([p.double() for p in psi]).softmax(0))
    torch.testing.assert_close(a.sum(-1), episode.mask.double()), "rows of real nodes sum to one"


@pytest.mark.parametrize(
    "options", [{}, {"k": 2}, {"k": 2, "mutual": True}, {"normalize": "symmetric"}], ids=str
)
@pytest.mark.parametrize("kind", ["rbf", "cosine", "complete", "learned"])
def test_neither_padding_nor_a_node_itself_is_a_neighbour(kind: str, options: dict) -> None:
    episode = padded_features()
    a = Adjacency(DIM, kind, labels=kind == "rbf", **options).double()(episode)
    assert (a >= 0).all() and not a.diagonal(dim1=-2, dim2=-1).any()
    assert not a[~episode.mask].any() and not a.mT[~episode.mask].any()
    if options.get("k"):
        assert torch.equal(a > 0, a.mT > 0), "of either end, or of both: symmetric"
        assert not options.get("mutual") or ((a > 0).sum(-1) <= 2).all()
    alone = Adjacency(DIM, kind, **options).double()
    small = features(batch=1, shot=1, query=1, unlabeled=1)
    real = episode.mask[0]
    if not options.get("k"):  # with ties of weight zero any of them may be among the k
        torch.testing.assert_close(alone(episode)[0][real][:, real], alone(small)[0])


def test_labels_join_classes_and_part_others() -> None:
    episode = features()
    a = Adjacency(DIM, "rbf", labels=True).double()(episode)
    plain = Adjacency(DIM, "rbf").double()(episode)
    y = episode.w[0, episode.support].argmax(-1)
    for i in range(episode.n_support):
        for j in range(episode.n_support):
            assert a[0, i, j] == (1.0 if i != j and y[i] == y[j] else 0.0)
    assert torch.equal(a[:, episode.query], plain[:, episode.query]), "a query's label is not known"


def test_similarity_is_one_half_in_the_logarithm_of_the_median() -> None:
    x = features().x
    assert similarity(x).flatten(1).median(1).values.max() < math.exp(-0.9)
    torch.testing.assert_close(
        similarity(x), Adjacency(DIM, "rbf").double()(Episode(x, torch.ones(2, 18, 3), 6, 6))
    )


def test_similarity_equals_a_loop() -> None:
    x = features(batch=1).x
    n = x.shape[1]
    d = {
        (i, j): float((x[0, i] - x[0, j]).square().sum())
        for i in range(n)
        for j in range(n)
        if i != j
    }
    middle = sorted(d.values())[(len(d) - 1) // 2]
    expected = torch.tensor(
        [[math.exp(-d[i, j] / middle) if i != j else 0.0 for j in range(n)] for i in range(n)]
    )
    torch.testing.assert_close(similarity(x)[0], expected.double(), atol=1e-6, rtol=1e-6)
