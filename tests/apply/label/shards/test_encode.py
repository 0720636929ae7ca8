"""A folder in shards: labelled as in memory, each image encoded once, mistakes in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl.apply import folder_features as features
from graphfsl.apply.label import pool_files
from graphfsl.apply.label.shards import encode
from graphfsl.core import registry
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Transform
from graphfsl.nn import Conv4
from tests.support.command import Call, refused
from tests.support.pools import clusters, draw_signs, few, read_csv, two_each, write_csv

pytest.importorskip("faiss", reason="pools in shards need faiss: pip install graphfsl[faiss]")

IN_SHARDS = ("label", "in", "--support", "few.csv", "--shard-size", 10, "--neighbors", 4)


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are encoded, in order; the working directory holds drawings and labels."""

    def tiny(*_: object) -> tuple[Pipeline, Transform, int, int]:
        torch.manual_seed(0)
        head = registry.get("head", "protonet")()
        return Pipeline(Conv4(3, 4), head=head).eval(), Transform(), 28, 3

    def counting(*args: Any, **options: Any) -> np.ndarray:
        files: Any = args[3]
        done.extend(files)
        return encode_files(*args, **options)

    done, encode_files = list[str](), features.encode_files
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encode, "encode_files", counting)
    for module in (encode, pool_files):
        monkeypatch.setattr(module, "folder_encoder", tiny)
    truth = draw_signs(tmp_path / "in")
    (tmp_path / "in/box 0/broken.png").write_bytes(b"junk")
    (tmp_path / "in/gone.png").symlink_to("nowhere.png")
    write_csv("few.csv", two_each(truth))
    return done


def test_a_folder_in_shards_is_labelled_as_in_memory(encoded: list[str], call: Call) -> None:
    code, _, err = call(*IN_SHARDS, "-o", "shards")
    assert (code, err) == (0, ""), err
    assert len(encoded) == 37 and len(set(encoded)) == 37, "each once"
    assert len(list(Path("shards/shards/features").iterdir())) == 4
    assert not Path("cache/features").exists(), "features are kept in shards alone"
    assert call("label", "in", "--support", "few.csv", "--neighbors", 4, "-o", "memory")[0] == 0
    ours, theirs = read_csv("shards/labels.csv"), read_csv("memory/labels.csv")
    for name in ("sample", "given"):
        assert [row[name] for row in ours] == [row[name] for row in theirs], name
    unlike = sum(row["best"] != right["best"] for row, right in zip(ours, theirs, strict=True))
    assert unlike <= 1, "nearly equal drawings are one sample there, and two here"
    lost = read_csv("shards/unreadable.csv")
    assert [row["sample"] for row in lost] == ["box 0/broken.png", "gone.png"]
    assert lost == read_csv("memory/unreadable.csv")
    sheets = sorted(path.name for path in Path("shards/sheets").iterdir())
    assert sheets == sorted(path.name for path in Path("memory/sheets").iterdir())


def test_only_a_shard_whose_images_changed_is_encoded_again(encoded: list[str], call: Call) -> None:
    assert call(*IN_SHARDS, "-o", "out")[0] == 0
    first = Path("out/labels.csv").read_bytes()
    assert call(*IN_SHARDS, "-o", "out")[0] == 0
    assert len(encoded) == 37 and Path("out/labels.csv").read_bytes() == first

    changed = sorted(Path("in").rglob("*é.png"))[12]
    Image.new("RGB", (40, 40), "black").save(changed)
    os.utime(changed, (1, 1))
    assert call(*IN_SHARDS, "-o", "out")[0] == 0
    again = encoded[37:]
    assert len(again) == 10 and changed.relative_to("in").as_posix() in again
    assert Path("out/labels.csv").read_bytes() != first


def test_shards_are_labelled_without_images_or_encoder(encoded: list[str], call: Call) -> None:
    assert call(*IN_SHARDS, "-o", "out")[0] == 0
    words = ("label", "out/shards", "--support", "few.csv", "--neighbors", 4, "-o", "again")
    assert call(*words)[0] == 0
    assert Path("again/labels.csv").read_bytes() == Path("out/labels.csv").read_bytes()
    assert not Path("again/sheets").exists()
    refused(Path.cwd(), call, *words, "--shard-size", 5, says="is in shards already; leave --shard")


def test_other_files_or_another_encoder_are_refused(
    encoded: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(*IN_SHARDS, "-o", "out")[0] == 0
    refused(tmp_path, call, *IN_SHARDS, "-o", "out", "--shard-size", 7, says="shards of other samp")
    wider = Pipeline(Conv4(3, 8), head=registry.get("head", "protonet")()).eval()
    monkeypatch.setattr(encode, "folder_encoder", lambda *_: (wider, Transform(), 28, 3))
    refused(tmp_path, call, *IN_SHARDS, "-o", "out", says="holds shards of another encoder; remove")
    refused(tmp_path, call, *IN_SHARDS, "--shard-size", 0, says="--shard-size")


def test_a_file_of_features_goes_into_shards_too(
    encoded: list[str], call: Call, tmp_path: Path
) -> None:
    x, y = clusters(3, 20)
    x[7] = np.nan
    np.savez("pool.npz", features=x)
    support, label = few(np.where(np.arange(60) == 7, -1, y), 2, 3)
    table = {str(i): "abc"[c] for i, c in zip(support, label, strict=True)}
    write_csv("few.csv", table)
    words = ("label", "pool.npz", "--support", "few.csv")
    assert call(*words, "-o", "memory")[0] == 0
    assert call(*words, "-o", "shards", "--shard-size", 25)[0] == 0
    assert read_csv("shards/unreadable.csv") == read_csv("memory/unreadable.csv")
    ours, theirs = read_csv("shards/labels.csv"), read_csv("memory/labels.csv")
    assert [r["label"] for r in ours] == [r["label"] for r in theirs]
    assert [r["sample"] for r in ours] == [str(i) for i in range(60) if i != 7]
