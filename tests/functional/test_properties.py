"""Properties of graphfsl.functional that hold of any input (hypothesis)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from torch import Tensor

from graphfsl.functional.distances import cosine, squared_euclidean
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.soft_kmeans import soft_assign
from graphfsl.functional.statistics import accuracy, mean_and_ci95

many = settings(max_examples=100)


def floats(*shape: int, low: float = -10, high: float = 10) -> st.SearchStrategy[Tensor]:
    elements = st.floats(low, high, allow_subnormal=False)
    return arrays(np.float64, shape, elements=elements).map(torch.from_numpy)


def label_weights(*shape: int) -> st.SearchStrategy[Tensor]:
    elements = st.sampled_from([0.0, 0.0, 1.0]) | st.floats(1e-6, 1)
    return arrays(np.float64, shape, elements=elements).map(torch.from_numpy)


sizes = st.integers(1, 5)
leads = st.lists(st.integers(0, 3), max_size=2)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def double_loop(a: Tensor, b: Tensor, function: Any) -> Tensor:
    columns = [torch.stack([function(x, y) for y in b.unbind(-2)], -1) for x in a.unbind(-2)]
    return torch.stack(columns, -2)


@many
@given(leads, sizes, sizes, sizes, st.data())
def test_squared_euclidean_is_a_squared_distance(
    lead: list[int], n: int, m: int, d: int, data: st.DataObject
) -> None:
    a, b = data.draw(floats(*lead, n, d)), data.draw(floats(*lead, m, d))
    t = data.draw(floats(d))
    got = squared_euclidean(a, b)
    close(got, double_loop(a, b, lambda x, y: (x - y).square().sum(-1)))
    assert (got >= 0).all()
    close(squared_euclidean(b, a), got.mT)
    close(squared_euclidean(a + t, b + t), got)
    self_distance = squared_euclidean(a, a)
    assert (self_distance.diagonal(dim1=-2, dim2=-1) < 1e-11).all()
    far = 1e-3 * a + 1e3 * (t + 1 / 3)  # where the three terms cancel
    assert (squared_euclidean(far, far) >= 0).all()
    root = self_distance.sqrt()
    assert (root.unsqueeze(-2) <= root.unsqueeze(-1) + root.unsqueeze(-3) + 1e-5).all(), (
        "the triangle inequality"
    )


@many
@given(leads, sizes, sizes, sizes, st.floats(1e-3, 1e3), st.data())
def test_cosine_is_a_cosine(
    lead: list[int], n: int, m: int, d: int, scale: float, data: st.DataObject
) -> None:
    a, b = data.draw(floats(*lead, n, d)), data.draw(floats(*lead, m, d))
    a, b = (t.where(t.norm(dim=-1, keepdim=True) > 1e-6, 1) for t in (a, b))
    got = cosine(a, b)
    close(got, double_loop(a, b, lambda x, y: (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))))
    assert (got.abs() <= 1 + 1e-12).all()
    close(cosine(b, a), got.mT)
    close(cosine(scale * a, b), got)
    close(cosine(a, -b), -got)
    close(cosine(a, a).diagonal(dim1=-2, dim2=-1), torch.ones(*lead, n, dtype=torch.float64))


@many
@given(leads, sizes, sizes, sizes, st.floats(1e-6, 1e6), st.data())
def test_prototypes_are_weighted_means(
    lead: list[int], n: int, d: int, c: int, s: float, data: st.DataObject
) -> None:
    z, w = data.draw(floats(*lead, n, d)), data.draw(label_weights(*lead, n, c))
    p, there = prototypes(z, w), present(w)
    assert not p[~there].any(), "a class without weight is at zero"
    # In the convex hull: along any direction no prototype is beyond the nodes that have weight.
    direction = data.draw(floats(d))
    along, reached = z @ direction, p @ direction
    member = w > 0
    low = along.unsqueeze(-1).masked_fill(~member, math.inf).amin(-2)
    high = along.unsqueeze(-1).masked_fill(~member, -math.inf).amax(-2)
    assert ((reached >= low - 1e-9) & (reached <= high + 1e-9))[there].all()
    order = data.draw(st.permutations(range(n)))
    close(prototypes(z[..., order, :], w[..., order, :]), p)
    close(prototypes(z, s * w), p)
    close(prototypes(torch.cat([z, z], -2), torch.cat([0.25 * w, 0.75 * w], -2)), p)
    shift = data.draw(floats(d))
    close(prototypes(z + shift, w)[there], (p + shift)[there])


@many
@given(sizes, sizes, st.lists(st.integers(-1, 3), min_size=1, max_size=8), st.data())
def test_prototypes_of_one_hot_labels_are_class_means(
    b: int, d: int, y: list[int], data: st.DataObject
) -> None:
    z = data.draw(floats(b, len(y), d))
    w = torch.zeros(b, len(y), 4, dtype=torch.float64)
    for i, c in enumerate(y):
        w[:, i, c] = c >= 0  # a node without a label has no weight
    p = prototypes(z, w)
    for c in range(4):
        own = [i for i, k in enumerate(y) if k == c]
        close(
            p[:, c],
            sum(z[:, i] for i in own) / len(own) if own else torch.zeros(b, d, dtype=torch.float64),
        )
        assert (present(w)[:, c] == bool(own)).all()


@many
@given(st.lists(sizes, max_size=1), sizes, sizes, sizes, st.data())
def test_absent_classes_are_never_the_answer(
    layers: list[int], b: int, n: int, c: int, data: st.DataObject
) -> None:
    scores, w = data.draw(floats(*layers, b, n, c)), data.draw(label_weights(b, n, c))
    hidden, there = hide_absent(scores, w), (w > 0).any(1)
    seen = there.unsqueeze(-2).expand(scores.shape)
    assert torch.equal(hidden[seen], scores[seen]) and (hidden[~seen] == -math.inf).all()
    assert torch.equal(hide_absent(hidden, w), hidden)
    answers = torch.nn.functional.one_hot(hidden.argmax(-1), c).bool()
    assert seen[answers.where(there.any(-1)[:, None, None], seen)].all()


@many
@given(leads, sizes, sizes, st.data())
def test_soft_assignments_are_distributions(
    lead: list[int], n: int, c: int, data: st.DataObject
) -> None:
    mask = torch.from_numpy(data.draw(arrays(bool, (*lead, n))))
    dead = torch.from_numpy(data.draw(arrays(bool, (*lead, n, c)))).logical_and(
        data.draw(floats(1)) > 0
    )
    logits = (
        data.draw(st.sampled_from([1.0, 1e3, 1e30])) * data.draw(floats(*lead, n, c))
    ).masked_fill(dead, -math.inf)
    z = soft_assign(logits, mask)
    assert (z >= 0).all() and not z[dead].any()
    close(z.sum(-1), (mask & ~dead.all(-1)).double())
    order = data.draw(st.permutations(range(c)))
    close(soft_assign(logits[..., order], mask), z[..., order])
    small = logits.clamp(-20, 20).masked_fill(dead, -math.inf)
    close(soft_assign(small + data.draw(floats(*lead, n, 1)), mask), soft_assign(small, mask))
    higher = (logits.unsqueeze(-1) > logits.unsqueeze(-2)) & mask[..., None, None]
    assert (z.unsqueeze(-1) >= z.unsqueeze(-2))[higher].all(), "the order of the logits is kept"


@many
@given(sizes, st.integers(0, 6), sizes, st.data())
def test_accuracy_is_a_share(b: int, q: int, c: int, data: st.DataObject) -> None:
    ranks = data.draw(st.permutations(range(b * q * c)))  # no ties
    scores = torch.tensor(ranks, dtype=torch.float64).view(b, q, c)
    target = torch.from_numpy(
        data.draw(arrays(np.int64, (b, q), elements=st.sampled_from([-100, -1, *range(c)])))
    )
    got = accuracy(scores, target)
    assert ((got >= 0) & (got <= 1)).all()
    right = [
        [int(scores[i, j].argmax()) == t for j, t in enumerate(row) if t >= 0]
        for i, row in enumerate(target.tolist())
    ]
    assert got.tolist() == torch.tensor([sum(r) / len(r) if r else 0.0 for r in right]).tolist()
    queries, classes = (
        data.draw(st.permutations(range(q))),
        torch.tensor(data.draw(st.permutations(range(c)))),
    )
    renamed = torch.where(target >= 0, classes.argsort()[target.clamp_min(0)], target)
    assert torch.equal(accuracy(scores[..., classes], renamed), got)
    assert torch.equal(accuracy(scores[:, queries], target[:, queries]), got)
    assert torch.equal(
        accuracy(scores.exp().softmax(-1), scores.argmax(-1)), torch.full((b,), float(q > 0))
    )


@many
@given(st.integers(2, 40).flatmap(floats), st.floats(-5, 5), st.floats(-5, 5), st.randoms())
def test_the_interval_is_that_of_numpy_and_scipy(
    values: Tensor, scale: float, shift: float, random: Any
) -> None:
    mean, half = mean_and_ci95(values)
    v = values.numpy()
    np.testing.assert_allclose(mean, v.mean(), rtol=1e-9, atol=1e-9)
    low, high = stats.t.interval(0.95, len(v) - 1, v.mean(), max(stats.sem(v), 1e-12))
    np.testing.assert_allclose(half, (high - low) / 2, rtol=1e-4, atol=1e-9)
    order = random.sample(range(len(v)), len(v))
    np.testing.assert_allclose(mean_and_ci95(values[order]), (mean, half), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        mean_and_ci95(scale * values + shift),
        (scale * mean + shift, abs(scale) * half),
        rtol=1e-9,
        atol=1e-9,
    )
