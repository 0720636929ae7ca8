"""Shards that do not belong together, or are not whole, are refused in a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from graphfsl.apply.label.shards.shard_files import (
    is_made,
    open_shards,
    shard_file,
    write_features,
    write_manifest,
)
from graphfsl.io.errors import InputError
from tests.support.command import Call, refused
from tests.support.pools import clusters, few, write_csv
from tests.support.shards import written


def test_features_names_and_what_is_lost_are_read_back(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    write_manifest(tmp_path, "e", "s", 3)
    write_features(tmp_path, 0, x[:2], "e", ["a", "b"])
    write_features(tmp_path, 1, x[:0], "e", [], [("c", "is broken")])
    write_features(tmp_path, 2, x[2:], "e")
    pool, names, unreadable = open_shards(tmp_path)
    assert (names, unreadable) == (["a", "b", "2", "3", "4"], [("c", "is broken")])
    assert (len(pool), pool.dim, pool.counts, pool.starts.tolist()) == (
        5,
        3,
        (2, 0, 3),
        [0, 2, 2, 5],
    )
    np.testing.assert_array_equal(np.stack([pool[i] for i in range(5)]), x)
    np.testing.assert_allclose(np.linalg.norm(pool.unit(2), axis=1), 1, atol=1e-6)


def test_a_shard_with_other_features_is_another_pool(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    before = written(tmp_path, x, 2).key
    assert open_shards(tmp_path)[0].key == before
    write_features(tmp_path, 1, x[3:] + 1, "an encoder")
    assert open_shards(tmp_path)[0].key != before


def test_what_does_not_belong_together_is_refused(tmp_path: Path, call: Call) -> None:
    x, y = clusters(2, 20)
    support, label = few(y, 2, 2)
    table = tmp_path / "few.csv"
    write_csv(str(table), {str(i): "ab"[c] for i, c in zip(support, label, strict=True)})

    def says(folder: str, text: str) -> None:
        words = ("label", tmp_path / folder, "--support", table, "-o", tmp_path / "out")
        refused(tmp_path, call, *words, says=text)

    for folder in ("missing", "other", "cut", "newer", "strange", "none"):
        written(tmp_path / folder, x, 4)
    shard_file(tmp_path / "missing", "features", 2).unlink()
    says("missing", "00002.safetensors is missing, one of the 4 shards")

    write_features(tmp_path / "other", 1, x[:3], "a second encoder")
    says(
        "other",
        "00001.safetensors is of another encoder (a second enc) than the others (an encoder)",
    )

    path = shard_file(tmp_path / "cut", "features", 3)
    path.write_bytes(path.read_bytes()[:200])
    says("cut", "00003.safetensors is damaged; remove it and encode the pool again")
    assert not is_made(path, "an encoder")

    told = json.loads((tmp_path / "newer" / "manifest.json").read_text())
    (tmp_path / "newer" / "manifest.json").write_text(json.dumps(told | {"format": 2}))
    says("newer", "has format 2, and this version reads 1")
    (tmp_path / "strange" / "manifest.json").write_text("[]")
    says("strange", "is no manifest of shards")

    shutil.rmtree(tmp_path / "none" / "features")
    says("none", "holds no image")


def test_features_that_are_not_finite_are_no_shard(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shard 0 of .* not finite"):
        write_features(tmp_path, 0, np.array([[np.nan]]), "e")
    assert not shard_file(tmp_path, "features", 0).exists()


def test_a_folder_keeps_one_pool(tmp_path: Path) -> None:
    write_manifest(tmp_path, "e", "s", 3)
    write_manifest(tmp_path, "e", "s", 3)
    with pytest.raises(InputError, match="holds shards of another encoder; remove it"):
        write_manifest(tmp_path, "f", "s", 3)
    with pytest.raises(InputError, match="holds shards of other samples; remove it"):
        write_manifest(tmp_path, "e", "t", 3)
