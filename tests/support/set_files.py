"""Published data sets as small files of the layouts that people have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from graphfsl.data.class_lists import classes_of
from graphfsl.io.package_data import class_list

SPLITS = ("train", "val", "test")
# CIFAR-100's own order
NAMES = sorted(c for split in SPLITS for c in class_list("cifar_fs")[split])
SHARES = {"train": 2, "test": 1}  # images of a class in each of the two files


def fake_cifar() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """File -> (pixels (n, 3072), fine labels (n,)), shuffled."""
    rng = np.random.default_rng(0)
    labels = {
        file: rng.permutation(np.repeat(np.arange(100), share)) for file, share in SHARES.items()
    }
    return {
        file: (rng.integers(0, 256, (len(y), 3072), dtype=np.uint8), y)
        for file, y in labels.items()
    }


def write_binary(root: Path, fine: list[str] = NAMES) -> Path:
    """CIFAR-100's binary files with few images."""
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    for file, (pixels, y) in fake_cifar().items():
        coarse = np.zeros_like(y)
        (folder / f"{file}.bin").write_bytes(
            np.column_stack([coarse, y, pixels]).astype(np.uint8).tobytes()
        )
    (folder / "fine_label_names.txt").write_text("\n".join(fine) + "\n")
    return folder


CASES = {  # layouts, each as the path of an image of a class of a split
    "mini_imagenet": (
        "mini_imagenet/{split}/{c}/{c}{k}.jpg",
        "mini-imagenet/{c}/{k}.JPEG",
        "miniImageNet/images/{c}/deep/{k}.png",
        "MiniImagenet/images/{c}{k:08d}.jpg",
        "images/{c}{k:08d}.jpg",
        "{split}/{c}/{k}.jpg",
    ),
    "tiered_imagenet": (
        "tiered-imagenet/{split}/{c}/{k}.jpg",
        "ILSVRC2012/train/{c}/{c}_{k}.JPEG",
        "ILSVRC/Data/CLS-LOC/train/{c}/{c}_{k}.JPEG",
        "train/{c}/{c}_{k}.JPEG",
    ),
    "cub": ("CUB_200_2011/images/{c}/{k}.jpg", "images/{c}/{k}.jpg", "{c}/{k}.jpg"),
}


def shade(split: str, number: int, k: int) -> tuple[int, int, int]:
    """A colour that no other image of the set has."""
    return (number % 256, 50 * SPLITS.index(split) + k, number // 256)


def write_images(
    root: Path, name: str, layout: str, splits: tuple[str, ...] = SPLITS, count: int = 2
) -> None:
    """Photographs of two pixels' side for every class, at the places of a layout."""
    for split in splits:
        for number, c in enumerate(classes_of(name, split)[0]):
            for k in reversed(range(count)):
                path = root / layout.format(split=split, c=c, k=k)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (2, 2), shade(split, number, k)).save(path, "png")
