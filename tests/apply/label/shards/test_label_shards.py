"""A pool in shards gets the labels of the same pool in memory, whatever happens on the way."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphfsl.apply.label.label_pool import Labels, label_pool
from graphfsl.apply.label.shards import label_shards as module
from graphfsl.apply.label.shards import shard_neighbors
from graphfsl.apply.label.shards.copies import copies
from graphfsl.apply.label.shards.label_shards import label_shards
from graphfsl.apply.label.shards.shard_files import (
    PoolShards,
    open_shards,
    read_shard,
    shard_file,
    write_features,
    write_manifest,
)
from graphfsl.apply.label.shards.shard_neighbors import Cells, nearest
from graphfsl.io.errors import InputError
from tests.support.pools import clusters, few
from tests.support.shards import Recording, written

pytest.importorskip("faiss", reason="pools in shards need faiss: pip install graphfsl[faiss]")

SHARDS = 5


@pytest.fixture
def pool(tmp_path: Path) -> tuple[PoolShards, np.ndarray, np.ndarray, np.ndarray]:
    """Shards of 300 samples, their features, and the support and its labels."""
    x, y = clusters(4, 75, spread=1.0)
    return written(tmp_path / "shards", x, SHARDS), x, *few(y, 3, 4)


def assert_same(found: Labels, right: Labels) -> None:
    for name in ("label", "best", "support", "given", "said", "against"):
        np.testing.assert_array_equal(getattr(found, name), getattr(right, name), err_msg=name)
    for name in ("score", "none", "share", "doubt"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(right, name), atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize("options", [{}, {"prior": "uniform", "neighbors": 6, "alpha": 0.5}])
def test_labels_are_those_of_the_pool_in_memory(pool: Any, options: dict[str, Any]) -> None:
    shards, x, support, label = pool
    right = label_pool(x, support, label, **options)
    found = label_shards(shards, support, label, **options)
    assert_same(found, right)
    assert found.facts == pytest.approx(right.facts)


def test_copies_in_any_shard_count_as_one_sample(tmp_path: Path) -> None:
    x, y = clusters(4, 75, spread=1.0)
    support, label = few(y, 3, 4)
    free = np.setdiff1d(np.arange(len(x)), support)
    ours, theirs = free[[3, 90, 150, 200]], np.array([free[-1], *support[:3]])
    x[ours] = x[theirs] * np.array([[1], [2], [1], [0.5]], np.float32)  # length does not matter
    shards = written(tmp_path / "shards", x, SHARDS)
    node = copies(shards)
    expected = np.arange(len(x))
    for a, b in zip(ours, theirs, strict=True):
        expected[max(a, b)] = min(a, b)
    np.testing.assert_array_equal(node, expected)
    found, right = label_shards(shards, support, label), label_pool(x, support, label)
    assert found.facts["distinct"] == right.facts["distinct"] == len(x) - 4
    assert_same(found, right)


@pytest.mark.parametrize("coded", [False, True])
def test_a_shard_of_nothing_and_one_of_copies_are_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coded: bool
) -> None:
    x, y = clusters(4, 75, spread=1.0)
    support, label = few(y, 3, 4)
    write_manifest(tmp_path, "e", "s", 4)
    for number, rows in enumerate((x[:200], x[:0], x[200:], x[:7])):
        write_features(tmp_path, number, rows, "e")
    monkeypatch.setattr(module, "is_coded", lambda _: coded)
    monkeypatch.setattr(shard_neighbors, "EXACT", 10 if coded else 1000)
    shards = open_shards(tmp_path)[0]
    found = label_shards(shards, support, label)
    right = label_pool(np.concatenate([x, x[:7]]), support, label)
    assert found.facts["distinct"] == 300
    if coded:
        assert (found.label == right.label).mean() > 0.95
    else:
        assert_same(found, right)


def test_neighbours_of_every_group_and_cell_are_merged(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, x, support, label = pool
    monkeypatch.setattr(shard_neighbors, "GROUP", 2 * 60 * 4 * shards.dim)  # two shards of the five
    assert [*map(len, shard_neighbors.groups(shards))] == [2, 2, 1]
    monkeypatch.setattr(shard_neighbors, "EXACT", 10)
    label_shards(shards, support, label)  # sorts samples into cells
    centers = read_shard(shards.folder / "cells" / "centers.safetensors")["centers"].numpy()
    assert len(centers) == 69, "4 sqrt(300)"
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = z @ z.T
    np.fill_diagonal(cosines, -2)

    index, cosine = nearest(shards, Cells(centers, 69, 1.0), z, np.arange(300), 7, 69)
    np.testing.assert_allclose(cosine, -np.sort(-cosines, 1)[:, :7], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, index, 1), cosine, atol=1e-6)


def test_a_cell_by_cell_search_finds_what_it_says(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, x, support, label = pool
    monkeypatch.setattr(shard_neighbors, "EXACT", 10)
    found = label_shards(shards, support, label)
    assert 0.9 <= found.facts["recall"] <= 1
    assert found.facts["neighbours"].startswith("approximate: 69 cells, ")
    right = label_pool(x, support, label)
    assert (found.label == right.label).mean() > 0.95


def test_a_pool_above_memory_is_compared_by_codes_and_the_nearest_themselves(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, x, support, label = pool
    monkeypatch.setattr(shard_neighbors, "GROUP", 150 * 8)  # codes of two shards of the five
    monkeypatch.setattr(shard_neighbors, "EXACT", 10)
    monkeypatch.setattr(module, "is_coded", lambda _: True)
    found = label_shards(shards, support, label, neighbors=5)
    assert found.facts["neighbours"].endswith(" of them searched, by codes")
    assert 0.9 <= found.facts["recall"] <= 1
    stored = read_shard(shard_file(shards.folder, "cells", 0))
    assert stored["code"].shape == (60, 8) and stored["code"].dtype == torch.uint8

    edges = read_shard(shard_file(shards.folder, "neighbors", 1))
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    right = (z[edges["of"]] * z[edges["to"]]).sum(1)
    np.testing.assert_allclose(edges["cosine"], right, atol=1e-5, err_msg="not those of codes")
    plain = label_pool(x, support, label, neighbors=5)
    assert (found.label == plain.label).mean() > 0.95


def test_codes_are_for_features_larger_than_half_of_memory(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = pool[0]
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * 4 * 300 * 16}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(shard_neighbors, "EXACT", 299)
    assert not shard_neighbors.is_coded(shards)
    pages["SC_PHYS_PAGES"] -= 1
    assert shard_neighbors.is_coded(shards)
    monkeypatch.setattr(shard_neighbors, "EXACT", 300)
    assert not shard_neighbors.is_coded(shards), "all are compared with all"


def test_what_is_lost_is_made_again_and_nothing_else(pool: Any) -> None:
    shards, _, support, label = pool
    first = Recording()
    right = label_shards(shards, support, label, work=first)
    stages = ("sorting into cells", "finding neighbours", "joining neighbours")
    assert first.done == [(stage, shard) for stage in stages for shard in range(SHARDS)]

    again = Recording()
    assert_same(label_shards(shards, support, label, work=again), right)
    assert again.done == []

    shard_file(shards.folder, "neighbors", 3).unlink()
    path = shard_file(shards.folder, "graph", 1)
    path.write_bytes(path.read_bytes()[:-100])
    assert_same(label_shards(shards, support, label, work=again), right)
    assert again.done == [("finding neighbours", 3), ("joining neighbours", 1)]


@pytest.mark.parametrize("after", [2, 7, 12])
def test_a_run_that_was_stopped_goes_on(pool: Any, after: int, tmp_path: Path) -> None:
    shards, x, support, label = pool
    whole = Recording()
    right = label_shards(written(tmp_path / "whole", x, SHARDS), support, label, work=whole)
    stopped, rest = Recording(dies_in=after), Recording()
    with pytest.raises(KeyboardInterrupt):
        label_shards(shards, support, label, work=stopped)
    found = label_shards(shards, support, label, work=rest)
    assert len(stopped.done) == after and stopped.done + rest.done == whole.done
    assert_same(found, right)
    assert not list(shards.folder.rglob(".*")), "a temporary file"


def test_other_options_find_neighbours_again(pool: Any) -> None:
    shards, x, support, label = pool
    label_shards(shards, support, label, neighbors=10)
    found = label_shards(shards, support, label, neighbors=4)
    assert_same(found, label_pool(x, support, label, neighbors=4))


def test_memory_changes_how_many_labels_go_at_once_and_not_the_answer(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, x, support, label = pool
    monkeypatch.setattr(module, "HELD", 4 * module.VECTORS * len(x) * 5)
    found = label_shards(shards, support, label)
    blocks = sorted((shards.folder / "columns").iterdir())
    assert len(blocks) == 3, "of 12 labels five at a time"
    assert_same(found, label_pool(x, support, label))
    solved = [path.stat().st_mtime_ns for path in blocks]
    label_shards(shards, support, label)
    assert [path.stat().st_mtime_ns for path in blocks] == solved, "they were kept"
    other = label_shards(shards, support[::-1].copy(), label[::-1].copy())
    np.testing.assert_array_equal(other.label, found.label)


def test_bad_options_and_a_missing_faiss_are_one_line(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, _, support, label = pool
    for options, says in (
        ({"alpha": 1.0}, "alpha must lie between"),
        ({"neighbors": 0}, "neighbors must lie between"),
        ({"prior": "x"}, "prior"),
    ):
        with pytest.raises(InputError, match=says):
            label_shards(shards, support, label, **options)
    with pytest.raises(InputError, match=r"sample 300 .*none of the pool's, 0\.\.299"):
        label_shards(shards, np.array([0, 300]), np.array([0, 1]))
    assert not (shards.folder / "cells").exists()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install graphfsl\[faiss\]"):
        label_shards(shards, support, label)


def test_the_graph_in_blocks_is_the_graph(pool: Any) -> None:
    """W = A + A^T of the same neighbours, row by row."""
    from graphfsl.apply.label.shards.shard_graph import open_graph

    shards, x, support, label = pool
    label_shards(shards, support, label, neighbors=3)
    graph = open_graph(shards, torch.arange(len(x)))
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    a = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        cosine = z @ z[i]
        cosine[i] = -2
        near = np.argsort(-cosine)[:3]
        a[i, near] = np.maximum(cosine[near], 0) ** 3
    w = a + a.T
    found = torch.cat([block.to_dense() for block in graph.blocks])
    np.testing.assert_allclose(found, w, atol=1e-5)
    np.testing.assert_allclose(graph.degree, w.sum(1), atol=1e-5)
