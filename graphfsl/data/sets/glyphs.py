"""`glyphs`: letters of six scripts, rendered from matplotlib's fonts; nothing is downloaded.

| split | scripts                 | classes | samples |
|-------|-------------------------|---------|---------|
| train | Latin, Greek, Cyrillic  |     323 |   15504 |
| val   | Armenian, Lao           |      50 |    2400 |
| test  | Georgian                |      62 |    2976 |

A class is one letter; its 48 samples are 28 x 28 uint8, ink 255 on 0, and go through the 8 to 22
faces that have it. Each sample has its own rotation, shear, scale, aspect, place and weight of
stroke, so that no two samples are the same face under the same jitter. Letters that look alike
(Latin A, Greek Alpha, Cyrillic A; mostly c and C) are one class, that of the first script in
`SCRIPTS`: a shape stands on one side of the split only. The letters are listed in glyphs.json,
which benchmarks/make_glyphs.py writes; that file says what looking alike means.

The faces are DejaVu (Bitstream Vera licence), STIX (SIL OFL 1.1) and Computer Modern in the BaKoMa
encoding (BaKoMa licence), all redistributed by matplotlib and read from its folder. To look at the
letters:

    Image.fromarray(load("test").x[:960].reshape(20, 48, 28, 28).permute(0, 2, 1, 3).reshape(560,
    -1).numpy()).show()
"""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import PIL
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFilter, ImageFont

from graphfsl.data.split import Split
from graphfsl.io.array_cache import cached
from graphfsl.io.errors import require, unknown

DRAWINGS = True  # bright ink on black, whatever a user's files are
VERSION = 1  # of the pixels; part of the cache's key
MATPLOTLIB = "3.11"  # whose fonts glyphs.json was made from
SCRIPTS = {
    "train": ("latin", "greek", "cyrillic"),
    "val": ("armenian", "lao"),
    "test": ("georgian",),
}
SAMPLES = 48  # per class: as many of each face where a letter has 8, 12 or 16
MIN_FACES = 8
SIZE, FINE = 28, 84  # pixels a side, of a sample and of the canvas that it is warped on
INK = 54  # the longer side of an upright letter on that canvas

FACES = (
    *(
        f"DejaVu{family}{s}"
        for family in ("Sans", "SansMono")
        for s in ("", "-Bold", "-Oblique", "-BoldOblique")
    ),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *(f"cm{style}10" for style in ("r", "b", "ss", "tt", "ti", "mi")),
)


@functools.cache
def letters() -> dict[str, str]:
    """The classes of each split: class name -> letter, sorted."""
    scripts = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
    named = {
        f"{s}/{unicodedata.name(c).removeprefix(f'{s.upper()} ')}": c
        for s in scripts
        for c in scripts[s]
    }
    return dict(sorted(named.items()))


@functools.cache
def font(face: str) -> tuple[ImageFont.FreeTypeFont, frozenset[str]]:
    """A face and the characters it has.

    TeX's faces (cm*) are trusted with ASCII letters only: their other places hold other signs than
    Unicode's.
    """
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    has = (
        c
        for c in map(chr, FT2Font(str(path)).get_charmap())
        if c.isascii() or not face.startswith("cm")
    )
    return ImageFont.truetype(str(path), 2 * INK, layout_engine=ImageFont.Layout.BASIC), frozenset(
        has
    )


def centred(image: Image.Image, resample: Image.Resampling) -> Image.Image:
    """Put the ink of an image in the middle of a canvas, its longer side INK long."""
    glyph = image.crop(image.getbbox())
    w, h = (max(1, round(side * INK / max(glyph.size))) for side in glyph.size)
    canvas = Image.new("L", (FINE, FINE))
    canvas.paste(glyph.resize((w, h), resample), ((FINE - w) // 2, (FINE - h) // 2))
    return canvas


def upright(letter: str, face: str) -> Image.Image | None:
    """Render the letter in the middle of the canvas, its longer side INK long.

    None where the face lacks it or has a blank.
    """
    typeface, has = font(face)
    mask = typeface.getmask(letter) if letter in has else None
    if mask is None or mask.getbbox() is None:
        return None
    return centred(Image.frombytes("L", mask.size, bytes(mask)), Image.Resampling.BOX)


def faces(letter: str) -> list[Image.Image]:
    """Render the letter in every face, less the faces that repeat another's shape."""
    drawn = [canvas for face in FACES if (canvas := upright(letter, face))]
    return list({canvas.tobytes(): canvas for canvas in drawn}.values())


def jitter(name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the affine maps (count, 6) and the stroke levels (count,) of samples.

    A map leads from the canvas of a sample to that of the upright letter.

    Sample i's are a function of the class name and i alone: row i of a counter-based stream under
    the name's hash. Raw bits are taken, since numpy fixes those of Philox for good but not the
    methods of Generator.
    """
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw((count, 8))
    u = words.astype(np.float64) / 2.0**63 - 1  # in [-1, 1]
    turn = np.radians(16) * u[:, 0]
    shear = 0.25 * u[:, 1]
    size = np.exp(0.16 * u[:, 2])
    aspect = np.exp(0.16 * u[:, 3])
    middle = (FINE - 1) / 2
    x = middle + 6 * u[:, 4]
    y = middle + 6 * u[:, 5]
    stroke = 70 + 35 * u[:, 6]

    cos = np.cos(turn) / size
    sin = np.sin(turn) / size
    a = cos * aspect
    b = (sin + shear * cos) * aspect
    c = middle - a * x - b * y
    d = -sin / aspect
    e = (cos - shear * sin) / aspect
    f = middle - d * x - e * y
    return np.stack([a, b, c, d, e, f], 1), stroke


def draw(name: str) -> np.ndarray:
    """Render the samples of one class: (SAMPLES, 1, SIZE, SIZE) uint8."""
    shapes = [shape.filter(ImageFilter.GaussianBlur(1.8)) for shape in faces(letters()[name])]
    require(
        len(shapes) >= MIN_FACES,
        f"glyphs: {name!r} is in {len(shapes)} faces of matplotlib {matplotlib.__version__}, "
        f"not {MIN_FACES}; "
        f"install matplotlib {MATPLOTLIB}",
    )
    out = np.empty((SAMPLES, 1, SIZE, SIZE), np.uint8)
    for i, (affine, level) in enumerate(zip(*jitter(name, SAMPLES), strict=True)):
        warped = shapes[i % len(shapes)].transform(
            (FINE, FINE), Image.Transform.AFFINE, tuple(affine), Image.Resampling.BILINEAR
        )
        # A soft threshold on the blurred letter: a low level thickens the stroke, a high one thins
        # it.
        curve = np.clip(4 * (np.arange(256) - level) + 128, 0, 255).astype(int).tolist()
        out[i, 0] = np.asarray(warped.point(curve).reduce(FINE // SIZE))
    return out


def load(split: str) -> Split:
    """One split of letters, rendered on first use and from the cache ever after."""
    if split not in SCRIPTS:
        raise unknown("split", split, SCRIPTS)
    names = tuple(name for name in letters() if name.split("/")[0] in SCRIPTS[split])
    key = f"glyphs-{VERSION}-mpl{matplotlib.__version__}-pil{PIL.__version__}-{split}"

    def fill(out: np.ndarray) -> None:
        for i, name in enumerate(names):
            out[i * SAMPLES : (i + 1) * SAMPLES] = draw(name)

    x = cached(key, (len(names) * SAMPLES, 1, SIZE, SIZE), np.uint8, fill)
    y = torch.arange(len(names)).repeat_interleave(SAMPLES)
    scripts = tuple(name.split("/")[0] for name in names)
    return Split(x, y, names, f"glyphs/{split}", scripts)  # type: ignore[arg-type]
