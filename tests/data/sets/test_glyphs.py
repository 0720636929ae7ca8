"""`glyphs`: a data set that any machine can make, the same everywhere, with nothing novel seen in
training.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from graphfsl.data.sets import glyphs
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError
from tests.support import ROOT


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Split]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHFSL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return {name: glyphs.load(name) for name in glyphs.SCRIPTS}


def digest(split: Split) -> str:
    return hashlib.sha256(
        split.x.numpy().tobytes() + repr((split.classes, split.groups)).encode()
    ).hexdigest()


def test_splits_are_named_and_disjoint_in_class_and_script(splits: dict[str, Split]) -> None:
    for name, split in splits.items():
        assert (
            split.name == f"glyphs/{name}"
            and split.shape == (1, 28, 28)
            and split.x.dtype == torch.uint8
        )
        assert set(split.groups or ()) == set(glyphs.SCRIPTS[name])
        assert list(split.classes) == sorted(set(split.classes))
    scripts = [script for group in glyphs.SCRIPTS.values() for script in group]
    classes = [c for split in splits.values() for c in split.classes]
    assert len(scripts) == len(set(scripts)) and len(classes) == len(set(classes))
    assert 350 <= len(classes) <= 550
    assert (
        len(splits["train"].classes) > 200
        and len(splits["val"].classes) >= 40
        and len(splits["test"].classes) >= 60
    )
    assert all(
        f" {len(s.classes)} | {len(s.x):7d} |" in (glyphs.__doc__ or "") for s in splits.values()
    )


def test_every_class_has_thirty_samples_and_eight_faces(splits: dict[str, Split]) -> None:
    assert all((split.counts >= 30).all() for split in splits.values())
    assert all(len(glyphs.faces(letter)) >= 8 for letter in glyphs.letters().values())


def test_no_image_is_blank_or_repeated(splits: dict[str, Split]) -> None:
    images = torch.cat([split.x for split in splits.values()]).numpy()
    assert len({image.tobytes() for image in images}) == len(images)
    assert images.max((1, 2, 3)).min() > 200 and 20 < images.mean() < 80


def test_no_two_samples_share_a_jitter() -> None:
    maps = np.concatenate([glyphs.jitter(name, glyphs.SAMPLES)[0] for name in glyphs.letters()])
    assert len(np.unique(maps.round(9), axis=0)) == len(glyphs.letters()) * glyphs.SAMPLES


def test_a_sample_depends_on_its_class_and_number_only() -> None:
    maps, levels = glyphs.jitter("latin/CAPITAL LETTER A", 48)
    fewer = glyphs.jitter("latin/CAPITAL LETTER A", 5)
    assert (maps[:5] == fewer[0]).all() and (levels[:5] == fewer[1]).all()


def test_another_process_makes_the_same_bytes(splits: dict[str, Split], tmp_path: Path) -> None:
    code = (
        "import hashlib; from graphfsl.data.sets.glyphs import load; s = load('test');"
        "print(hashlib.sha256(s.x.numpy().tobytes() + repr((s.classes, "
        "s.groups)).encode()).hexdigest())"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    env = os.environ | {
        "PYTHONHASHSEED": seed,
        "GRAPHFSL_CACHE": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    out = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == digest(splits["test"])


def test_the_second_load_renders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path))
    first = digest(glyphs.load("val"))
    monkeypatch.setattr(glyphs, "draw", lambda name: pytest.fail("rendered again"))
    assert digest(glyphs.load("val")) == first


def test_raw_pixels_leave_something_to_learn(splits: dict[str, Split]) -> None:
    """5-way 1-shot, the nearest support image."""
    x = splits["test"].x.float().flatten(1).view(-1, glyphs.SAMPLES, 784)
    rng = np.random.default_rng(0)
    right = []
    for _ in range(300):
        classes, ids = rng.choice(len(x), 5, replace=False), rng.permutation(glyphs.SAMPLES)[:11]
        z = x[classes][:, ids]
        nearest = torch.cdist(z[:, 1:].flatten(0, 1), z[:, 0]).argmin(1)
        right.append((nearest == torch.arange(5).repeat_interleave(10)).float().mean())
    assert 0.25 < float(torch.stack(right).mean()) < 0.62


def test_nothing_in_test_looks_like_anything_in_train(
    splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location(
        "make_glyphs", ROOT / "benchmarks" / "make_glyphs.py"
    )
    assert spec and spec.loader
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    monkeypatch.setattr(make, "PLAIN", make.PLAIN[:1])  # one face of the six, for time
    assert make.likeness(["A", "\u0391", "\u0410", "c", "C"])[1][[0, 0, 3], [1, 2, 4]].min() > 0.95
    train, test = ([glyphs.letters()[c] for c in splits[s].classes] for s in ("train", "test"))
    assert make.likeness(train + test)[1][: len(train), len(train) :].max() <= make.ANY_FACE + 0.005


def test_a_wrong_split_and_a_poor_font_folder_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"unknown split 'tset'; did you mean 'test'\?"):
        glyphs.load("tset")
    monkeypatch.setattr(glyphs, "FACES", glyphs.FACES[:4])
    with pytest.raises(InputError, match="install matplotlib 3"):
        glyphs.draw("latin/CAPITAL LETTER A")
