"""`fss1000`: FSS-1000, a folder of ten images and masks for each of 1000 classes.

Li et al. 2020, https://arxiv.org/abs/1907.12347. Read from `<root>/fewshot_data/<class>/1.jpg` and
`1.png`, white where the class is. The classes of a split are listed in `<root>/<split>.txt`, one a
line, as HSNet's lists are; without a list the sorted classes are divided 520, 240 and 240, or in
these proportions where there are fewer, which is not the published division.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphfsl.data.images import subfolders, written
from graphfsl.data.mask_files import mask_pairs, of_arrays, read_image, read_mask, squeezed
from graphfsl.data.scenes import BACKGROUND
from graphfsl.data.split import Split, readable
from graphfsl.io.errors import require, unknown

SPLITS = {"train": (0.0, 0.52), "val": (0.52, 0.76), "test": (0.76, 1.0)}
WHITE = 127  # masks are JPEG-like in places: above it a pixel is the class


def load(split: str, root: str, size: int = 224) -> Split:
    """One split.

    Args:
        split: "train", "val" or "test".
        root: the folder that holds `fewshot_data`, or that folder itself.
        size: pixels of a side to which images are squeezed; they have 224.

    Raises:
        InputError: where the folder, or a class of a list, is not there.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    base = Path(root).expanduser()
    data = base / "fewshot_data" if (base / "fewshot_data").is_dir() else base
    folders = {written(p.name): p for p in subfolders(readable(data, "FSS-1000"))}
    names = _listed(base, split) or _share(sorted(folders), split)
    missing = [name for name in names if name not in folders]
    require(not missing, f"FSS-1000: class {(missing or [''])[0]!r} has no folder in {data}")
    require(names, f"{data} holds no class of split {split!r}")
    images, maps = [], []
    for column, name in enumerate(names):
        for image_file, mask_file in mask_pairs(folders[name])[0]:
            image = read_image(image_file)
            ink = read_mask(mask_file, image.shape[1:]) > WHITE
            labels = np.where(ink, column, BACKGROUND).astype(np.int16)
            small, small_labels = squeezed(image, labels, size)
            images.append(small)
            maps.append(small_labels)
    return of_arrays(np.stack(images), np.stack(maps), names, f"fss1000/{split}")


def _listed(base: Path, split: str) -> list[str]:
    """The classes of a list beside the folder; none without one."""
    file = base / f"{split}.txt"
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [line.strip() for line in lines if line.strip()]


def _share(names: list[str], split: str) -> list[str]:
    first, last = (round(edge * len(names)) for edge in SPLITS[split])
    return names[first:last]
