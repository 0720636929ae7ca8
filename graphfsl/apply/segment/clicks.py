"""Masks from clicks: nothing is trained, and no other image is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graphfsl.functional.random_walk import grid_edges, harmonic
from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError, require
from graphfsl.io.plain_text import one_line

# Of the grid that is solved; larger images are made smaller, as a walk from few clicks loses its
# way on a fine grid. Both were chosen on every tenth validation frame of CamVid.
MOST_PIXELS = 2**13
MOST_CLASSES = 254  # numbers of a mask's pixels, beside the background's and 255
BETA = 300.0  # how much less an edge weighs across a change of colour
EXAMPLE = '{"car": [[120, 80], [131, 84]], "road": [[10, 200]]}'


@dataclass(frozen=True)
class Clicks:
    """Points that a user has named.

    Args:
        classes: their names.
        points: (k, 2) x and y in pixels.
        columns: (k,) the class of each.
    """

    classes: Sequence[str]
    points: np.ndarray
    columns: np.ndarray


def read_clicks(path: Path, size: tuple[int, int]) -> Clicks:
    """The clicks of a JSON file: for each class a list of places [x, y] in pixels.

    Args:
        path: of the file.
        size: (H, W) of the image.

    Raises:
        InputError: for another form, a click outside of the image, one place with two names, and
            fewer than two classes.
    """
    require(path.is_file(), f"clicks {path} not found; give a file such as {EXAMPLE}")
    given: Any = read_json(path)
    if not isinstance(given, Mapping) or not all(isinstance(v, list) for v in given.values()):
        raise InputError(f"{path} must hold lists of places by class, such as {EXAMPLE}")
    names_in_file = [name for name, _ in json.loads(path.read_bytes(), object_pairs_hook=list)]
    twice = [name for name in given if names_in_file.count(name) > 1]
    require(
        not twice,
        f"{path} names {one_line((twice or [''])[0])!r} twice; put all places of a class into one "
        "list",
    )
    require(
        len(given) >= 2,
        f"{path} names {len(given)} class; at least 2 are needed, one of which may be called "
        "background",
    )
    require(
        len(given) <= MOST_CLASSES,
        f"{path} names {len(given)} classes; a mask holds {MOST_CLASSES} at most",
    )
    points, columns = [], []
    named: dict[tuple[int, int], str] = {}
    for column, (name, places) in enumerate(given.items()):
        require(places, f"{path}: class {one_line(str(name))!r} has no click")
        for place in places:
            at = _place(place, size, path)
            if named.setdefault(at, name) != name:
                raise InputError(f"{path}: {list(at)} is called {named[at]!r} and {name!r}")
            points.append(at)
            columns.append(column)
    names = [one_line(str(name)) for name in given]
    return Clicks(names, np.array(points, np.int64), np.array(columns, np.int64))


def _place(place: Any, size: tuple[int, int], path: Path) -> tuple[int, int]:
    """A click as whole pixels x and y."""
    numbers = isinstance(place, list) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) for v in place
    )
    if not numbers or len(place) != 2:
        raise InputError(f"{path}: {str(place)[:40]} is no place [x, y] in pixels")
    height, width = size
    if not (0 <= place[0] < width and 0 <= place[1] < height):
        raise InputError(
            f"{path}: the click {place} lies outside of the image, which is {width} x {height}"
        )
    return int(place[0]), int(place[1])


def mask_of_clicks(image: np.ndarray, clicks: Clicks, most: int = MOST_PIXELS) -> np.ndarray:
    """The class of every pixel: the one whose click a random walk from there meets first.

    An image of more than `most` pixels is made smaller for it, so that memory is bounded. A pixel
    that was clicked keeps its class.

    Args:
        image: (channels, H, W) uint8.
        clicks: in its pixels.
        most: pixels of the grid.

    Returns:
        (H, W) uint8, the column of each pixel.
    """
    height, width = image.shape[1:]
    shrink = min(1.0, (most / (height * width)) ** 0.5)
    small_height, small_width = (max(1, round(side * shrink)) for side in (height, width))
    pixels = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    small = np.asarray(pixels.resize((small_width, small_height), Image.Resampling.BOX)) / 255.0
    small = small[..., None] if small.ndim == 2 else small

    x = clicks.points[:, 0] * small_width // width
    y = clicks.points[:, 1] * small_height // height
    nodes, at = np.unique(y * small_width + x, return_inverse=True)
    votes = np.zeros((len(nodes), len(clicks.classes)))
    np.add.at(votes, (at.ravel(), clicks.columns), 1)
    labels = votes / votes.sum(1, keepdims=True)

    ends, weight = grid_edges(small, BETA)
    f, _ = harmonic(ends, weight, nodes, labels, small_height * small_width)
    found = np.zeros((height, width), np.uint8)
    best = np.full((height, width), -1.0, np.float32)
    for column in range(len(clicks.classes)):
        plane = f[:, column].reshape(small_height, small_width).astype(np.float32)
        large = Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR)
        value = np.asarray(large)
        better = value > best
        found[better] = column
        best[better] = value[better]
    found[clicks.points[:, 1], clicks.points[:, 0]] = clicks.columns
    return found
