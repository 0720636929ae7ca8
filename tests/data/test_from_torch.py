"""Data sets of torch become splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset

from graphfsl.data import Split, from_dataset
from tests.support.refusal import refused

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


class Listed:
    """A map-style data set of given pairs."""

    def __init__(self, *pairs: Any, classes: Any = None) -> None:
        self.pairs = pairs
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> Any:
        return self.pairs[i]


IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)  # H, W, C
CHW = IMAGE.transpose(2, 0, 1)


@pytest.mark.parametrize(
    "sample",
    [
        Image.fromarray(IMAGE),
        torch.from_numpy(CHW.copy()),
        torch.from_numpy(CHW / 255),
        torch.from_numpy(CHW / np.float32(255)),
        IMAGE,
        IMAGE / 255,
        (IMAGE / 255).astype(np.float32),
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'dtype', '')}",
)
def test_from_dataset_keeps_colour_images(sample: Any) -> None:
    split = from_dataset(Listed((sample, 0), (sample, 1)), "mine/test")
    assert isinstance(split, Split) and split.name == "mine/test" and split.x.dtype == torch.uint8
    assert np.array_equal(split.x.numpy(), [CHW, CHW])
    assert from_dataset(Listed((sample, 0), (sample, 1)), "mine/test", size=9).shape == (3, 9, 9)


@pytest.mark.parametrize(
    "sample",
    [
        Image.fromarray(IMAGE[..., 0]),
        torch.from_numpy(CHW[:1].copy()),
        torch.from_numpy(CHW[0].copy()),
        torch.from_numpy(CHW[:1] / 255),
        IMAGE[..., 0],
        IMAGE[..., :1],
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'dtype', '')}",
)
def test_from_dataset_keeps_gray_images(sample: Any) -> None:
    split = from_dataset(Listed((sample, 0), (sample, 1)), "mine/test")
    assert np.array_equal(split.x[0].numpy(), CHW[:1])
    colour = torch.from_numpy(CHW.copy())
    for pairs in (
        [(sample, 0), (colour, 1)],
        [(colour, 1), (sample, 0)],
        [(sample, 0), (colour, 1), (sample, 0)],
    ):
        split = from_dataset(Listed(*pairs), "mine/test")
        assert (
            split.shape == (3, 6, 5)
            and (split.x[split.y == 0] == torch.from_numpy(CHW[:1].copy())).all()
        )
        assert torch.equal(split.x[split.y == 1][0], colour)


def test_from_dataset_keeps_features() -> None:
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
        rows = torch.randn(3, 4).to(dtype)
        split = from_dataset(Listed(*zip(rows, [2, 0, 2], strict=True)), "f/test")
        assert (
            split.x.dtype == torch.float32
            and torch.equal(split.x, rows.float())
            and split.y.tolist() == [1, 0, 1]
        )
    assert from_dataset(Listed((np.zeros(3), 0), (np.ones(3), 1)), "f/test").shape == (3,)


def test_from_dataset_labels_and_names() -> None:
    row = torch.zeros(2)

    def split(*labels: Any, **options: Any) -> Split:
        return from_dataset(Listed(*((row, label) for label in labels), **options), "f/test")

    mixed = split(torch.tensor(7), np.int32(3), 5, np.array(7), -1)
    assert mixed.y.tolist() == [2, 0, 1, 2, -1] and mixed.classes == ("3", "5", "7")
    assert split("dog", "cat", np.str_("dog")).classes == ("cat", "dog")
    assert split("dog", "cat", "dog").y.tolist() == [1, 0, 1]
    assert split(2, 0, classes=["a", "b", "c"]).classes == ("a", "c")
    assert split(2, 0, classes=["a", "b"]).classes == ("0", "2"), (
        "names that do not reach all labels are not used"
    )
    assert split(True, False).classes == ("0", "1")
    whole = Listed(*((row, k) for k in (0, 1, 2, 2)), classes=["a", "b", "c"])
    assert from_dataset(Subset(Subset(whole, [3, 1, 2]), [0, 1]), "f/test").classes == ("b", "c")
    triple = from_dataset(Listed((row, 0, "more"), [row, 1]), "f/test")
    assert triple.y.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (iter([1]), ("map-style",)),
        (Listed(), ("empty",)),
        (Listed(torch.zeros(3)), ("sample 0", "pair", "Tensor")),
        (Listed((torch.zeros(3),)), ("sample 0", "pair")),
        (Listed(("x.png", 0)), ("sample 0", "PIL image", "'x.png'")),
        (Listed((torch.zeros(3), 0), (torch.zeros(4), 1)), ("sample 1", "4", "3", "one length")),
        (Listed((torch.zeros(3), 0), (CHW[0], 1)), ("sample 1", "1 x 6 x 5")),
        (Listed((IMAGE, 0), (IMAGE[:4], 1)), ("sample 1", "3 x 4 x 5", "3 x 6 x 5", "size=")),
        (Listed((IMAGE[..., :1], 0), (IMAGE[:4], 1)), ("sample 1", "size=")),
        (Listed((torch.full((3, 4, 4), 1.5), 0)), ("sample 0", "[0, 1]", "1.5")),
        (Listed((torch.full((3, 4, 4), -0.5), 0)), ("sample 0", "[0, 1]", "Normalize")),
        (Listed((torch.full((3, 4, 4), float("nan")), 0)), ("sample 0", "nan")),
        (Listed((torch.from_numpy(IMAGE.copy()), 0)), ("sample 0", "(C, H, W)", "(6, 5, 3)")),
        (Listed((CHW, 0)), ("sample 0", "(H, W, C)", "(3, 6, 5)")),
        (Listed((torch.zeros(3, 4, 4, dtype=torch.int64), 0)), ("sample 0", "uint8", "int64")),
        (Listed((torch.zeros(4, dtype=torch.int64), 0)), ("sample 0", "int64", "floats (d,)")),
        (Listed((torch.zeros(3, 0, 4), 0)), ("sample 0", "(3, 0, 4)")),
        (Listed((torch.zeros(3), None)), ("sample 0", "label None")),
        (Listed((torch.zeros(3), 1.0)), ("sample 0", "label 1.0")),
        (Listed((torch.zeros(3), torch.tensor([0, 1]))), ("sample 0", "label")),
        (Listed((torch.zeros(3), 0), (torch.zeros(3), "a")), ("numbers", "strings")),
        (Listed((torch.tensor([0, float("nan")]), 0)), ("sample 0", "NaN")),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else "",
)
def test_from_dataset_refuses(dataset: Any, words: tuple[str, ...]) -> None:
    with refused("mine/test", *words):
        from_dataset(dataset, "mine/test")


def test_from_dataset_brings_mixed_sizes_to_one() -> None:
    split = from_dataset(
        Listed((IMAGE, 0), (IMAGE[:4], 1), (Image.fromarray(IMAGE[..., 0]), 1)), "mine/test", size=5
    )
    assert split.shape == (3, 5, 5)
