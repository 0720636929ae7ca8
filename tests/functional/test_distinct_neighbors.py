"""Copies of a sample are one."""

from __future__ import annotations

import networkx as nx
import numpy as np

from graphfsl.functional.distinct_neighbors import (
    along,
    components,
    distinct_neighbors,
    side_by_side,
)


def test_copies_in_a_dense_cloud_are_found() -> None:
    """All cosines are one in single precision, so that neighbours tell nothing; every sample stands
    there twice.
    """
    for seed in range(5):  # which products round apart differs between processors
        rng = np.random.default_rng(seed)
        cloud = (1 + 3e-4 * rng.standard_normal((200, 8))).astype(np.float32)
        both = np.concatenate([cloud, cloud[::-1]])
        found = distinct_neighbors(both, 2, np.array([0]), np.array([0]))
        assert np.array_equal(found.group, found.group[::-1])
        assert len(np.unique(found.group)) > 150


def test_equal_rows_have_products_that_differ_by_less_than_single_precision() -> None:
    rng = np.random.default_rng(0)
    z, directions = rng.standard_normal((203, 37)).astype(np.float32), rng.standard_normal((3, 37))
    found = along(np.concatenate([z, z[::-1]]), directions)
    wanted = [[sum(float(a) * b for a, b in zip(x, d, strict=True)) for d in directions] for x in z]
    np.testing.assert_allclose(found[:203], wanted, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[:203], found[:202:-1], rtol=0, atol=1e-12)


def test_what_is_as_near_to_two_labels_is_a_copy_of_neither() -> None:
    x = np.array([[1, 0], [1, 0.002], [1, 0.004], *[[0, 1], [0, -1], [-1, 0]] * 3], np.float32)
    for labels, count in (([0, 1], 3), ([0, 0], 1)):
        group = distinct_neighbors(x, 5, np.array([0, 2]), np.array(labels)).group
        assert len(set(group[:3].tolist())) == count


def test_components_are_those_of_networkx() -> None:
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 40, (25, 2))
    graph = nx.Graph()
    graph.add_nodes_from(range(40))
    graph.add_edges_from(edges.tolist())
    found = components(40, edges)
    parts = {frozenset(np.flatnonzero(found == c).tolist()) for c in set(found.tolist())}
    assert parts == {frozenset(part) for part in nx.connected_components(graph)}


def test_rows_that_are_equal_up_to_rounding_lie_side_by_side() -> None:
    """Each pair of neighbours in the direction that is as near as rounding leaves equal rows."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[20:] = x[:10] * (1 + 1e-8)
    direction = rng.standard_normal(8).astype(np.float32)
    found = {frozenset(pair) for pair in side_by_side(x @ direction, direction).tolist()}
    assert found == {frozenset((i, i + 20)) for i in range(10)}
