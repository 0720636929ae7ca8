"""Where the experiment files and class lists are: at the repository's root, or inside an installed wheel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphfsl.errors import unknown

_PACKAGE = Path(__file__).resolve().parent


def _folder(installed: str, checkout: str) -> Path:
    """The wheel's folder inside the package if there is one, else the checkout's beside the package."""
    inside = _PACKAGE / installed
    return inside if inside.is_dir() else _PACKAGE.parent / checkout


def experiments_dir() -> Path:
    """The folder that holds <method>/<author><year>_<dataset>_<way>w<shot>s.yaml and ablations/."""
    return _folder("experiments", "experiments")


def class_list(name: str) -> dict[str, Any]:
    """data/<name>.json, such as "cifar_fs": {"train": [...], "val": [...], "test": [...]}."""
    folder = _folder("data_lists", "data")
    path = folder / f"{name}.json"
    if not path.is_file():
        raise unknown("class list", name, (p.stem for p in folder.glob("*.json")))
    lists: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return lists
