"""Facts of the papers: k-centre, TypiClust, ProbCover, uncertainty and expected error."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.knn import cosine_neighbors
from graphfsl.io.errors import InputError
from graphfsl.methods.acquire.expected_error import WEAK, ExpectedError
from graphfsl.methods.acquire.k_center import KCenter
from graphfsl.methods.acquire.prob_cover import ProbCover
from graphfsl.methods.acquire.random import Random
from graphfsl.methods.acquire.typiclust import TypiClust
from graphfsl.methods.acquire.uncertainty import Entropy, Margin
from tests.support.pools_to_label import C, labeled, pool, two_clusters


def chosen(rule: Acquire, episode: Episode, count: int, scores: Tensor | None = None) -> Tensor:
    return rule(episode, episode.mask & (episode.w.sum(-1) == 0), scores, count)


def test_an_outlier_is_what_k_center_begins_with_and_typiclust_leaves_out() -> None:
    episode = two_clusters(outlier=True)
    assert chosen(KCenter(), episode, 1).item() == 30
    typical = chosen(TypiClust(), episode, 2)[0].tolist()
    assert 30 not in typical and {i // 15 for i in typical} == {0, 1}


def test_k_center_equals_a_loop() -> None:
    episode, y = pool(batch=1)
    episode = labeled(episode, y, torch.tensor([[3, 9]]))
    d = torch.cdist(episode.x[0], episode.x[0])
    centres = [3, 9]
    for _ in range(6):
        centres.append(max(range(30), key=lambda i: min(float(d[i, j]) for j in centres)))
    assert chosen(KCenter(), episode, 6)[0].tolist() == centres[2:]


@pytest.mark.parametrize("rule", [TypiClust(), ProbCover(), ProbCover(delta=0.6)], ids=repr)
def test_two_clusters_are_both_asked_for(rule: Acquire) -> None:
    episode = two_clusters()
    assert {i // 15 for i in chosen(rule, episode, 2)[0].tolist()} == {0, 1}
    w = episode.w.clone()
    w[0, 3, 0] = 1
    assert chosen(rule, episode.replace(w=w), 1).item() >= 15


def test_typicality_is_one_over_the_mean_distance_to_the_nearest() -> None:
    episode, _ = pool(batch=1)
    z = torch.nn.functional.normalize(episode.x, dim=-1)
    cluster = torch.arange(30)[None] % 2
    found = TypiClust().typicality(z, cluster, episode.mask)[0]
    d = torch.cdist(z[0], z[0])
    for i in range(30):
        own = [j for j in range(30) if j != i and j % 2 == i % 2]
        nearest = sorted(float(d[i, j]) for j in own)[: min(20, 15 // 2)]
        assert float(found[i]) == pytest.approx(len(nearest) / sum(nearest))


def test_prob_cover_takes_the_ball_of_most_samples_that_none_holds() -> None:
    episode, _ = pool(batch=1)
    z = torch.nn.functional.normalize(episode.x[0], dim=-1)
    inside = torch.cdist(z, z) <= 0.5
    covered = torch.zeros(30, dtype=torch.bool)
    for i in chosen(ProbCover(delta=0.5), episode, 5)[0].tolist():
        new = (inside & ~covered).sum(1)
        assert new[i] == new.max()
        covered |= inside[i]


def test_the_radius_is_the_largest_of_which_enough_balls_are_pure() -> None:
    """Balls hold one cluster up to the radius, and beyond it too few of them do."""
    episode = two_clusters()
    z = torch.nn.functional.normalize(episode.x, dim=-1)
    d = torch.cdist(z, z)
    delta = ProbCover(purity=0.9).radius(z, d, episode.mask, 2)
    of = torch.arange(30) // 15

    def pure(radius: float) -> float:
        mixed = (d[0] <= radius) & (of[:, None] != of)
        return float((~mixed.any(1)).double().mean())

    assert pure(delta.item()) >= 0.9 > pure(delta.item() * 1.0002) - 1 / 30


def test_uncertainty_is_that_of_its_equation() -> None:
    episode, y = pool(batch=1)
    scores = torch.randn(1, 30, C, dtype=torch.float64)
    episode = labeled(episode, y, torch.tensor([[int((y[0] == c).nonzero()[0]) for c in range(C)]]))
    p = scores.softmax(-1)[0]
    free = (episode.w[0].sum(-1) == 0).tolist()

    def margin(i: int) -> float:
        low, high = sorted(p[i].tolist())[-2:]
        return high - low

    def entropy(i: int) -> float:
        return sum(-q * math.log(q) for q in p[i].tolist())

    rest = [i for i in range(30) if free[i]]
    assert chosen(Margin(), episode, 3, scores)[0].tolist() == sorted(rest, key=margin)[:3]
    assert chosen(Entropy(), episode, 3, scores)[0].tolist() == sorted(rest, key=entropy)[:-4:-1]


@pytest.mark.parametrize("rule", [Margin(), Entropy(), ExpectedError()], ids=repr)
def test_until_each_class_is_seen_samples_are_drawn_at_random(rule: Acquire) -> None:
    episode, y = pool(batch=1)
    at_random = chosen(Random(), episode, 1)
    assert torch.equal(chosen(rule, episode, 1), at_random)
    one_class = labeled(episode, y, torch.tensor([[0]]))
    scores = torch.randn(1, 30, C, dtype=torch.float64)
    assert torch.equal(chosen(rule, one_class, 1, scores), chosen(Random(), one_class, 1))


def test_expected_error_equals_refitting_for_each_sample_and_class() -> None:
    """R(i) by solving anew with the label (i, c) added, for 10 nodes."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1, 10, 4, generator=g, dtype=torch.float64)
    w = torch.zeros(1, 10, C, dtype=torch.float64)
    w[0, [0, 1, 2], [0, 1, 2]] = 1
    episode = Episode(x, w, 3, 7, relabeled=False)
    rule = ExpectedError(k=3, among=None)

    edges = cosine_neighbors(x, episode.mask, 3)[0]
    edges = edges + WEAK * edges.sum(1).mean() / 10 * (1 - torch.eye(10, dtype=torch.float64))

    def harmonic(labels: dict[int, int]) -> Tensor:
        """The mean of the neighbours at each node without a label."""
        f = torch.zeros(10, C, dtype=torch.float64)
        for i, c in labels.items():
            f[i, c] = 1
        free = [i for i in range(10) if i not in labels]
        laplacian = torch.diag(edges.sum(1)) - edges
        known = list(labels)
        f[free] = torch.linalg.solve(laplacian[free][:, free], edges[free][:, known] @ f[known])
        return f

    labels = {0: 0, 1: 1, 2: 2}
    f = harmonic(labels)
    torch.testing.assert_close(rule.harmonic(episode)[0][0], f)
    risks = {}
    for i in range(3, 10):
        risks[i] = sum(
            float(f[i, c]) * float((1 - harmonic({**labels, i: c}).amax(1)).sum()) for c in range(C)
        )
    rows = torch.arange(3, 10)[None]
    expected = torch.tensor([list(risks.values())], dtype=torch.float64)
    torch.testing.assert_close(rule.risk(episode, rows), expected)
    assert chosen(rule, episode, 1).item() == min(risks, key=lambda i: risks[i])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Margin(batch=0), "1 sample or more"),
        (lambda: ProbCover(delta=0.0), "a delta above 0"),
        (lambda: ProbCover(purity=1.0), "a purity between 0 and 1"),
        (lambda: ExpectedError(among=0), "of 1 or more"),
    ],
)
def test_options_that_are_none_are_refused(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]
