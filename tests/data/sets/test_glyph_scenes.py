"""Drawn scenes of letters: what they hold, and that they are a function of seed and number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from graphfsl import data
from graphfsl.data.scenes import BACKGROUND
from graphfsl.data.sets.glyph_scenes import KNOWN, LENGTH, SIDE, WANTED
from graphfsl.io.errors import InputError


def test_a_scene_is_a_function_of_seed_and_number() -> None:
    split: Any = data.load("glyph_scenes", "test")
    ids = torch.tensor([[3, 50], [7, 3]])
    images = split.gather(ids)
    assert images.shape == (2, 2, 1, SIDE, SIDE) and images.dtype == torch.uint8
    assert torch.equal(images[0, 0], images[1, 1])
    assert torch.equal(split.gather(torch.tensor([50]))[0], images[0, 1])
    other = data.load("glyph_scenes", "test", seed=1)
    assert not torch.equal(other.gather(torch.tensor([50]))[0], images[0, 1])


def test_masks_boxes_and_classes_agree() -> None:
    split: Any = data.load("glyph_scenes", "val")
    ids = torch.arange(30, 50)
    maps, images = split.label_maps(ids), split.gather(ids)
    shown = split.shown()
    for image, mask, number in zip(images, maps, ids.tolist(), strict=True):
        objects = split.objects_of(number)
        assert len(objects.boxes) == WANTED
        assert set(objects.labels.tolist()) == set(np.flatnonzero(shown[number]).tolist())
        covered = torch.zeros_like(mask, dtype=torch.bool)
        for box, label in zip(objects.boxes.astype(int), objects.labels, strict=True):
            part = mask[box[1] : box[3], box[0] : box[2]] == label
            assert part.any(0)[[0, -1]].all() and part.any(1)[[0, -1]].all(), "the box is tight"
            covered[box[1] : box[3], box[0] : box[2]] = True
        ink = mask != BACKGROUND
        assert not (ink & ~covered).any()
        assert image[0][ink].float().mean() > 3 * image[0][~ink].float().mean()


def test_the_scenes_of_a_series_share_their_letters_and_scripts_do_not_mix() -> None:
    seen: set[str] = set()
    for name in ("train", "val", "test"):
        split: Any = data.load("glyph_scenes", name)
        shown = split.shown()
        for series in (0, 5):
            rows = np.flatnonzero(split.series == series)
            assert len(rows) == LENGTH and shown[rows].any(0).sum() == KNOWN
        scripts = set(split.groups or ())
        assert not scripts & seen
        seen |= scripts


def test_what_is_wrong_is_one_line() -> None:
    with pytest.raises(InputError, match="unknown split"):
        data.load("glyph_scenes", "novel")
    with pytest.raises(InputError, match="cannot be divided by classes"):
        data.few_classes(data.load("glyph_scenes", "val"), 10)
    with pytest.raises(InputError, match="glyphs/test has no masks"):
        data.Episodes(data.load("glyphs", "test"), task="pixels")
