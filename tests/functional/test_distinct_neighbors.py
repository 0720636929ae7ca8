"""Copies of a sample are one."""

from __future__ import annotations

import numpy as np

from graphfsl.functional.distinct_neighbors import distinct_neighbors


def test_copies_in_a_dense_cloud_are_found() -> None:
    """All cosines are one in single precision, so that neighbours tell nothing; every sample stands
    there twice.
    """
    cloud = (1 + 3e-4 * np.random.default_rng(0).standard_normal((200, 8))).astype(np.float32)
    found = distinct_neighbors(
        np.concatenate([cloud, cloud[::-1]]), 2, np.array([0]), np.array([0])
    )
    assert np.array_equal(found.group, found.group[::-1]) and len(np.unique(found.group)) > 150


def test_what_is_as_near_to_two_labels_is_a_copy_of_neither() -> None:
    x = np.array([[1, 0], [1, 0.002], [1, 0.004], *[[0, 1], [0, -1], [-1, 0]] * 3], np.float32)
    for labels, count in (([0, 1], 3), ([0, 0], 1)):
        group = distinct_neighbors(x, 5, np.array([0, 2]), np.array(labels)).group
        assert len(set(group[:3].tolist())) == count
