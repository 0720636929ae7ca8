"""What to label next in a pool: the rule `coverage` on the graph of distinct samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphfsl.apply.label import suggest_pool as module
from graphfsl.apply.label.pool_graph import pool_graph
from graphfsl.apply.label.suggest_pool import suggest_pool
from graphfsl.functional.coverage import by_diagonal, greedy_coverage
from graphfsl.functional.distinct_neighbors import distinct_neighbors
from graphfsl.io.errors import InputError
from tests.support.pools import clusters, dense


def test_it_is_greedy_coverage_by_the_closed_form() -> None:
    x, _ = clusters(5, 30)
    k = by_diagonal(dense(x, 10, 0.9))
    free = torch.ones(len(x), dtype=torch.bool)
    expected, gains = greedy_coverage(k, free, 8, k.new_zeros(len(x)))
    found = suggest_pool(x, 8)
    assert found.sample.tolist() == expected.tolist()
    np.testing.assert_allclose(found.gain, gains.numpy(), rtol=1e-3)
    assert found.before == 0 and found.after == pytest.approx(float(gains.sum()) / len(x), rel=1e-3)


def test_labels_so_far_are_covered_and_never_named_again() -> None:
    """So that asking twice is asking once for all."""
    x, _ = clusters(5, 30)
    once = suggest_pool(x, 8)
    first = suggest_pool(x, 4)
    then = suggest_pool(x, 4, labeled=first.sample)
    assert [*first.sample, *then.sample] == once.sample.tolist()
    assert then.before == pytest.approx(first.after, rel=1e-4)
    assert (np.diff(once.gain) <= 1e-4).all()


def test_of_copies_one_is_named_and_none_of_what_has_a_label() -> None:
    x, _ = clusters(3, 20)
    copies = np.concatenate([x, x[:10], x[:10]])
    found = suggest_pool(copies, 60).sample
    assert len({tuple(copies[i]) for i in found}) == 60
    rest = suggest_pool(copies, 59, labeled=np.array([75])).sample  # a copy of sample 5
    assert not {5, 65, 75} & set(rest.tolist())


def test_each_of_many_classes_is_named() -> None:
    x, y = clusters(20, 20)
    assert len(set(y[suggest_pool(x, 20).sample].tolist())) == 20


def test_candidates_of_a_large_pool_are_nearly_as_good_as_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = clusters(20, 60, spread=0.7, dim=32)
    every = suggest_pool(x, 30)
    monkeypatch.setattr(module, "EVERY", 100)
    monkeypatch.setattr(module, "CANDIDATES", 200)
    monkeypatch.setattr(module, "CHOSEN", 12)  # so that there are rounds
    some = suggest_pool(x, 30)
    assert some.facts["candidates"] == 200
    assert len(set(some.sample.tolist())) == 30 and set(y[some.sample[:20]]) == set(range(20))
    monkeypatch.setattr(module, "EVERY", 5000)
    reached = suggest_pool(x, 1, labeled=some.sample).before  # exact
    assert reached > 0.97 * every.after
    assert some.after == pytest.approx(reached, rel=0.1)


def test_the_diagonal_is_estimated_well(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = clusters(10, 60, spread=0.7, dim=32)
    nobody = np.empty(0, np.int64)
    graph = pool_graph(distinct_neighbors(x, 10, nobody, nobody), bridged=False)
    monkeypatch.setattr(module, "EVERY", 100)
    found = module._Kernel(graph.s, 0.9).scale ** -2
    true = dense(x, 10, 0.9).diagonal()
    assert ((found - true).abs() / true).mean() < 0.1


def test_islands_of_a_small_pool_stand_alone() -> None:
    """Each of far clusters of eleven is covered by a label of its own."""
    x, y = clusters(6, 11, spread=0.05)
    found = suggest_pool(x, 6)
    assert sorted(y[found.sample].tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": 151}, "151 samples to label are asked for, but only 150 distinct ones have no"),
        ({"count": 0}, "samples to label"),
        ({"x": np.ones((9, 4))}, "all 9 samples have the same features"),
        ({"x": np.arange(1.0, 5)[:, None] * np.ones(3)}, "all 4 samples have the same features"),
        ({"x": np.zeros((4, 3))}, "all 4 samples have the same features"),
        ({"x": np.full((5, 3), np.nan)}, "holds NaN or infinity"),
        ({"x": np.empty((0, 3))}, "the pool holds no sample"),
        ({"labeled": np.array([150])}, "sample 150 of the support is none of the pool's"),
        ({"labeled": np.array([3, 3])}, "stands in the support twice"),
        ({"neighbors": 0}, "neighbors must lie between"),
        ({"alpha": 1.0}, "alpha must lie between"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict[str, object], says: str) -> None:
    given: dict[str, object] = {"x": clusters(5, 30)[0], "count": 3, **change}
    with pytest.raises(InputError, match=says):
        suggest_pool(**given)  # type: ignore[arg-type]


def test_samples_without_any_neighbour_are_named_too() -> None:
    """Orthogonal features have no edges, and each covers itself alone."""
    found = suggest_pool(np.eye(6, dtype=np.float32), 6)
    assert sorted(found.sample.tolist()) == list(range(6)) and found.after == pytest.approx(1)
    assert "6 samples to label" in repr(found)
