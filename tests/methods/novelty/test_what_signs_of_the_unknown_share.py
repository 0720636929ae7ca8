"""What each sign of the unknown says, beside its equation and in small worlds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from graphfsl.core import registry
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.open_set import auroc
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.novelty.class_distance import ClassDistance
from graphfsl.methods.novelty.energy import Energy
from graphfsl.methods.novelty.oslo import OSLO
from graphfsl.methods.novelty.propagated_mass import PropagatedMass
from tests.support.features import world


def novelty(part: Any, episode: Episode) -> Tensor:
    """Of the queries (B, Q)."""
    learner = Pipeline(head=ProtoNet(), novelty=part).eval()
    return learner.answer_open(episode)[..., -1]


@pytest.mark.parametrize("name", registry.names("novelty"))
@pytest.mark.parametrize("kind", ["apart", "near"])
def test_each_finds_far_classes_better_than_a_guess(name: str, kind: str) -> None:
    spread = 0.15 if kind == "apart" else 0.5
    episode, target = world(way=4, open_classes=3, spread=spread, batch=20)
    u = novelty(registry.get("novelty", name)(), episode)
    found = auroc(u, target >= 0, target < 0).mean()
    assert found > (0.9 if kind == "apart" else 0.6), found


@pytest.mark.parametrize("name", ["class_distance", "oslo", "propagated_mass"])
def test_a_query_that_is_a_support_node_is_among_the_least_novel(name: str) -> None:
    episode, _ = world(way=4, open_classes=3, spread=0.4, batch=5)
    x = episode.x.clone()
    x[:, episode.query.start] = x[:, 0]
    u = novelty(registry.get("novelty", name)(), episode.with_tensors({"x": x}))
    others = u[:, 1:].amin(1)
    # the means of one move to the queries; the other divides by how many neighbours a node has
    if name != "class_distance":
        assert (u[:, 0] < u[:, 1:].median(1).values).all()
    else:
        assert (u[:, 0] <= others + 1e-6).all()


@pytest.mark.parametrize("name", ["class_distance", "oslo", "propagated_mass"])
def test_a_known_class_near_an_open_query_makes_it_less_novel(name: str) -> None:
    episode, target = world(way=4, open_classes=3, spread=0.3, batch=5)
    part = registry.get("novelty", name)()
    before = novelty(part, episode)
    stranger = (target < 0).long().argmax(1)
    place = episode.query.start + stranger
    rows = torch.arange(5)
    more = episode.more_classes(1, 1)
    x, w, mask = more.x.clone(), more.w.clone(), more.mask.clone()
    added = episode.n_support  # where `more_classes` puts the place for a support node
    x[:, added] = episode.x[rows, place] + 0.01
    w[:, added, -1], mask[:, added] = 1.0, True
    after = novelty(part, more.replace(x=x, w=w, mask=mask))
    assert (after[rows, stranger] < before[rows, stranger]).all()


def test_the_distance_is_that_from_the_nearest_class_mean() -> None:
    episode, _ = world(way=3, shot=2, open_classes=2, batch=2)
    x = episode.x
    mean = x[:, :6].unflatten(1, (3, 2)).mean(2)
    squares = (x[:, episode.query, None] - mean[:, None]).square().sum(-1).amin(-1)
    u = novelty(ClassDistance("euclidean"), episode)
    torch.testing.assert_close(u, squares, atol=1e-4, rtol=1e-4)
    # energy of squared distances that are far apart is the smallest of them
    cold = novelty(Energy(temperature=1e-3), episode)
    torch.testing.assert_close(cold, squares, atol=1e-2, rtol=1e-2)


def test_cosines_are_of_means_of_unit_features() -> None:
    unit = torch.nn.functional.normalize(torch.randn(1, 5, 3), dim=-1)
    w = torch.zeros(1, 5, 2)
    w[0, 0, 0] = w[0, 1, 0] = w[0, 2, 1] = 1
    scale = torch.tensor([3.0, 0.5, 1.0, 7.0, 1.0])[None, :, None]
    u = novelty(ClassDistance(), Episode(unit * scale, w, 3, 2))
    means = torch.stack([unit[0, :2].mean(0), unit[0, 2]])
    cosines = torch.nn.functional.cosine_similarity(unit[0, 3:, None], means[None], dim=-1)
    torch.testing.assert_close(u[0], -cosines.amax(-1))


def test_without_centring_features_above_zero_leave_oslo_saturated_but_ranked() -> None:
    """All memberships are 1 in single precision; their logits still tell queries apart."""
    episode, target = world(way=3, open_classes=3, spread=0.2, batch=4)
    u = novelty(OSLO(), episode.with_tensors({"x": episode.x + 5}))
    assert (u.flatten().unique().numel()) > u.numel() / 2
    assert auroc(u, target >= 0, target < 0).mean() > 0.8


def test_oslo_is_its_equations() -> None:
    episode, _ = world(way=3, shot=2, open_classes=2, batch=1)
    part = OSLO(steps=3, lambda_xi=0.2, lambda_z=0.3)
    x = torch.nn.functional.normalize(episode.x[0], dim=-1)
    x = torch.nn.functional.normalize(x - x.mean(0), dim=-1)
    y, queries = episode.w[0], list(range(6, len(x)))
    mu = [x[2 * c : 2 * c + 2].mean(0) for c in range(3)]
    z = torch.full((len(x), 3), 1 / 3)
    for _ in range(3):
        cos = torch.stack(
            [torch.nn.functional.cosine_similarity(x, m[None], dim=-1) for m in mu], 1
        )
        logit = (z * cos).sum(1) / 0.2
        xi = torch.sigmoid(logit)
        z = torch.softmax(xi[:, None] * cos / 0.3, 1)
        mu = []
        for c in range(3):
            total, weight = torch.zeros(x.shape[1]), torch.zeros(())
            for i in range(len(x)):
                own = y[i, c] + (xi[i] * z[i, c] if i in queries else 0)
                total, weight = total + own * x[i], weight + own
            mu.append(total / weight)
    found = part(episode, torch.zeros(1, len(x), 3))[0]
    torch.testing.assert_close(found, -logit, atol=1e-4, rtol=1e-4)


def test_mass_is_what_a_sum_of_walks_brings() -> None:
    """F = sum_t (alpha S)^t Y, term by term."""
    episode, _ = world(way=3, shot=2, open_classes=2, batch=1)
    part = PropagatedMass(k=9, alpha=0.5, centred=False)
    x = torch.nn.functional.normalize(episode.x[0], dim=-1)
    a = (x @ x.T).clamp_min(0) ** 3
    a.fill_diagonal_(0)
    keep = torch.zeros_like(a, dtype=torch.bool)
    for i in range(len(a)):
        keep[i, a[i].topk(9).indices] = True
    a = a * (keep | keep.T)
    degree = a.sum(1)
    s = a / (degree[:, None] * degree[None]).sqrt()
    term = episode.w[0] / 2  # two labels a class
    f = torch.zeros_like(term)
    for _ in range(60):
        f, term = f + term, 0.5 * s @ term
    u = -(f.sum(1) / degree.sqrt()).log()
    found = part(episode, episode.w)[0]
    torch.testing.assert_close(found, u, atol=1e-4, rtol=1e-4)


def test_twice_the_labels_of_a_class_reach_no_farther() -> None:
    episode, _ = world(way=3, shot=2, open_classes=2, batch=2)
    doubled = episode.replace(w=2 * episode.w)
    part = PropagatedMass()
    torch.testing.assert_close(novelty(part, episode), novelty(part, doubled))


def test_the_scores_stay_as_they_are() -> None:
    episode, _ = world(way=3, open_classes=2, batch=2)
    plain = Pipeline(head=ProtoNet()).eval()
    for name in registry.names("novelty"):
        with_part = Pipeline(head=ProtoNet(), novelty=registry.get("novelty", name)()).eval()
        assert torch.equal(with_part(episode), plain(episode))
        assert torch.equal(with_part.answer_open(episode)[..., :-1], plain(episode))


def test_options_that_mean_nothing_are_refused() -> None:
    for make, says in (
        (lambda: ClassDistance("manhattan"), "distance"),
        (lambda: Energy(0), "temperature"),
        (lambda: OSLO(steps=0), "steps"),
        (lambda: PropagatedMass(alpha=1), "alpha"),
    ):
        with pytest.raises(InputError, match=says):
            make()
    with pytest.raises(InputError, match="is a head, not a part for the slot novelty"):
        Pipeline(head=ProtoNet(), novelty=ProtoNet())


def test_energy_reads_the_height_of_the_scores() -> None:
    class Fixed(Head):
        def score(self, episode: Episode) -> Tensor:
            return episode.x

    x = torch.tensor([[[0.0, 0.0], [5.0, 5.0], [0.0, 5.0]]])
    episode = Episode(x, torch.eye(2)[[0, 1, 0]][None], 2, 1)
    u = Pipeline(head=Fixed(), novelty=Energy()).score_open(episode)[0, :, -1]
    assert u.tolist() == pytest.approx(
        [-math.log(2), -5 - math.log(2), -5 - math.log1p(math.exp(-5))], abs=1e-6
    )
