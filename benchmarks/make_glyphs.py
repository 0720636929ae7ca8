"""Write graphfsl/data/sets/glyphs.json: which letters of the six scripts are the classes of
`glyphs`.

A letter is a candidate where it has no Unicode decomposition and 8 faces. Candidates are taken
script by script, in the order of SCRIPTS, and one that looks like a letter already taken is left
out. `likeness` is the correlation of two letters after the best of 27 small warps, the kind that
samples are jittered by: its mean over six plain faces, as far as both letters have them, and its
maximum. The bounds were set by eye on sheets of pairs. Between the sides of the split they are
stricter, so that what is novel is new.
"""

from __future__ import annotations

import itertools
import json
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from graphfsl.data.sets import glyphs

SIDE_OF = {script: side for side, scripts in glyphs.SCRIPTS.items() for script in scripts}
PLAIN = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
)
# Two letters more alike than this are one class: in the mean, and between two sides in any one
# face.
SAME_SIDE, TWO_SIDES, ANY_FACE = 0.92, 0.88, 0.94


def candidates() -> dict[str, str]:
    """Letter -> script, in the order of precedence."""
    out = {}
    for c in sorted(set().union(*(glyphs.font(face)[1] for face in glyphs.FACES))):
        script, _, rest = unicodedata.name(c, "").lower().partition(" ")
        plain = unicodedata.category(c) in ("Lu", "Ll", "Lo") and not unicodedata.decomposition(c)
        plain = plain and "letter " in rest and "modifier" not in rest and script in SIDE_OF
        if plain and len(glyphs.faces(c)) >= glyphs.MIN_FACES:
            out[c] = script
    return dict(sorted(out.items(), key=lambda item: list(SIDE_OF).index(item[1])))


def warps() -> list[tuple[float, ...]]:
    """Three turns by three shears by three aspects, about the middle of the canvas."""
    out, mid = [], (glyphs.FINE - 1) / 2
    for turn, shear, aspect in itertools.product(
        (-0.175, 0, 0.175), (-0.2, 0, 0.2), (-0.18, 0, 0.18)
    ):
        turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        a = turned @ np.array([[1, shear], [0, 1]]) @ np.diag(np.exp([aspect, -aspect]))
        out.append(tuple(np.column_stack([a, mid - a.sum(1) * mid]).ravel()))
    return out


def vector(canvas: Image.Image) -> np.ndarray:
    """The letter cropped, scaled, centred, blurred; as a unit vector of zero mean."""
    glyph = glyphs.centred(canvas, Image.Resampling.BILINEAR).filter(ImageFilter.GaussianBlur(2))
    v = np.asarray(glyph.reduce(3), np.float32).ravel()
    unit: np.ndarray = (v - v.mean()) / np.linalg.norm(v - v.mean())
    return unit


def likeness(letters: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and maximum over the faces, (n, n) each."""
    total, shared, most = np.zeros((3, len(letters), len(letters)))
    for face in PLAIN:
        drawn = {i: canvas for i, c in enumerate(letters) if (canvas := glyphs.upright(c, face))}
        still, best = np.stack([vector(canvas) for canvas in drawn.values()]), np.float32(-1)
        for warp in warps():
            moved = (
                c.transform(c.size, Image.Transform.AFFINE, warp, Image.Resampling.BILINEAR)
                for c in drawn.values()
            )
            best = np.maximum(best, np.stack([vector(canvas) for canvas in moved]) @ still.T)
        at = np.ix_(list(drawn), list(drawn))
        best = np.maximum(best, best.T)
        total[at] += best
        shared[at] += 1
        most[at] = np.maximum(most[at], best)
    return total / np.maximum(shared, 1), most


if __name__ == "__main__":
    script = candidates()
    order = list(script)
    side = np.array([SIDE_OF[script[c]] for c in order])
    mean, most = likeness(order)
    taken: list[int] = []
    for i in range(len(order)):
        same = side[taken] == side[i]
        alike = np.where(
            same,
            mean[i, taken] > SAME_SIDE,
            (mean[i, taken] > TWO_SIDES) | (most[i, taken] > ANY_FACE),
        )
        if not alike.any():
            taken.append(i)
    classes = {s: "".join(order[i] for i in taken if script[order[i]] == s) for s in SIDE_OF}
    text = json.dumps(classes, ensure_ascii=False, indent=1) + "\n"
    Path(glyphs.__file__).with_suffix(".json").write_text(text, "utf-8")
    print({s: len(c) for s, c in classes.items()})
