"""Neighbours of many samples, exactly and by cells."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from graphfsl.functional import neighbors
from graphfsl.functional.neighbors import nearest_neighbors, silent
from tests.support.pools import clusters


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


def test_no_bar_shows_nothing_and_passes_all() -> None:
    assert list(silent([3, 1, 2], "counting")) == [3, 1, 2]
