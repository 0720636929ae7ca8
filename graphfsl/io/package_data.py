"""Where the experiment files and class lists are.

At the repository's root, or inside an installed wheel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from graphfsl.io.errors import InputError, unknown

_PACKAGE = Path(__file__).resolve().parents[1]


def _folder(installed: str, checkout: str) -> Path:
    """The wheel's folder inside the package if there is one, else the checkout's beside it."""
    inside = _PACKAGE / installed
    return inside if inside.is_dir() else _PACKAGE.parent / checkout


def experiments_dir() -> Path:
    """The folder that holds <method>/<author><year>_<dataset>_<way>w<shot>s.yaml and ablations/."""
    return _folder("experiments", "experiments")


def experiment_files() -> list[Path]:
    """The experiment files, sorted, without studies and results."""
    folders = [
        f for f in sorted(experiments_dir().iterdir()) if f.name not in ("ablations", "results")
    ]
    return [p for folder in folders for p in sorted(folder.glob("*.yaml"))]


def experiment_name(file: Path) -> str:
    """How a command calls a file below experiments/: protonet/snell2017_omniglot_20w1s."""
    return f"{file.parent.name}/{file.stem}"


def find_experiments(name: str) -> list[Path]:
    """The experiment files of a name.

    With or without its folder, or that of a paper (snell2017), which may have many.

    Raises:
        InputError: where there is none.
    """
    files = experiment_files()
    for known in (experiment_name, lambda p: p.stem, lambda p: p.stem.split("_")[0]):
        if found := [p for p in files if known(p) == name]:
            return found
    raise unknown("experiment", name, {n for p in files for n in (p.stem, p.stem.split("_")[0])})


def find_experiment(path: str | Path) -> Path:
    """The one experiment file that a path, a path below experiments/ or a name stands for.

    Raises:
        InputError: where there is none, and where a paper has several.
    """
    file = Path(path)
    if file.is_file():
        return file
    if file.suffix not in (".yaml", ".yml"):
        found = find_experiments(str(path))
        if len(found) > 1:
            names = ", ".join(map(experiment_name, found))
            raise InputError(f"{path} has {len(found)} experiments; choose one of {names}")
        return found[0]
    shipped = experiments_dir() / str(path).removeprefix("experiments/")
    if not shipped.is_file():
        known = [
            p.relative_to(experiments_dir()).as_posix() for p in experiments_dir().rglob("*.yaml")
        ]
        raise unknown("experiment file", str(path), known)
    return shipped


def class_lists() -> list[str]:
    """The names of the class lists, sorted."""
    folder = _folder("data_lists", "data")
    paths = (path.relative_to(folder).with_suffix("") for path in folder.rglob("*.json"))
    return sorted(path.as_posix() for path in paths)


def class_list(name: str) -> dict[str, Any]:
    """The list data/<name>.json, such as "cifar_fs": {"train": […], "val": […], "test": […]}."""
    path = _folder("data_lists", "data") / f"{name}.json"
    if not path.is_file():
        raise unknown("class list", name, class_lists())
    lists: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return lists
