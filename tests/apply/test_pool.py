"""A pool labeled from a handful: propagation is the closed form, the answer is the same in any
pieces, and files that cannot be read are listed."""

from __future__ import annotations

import csv
import itertools
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from scipy.stats import mannwhitneyu, norm

from graphfsl.apply import folder_features as features
from graphfsl.apply.label import label_pool as pools
from graphfsl.apply.label import pool_files
from graphfsl.apply.label.label_pool import Labels, label_pool
from graphfsl.apply.label.label_table import read_labels, samples_meant
from graphfsl.apply.label.pool_arguments import PRIORS
from graphfsl.apply.label.pool_page import pool_page
from graphfsl.cli import main as cli
from graphfsl.core import registry
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Transform
from graphfsl.functional import neighbors
from graphfsl.functional.calibration import accuracy_coverage
from graphfsl.functional.distinct_neighbors import distinct_neighbors
from graphfsl.functional.held_out import (
    REACHED,
    HeldOut,
    borne_out,
    class_weights,
    held_out,
    scores_of,
    temperature,
)
from graphfsl.functional.membership import membership, non_decreasing, shortfall
from graphfsl.functional.neighbors import nearest_neighbors, silent
from graphfsl.functional.propagation import propagate, symmetric
from graphfsl.functional.sparse_propagation import (
    _dots,
    both_ways,
    propagate_sparse,
    symmetric_sparse,
    union,
)
from graphfsl.io.errors import InputError
from graphfsl.loops import encode as encoding
from graphfsl.nn import Conv4

Call = Callable[..., tuple[int, str, str]]


def clusters(
    classes: int, each: int, spread: float = 0.4, dim: int = 16, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Features around `classes` directions, their classes, in mixed order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(classes).repeat(each))
    means = rng.standard_normal((classes, dim))
    return (means[y] + spread * rng.standard_normal((len(y), dim))).astype(np.float32), y


def few(y: np.ndarray, each: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The support: `each` samples of the first `classes` classes."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate(
        [rng.choice(np.flatnonzero(y == c), each, replace=False) for c in range(classes)]
    )
    return ids, y[ids]


def dense(x: np.ndarray, k: int, alpha: float) -> torch.Tensor:
    """G = (I - alpha S)^-1 by the closed form, in double precision."""
    z = torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1)
    cos = z @ z.T
    cos.fill_diagonal_(-1)
    keep = torch.zeros_like(cos).scatter(1, cos.topk(k).indices, 1.0)
    a = keep * cos.clamp_min(0) ** 3
    return propagate(symmetric(a + a.T), torch.eye(len(x), dtype=torch.float64), alpha)


# Mathematics


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 0.99])
def test_conjugate_gradients_are_the_closed_form(alpha: float) -> None:
    g = torch.Generator().manual_seed(0)
    index = torch.randint(0, 60, (60, 4), generator=g)
    weight = torch.rand(60, 4, generator=g, dtype=torch.float64)
    weight[7], weight[(index == 7)] = 0, 0  # a node without edges
    full = torch.zeros(60, 60, dtype=torch.float64)
    for i in range(60):
        for j, w in zip(index[i].tolist(), weight[i].tolist(), strict=True):
            full[i, j] += w
            full[j, i] += w
    w = union(index, weight)
    torch.testing.assert_close(w.to_dense(), full)
    s = symmetric_sparse(w)
    torch.testing.assert_close(s.to_dense(), symmetric(full))
    y = torch.randn(60, 5, generator=g, dtype=torch.float64) * torch.tensor([1, 1e6, 1e-6, 0, 1])
    expected = propagate(symmetric(full), y, alpha)
    size = y.norm(dim=0).clamp_min(1e-300)
    assert ((propagate_sparse(s, y, alpha) - expected) / size).abs().max() < 1e-6
    single = propagate_sparse(symmetric_sparse(union(index, weight.float())), y.float(), alpha)
    assert ((single - expected) / size).abs().max() < 1e-4, "single precision rounds, no more"


def test_copies_in_a_dense_cloud_are_found() -> None:
    """All cosines are one in single precision, so that neighbours tell nothing; every sample stands
    there twice.
    """
    cloud = (1 + 3e-4 * np.random.default_rng(0).standard_normal((200, 8))).astype(np.float32)
    found = distinct_neighbors(
        np.concatenate([cloud, cloud[::-1]]), 2, np.array([0]), np.array([0])
    )
    assert np.array_equal(found.group, found.group[::-1]) and len(np.unique(found.group)) > 150


def test_edges_go_both_ways() -> None:
    """Repeated edges are summed, those of one node to itself counted twice; against a loop."""
    edges, weight = torch.tensor([[0, 2, 0, 1], [1, 0, 1, 1]]), torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected = torch.zeros(3, 3)
    for (i, j), value in zip(edges.T.tolist(), weight.tolist(), strict=True):
        expected[i, j] += value
        expected[j, i] += value
    assert torch.equal(both_ways(edges, weight, 3).to_dense(), expected)


def test_a_column_does_not_depend_on_what_is_solved_beside_it() -> None:
    g = torch.Generator().manual_seed(0)
    s = symmetric_sparse(
        union(torch.randint(0, 5000, (5000, 4), generator=g), torch.rand(5000, 4, generator=g))
    )
    y = torch.zeros(5000, 9)
    y[torch.arange(9) * 500, torch.arange(9)] = torch.logspace(-4, 4, 9)
    together = propagate_sparse(s, y, 0.9)
    for part in (1, 2, 4):
        alone = torch.cat([propagate_sparse(s, c.contiguous(), 0.9) for c in y.split(part, 1)], 1)
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=0)


def test_dots_equal_a_loop() -> None:
    a, b = torch.randn(9000, 3, dtype=torch.float64), torch.randn(9000, 3, dtype=torch.float64)
    for m in range(3):
        assert _dots(a, b)[m].item() == pytest.approx(
            math.fsum((a[:, m] * b[:, m]).tolist()), abs=1e-9
        )


def test_belonging_is_the_share_of_a_mixture() -> None:
    g = torch.Generator().manual_seed(0)
    known, own, foreign = (
        torch.randn(n, generator=g) + m for n, m in ((4000, 3), (3000, 3), (3000, 0))
    )
    p = membership(torch.cat([own, foreign]), known)
    score = torch.cat([own, foreign])
    assert (p[score.argsort()].diff() >= 0).all(), "a higher score never belongs less"
    edges = known.quantile(torch.tensor([0.05, 0.25, 0.5])).tolist()
    for low, high in zip([-9, *edges], [*edges, 9], strict=True):
        inside = (score > low) & (score <= high)
        share = (inside[:3000].sum() / inside.sum()).item()
        assert p[inside].mean().item() == pytest.approx(share, abs=0.1), (low, high)
    assert membership(own, known).mean() > 0.95, "where nothing is foreign"
    assert (membership(own, known[:0]) == 1).all() and len(membership(own[:0], known)) == 0


def test_belonging_equals_a_loop() -> None:
    """pi (f0 + its standard error) / f of each bin, joined with its neighbours where it would fall;
    1 above the median.

    What so few known scores leave in doubt belongs: the standard error is a sixth of f0 and more
    here.
    """
    g = torch.Generator().manual_seed(3)
    known, score = torch.randn(99, generator=g) + 1.5, torch.randn(150, generator=g)
    score[80:] += 1.5
    bins, h, n = 4, len(known), len(score)
    edges = [round(i * (h + 1) / bins) for i in range(bins + 1)]  # in ranks
    rank = [1 + sum(float(k) <= float(s) for k in known) for s in score]
    of = [max(i for i in range(bins) if r > edges[i]) for r in rank]
    f0 = [(b - a) / (h + 1) for a, b in itertools.pairwise(edges)]
    f = [max(of.count(i), 1) / n for i in range(bins)]
    pi = min(1.0, sum(of.count(i) for i in range(bins // 2, bins)) / n / sum(f0[bins // 2 :]))
    most = [pi * (v + math.sqrt(v * (1 - v) / h)) for v in f0]

    def ratio(a: int, b: int) -> float:
        return sum(most[a : b + 1]) / sum(f[a : b + 1])

    p = [max(min(ratio(a, b) for b in range(i, bins)) for a in range(i + 1)) for i in range(bins)]
    p = [1.0 if i >= bins // 2 else min(v, 1.0) for i, v in enumerate(p)]
    assert p[0] < 0.9
    torch.testing.assert_close(membership(score, known, bins), torch.tensor([p[i] for i in of]))


def test_values_that_fall_become_their_weighted_mean() -> None:
    value, weight = torch.tensor([1.0, 5.0, 2.0, 3.0, 9.0]), torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0])
    expected = torch.tensor([1.0, 3.0, 3.0, 3.0, 9.0], dtype=torch.float64)
    torch.testing.assert_close(non_decreasing(value, weight), expected)
    assert non_decreasing(value.sort().values, weight).tolist() == [1, 2, 3, 5, 9]


def test_accuracy_by_coverage_equals_a_loop() -> None:
    confidence = torch.tensor([0.9, 0.5, 0.7, 0.9, 0.5, 0.2])
    right = torch.tensor([True, False, True, False, True, False])
    expected = []
    for level in (0.9, 0.7, 0.5, 0.2):
        kept = [bool(r) for c, r in zip(confidence, right, strict=True) if c >= level - 1e-6]
        expected.append((len(kept) / 6, sum(kept) / len(kept)))
    torch.testing.assert_close(
        accuracy_coverage(confidence, right), torch.tensor(expected, dtype=torch.float64)
    )
    shuffled = torch.tensor([3, 4, 0, 5, 1, 2])
    assert torch.equal(
        accuracy_coverage(confidence[shuffled], right[shuffled]),
        accuracy_coverage(confidence, right),
    )
    assert accuracy_coverage(confidence[:0], right[:0]).shape == (0, 2)


def test_the_temperature_is_the_likeliest() -> None:
    assert temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == pytest.approx(
        0.7, abs=0.02
    )
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 5, generator=g)
    drawn = torch.multinomial((logits / 2.0).softmax(1), 1, generator=g)[:, 0]
    assert temperature(logits.exp(), drawn) == pytest.approx(2.0, rel=0.1)


# Neighbours


def test_exact_neighbours_equal_a_loop_and_twins_are_not_oneself() -> None:
    x, _ = clusters(3, 20)
    x[5], x[9] = x[2], x[2]
    found = nearest_neighbors(x, 4)
    z = x / np.linalg.norm(x, axis=1)[:, None]
    cos = z @ z.T
    for i in range(len(x)):
        others = sorted((j for j in range(len(x)) if j != i), key=lambda j: -cos[i, j])
        assert i not in found.index[i] and len(set(found.index[i])) == 4
        np.testing.assert_allclose(found.cosine[i], cos[i, others[:4]], atol=1e-5)
        np.testing.assert_allclose(cos[i, found.index[i]], cos[i, others[:4]], atol=1e-5)
    assert found.recall == 1 and sorted(found.order) == list(range(len(x)))
    assert nearest_neighbors(x[:3], 10).index.shape == (3, 2)


def test_cells_find_nearly_all_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    x, _ = clusters(12, 300, spread=0.7)
    x = np.concatenate([x, np.repeat(x[:1], 700, 0)])  # more of one kind than a cell holds
    exact = nearest_neighbors(x, 8)
    monkeypatch.setattr(neighbors, "EXACT", 1000)
    monkeypatch.setattr(neighbors, "CELL", 64)
    found = nearest_neighbors(x, 8)
    # a twin of a neighbour is as good
    recall = (found.cosine >= exact.cosine[:, -1:] - 1e-6).mean()
    assert recall > 0.88 and found.recall >= 0.9 and found.cells > 1
    assert (found.index != np.arange(len(x))[:, None]).all() and sorted(found.order) == list(
        range(len(x))
    )
    z = x / np.linalg.norm(x, axis=1)[:, None]
    np.testing.assert_allclose(found.cosine, np.einsum("nd,nkd->nk", z, z[found.index]), atol=1e-5)
    again = nearest_neighbors(x, 8)
    assert np.array_equal(again.index, found.index), "nothing is left to chance"


def test_without_faiss_neighbours_are_exact_and_a_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, _ = clusters(5, 60)
    expected = nearest_neighbors(x, 6)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(neighbors, "EXACT", 100)
    with pytest.warns(UserWarning, match=r"faiss is not installed.*graphfsl\[faiss\]"):
        found = nearest_neighbors(x, 6)
    assert np.array_equal(found.index, expected.index) and (found.cells, found.recall) == (1, 1)


# Labels


def test_labels_and_what_spoke_for_them_are_the_closed_form() -> None:
    x, y = clusters(4, 30, spread=0.6)
    support, label = few(y, 3, 4)
    found = label_pool(x, support, label, neighbors=5, alpha=0.8)
    g = dense(x, 5, 0.8)[:, support]
    score = torch.stack([g[:, label == c].mean(1) for c in range(4)], 1)
    rest = ~found.given
    assert np.array_equal(found.best[rest], score.argmax(1).numpy()[rest])
    p = (score.log() / found.facts["temperature"]).softmax(1).amax(1).numpy()
    np.testing.assert_allclose(found.score[rest], p[rest], atol=1e-4)
    for i in np.flatnonzero(rest):
        own = np.flatnonzero(label == found.best[i])
        said = g[i, own] / g[i, own].sum()
        order = said.argsort(descending=True)
        np.testing.assert_array_equal(found.support[i], own[order.numpy()])
        np.testing.assert_allclose(found.share[i], said[order], atol=1e-4)
    assert np.array_equal(found.label[support], label) and (found.score[support] == 1).all()
    assert np.isnan(found.confidence).all(), "of twelve labels too few are held out"
    assert np.array_equal(np.flatnonzero(found.given), np.sort(support))


def test_what_is_held_out_is_what_others_say() -> None:
    x, y = clusters(3, 30, spread=0.9)
    support, label = few(y, 4, 3)
    g = dense(x, 5, 0.8)
    pool = g[np.setdiff1d(np.arange(len(x)), support)]

    def score(i: int, own: list[int], prior: str) -> float:
        said, mass = float(g[i, own].sum()), float(pool[:, own].sum())
        return {"none": said / len(own), "uniform": said / mass, "labels": said * len(own) / mass}[
            prior
        ]

    for prior in PRIORS:
        found = label_pool(x, support, label, neighbors=5, alpha=0.8, prior=prior)
        right = []
        for i, c in zip(support, label, strict=True):
            others = [[s for s in support if s != i and y[s] == k] for k in range(3)]
            right.append(int(np.argmax([score(i, own, prior) for own in others])) == c)
        assert found.facts["held out"] == 12 and found.facts["right"] == pytest.approx(
            np.mean(right)
        )


@pytest.mark.parametrize("prior", PRIORS)
def test_held_out_scores_are_those_of_a_loop(prior: str) -> None:
    """Of a class with two labels, of one whose two labels share a node, and of one of none."""
    node, group = torch.tensor([0, 1, 2, 2, 3, 4]), torch.tensor([0, 0, 1, 1, 2, 1])
    member = torch.nn.functional.one_hot(group).float()
    g = torch.Generator().manual_seed(0)
    influence, mass = torch.rand(6, 6, generator=g), torch.rand(6, generator=g)
    held = held_out(influence, node, group, member, mass, prior, classes=2)
    assert held.ids.tolist() == [0, 1, 2, 3, 5] and held.of_every_class and held.reached.all()
    for row, i in enumerate(held.ids.tolist()):
        for c in range(3):
            others = [s for s in range(6) if node[s] != node[i] and group[s] == c]
            given, reach = sum(influence[i, others]), sum(mass[others])
            weight = {"none": 1 / max(len(others), 1), "uniform": 1 / reach if others else 0}
            weight["labels"] = len(others) * weight["uniform"]
            if others:
                assert held.scores[row, c] == pytest.approx(float(given * weight[prior]))
            else:
                assert held.scores[row, c] < 1e-5


def test_classes_are_weighed_by_their_labels_and_their_mass() -> None:
    labels, mass = torch.tensor([1.0, 4.0, 2.0]), torch.tensor([0.5, 2.0, 0.0])
    assert class_weights("none", labels, mass).tolist() == [1, 0.25, 0.5]
    assert class_weights("uniform", labels, mass).tolist() == [2, 0.5, 0], (
        "the last reaches nothing"
    )
    assert class_weights("labels", labels, mass).tolist() == [2, 2, 0]


def test_what_no_label_reaches_scores_the_same_for_all_classes() -> None:
    raw, v = torch.tensor([[1.0, 2.0, 0.0], [0.0, REACHED / 2, 0.0]]), torch.tensor([1.0, 3.0, 0.5])
    least = REACHED * 0.5
    torch.testing.assert_close(
        scores_of(raw, v), torch.tensor([[1.0, 6.0, least], [least, least, least]])
    )


def test_no_bar_shows_nothing_and_passes_all() -> None:
    assert list(silent([3, 1, 2], "counting")) == [3, 1, 2]


@pytest.mark.parametrize("prior", ["uniform", "labels"])
def test_priors_balance_the_mass_of_classes(prior: str) -> None:
    x, y = clusters(3, 40, spread=1.0)
    support = np.concatenate([np.flatnonzero(y == c)[:n] for c, n in ((0, 1), (1, 2), (2, 5))])
    g = dense(x, 10, 0.9)[:, support]
    rest = np.setdiff1d(np.arange(len(x)), support)
    score = torch.stack([g[:, y[support] == c].sum(1) for c in range(3)], 1)
    share = torch.tensor([1.0, 1, 1] if prior == "uniform" else [1.0, 2, 5], dtype=torch.float64)
    score = score * share / score[rest].sum(0)
    torch.testing.assert_close(score[rest].sum(0), share)
    found = label_pool(x, support, y[support], prior=prior)
    assert np.array_equal(found.best[rest], score.argmax(1).numpy()[rest])


@pytest.mark.parametrize("cell", [False, True])
def test_the_answer_is_the_same_for_any_chunk(cell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if cell:
        pytest.importorskip("faiss")
        monkeypatch.setattr(neighbors, "EXACT", 100)
        monkeypatch.setattr(neighbors, "CELL", 64)
    x, y = clusters(6, 100, spread=0.8)
    support, label = few(y, 3, 5)
    label[-2:] = -1
    whole = label_pool(x, support, label)
    for chunk, numbers in ((1, 15), (4, 1000), (1000, 37 * 15)):
        monkeypatch.setattr(pools, "NUMBERS", numbers)
        found = label_pool(x, support, label, chunk=chunk)
        for name in ("label", "best", "support", "given"):
            assert np.array_equal(getattr(found, name), getattr(whole, name)), name
        for name in ("score", "none", "share"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-6)


def test_distractors_are_found_and_a_clean_pool_is_left_alone() -> None:
    x, y = clusters(10, 60, spread=0.5)
    support, label = few(y, 15, 6)
    found, rest = label_pool(x, support, label), np.setdiff1d(np.arange(len(x)), support)
    own, foreign = rest[y[rest] < 6], rest[y[rest] >= 6]
    assert (found.label[foreign] == -1).mean() > 0.95 and (found.label[own] == y[own]).mean() > 0.75
    assert len(np.unique(found.none)) > 300, "a score, not a few steps"
    clean = np.flatnonzero(y < 6)
    again = label_pool(x[clean], np.searchsorted(clean, support), label)
    assert (again.label == -1).mean() < 0.02 and (again.label == y[clean]).mean() > 0.97
    assert again.facts["tells"] is False and found.facts["tells"] is True
    never = label_pool(x, support, label, none=1)
    assert np.array_equal(never.label, never.best) and np.array_equal(never.best, found.best)


def test_with_one_label_samples_of_none_tell_what_is_none() -> None:
    x, y = clusters(8, 40, spread=0.5)
    support, label = few(y, 1, 8)
    label[label >= 5] = -1
    found = label_pool(x, support, label)
    assert found.facts["held out"] == 0 and found.facts["temperature"] == pytest.approx(
        0.7, abs=0.02
    )
    expected = np.where(y < 5, y, -1)
    assert (found.label == expected).mean() > 0.95
    assert (found.label[support] == label).all() and (found.none[support[label < 0]] == 1).all()


def test_what_no_label_reaches_is_none() -> None:
    x, y = clusters(2, 30, dim=8)
    away = np.zeros((40, 16), np.float32)
    away[:, 8:] = clusters(1, 40, dim=8)[0]
    x = np.concatenate([np.pad(x, ((0, 0), (0, 8))), away])
    support, label = few(y, 2, 2)
    found = label_pool(x, support, label, none=1)
    assert (
        (found.label[60:] == -1).all()
        and (found.best[60:] == -1).all()
        and (found.none[60:] == 1).all()
    )
    assert (found.score[60:] == 0).all() and (found.support[60:] == -1).all()
    assert np.array_equal(found.reached, np.arange(100) < 60) and np.array_equal(
        found.of(-2), np.arange(60, 100)
    )
    assert not len(found.of(-1))
    assert (found.best[:60] == y).all()


def test_confidence_is_calibrated_on_held_out_labels() -> None:
    x, y = clusters(5, 300, spread=1.6, seed=3)
    support, label = few(y, 20, 5)
    found = label_pool(x, support, label)
    rest = ~found.given
    right = (found.best == y)[rest]
    assert 0.4 < right.mean() < 0.95, "neither easy nor hopeless"
    assert found.confidence[rest].mean() == pytest.approx(right.mean(), abs=0.07)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"neighbors": 0}, "neighbors must lie between 1"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 0.999"),
        ({"none": -0.1}, "none must lie between"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1"),
        ({"prior": "unifrom"}, "did you mean 'uniform'"),
        ({"label": np.array([0, 0])}, "has 1 class"),
        ({"label": np.array([-1, -1])}, "has 0 class"),
        ({"label": np.array([0, 2])}, r"numbered 0 \.\. C - 1.*there are \[0, 2\]"),
        ({"support": np.array([1, 1])}, "sample 1 stands in the support twice"),
        ({"support": np.array([0, 99])}, "sample 99 of the support is none of the pool's"),
        ({"x": np.full((20, 4), np.nan, np.float32)}, "sample 0 of the pool holds NaN"),
        ({}, r"2 labels in a pool of 20 need 0\.0 GB"),
    ],
)
def test_options_that_cannot_be_used(
    options: dict[str, object], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not options:
        monkeypatch.setattr("graphfsl.apply.label.pool_arguments.os.sysconf", lambda name: 1)
    given = {
        "x": clusters(2, 10)[0],
        "support": np.array([0, 1]),
        "label": np.array([0, 1]),
        **options,
    }
    with pytest.raises(InputError, match=line):
        label_pool(**given)  # type: ignore[arg-type]


# Files


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["graphfsl", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; images are encoded by a small network, in blocks of four."""

    def tiny(*_: object) -> tuple[Pipeline, Transform, int, int]:
        torch.manual_seed(0)
        return (
            Pipeline(Conv4(3, 4), head=registry.get("head", "protonet")()).eval(),
            Transform(),
            28,
            3,
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encoding, "IMAGES_AT_ONCE", 4)
    monkeypatch.setattr(pool_files, "folder_encoder", tiny)
    return tmp_path


SIGNS = ("bär", "cross", "dash")


def draw_signs(root: Path, each: int = 12) -> dict[str, str]:
    """Drawings of three signs in folders that say nothing of them: file -> class."""
    rng, truth = np.random.default_rng(0), {}
    for i in range(each * len(SIGNS)):
        kind = i % len(SIGNS)
        image = Image.new("RGB", (40, 40), "white")
        pen, (x, y) = ImageDraw.Draw(image), rng.integers(17, 23, 2).tolist()
        if kind == 0:
            pen.ellipse((x - 14, y - 14, x + 14, y + 14), fill="black")
        if kind == 1:
            pen.line((x, 2, x, 38), fill="black", width=5)
        if kind > 0:
            pen.line((2, y, 38, y), fill="black", width=5)
        file = f"box {i % 2}/{i:03d} é.png"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / file)
        truth[file] = SIGNS[kind]
    return truth


def write_csv(path: str, labels: dict[str, str]) -> None:
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sample", "label"), *labels.items()])


def read_csv(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def two_each(truth: dict[str, str]) -> dict[str, str]:
    return {name: c for sign in SIGNS for name, c in [p for p in truth.items() if p[1] == sign][:2]}


def test_a_folder_is_labeled_and_broken_files_are_listed(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    Path("in/box 0/broken.png").write_bytes(b"junk")
    Path("in/empty.JPG").touch()
    Path("in/gone.png").symlink_to("nowhere.png")
    Path("in/notes.txt").write_text("no image")
    write_csv("few.csv", two_each(truth))
    write_csv("truth.csv", truth)
    code, out, err = call(
        "label", "in", "--support", "few.csv", "--truth", "truth.csv", "--neighbors", 4, "-o", "out"
    )
    assert (code, err) == (0, ""), err
    assert "of 30 labeled" in out and "3 not readable" in out and "out/labels.csv" in out
    rows = read_csv("out/labels.csv")
    assert [r["sample"] for r in rows] == sorted(truth)
    assert sum(r["best"] == truth[r["sample"]] for r in rows) >= 33
    for r in rows:
        assert r["confidence"] == "" and 0 <= float(r["none"]) <= 1, (
            "of six labels too few are held out"
        )
        if r["given"] == "1":
            assert r["label"] == truth[r["sample"]] and r["support_1"] == ""
        else:
            assert truth[r["support_1"]] == r["best"] and 0 < float(r["share_1"]) <= 1
    lost = {r["sample"]: r["why"] for r in read_csv("out/unreadable.csv")}
    assert (
        list(lost) == ["box 0/broken.png", "empty.JPG", "gone.png"]
        and "link to nothing" in lost["gone.png"]
    )
    assert "not a readable image" in lost["empty.JPG"]
    sheets = sorted(p.name for p in Path("out/sheets").iterdir())
    assert sheets == ["000-none_of_these.png", "001-bär.png", "002-cross.png", "003-dash.png"]
    with Image.open("out/sheets/002-cross.png") as sheet:
        assert sheet.format == "PNG" and sheet.size[0] > 1000 and np.asarray(sheet).std() > 10
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert (
        ("Accuracy against coverage") in page
        and "box 0/broken.png" in page
        and 'href="sheets/001-bär.png"' in page
    )
    assert page.count("data:image/jpeg") == 4 and page.count("data:image/svg") == 4
    assert not list(Path("out").rglob(".*")), "temporary names are gone"


def test_a_stopped_encoding_goes_on_and_labels_are_read_back(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = draw_signs(world / "in")
    Path("in/zz broken.png").write_bytes(b"junk")
    write_csv("few.csv", {**two_each(truth), "zz broken.png": "dash"})
    encode, sizes, most = features.encode, [], 4

    def counting(*args: object) -> torch.Tensor:
        if len(sizes) == most:
            raise KeyboardInterrupt
        sizes.append(len(args[1]))  # type: ignore[arg-type]
        return encode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "encode", counting)
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 130
    assert not Path("out").exists()
    sizes, most = [], 99
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 0
    assert sizes == [4, 4, 4, 4, 4, 4, 1], "of 37 files 12 were surely done"
    sizes = []
    assert call("label", "in", "--support", "out/labels.csv", "--chunk", 1, "-o", "again")[0] == 0
    assert not sizes
    before, after = (read_csv(f"{folder}/labels.csv") for folder in ("out", "again"))
    assert [r["label"] for r in before] == [r["label"] for r in after] and {
        r["given"] for r in after
    } == {"1"}


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_features_are_labeled_by_path_or_number(world: Path, call: Call, ending: str) -> None:
    x, y = clusters(3, 20)
    x[7] = np.nan
    names = [f"{i}.png" if ending == "npz" else str(i) for i in range(60)]
    if ending == "npz":
        np.savez("pool.npz", features=x, labels=y, paths=np.array(names))
    else:
        save_file({"features": x}, "pool.safetensors")
    ids = [i for c in range(3) for i in [i for i in np.flatnonzero(y == c) if i != 7][::8]]
    write_csv("few.csv", {names[i]: f"class {y[i]}" for i in ids})
    write_csv("truth.csv", {n: f"class {c}" for n, c in zip(names[:30], y, strict=False)})
    code, _, err = call("label", f"pool.{ending}", "--support", "few.csv", "--truth", "truth.csv")
    assert (code, err) == (0, ""), err
    rows = read_csv("labels/labels.csv")
    assert len(rows) == 59 and all(
        r["best"] == f"class {y[names.index(r['sample'])]}" for r in rows
    )
    assert (
        "holds NaN" in Path("labels/unreadable.csv").read_text()
        and not Path("labels/sheets").exists()
    )


def test_samples_of_none_are_rows_without_a_label(world: Path, call: Call) -> None:
    x, y = clusters(4, 20, spread=0.3)
    save_file({"features": x}, "pool.safetensors")
    write_csv(
        "few.csv", {str(np.flatnonzero(y == c)[0]): f"c{c}" if c < 3 else "" for c in range(4)}
    )
    assert call("label", "pool.safetensors", "--support", "few.csv", "-o", "out")[0] == 0
    assert [r["label"] for r in read_csv("out/labels.csv")] == [
        "" if c == 3 else f"c{c}" for c in y
    ]
    assert "not calibrated" in Path("out/report.html").read_text()


def test_a_pretrained_encoder_encodes_a_folder(
    world: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    from graphfsl.apply.folder_encoder import folder_encoder

    monkeypatch.setattr(pool_files, "folder_encoder", folder_encoder)
    truth = draw_signs(world / "in", each=4)
    write_csv("few.csv", two_each(truth))
    code, _, err = call(
        "label", "in", "--support", "few.csv", "--size", 32, "--neighbors", 3, "-o", "out"
    )
    assert (code, err) == (0, ""), err
    assert sum(r["best"] == truth[r["sample"]] for r in read_csv("out/labels.csv")) >= 10


def test_parquet(world: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clusters(2, 10)
    save_file({"features": x}, "pool.safetensors")
    write_csv("few.csv", {str(np.flatnonzero(y == c)[0]): f"c{c}" for c in range(2)})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        code, _, err = call(
            "label", "pool.safetensors", "--support", "few.csv", "--format", "parquet"
        )
        assert code == 2 and "Parquet needs pyarrow" in err and not Path("labels").exists()
    assert call("label", "pool.safetensors", "--support", "few.csv", "--format", "parquet")[0] == 0
    table = pyarrow.parquet.read_table("labels/labels.parquet").to_pydict()
    assert table["label"] == [f"c{c}" for c in y] and isinstance(table["score"][0], float)


BAD = {
    "no table": (["pool.npz", "--support", "none.csv"], "none.csv is not a readable UTF-8 file"),
    "not text": (["pool.npz", "--support", "pool.npz"], "pool.npz is not a readable UTF-8 file"),
    "no column": (
        ["pool.npz", "--support", "columns.csv"],
        "lacks column 'label'; it must have 'sample' and 'label'",
    ),
    "no line": (["pool.npz", "--support", "bare.csv"], "bare.csv labels no sample"),
    "two labels": (
        ["pool.npz", "--support", "twice.csv"],
        "twice.csv, line 3: '0' is 'a' above, 'b' here",
    ),
    "unknown sample": (
        ["pool.npz", "--support", "unknown.csv"],
        "sample '99' is not in pool.npz; samples are its",
    ),
    "unknown truth": (
        ["pool.npz", "--support", "few.csv", "--truth", "unknown.csv"],
        "unknown.csv: sample '99' is not",
    ),
    "one class": (
        ["pool.npz", "--support", "single.csv"],
        "the support has 1 class; at least 2 are needed",
    ),
    "unreadable class": (["nan.npz", "--support", "few.csv"], "no sample of class 'a' can be read"),
    "no pool": (
        ["nowhere", "--support", "few.csv"],
        "nowhere does not exist; a pool is a folder of images",
    ),
    "another file": (
        ["few.csv", "--support", "few.csv"],
        "few.csv is neither; a pool is a folder of images",
    ),
    "broken features": (
        ["junk.npz", "--support", "few.csv"],
        "junk.npz is not a readable file of plain arrays",
    ),
    "broken tensors": (
        ["junk.safetensors", "--support", "few.csv"],
        "junk.safetensors is not a readable file",
    ),
    "pickled features": (
        ["pickled.npz", "--support", "few.csv"],
        "pickled.npz is not a readable file of plain arrays",
    ),
    "no features": (
        ["other.npz", "--support", "few.csv"],
        "must hold 'features', floats (n, d), not x int64 (3,)",
    ),
    "equal paths": (["paths.npz", "--support", "few.csv"], "one of `paths` for each of 20 rows"),
    "empty folder": (["empty", "--support", "few.csv"], "empty holds no image; known: .apng"),
    "broken folder": (["broken", "--support", "few.csv"], "none of its 1 images can be read"),
    "format": (["pool.npz", "--support", "few.csv", "--format", "csw"], "did you mean 'csv'"),
    "prior": (["pool.npz", "--support", "few.csv", "--prior", "even"], "unknown prior 'even'"),
    "neighbors": (
        ["pool.npz", "--support", "few.csv", "--neighbors", "0"],
        "neighbors must lie between 1 and 1000",
    ),
    "blocked": (
        ["pool.npz", "--support", "few.csv", "--out", "few.csv"],
        "few.csv is a file where a folder is to be",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line(world: Path, call: Call, case: str) -> None:
    x, y = clusters(2, 10)
    a, b = (str(np.flatnonzero(y == c)[0]) for c in range(2))
    np.savez("pool.npz", features=x)
    np.savez("nan.npz", features=np.where(np.arange(20)[:, None] == int(a), np.nan, x))
    np.savez("other.npz", x=np.arange(3))
    np.savez("paths.npz", features=x, paths=np.array(["a"] * 20))
    np.savez("pickled.npz", features=np.array([{}], dtype=object))
    for name in ("junk.npz", "junk.safetensors", "broken/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"junk")
    Path("empty").mkdir()
    write_csv("few.csv", {a: "a", b: "b"})
    write_csv("single.csv", {a: "a", b: "a"})
    write_csv("unknown.csv", {a: "a", "99": "b"})
    Path("bare.csv").write_text("sample,label\n")
    Path("columns.csv").write_text("sample,class\n0,a\n")
    Path("twice.csv").write_text("sample,label\n0,a\n0,b\n")
    arguments, line = BAD[case]
    code, out, err = call("label", *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and line in err, err
    assert not Path("labels").exists()


def test_a_report_of_extremes() -> None:
    x, y = clusters(2, 10)
    support, label = few(y, 1, 2)
    found = label_pool(x, support, label)
    none = Labels(**{**vars(found), "label": np.where(found.given, found.label, -1)})
    given = np.where(found.given, y, -2)
    for which, truth in (
        (none, y),
        (none, np.full(20, -2)),
        (found, np.full(20, -1)),
        (none, given),
        (none, 0 * y - 1),
    ):
        page = pool_page(
            "<t>", ["`n`"], which, ["<a>", "b"], truth, {0: "s.png"}, [], [("f&", "why")] * 60
        )
        assert (
            "&lt;a&gt;" in page
            and "<a>" not in page
            and "and 10 more" in page
            and "<title>&lt;t&gt;" in page
        )
        assert "nan" not in re.sub("<img[^>]*>", "", page)


# What is said of the answer


def test_held_out_labels_that_nothing_reaches_are_not_found_again() -> None:
    x = np.zeros((500, 40), np.float32)
    for c, pair in enumerate(np.random.default_rng(0).random((500, 2)).reshape(20, 25, 2)):
        x[25 * c : 25 * c + 25, 2 * c : 2 * c + 2] = pair  # at right angles to all others
    support, label = np.arange(20) * 25, np.arange(20) % 5
    for prior in PRIORS:
        found = label_pool(x, support, label, prior=prior)
        assert (found.facts["held out"], found.facts["reached"], found.facts["right"]) == (
            20,
            0,
            0.0,
        )
        assert not found.facts["borne out"] and np.isnan(found.confidence).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_a_class_that_reaches_nothing_wins_nothing(prior: str) -> None:
    x, y = clusters(2, 40, dim=8)
    x = np.pad(x, ((0, 1), (0, 1)))
    x[-1] = np.eye(9)[-1]  # alone at right angles to all
    support, label = few(y, 3, 2)
    found = label_pool(x, np.append(support, 80), np.append(label, 2), prior=prior)
    assert (found.best[:80] == y).all()


def test_where_labels_cannot_tell_nothing_is_called_none() -> None:
    for draw in range(8):
        x, y = clusters(2, 60, spread=1.0, seed=draw)
        support, label = few(y, 2, 2, seed=draw)
        found = label_pool(x, support, label)
        assert not found.facts["tells"] and (found.label >= 0).all()
        assert not found.facts["borne out"], "four labels bear nothing out"
        asked = label_pool(x, support, label, none=0.4)
        assert np.array_equal(asked.label < 0, asked.none > 0.4), "unless one asks for it"


@pytest.mark.parametrize("each", [(50, 1, 1), (50, 2, 2), (10, 10, 10)])
def test_classes_of_unequal_labels_or_sizes_are_not_foreign(each: tuple[int, ...]) -> None:
    for draw in range(4):
        x, y = clusters(3, 300, spread=0.9, dim=24, seed=draw)
        if each == (10, 10, 10):
            kept = np.concatenate(
                [np.flatnonzero(y == c)[:size] for c, size in enumerate((300, 40, 40))]
            )
            x, y = x[kept], y[kept]
        support = np.concatenate([np.flatnonzero(y == c)[:k] for c, k in enumerate(each)])
        found = label_pool(x, support, y[support])
        assert (found.label >= 0).all() and not found.facts["tells"]
        assert not (1 in each and found.facts["borne out"]), "of two classes nothing is held out"


def test_none_ranks_by_propagated_mass_over_the_root_of_degree() -> None:
    x, y = clusters(6, 30, spread=0.8)
    support, label = few(y, 3, 3)
    found = label_pool(x, support, label, neighbors=5, alpha=0.8)
    g = dense(x, 5, 0.8)[:, support]
    z = torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1)
    cos = (z @ z.T).fill_diagonal_(-1)
    a = torch.zeros_like(cos).scatter(1, cos.topk(5).indices, 1.0) * cos.clamp_min(0) ** 3
    mass = (
        torch.stack([g[:, label == c].mean(1) for c in range(3)], 1).amax(1)
        / (a + a.T).sum(1).sqrt()
    )
    rest = np.flatnonzero(~found.given)
    rest = rest[found.reached[rest]]
    by_mass = rest[mass.numpy()[rest].argsort()]
    assert (np.diff(found.none[by_mass]) <= 1e-5).all()
    own, foreign = found.none[rest[y[rest] < 3]], found.none[rest[y[rest] >= 3]]
    assert (own[:, None] < foreign).mean() > 0.9


def test_shortfall_is_the_rank_sum_test_of_scipy() -> None:
    rng = np.random.default_rng(0)
    score, known = torch.from_numpy(rng.random(60)), torch.from_numpy(0.2 + rng.random(15))
    of, known_of = torch.zeros(60, dtype=torch.int64), torch.zeros(15, dtype=torch.int64)
    expected = mannwhitneyu(
        known, score, alternative="greater", use_continuity=False, method="asymptotic"
    ).pvalue
    lower, error = shortfall(score, of, known, known_of)
    z = lower / error
    assert lower == pytest.approx((score[:, None] < known).float().mean().item() - 0.5)
    assert norm.sf(z * math.sqrt(15 / 14)) == pytest.approx(expected, rel=1e-6), (
        "one of them counts for nothing"
    )
    three = shortfall(score, torch.arange(60) % 3, known, torch.arange(15) % 3)
    assert three == pytest.approx((lower, error * math.sqrt(14 / 12)))
    assert (
        shortfall(score, of, known[:1], known_of[:1])
        == shortfall(score, of - 1, known, known_of)
        == (0, math.inf)
    )


def test_shortfall_counts_neither_shares_nor_numbers_of_labels() -> None:
    rng = np.random.default_rng(0)
    of, known_of = torch.tensor([0] * 20 + [1] * 200), torch.tensor([0] * 40 + [1] * 5)
    # class 1 scores lower
    score, known = (torch.from_numpy(rng.random(len(c))) * 10.0**-c for c in (of, known_of))
    assert mannwhitneyu(known, score, alternative="greater").pvalue < 1e-6
    lower, error = shortfall(score, of, known, known_of)
    assert abs(lower) < 2 * error
    lower, error = shortfall(score / 100, of, known, known_of)
    assert lower > 3 * error
    nothing = shortfall(score, of, known[known_of == 0], known_of[known_of == 0])
    assert nothing == (0, math.inf), "of class 1 nothing is known"


@pytest.mark.parametrize("labels", [4, 40])
def test_few_labels_bear_out_nothing_of_a_pool_that_seems_to_rank_lower(labels: int) -> None:
    group = torch.arange(5).repeat_interleave(labels)
    scores = torch.full((5 * labels, 5), 1e-3).scatter(1, group[:, None], 1.0)
    held = HeldOut(
        torch.arange(5 * labels), scores, group, torch.ones(5 * labels, dtype=torch.bool), True
    )
    error = 1 / math.sqrt(12 * 5 * (labels - 1))
    for z, borne in ((-2.0, True), (0.5, labels == 40), (1.5, False), (4.0, True)):
        assert borne_out(held, 0.7, z * error, error) == borne, z


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.05])
def test_neighbours_are_chosen_among_distinct_samples(noise: float) -> None:
    x, y = clusters(3, 40)
    support, label = few(y, 2, 3)
    alone = label_pool(x, support, label)
    copies = x.repeat(12, 0) + noise * np.random.default_rng(0).standard_normal((1440, 16)).astype(
        np.float32
    )
    found = label_pool(copies, 12 * support, label)
    assert found.reached.all() and (found.best == y.repeat(12)).mean() > 0.97
    if noise == 0:
        assert found.facts["distinct"] == 120
        np.testing.assert_array_equal(found.best[::12], alone.best)


def test_equal_features_are_one_sample() -> None:
    x, y = clusters(3, 40, spread=1.0)
    support, label = few(y, 2, 3)
    alone = label_pool(x, support, label)
    found = label_pool(np.concatenate([x, x[:50], x[:50]]), support, label)
    rest = ~alone.given
    np.testing.assert_array_equal(found.best[:120][rest], alone.best[rest])
    np.testing.assert_array_equal(found.best[120:170], found.best[170:])
    same = label_pool(np.ones((30, 4), np.float32), np.array([0, 1]), np.array([0, 1]))
    assert same.reached.all()


def test_a_chain_of_frames_is_no_copy_of_its_first() -> None:
    ends, step = np.random.default_rng(0).standard_normal((2, 32)), np.linspace(0, 1, 500)[:, None]
    pan = (1 - step) * ends[0] + step * ends[1]  # from a labeled class to what has no label
    x = np.concatenate([pan, clusters(1, 40, dim=32, seed=1)[0]]).astype(np.float32)
    support, label = np.array([0, 9, 500, 501]), np.array([0, 0, 1, 1])
    own = distinct_neighbors(x, 10, support, label).group
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    copies = [i for i in range(1, 540) if own[i] in own[support] and i not in support]
    assert copies and (1 - (z[copies] @ z[support].T).max(1) < 1e-3).all(), (
        "a copy looks like what it copies"
    )
    assert label_pool(x, support, label).facts["held out"] == 4, "labels far apart are two samples"


def test_what_is_as_near_to_two_labels_is_a_copy_of_neither() -> None:
    x = np.array([[1, 0], [1, 0.002], [1, 0.004], *[[0, 1], [0, -1], [-1, 0]] * 3], np.float32)
    for labels, count in (([0, 1], 3), ([0, 0], 1)):
        group = distinct_neighbors(x, 5, np.array([0, 2]), np.array(labels)).group
        assert len(set(group[:3].tolist())) == count


# Tables of labels


def names_of(found: dict[str, str], names: list[str], source: str = "in") -> dict[str, str]:
    return samples_meant(Path("few.csv"), found, names, Path(source), "paths")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_tables_as_programs_write_them(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = ["Sample,LABEL ,note", "box/a é.png, cat ,x", " b.png,,y", "", '"c,;\t.png",dog,z']
    text = (
        "\r\n".join(rows[:4]).replace(",", separator)
        + f"\r\n{rows[4][:10]}{separator}dog{separator}z\r\n"
    )
    (tmp_path / "few.csv").write_bytes(text.encode(encoding))
    assert read_labels(tmp_path / "few.csv") == {
        "box/a é.png": "cat",
        " b.png": "",
        "c,;\t.png": "dog",
    }


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sample,label\na.png\n", "line 2: 1 fields below 2 columns"),
        (
            "sample,label\na,b.png,cat\n",
            "line 2: 3 fields below 2 columns; a name that holds the separator",
        ),
        ("sample,label,Label\na,b,c\n", "column 'label' twice"),
        ("sample|label\na|b\n", "lacks column 'sample'"),
        ('sample,label\na.png,"cat\nb.png,dog\n', "line 3 is not readable .*every quote closed"),
        ('sample,label\na.png, "cat"\n', "line 2: a blank before a quote"),
        ("sample,label\na.png,None of these\n", "line 2: 'None of these' is no class"),
        ("\n\nsample,label\na.png,NaN\n", "line 4: 'NaN' is no class"),
    ],
)
def test_lines_that_mean_nothing_are_refused(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "few.csv").write_text(text)
    with pytest.raises(InputError, match=line):
        read_labels(tmp_path / "few.csv")


@pytest.mark.parametrize(
    "head",
    [
        "\n \nsample;label\n",
        "sep=;\r\nsample;label\r\n",
        '"Sample";"label";"note, or two, or three"\n',
        "label;sample\r",
    ],
)
def test_headers_as_programs_write_them(tmp_path: Path, head: str) -> None:
    row = "cat;a.png\n" if head.startswith("label") else "a.png;cat" + ";x\n" * ("note" in head)
    (tmp_path / "few.csv").write_bytes((head + row).encode())
    assert read_labels(tmp_path / "few.csv") == {"a.png": "cat"}


def test_names_of_samples_may_be_written_in_several_ways(tmp_path: Path) -> None:
    names = ["box/a é.png", " b.png", "c.png"]
    for written in (
        "box\\a é.png",
        "./box/a é.png",
        "box/a e\u0301.png",
        str(Path("in/box/a é.png").absolute()),
    ):
        assert names_of({written: "x"}, names) == {"box/a é.png": "x"}
    assert names_of({" b.png": "x", "c.png ": "y"}, names) == {" b.png": "x", "c.png": "y"}
    assert names_of({"b.png": "x"}, names) == {" b.png": "x"}
    assert names_of({"b.png": "x", " b.png": "y"}, [*names, "b.png"]) == {
        "b.png": "x",
        " b.png": "y",
    }
    with pytest.raises(InputError, match="may be"):
        names_of({"./b.png": "x"}, [*names, "b.png"])
    with pytest.raises(InputError, match="which is 'x' and 'y'; keep one"):
        names_of({"c.png": "x", "./c.png": "y"}, names)


def test_twins_of_a_name_stay_apart(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    first, second = list(truth)[:2]
    for name, twin in ((first, "in/é.png"), (second, "in/e\u0301.png")):
        Path(twin).write_bytes(Path("in", name).read_bytes())
    write_csv("few.csv", two_each(truth))
    assert call("label", "in", "--support", "few.csv", "--neighbors", 4, "-o", "out")[0] == 0
    rows = [r["sample"] for r in read_csv("out/labels.csv")]
    assert len(set(rows)) == len(rows) == len(truth) + 2 and {"é.png", "e\u0301.png"} <= set(rows)
    code, _, err = call("label", "in", "--support", "out/labels.csv", "-o", "again")
    assert code == 0, err


def test_equal_files_with_two_labels_are_refused(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    given = two_each(truth)
    name = next(iter(given))
    Path("in/twin.png").write_bytes(Path("in", name).read_bytes())
    for label in ("dash", ""):
        write_csv("few.csv", {**given, "twin.png": label})
        code, _, err = call("label", "in", "--support", "few.csv", "-o", "out")
        assert code == 2 and err.count("\n") == 1 and "the two are equal; keep one label" in err
    write_csv("few.csv", {**given, "twin.png": given[name]})
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 0
    np.savez("pool.npz", features=np.ones((4, 2), np.float32))
    write_csv("few.csv", {"0": "a", "1": "b"})
    assert "the two are equal" in call("label", "pool.npz", "--support", "few.csv")[2]


def test_what_an_earlier_call_left_is_removed(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    write_csv("few.csv", {n: f"old {c}" for n, c in two_each(truth).items()})
    assert call("label", "in", "--support", "few.csv", "-o", "out", "--format", "parquet")[0] == 0
    Path("out/sheets/mine.png").touch()
    write_csv("few.csv", two_each(truth))
    assert call("label", "in", "--support", "few.csv", "-o", "out")[0] == 0
    sheets = sorted(p.name for p in Path("out/sheets").iterdir())
    assert sheets == [
        "000-none_of_these.png",
        "001-bär.png",
        "002-cross.png",
        "003-dash.png",
        "mine.png",
    ]
    assert not Path("out/labels.parquet").exists() and Path("out/labels.csv").exists()


def test_sheets_in_the_pool_are_no_samples(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    write_csv("few.csv", two_each(truth))
    for _ in range(2):
        assert call("label", "in", "--support", "few.csv", "-o", "in/labels")[0] == 0
        Path("in/labels/sheets/7.png").write_bytes(Path("in", next(iter(truth))).read_bytes())
    names = [r["sample"] for r in read_csv("in/labels/labels.csv")]
    assert sorted(names) == sorted([*truth, "labels/sheets/7.png"])


@pytest.mark.parametrize("taken", ["out", "out/sheets", "out/labels.csv", "out/report.html"])
def test_nothing_is_written_where_something_is_in_the_way(
    world: Path, call: Call, taken: str
) -> None:
    write_csv("few.csv", two_each(draw_signs(world / "in")))
    Path(taken).parent.mkdir(exist_ok=True)
    Path(taken).mkdir() if "." in taken else Path(taken).touch()
    before = sorted(Path().rglob("*"))
    code, _, err = call("label", "in", "--support", "few.csv", "-o", "out")
    assert (
        code == 2
        and err.count("\n") == 1
        and (f"{taken} is a f") in err
        and "choose another folder" in err
    )
    assert sorted(Path().rglob("*")) == before


def test_a_confidence_of_members_is_called_so(world: Path, call: Call) -> None:
    x, y = clusters(7, 60, spread=0.9)
    np.savez("pool.npz", features=x[y < 6])
    y = y[y < 6]
    support, label = few(y, 8, 6)
    given = {str(i): f"c{c}" if c < 5 else "" for i, c in zip(support, label, strict=True)}
    for samples in (given, {i: c for i, c in given.items() if c}):
        write_csv("few.csv", samples)
        code, out, err = call("label", "pool.npz", "--support", "few.csv", "-o", "out")
        page = Path("out/report.html").read_text()
        assert code == 0 and "which are called confidence" in page, err
        assert "for a sample of one of the classes, as held-out ones are" in page
        assert re.search(r"median confidence [\d.]+, if of a class\)", out)


def test_what_does_not_count_is_said(world: Path, call: Call) -> None:
    truth = draw_signs(world / "in")
    Path("in/zz broken.png").write_bytes(b"junk")
    given = two_each(truth)
    write_csv("few.csv", {**given, "zz broken.png": "dash", list(truth)[-1]: ""})
    write_csv(
        "truth.csv", {name: {"bär": "Bär", "cross": "plus"}.get(c, c) for name, c in truth.items()}
    )
    code, out, err = call(
        "label", "in", "--support", "few.csv", "--truth", "truth.csv", "--none", 1, "-o", "out"
    )
    assert code == 0, err
    page, line = Path("out/report.html").read_text(), " ".join(out.split())
    assert (
        "1 given labels are of samples that cannot be read"
    ) in line and "5 given labels are not the truth's" in line
    assert (
        "2 classes of the truth have no given label and count as none of these ('Bär', 'plus')"
    ) in line
    assert "no sample is called none of these" in page and "cannot tell what is of none" not in page
    write_csv("truth.csv", given)
    assert call("label", "in", "--support", "few.csv", "--truth", "truth.csv", "-o", "out")[0] == 0
    page = Path("out/report.html").read_text()
    assert ("holds none of the samples that were to be labeled") in page and "nan" not in re.sub(
        "<img[^>]*>", "", page
    )


def test_the_page_tells_how_many_neighbours_there_were(world: Path, call: Call) -> None:
    np.savez("pool.npz", features=clusters(2, 3)[0])
    write_csv("few.csv", {"0": "a", "1": "b"})
    assert call("label", "pool.npz", "--support", "few.csv", "-o", "out")[0] == 0
    assert "5 nearest neighbours" in Path("out/report.html").read_text()


def test_the_page_claims_what_the_table_beside_it_holds(world: Path, call: Call) -> None:
    x, y = clusters(9, 60, spread=0.6)
    x = np.concatenate(
        [np.pad(x, ((0, 0), (0, 4))), np.pad(clusters(1, 60, dim=4)[0], ((0, 0), (16, 0)))]
    )
    y = np.append(y, np.full(60, 6))
    np.savez("pool.npz", features=x)
    support, label = few(y, 8, 5)
    write_csv("few.csv", {str(i): f"c{c}" for i, c in zip(support, label, strict=True)})
    write_csv("truth.csv", {str(i): f"c{c}" if c < 5 else "" for i, c in enumerate(y)})
    code, _, err = call(
        "label", "pool.npz", "--support", "few.csv", "--truth", "truth.csv", "-o", "out"
    )
    assert (code, err) == (0, ""), err
    page = Path("out/report.html").read_text()
    rows = [r for r in read_csv("out/labels.csv") if r["given"] == "0"]
    truth = {r["sample"]: r["label"] for r in read_csv("truth.csv")}
    right = [r["label"] == truth[r["sample"]] for r in rows]
    labeled, lost = [r for r in rows if r["label"]], [r for r in rows if r["reached"] == "0"]
    none = [r for r in rows if not r["label"] and r["reached"] == "1"]
    foreign, own = (
        [r for r in rows if bool(truth[r["sample"]]) == member] for member in (False, True)
    )
    assert lost and none and len(lost) + len(none) + len(labeled) == len(rows)
    correct = sum(r["label"] == truth[r["sample"]] for r in labeled)
    told = [
        f"{len(labeled)} of {len(rows)} labeled",
        f"{len(none)} none of these, {len(lost)} that no label reaches",
        f"{100 * len(labeled) / len(rows):.1f} % of {len(rows)} samples are labeled",
        f"{100 * correct / len(labeled):.1f} % of these rightly",
        f"No label reaches {100 * len(lost) / len(rows):.1f} %",
        f"{100 * sum(r in none for r in foreign) / len(foreign):.1f} % are found",
        f"{100 * sum(r in none for r in own) / len(own):.1f} % are taken for such",
    ]
    bins: dict[int, list[tuple[float, bool]]] = {}
    for r in rows:
        score = float(r["score"])
        bins.setdefault(max(math.ceil(score * 15) - 1, 0), []).append(
            (score, r["best"] == (truth[r["sample"]] or "?"))
        )
    error = sum(abs(sum(s for s, _ in b) - sum(w for _, w in b)) for b in bins.values()) / len(rows)
    pairs = [
        (float(a["none"]) > float(b["none"])) + (float(a["none"]) == float(b["none"])) / 2
        for a in foreign
        for b in own
    ]
    for line in told:
        assert line in page, line
    stated = re.search(
        r"calibration error of the (\w+): ([\d.]+) points.*?in ([\d.]+) % of "
        r"pairs",
        page,
        re.S,
    )
    assert stated and float(stated[2]) == pytest.approx(100 * error, abs=0.2)
    assert float(stated[3]) == pytest.approx(100 * sum(pairs) / len(pairs), abs=0.1)
    borne_out = all(r["confidence"] == r["score"] for r in rows)
    assert stated[1] == ("confidence" if borne_out else "score") and any(right)
    if borne_out:
        assert f"median confidence {np.median([float(r['score']) for r in labeled]):.2f}" in page
    for c in range(5):
        mine = [r for r in labeled if r["label"] == f"c{c}"]
        hit = sum(truth[r["sample"]] == f"c{c}" for r in mine)
        whole = sum(truth[r["sample"]] == f"c{c}" for r in rows)
        cells = f"<td>8</td><td>{len(mine)}</td><td>{np.median([float(r['score']) for r in mine]):.2f}</td>"  # noqa: E501
        assert cells in page
        assert f"<td>{100 * hit / len(mine):.1f} %</td><td>{100 * hit / whole:.1f} %</td>" in page
