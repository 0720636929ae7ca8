"""Splits, and choices of their classes."""

from __future__ import annotations

import pytest
import torch

from graphfsl.data import (
    Episodes,
    Split,
    few_classes,
    join,
    large_classes,
    load,
    other_classes,
)
from graphfsl.io.errors import InputError
from tests.support.refusal import refused

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


def test_split_refuses() -> None:
    images, y = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 1])
    for x, labels, classes, words in (
        (images[:3], y, ("a", "b"), ("3 samples", "4 labels")),
        (images.float(), y, ("a", "b"), ("uint8 images", "float32")),
        (images[:, 0, 0], y, ("a", "b"), ("(N, C, H, W)", "(4, 2)")),
        (torch.zeros(4, 2, dtype=torch.int64), y, ("a", "b"), ("float features", "int64")),
        (images, y, ("a",), ("labels must lie in -1..0",)),
        (images, y - 2, ("a", "b"), ("labels must lie in -1..1",)),
        (images, y, ("a", "b", "c"), ("'c'", "no sample")),
        (images, y.float(), ("a", "b"), ("whole numbers", "float32")),
    ):
        with refused("s/test", *words):
            Split(x, labels, classes, "s/test")


def test_few_classes_are_a_nested_choice_by_name() -> None:
    split = load("glyphs", "train")
    few, fewer = few_classes(split, 9), few_classes(split, 5)
    assert len(few.classes) == 9 and set(fewer.classes) < set(few.classes) < set(split.classes)
    assert list(few.classes) != list(split.classes[:9]) and few.name == "glyphs/train[9]"
    for c, name in enumerate(few.classes):
        assert torch.equal(few.x[few.y == c], split.x[split.y == split.classes.index(name)])
    with refused("glyphs/train", f"{len(split.classes)} classes", "cut to 1"):
        few_classes(split, 1)


def test_other_classes_are_those_that_a_choice_of_few_leaves_out() -> None:
    y = torch.arange(7).repeat(2)
    split = Split(torch.arange(14.0)[:, None], y, tuple("abcdefg"), "s/train")
    few, rest = few_classes(split, 4), other_classes(split, 4)
    assert sorted(few.classes + rest.classes) == list("abcdefg") and rest.name == "s/train[4:]"
    assert sorted([*few.x[:, 0].tolist(), *rest.x[:, 0].tolist()]) == list(range(14))
    for c, name in enumerate(rest.classes):
        assert torch.equal(rest.x[rest.y == c], split.x[split.y == split.classes.index(name)])
    with refused("s/train", "leave 1; two or more"):
        other_classes(split, 6)


def test_small_classes_are_left_out_and_named() -> None:
    y = torch.tensor([0, 1, 1, 2, 2, 2, -1, 3, 3, 3])
    x = torch.arange(10).view(10, 1, 1, 1).to(torch.uint8)
    split = Split(x, y, ("a", "b", "c", "d"), "s/test", ("g", "h", "i", "j"))
    with pytest.warns(
        UserWarning,
        match=r"fewer than 3 samples are left out: 'a' \(1\), 'b' "
        r"\(2\)",
    ):
        part = large_classes(split, 3)
    assert part.classes == ("c", "d") and part.groups == ("i", "j") and part.name == "s/test[>=3]"
    assert part.x.flatten().tolist() == [3, 4, 5, 6, 7, 8, 9] and part.y.tolist() == [
        0,
        0,
        0,
        -1,
        1,
        1,
        1,
    ]
    assert large_classes(split, 1) is split
    with refused("s/test", "0 of 4 classes", "data.min_samples"):
        large_classes(split, 4)
    with pytest.raises(InputError) as told:  # with three classes it would be no help
        Episodes(split, way=3, shot=1, query=2)
    assert "min_samples" not in str(told.value)
    with refused("data.min_samples=3"):  # the line that tells of the option
        Episodes(split, way=2, shot=1, query=2)
    assert Episodes(part, way=2, shot=1, query=2).batch([0])[0].way == 2


def test_a_choice_of_classes_and_a_join_keep_the_variants() -> None:
    x = torch.arange(10).view(10, 1, 1, 1).to(torch.uint8)
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    split = Split(x, y, ("a", "b", "c"), "s/test", variants=2)
    other = Split(x, y, ("d", "e", "f"), "s/val", variants=2)
    with pytest.warns(UserWarning, match="left out"):
        large = large_classes(split, 3)
    for part in (large, split.subset([1, 0], "s/part"), few_classes(split, 2), join(split, other)):
        assert part.variants == 2, part.name
    with refused("s/test and s/one", "2 and 1 variants"):
        join(split, Split(x, y, ("g", "h", "i"), "s/one"))


def test_scenes_are_not_divided_by_classes() -> None:
    scenes = load("glyph_scenes", "val")
    least = int(sorted(scenes.counts)[-2])
    with refused("cannot be divided by classes", "data.min_samples"):
        large_classes(scenes, least)


def test_subset_renumbers_and_drops() -> None:
    x = torch.arange(6).view(6, 1, 1, 1).to(torch.uint8)
    split = Split(x, torch.tensor([0, 1, 2, 2, -1, 0]), ("a", "b", "c"), "s/test", ("g", "h", "i"))
    part = split.subset([2, 0], "s/part")
    assert part.classes == ("c", "a") and part.groups == ("i", "g") and part.name == "s/part"
    assert part.x.flatten().tolist() == [0, 2, 3, 5] and part.y.tolist() == [1, 0, 0, 1]
