"""Omniglot: characters of 50 alphabets (Lake et al. 2015, https://doi.org/10.1126/science.aab3050).

It is 20 drawings by hand of each of 1,623 characters.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from graphfsl.data.images import Files, read_images
from graphfsl.data.session_lists import NEITHER, SUPPORT, read_session_list
from graphfsl.data.split import Split, readable
from graphfsl.io.downloads import fetch
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.io.package_data import class_list

DRAWINGS = True  # the files show dark ink on paper, the samples bright ink on black
FOLDERS = ("images_background", "images_evaluation")
PROTOCOLS = ("vinyals", "background", "fscil")


def load(
    split: str,
    root: str,
    protocol: str = "vinyals",
    rotations: bool | None = None,
    size: int = 28,
    download: bool = False,
) -> Split:
    """One split of Omniglot: handwritten characters of 50 alphabets, 20 drawings each.

    A drawing is 1 x size x size with ink 255; the superclass of a class is its alphabet.

    Args:
        split: "train", "val" or "test".
        root: the folder (or the one above `omniglot-py`) with torchvision's layout:
            `images_background` and `images_evaluation` as folders or as zips. It may be read-only.
        protocol: "vinyals", 1028 / 172 / 423 characters (train, val, test); or "background", which
            trains on 25 of the 30 background alphabets (792 characters), validates on the other
            five (172) and tests on the 659 characters of the evaluation set; or "fscil", of the
            task `sessions` with `order: omniglot_fscil`: it trains on the five drawings that the
            list shows of each of its 1,200 base characters, validates on nine others of these, and
            tests on all 20 of all 1,623 characters.
        rotations: turns by 90, 180 and 270 degrees as classes of their own, with "fscil" of "train"
            only, else in every split; by default not with "background".
        size: pixels of a side.
        download: fetch the zips (15 MB) that are missing into `root`/omniglot-py; what is there is
            used unchecked.
    """
    if split not in ("train", "val", "test"):
        raise unknown("split", split, ("train", "val", "test"))
    if protocol not in PROTOCOLS:
        raise unknown("Omniglot protocol", protocol, PROTOCOLS)
    rotations = protocol != "background" if rotations is None else rotations
    rotations = rotations and (protocol != "fscil" or split == "train")
    if download:
        _fetch(root)
    base = _base(readable(Path(root).expanduser(), "Omniglot"))
    lists = class_list("omniglot_vinyals")
    # The five validation alphabets of the Vinyals lists are background alphabets, so both protocols
    # share them.
    held_out = set(lists["val"])
    by_class: dict[str, tuple[Files, list[str]]] = {}
    for folder in FOLDERS:
        require(
            _is_there(base, folder),
            f"Omniglot not found: no {base / folder}/ or {folder}.zip; set data.root to "
            f"their folder, or "
            "data.download=true",
        )
        files = Files(base / folder)
        for name in files.names:
            match = re.search(r"([^/]+/character\d+)/[^/]+$", name)
            if match:
                by_class.setdefault(match[1], (files, []))[1].append(name)
    shown = ""  # the letter of the drawings that are taken; none takes all
    if protocol == "vinyals":
        wanted = list(lists[split])
    elif protocol == "fscil":
        order = read_session_list("omniglot_fscil")
        wanted = list(order.classes if split == "test" else order.sessions[0])
        shown = {"train": SUPPORT, "val": NEITHER, "test": ""}[split]
    else:
        inside = {c for c, (files, _) in by_class.items() if files.root.name == FOLDERS[0]}
        wanted = sorted(
            {"train": inside - held_out, "val": held_out, "test": set(by_class) - inside}[split]
        )
    missing = [c for c in wanted if c not in by_class]
    if missing:
        raise InputError(
            f"{base}: {len(missing)} characters are missing, {missing[0]!r} first; "
            f"fetch Omniglot again"
        )
    x, y = [], []
    for folder in FOLDERS:
        held = [(k, c) for k, c in enumerate(wanted) if by_class[c][0].root.name == folder]
        own = [(k, n) for k, c in held for n in sorted(by_class[c][1])]
        if shown:
            letters = [letter for _, c in held for letter in order.letters[c]]
            pairs = zip(own, letters, strict=True)
            own = [drawing for drawing, letter in pairs if letter == shown]
        if own:
            files = by_class[wanted[own[0][0]]][0]
            x.append(
                read_images(
                    files, [n for _, n in own], size, 1, f"omniglot/{protocol}-{split}-{folder}"
                )
            )
            y.append(np.array([k for k, _ in own]))
    drawings, labels = 255 - np.concatenate(x), np.concatenate(y)  # paper is 255 in the files
    by_label = np.argsort(labels, kind="stable")
    drawings, labels = drawings[by_label], labels[by_label]
    names = tuple(wanted)
    if rotations:
        drawings = np.concatenate([np.rot90(drawings, k, (2, 3)) for k in range(4)])
        labels = np.concatenate([labels + k * len(names) for k in range(4)])
        names = tuple(f"{n}/rot{90 * k:03d}" for k in range(4) for n in names)
    alphabets = tuple(n.split("/")[0] for n in names)
    kind = f"omniglot-{protocol}{'-rotations' if rotations else ''}"
    return Split(
        torch.from_numpy(drawings), torch.from_numpy(labels), names, f"{kind}/{split}", alphabets
    )


def download(root: str) -> None:
    """Fetch the zips that are missing into `root`/omniglot-py.

    Or into `root` if it is that folder.
    """
    _fetch(root)


def _base(root: Path) -> Path:
    return root / "omniglot-py" if (root / "omniglot-py").is_dir() else root


def _is_there(base: Path, folder: str) -> bool:
    return (base / folder).is_dir() or (base / f"{folder}.zip").is_file()


def _fetch(root: str) -> None:
    # takes seconds to import, and most runs download nothing
    from torchvision.datasets import Omniglot

    path = Path(root).expanduser()
    base = _base(path)
    if (
        base == path
        and path.name != Omniglot.folder
        and not any(_is_there(path, folder) for folder in FOLDERS)
    ):
        base = path / Omniglot.folder
    for folder in FOLDERS:
        if not _is_there(base, folder):
            fetch(f"{Omniglot.download_url_prefix}/{folder}.zip", base, Omniglot.zips_md5[folder])
