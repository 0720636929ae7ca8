"""Label Studio's protocol of ML backends: predictions with scores for the tasks that it names."""

from __future__ import annotations

import posixpath
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from graphfsl.apply.annotate.answers import NONE
from graphfsl.apply.annotate.exports import CHOICE, IMAGE, MODEL, choice
from graphfsl.apply.annotate.workbench import Workbench
from graphfsl.io.errors import InputError, require

MOST_TASKS = 10_000
LONGEST_CONFIG = 1_000_000  # letters


def health() -> dict[str, Any]:
    """What `GET /health` says."""
    return {"status": "UP", "model_class": MODEL}


def setup() -> dict[str, Any]:
    """What `POST /setup` says."""
    return {"model_version": MODEL}


def predict(bench: Workbench, question: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """What `POST /predict` says: a result for each task, empty where nothing is predicted.

    A task's image is found by its path below the pool's folder, or below one that holds it.

    Args:
        bench: the pool.
        question: `tasks`, each with `data`, and `label_config`, whose first `Choices` is answered.
        folder: the name of the pool's folder.

    Raises:
        InputError: for a question that is none.
    """
    tasks = question.get("tasks")
    require(isinstance(tasks, list), "tasks must be a list of tasks")
    assert isinstance(tasks, list)
    require(len(tasks) <= MOST_TASKS, f"at most {MOST_TASKS:,} tasks at once")
    control, image, field = controls(str(question.get("label_config") or ""))
    results = []
    for task in tasks:
        data = task.get("data") if isinstance(task, dict) else None
        require(isinstance(data, dict), "each task must have data")
        assert isinstance(data, dict)
        results.append(_result(bench, data, folder, (control, image, field)))
    return {"results": results, "model_version": MODEL}


def controls(config: str) -> tuple[str, str, str]:
    """The names of the first `Choices`, of its image, and of the image's field in a task's data.

    Raises:
        InputError: for a configuration that is no XML, or has none.
    """
    if not config.strip():
        return CHOICE, IMAGE, "image"
    require(
        len(config) <= LONGEST_CONFIG and "<!" not in config,
        "label_config must be plain XML, without declarations",
    )
    try:
        root = ElementTree.fromstring(config)
    except ElementTree.ParseError as error:
        raise InputError(f"label_config is no XML ({error})") from None
    found = root.find(".//Choices")
    if found is None:
        raise InputError("label_config has no Choices; this backend predicts classes of images")
    image = found.get("toName", IMAGE)
    shown = root.find(f".//Image[@name='{image}']") if "'" not in image else None
    value = "" if shown is None else shown.get("value", "")
    return found.get("name", CHOICE), image, value.lstrip("$") or "image"


def _result(
    bench: Workbench, data: Mapping[str, Any], folder: str, names: tuple[str, str, str]
) -> dict[str, Any]:
    control, image, field = names
    n = _sample(bench, str(data.get(field, "")), data.get("sample"), folder)
    nothing = {"result": [], "score": 0.0, "model_version": MODEL}
    if n is None:
        return nothing
    with bench.lock:
        value, score = bench.guess(n, answered=True)
        name = bench.answers.classes.get(str(value))
    if value is None or value == NONE or name is None or score is None:
        return nothing
    result = choice(name, control, image)
    result[0]["score"] = score
    return {"result": result, "score": score, "model_version": MODEL}


def _sample(bench: Workbench, address: str, name: Any, folder: str) -> int | None:
    """The sample of an image's address: a path, or an address of Label Studio's files."""
    if isinstance(name, str) and name in bench.place:
        return bench.place[name]
    parts = urlsplit(address)
    inside = parse_qs(parts.query).get("d", [""])[0] or unquote(parts.path)
    path = posixpath.normpath(inside).lstrip("/")
    if path in bench.place:
        return bench.place[path]
    steps = path.split("/")
    for i, step in enumerate(steps):
        below = "/".join(steps[i + 1 :])
        if step == folder and below in bench.place:
            return bench.place[below]
    return None
