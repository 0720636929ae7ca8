"""The harmonic function of a graph, against its linear system and its definition."""

from __future__ import annotations

import numpy as np

from graphfsl.functional.random_walk import BETA, LEAST, grid_edges, harmonic


def image() -> np.ndarray:
    return np.random.default_rng(0).random((5, 6, 3))


def test_edges_join_the_eight_neighbours_once() -> None:
    pixels = image()
    ends, weight = grid_edges(pixels)
    right = {}
    for i in range(5):
        for j in range(6):
            for a, b in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if i + a < 5 and 0 <= j + b < 6:
                    square = ((pixels[i, j] - pixels[i + a, j + b]) ** 2).sum()
                    pair = frozenset({6 * i + j, 6 * (i + a) + j + b})
                    right[pair] = np.exp(-BETA * square) + LEAST
    assert len(ends) == len(right)
    for pair, w in zip(ends, weight, strict=True):
        np.testing.assert_allclose(w, right[frozenset(pair.tolist())])


def test_it_solves_the_system_and_is_the_mean_of_its_neighbours() -> None:
    ends, weight = grid_edges(image(), beta=5.0)
    nodes, labels = np.array([0, 17, 29]), np.eye(3)[[0, 1, 2]]
    f, reached = harmonic(ends, weight, nodes, labels, 30)
    w = np.zeros((30, 30))
    w[ends[:, 0], ends[:, 1]] = weight
    w += w.T
    laplacian = np.diag(w.sum(1)) - w
    free = np.setdiff1d(np.arange(30), nodes)
    right = np.linalg.solve(laplacian[np.ix_(free, free)], w[np.ix_(free, nodes)] @ labels)
    np.testing.assert_allclose(f[free], right, atol=1e-9)
    np.testing.assert_allclose(f[nodes], labels)
    np.testing.assert_allclose(f[free], (w @ f / w.sum(1, keepdims=True))[free], atol=1e-9)
    assert reached.all() and f.min() >= 0
    np.testing.assert_allclose(f.sum(1), 1)


def test_a_component_without_a_label_is_not_reached() -> None:
    ends = np.array([[0, 1], [1, 2], [3, 4]])
    f, reached = harmonic(ends, np.ones(3), np.array([0]), np.ones((1, 1)), 5)
    assert reached.tolist() == [True, True, True, False, False]
    assert f[:, 0].tolist() == [1, 1, 1, 0, 0]
