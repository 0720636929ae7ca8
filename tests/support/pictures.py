"""Image files and folders of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def modified(root: Path) -> dict[str, int]:
    """When each file below a folder was written."""
    return {str(p): p.stat().st_mtime_ns for p in [root, *root.rglob("*")]}


def picture(
    path: Path, value: Any = 0, size: tuple[int, int] = (10, 10), mode: str = "RGB", **options: Any
) -> Path:
    """An image file of one colour, or of an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = (
        Image.fromarray(value) if isinstance(value, np.ndarray) else Image.new(mode, size, value)
    )
    image.save(path, **options)
    return path


def fill(base: Path, classes: dict[str, int]) -> None:
    """Each class a number of images; red grows by 10 with the sorted class, green by 1 with the
    image.
    """
    for red, (name, count) in enumerate(sorted(classes.items())):
        for k in range(count):
            picture(base / name / f"{k}.png", (10 * red, k, 0))


def files(folder: Path) -> list[str]:
    """What lies in the cache, locks aside."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")
