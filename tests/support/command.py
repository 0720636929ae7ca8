"""The command line in a small world: an experiment, its files, and how a mistake is refused."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl.io.checkpoint import load_checkpoint

Call = Callable[..., tuple[int, str, str]]  # exit code, standard output, standard error
RUN = ("run", "my.yaml", "--out", "r")
EVALUATE = ("evaluate", "r", "--out", "e.json")
posix = pytest.mark.skipif(os.name != "posix", reason="needs signals, limits or names of POSIX")
EXPERIMENT = """
data: {name: arrays, root: DATA}
learner:
  encoder: {name: conv4, width: 8}
  head: protonet
episode: {way: 3, shot: 1, query: 3}
trainer: {steps: 20, lr: 0.01, val_every: 10, val_episodes: 20, checkpoint_every: 5, log_every: 5, device: cpu}
evaluation: {episodes: 40}
published:
  - {way: 3, shot: 1, accuracy: 90.0, source: "a paper"}
"""  # noqa: E501


def write_world(root: Path) -> None:
    """Three splits of images in `data`, and the experiment file my.yaml."""
    (root / "data").mkdir()
    for seed, split in enumerate(("train", "val", "test")):
        write_split(root / "data" / f"{split}.npz", seed)
    (root / "my.yaml").write_text(EXPERIMENT.replace("DATA", str(root / "data")))


def write_split(path: Path, seed: int, classes: int = 6, each: int = 12) -> None:
    """Images (N, 16, 16, 3) around a random pattern for each class."""
    rng = np.random.default_rng(seed)
    pattern = rng.uniform(0, 255, (classes, 16, 16, 1)).repeat(3, 3)
    y = np.arange(classes).repeat(each)
    x = pattern[y] + rng.normal(0, 20, (len(y), 16, 16, 3))
    np.savez(path, images=x.clip(0, 255).astype(np.uint8), labels=y)


def folder(world: Path, classes: int = 3, corrupt: bool = False) -> None:
    """Pictures of classes in `images`, in the layout of the data set `folder`."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for c in range(classes):
            where = world / "images" / split / f"{split}{c}"
            where.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(
                    where / f"{i}.png"
                )
    if corrupt:
        (world / "images" / "train" / "train1" / "3.png").write_bytes(b"not an image")


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Everything below a folder but the cache: the bytes of files, None for folders and what is
    neither.
    """
    found = [p for p in root.rglob("*") if "cache" not in p.relative_to(root).parts]
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in found}


def refused(
    root: Path, call: Call, *args: object, says: str = "", may_leave: str | None = None
) -> str:
    """The command ends with exit code 2 and one line that holds `says`, and changes no file.

    may_leave: a folder that an earlier part of the command may have written whole files into.
    """
    before = snapshot(root)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default", UserWarning)
        code, _, err = call(*args)
    assert code == 2, f"exit code {code}: {err}"
    assert err.startswith("graphfsl: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert says in err, err
    assert len(err) < 2000, "one line that fits no terminal"
    assert not [str(w.message) for w in heard if issubclass(w.category, UserWarning)], (
        "more than one line"
    )
    after = snapshot(root)
    if may_leave is not None:
        before, after = (
            {k: v for k, v in s.items() if not k.startswith(may_leave)} for s in (before, after)
        )
        assert not list((root / may_leave).glob(".*")), "a temporary or a lock"
    assert after == before, "something was left, lost or changed"
    return err


def same_weights(a: Path, b: Path, names: tuple[str, ...] = ("model", "best", "last")) -> bool:
    """Whether two runs hold equal tensors in their checkpoints."""
    pairs = ((load_checkpoint(d / f"{n}.safetensors")[0] for d in (a, b)) for n in names)
    return all(
        x.keys() == y.keys() and all(torch.equal(v, y[k]) for k, v in x.items()) for x, y in pairs
    )


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file of this kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
PHOTO = Image.fromarray(NOISE)
PNG = encoded(PHOTO, "PNG")


def pictures(root: Path, *classes: str) -> None:
    """A folder of classes of three images."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(3):
            (root / name / f"{i}.png").write_bytes(PNG)
