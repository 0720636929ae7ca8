"""CUB: 100/50/50 birds for train, val and test (https://data.caltech.edu/records/65de6-vp158).

CUB-200-2011 is 11,788 photographs of 200 species (Wah et al. 2011), which Chen et al. 2019,
https://arxiv.org/abs/1904.04232, divided so.
"""

from __future__ import annotations

from pathlib import Path

from graphfsl.data import class_folders
from graphfsl.data.class_lists import classes_of
from graphfsl.data.split import Split
from graphfsl.io.downloads import extract, fetch

URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
MD5 = "97eceeb196236b17998738112f37df78"
FOLDERS = ("CUB_200_2011", "cub", "CUB", "cub/CUB_200_2011")
BY_HAND = (
    f"data.download=true fetches them, or by hand: unpack {URL} (md5 {MD5}) as "
    f"{{root}}/CUB_200_2011"
)


def load(split: str, root: str, download: bool = False, size: int = 84) -> Split:
    """One split of CUB, 3 x size x size: whole photographs, not cut to the bird.

    CUB-200-2011 is 11,788 photographs of 200 species (Wah et al. 2011), which Chen et al. 2019,
    https://arxiv.org/abs/1904.04232, divided so.

    Args:
        split: "train", "val" or "test".
        root: holds `CUB_200_2011` with images/<class>/…, or is that folder.
        download: fetch the archive (1.1 GB) into `root` and unpack it there, unless the images are
            there already.
        size: pixels of a side, to which every image is squeezed.
    """
    if download:
        _fetch(root, (split,))
    return class_folders.load("cub", split, root, size, FOLDERS, BY_HAND)


def _fetch(root: str, splits: tuple[str, ...]) -> None:
    base = Path(root).expanduser()
    wanted = {s: classes_of("cub", s)[0] for s in splits}
    if any(
        len(class_folders.find(base, FOLDERS, s, classes)[1]) < len(classes)
        for s, classes in wanted.items()
    ):
        extract(fetch(URL, base, MD5), base / FOLDERS[0])


def download(root: str) -> None:
    """Fetch the archive into `root` and unpack it there, unless the images are there already."""
    _fetch(root, ("train", "val", "test"))
