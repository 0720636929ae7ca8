"""`glyph_scenes`: letters among clutter and other letters; drawn on the fly, nothing is stored.

| split | scripts                 | series | scenes |
|-------|-------------------------|--------|--------|
| train | Latin, Greek, Cyrillic  |     70 |   2800 |
| val   | Armenian, Lao           |     15 |    600 |
| test  | Georgian                |     30 |   1200 |

A scene is a gray image of 96 x 96. It shows 3 wanted letters, which are annotated, and 2 unknown
ones and 4 strokes, which are not: they are background. Each stands in a cell of a 3 x 3 grid,
letters 20 to 30 pixels high or wide, at a contrast of 0.6 to 1; noise of 0.08 lies on everything.
The mask of a letter is its ink, its box the extent of that. The 40 scenes of a series share 5
letters that are wanted and 7 that are unknown, so that an episode finds its classes together; it is
drawn from one series.

Scene i is a pure function of (split, seed, i). The letters are those of the data set `glyphs`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.arguments import whole_number
from graphfsl.data.scenes import BACKGROUND, DrawnScenes, Objects
from graphfsl.data.sets import glyphs
from graphfsl.data.split import Split
from graphfsl.data.streams import CLASSES, IMAGES, POINTS, SCENES, choose, keys_of, uniform
from graphfsl.io.errors import unknown

DRAWINGS = True  # bright ink on black
SERIES = {"train": 70, "val": 15, "test": 30}
LENGTH = 40  # scenes of a series
SIDE, CELL = 96, 32  # pixels of a scene's side, and of a cell's
GRID = SIDE // CELL
KNOWN, UNKNOWN = 5, 7  # letters of a series: those that are wanted, and others
WANTED, OTHERS, STROKES = 3, 2, 4  # what a scene shows
SMALLEST, LARGEST = 20, 30  # pixels of a letter's longer side
SHORTEST, LONGEST = 12, 28  # pixels of a stroke
FAINTEST, NOISE = 0.6, 0.08
DRAWN_AT_ONCE = 64  # scenes, which bounds memory


class Layout(NamedTuple):
    """What stands where in m scenes of n letters each, the wanted ones first.

    Args:
        letters: (m, n) the class of each.
        samples: (m, n) which image of the letter it is.
        cells: (m, n) the cell of the grid.
        sides: (m, n) pixels of the longer side.
        places: (m, n, 2) the middle in its cell, in pixels, x and y.
        contrast: (m, n).
        strokes: (m, STROKES) the cell of each stroke.
    """

    letters: np.ndarray
    samples: np.ndarray
    cells: np.ndarray
    sides: np.ndarray
    places: np.ndarray
    contrast: np.ndarray
    strokes: np.ndarray


@dataclass(frozen=True, repr=False)
class GlyphScenes(DrawnScenes):
    """The scenes of one split.

    Args:
        seed: another one gives other scenes.
    """

    seed: int = 0

    @property
    def has_masks(self) -> bool:
        """Every pixel has a class."""
        return True

    @property
    def has_boxes(self) -> bool:
        """Every wanted letter has a box."""
        return True

    @property
    def label_bytes(self) -> bytes:
        """What tells these scenes from others: the digest of their pixels says the rest."""
        return repr((self.name, self.seed)).encode()

    def shown(self, least: float = 0.0) -> np.ndarray:
        """Which letters (N, C) each scene shows; none is so small that it does not count."""
        wanted = self.layout(np.arange(len(self.x))).letters[:, :WANTED]
        found = np.zeros((len(self.x), len(self.classes)), bool)
        found[np.arange(len(found))[:, None], wanted] = True
        return found

    def layout(self, ids: np.ndarray) -> Layout:
        """What stands where in the scenes with these ids (m,)."""
        drawn = self._letters_of(ids // LENGTH)

        keys = keys_of(self.name, self.seed, ids)
        picks = uniform(keys, IMAGES, 3, GRID * GRID)

        def some(n: int, of: int, row: int) -> np.ndarray:
            return choose(np.full((len(ids), 1), of), picks[:, row : row + 1, :n])[:, 0]

        wanted = np.take_along_axis(drawn[:, :KNOWN], some(WANTED, KNOWN, 0), 1)
        others = np.take_along_axis(drawn[:, KNOWN:], some(OTHERS, UNKNOWN, 1), 1)
        letters = np.concatenate([wanted, others], 1)
        cells = some(WANTED + OTHERS + STROKES, GRID * GRID, 2)

        u = uniform(keys, POINTS, 5, WANTED + OTHERS)
        sides = SMALLEST + (LARGEST - SMALLEST) * u[:, 0]
        room = CELL - sides
        places = np.stack([sides / 2 + room * u[:, 1], sides / 2 + room * u[:, 2]], -1)
        contrast = FAINTEST + (1 - FAINTEST) * u[:, 3]
        samples = (u[:, 4] * glyphs.SAMPLES).astype(np.int64)
        of_letters, of_strokes = np.split(cells, [WANTED + OTHERS], 1)
        return Layout(letters, samples, of_letters, sides, places, contrast, of_strokes)

    def _letters_of(self, series: np.ndarray) -> np.ndarray:
        """The letters (m, KNOWN + UNKNOWN) of series (m,), the known ones first.

        They follow each other on a circle of all letters in random order, one circle for each time
        that all letters have been known once.
        """
        n = len(self.classes)
        circle, place = np.divmod(series, -(-n // KNOWN))
        keys = keys_of(f"{self.name}/series", self.seed, circle)
        order = np.argsort(uniform(keys, CLASSES, 1, n)[:, 0], axis=1)
        at = (KNOWN * place[:, None] + np.arange(KNOWN + UNKNOWN)) % n
        return np.take_along_axis(order, at, 1)

    def ink(self, layout: Layout) -> Tensor:
        """How much ink of each letter its cell holds: (m, n, CELL, CELL) in [0, 1]."""
        images, middle, longer = _letters(self.name.rpartition("/")[2])
        rows = torch.from_numpy(layout.letters * glyphs.SAMPLES + layout.samples).flatten()
        scale = longer[rows] / torch.from_numpy(layout.sides).flatten()
        place = torch.from_numpy(layout.places).flatten(0, 1)

        at = torch.arange(CELL, dtype=torch.float64) + 0.5
        x = middle[rows, 0, None] + (at - place[:, :1]) * scale[:, None]
        y = middle[rows, 1, None] + (at - place[:, 1:]) * scale[:, None]
        across = (2 * x / glyphs.SIZE - 1)[:, None, :].expand(-1, CELL, -1)
        down = (2 * y / glyphs.SIZE - 1)[:, :, None].expand(-1, -1, CELL)
        grid = torch.stack([across, down], -1).float()
        patches = F.grid_sample(images[rows].float() / 255, grid, align_corners=False)
        ink: Tensor = patches[:, 0].unflatten(0, layout.letters.shape)
        return ink

    def _on_canvas(self, patches: Tensor, cells: np.ndarray, empty: float) -> Tensor:
        """Patches (m, n, CELL, CELL) in their cells: (m, SIDE, SIDE), elsewhere `empty`."""
        m = len(cells)
        canvas = patches.new_full((m, GRID * GRID, CELL, CELL), empty)
        canvas[torch.arange(m)[:, None], torch.from_numpy(cells)] = patches
        grid: Tensor = canvas.unflatten(1, (GRID, GRID)).transpose(2, 3)
        return grid.reshape(m, SIDE, SIDE)

    def draw(self, ids: np.ndarray) -> Tensor:
        """The scenes (m, 1, SIDE, SIDE) uint8 with these ids (m,)."""
        parts = [self._draw(ids[k : k + DRAWN_AT_ONCE]) for k in range(0, len(ids), DRAWN_AT_ONCE)]
        return torch.cat(parts)

    def _draw(self, ids: np.ndarray) -> Tensor:
        layout = self.layout(ids)
        contrast = torch.from_numpy(layout.contrast).float()[..., None, None]
        letters = self._on_canvas(self.ink(layout) * contrast, layout.cells, 0.0)
        keys = keys_of(self.name, self.seed, ids)
        strokes = _strokes(uniform(keys, SCENES, 6, STROKES))
        clean = torch.maximum(letters, self._on_canvas(strokes, layout.strokes, 0.0))
        noise = ndtri(uniform(keys, SCENES + 100, SIDE, SIDE))
        noisy = clean + NOISE * torch.from_numpy(noise).float()
        return (255 * noisy.clamp(0, 1)).round().to(torch.uint8).unsqueeze(1)

    def label_maps(self, ids: Tensor) -> Tensor:
        """The class of every pixel (…, SIDE, SIDE): that of wanted ink, else background."""
        flat = ids.flatten().cpu().numpy()
        layout = self.layout(flat)
        wanted = _first(layout, WANTED)
        ink = self._is_ink(wanted)
        letters = torch.from_numpy(wanted.letters).to(torch.int16)[..., None, None]
        maps = self._on_canvas(letters.where(ink, BACKGROUND), wanted.cells, BACKGROUND)
        return maps.view(*ids.shape, SIDE, SIDE)

    def _is_ink(self, layout: Layout) -> Tensor:
        """Which pixels of its cell are a letter's (m, n, CELL, CELL): more than half its ink."""
        ink = self.ink(layout)
        return ink > 0.5 * ink.amax((-1, -2), keepdim=True)

    def objects_of(self, image: int) -> Objects:
        """The boxes of the wanted letters of a scene."""
        layout = self.layout(np.array([image]))
        wanted = _first(layout, WANTED)
        boxes = []
        for ink, cell in zip(self._is_ink(wanted)[0], wanted.cells[0], strict=True):
            rows, columns = ink.any(1).nonzero(), ink.any(0).nonzero()
            left, top = CELL * (cell % GRID), CELL * (cell // GRID)
            box = [columns[0] + left, rows[0] + top, columns[-1] + left + 1, rows[-1] + top + 1]
            boxes.append([float(v) for v in box])
        return Objects.of(boxes, wanted.letters[0].tolist())


def _first(layout: Layout, n: int) -> Layout:
    """The layout of the first n letters."""
    letters = {name: getattr(layout, name)[:, :n] for name in Layout._fields[:-1]}
    return layout._replace(**letters)


@functools.lru_cache(maxsize=3)
def _letters(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """The letters of a split: images (N, 1, 28, 28), the middle (N, 2) and longer side (N,)."""
    images = glyphs.load(split).x
    ink = images[:, 0] > 64
    middle, longer = [], []
    for axis in (1, 2):  # across, then down
        there = ink.any(axis).double()
        first = there.argmax(1).double()
        behind = there.shape[1] - there.flip(1).argmax(1).double()
        middle.append((first + behind) / 2)
        longer.append(behind - first)
    return images, torch.stack(middle, 1), torch.stack(longer).amax(0)


def _strokes(u: np.ndarray) -> Tensor:
    """Straight strokes, each in a cell of its own: (m, STROKES, CELL, CELL).

    Args:
        u: (m, 6, STROKES) uniforms: the middle, the direction, the length, the width, the contrast.
    """
    x, y, turn, length, width, contrast = torch.from_numpy(u).float().unbind(1)
    reach = (SHORTEST + (LONGEST - SHORTEST) * length) / 2
    along = torch.stack([(torch.pi * turn).cos(), (torch.pi * turn).sin()], -1)
    room = (CELL - 2 * reach)[..., None] / 2
    middle = CELL / 2 + room * (2 * torch.stack([x, y], -1) - 1)
    half = (1 + width) / 2
    at = torch.arange(CELL) + 0.5
    pixels = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)

    offset = pixels - middle[..., None, None, :]  # (m, STROKES, CELL, CELL, 2)
    direction = along[..., None, None, :]
    most = reach[..., None, None]
    t = (offset * direction).sum(-1).maximum(-most).minimum(most)
    distance = (offset - t[..., None] * direction).norm(dim=-1)
    shade: Tensor = (half[..., None, None] + 0.5 - distance).clamp(0, 1)
    return shade * (FAINTEST + (1 - FAINTEST) * contrast)[..., None, None]


def load(split: str, seed: int = 0) -> Split:
    """One split of scenes, none of which is drawn yet.

    Args:
        split: "train", "val" or "test".
        seed: of the scenes.
    """
    if split not in SERIES:
        raise unknown("split", split, SERIES)
    seed = whole_number(seed, "data.seed", 0)
    scripts = glyphs.SCRIPTS[split]
    names = tuple(name for name in glyphs.letters() if name.split("/")[0] in scripts)
    count = LENGTH * SERIES[split]
    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(count, 1, SIDE, SIDE)
    labels = torch.full((count,), -1)
    series = np.arange(count) // LENGTH
    groups = tuple(name.split("/")[0] for name in names)
    name = f"glyph_scenes/{split}"
    return GlyphScenes(nothing, labels, names, name, groups, series=series, seed=seed)
