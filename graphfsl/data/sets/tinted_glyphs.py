"""`tinted_glyphs`: the letters of `glyphs`, each painted in eight hues; nothing is downloaded.

A class is one letter, whatever its hue: 12 drawings of each, on white paper, 3 x 28 x 28. The task
`tinted` draws episodes in which hue goes along with class, or does not.
"""

from __future__ import annotations

from graphfsl.data.sets import glyphs
from graphfsl.data.split import Split
from graphfsl.data.tinting import tinted_split

DRAWINGS_OF_A_CLASS = 12


def load(split: str) -> Split:
    """One split of painted letters; the splits are those of `glyphs`."""
    return tinted_split(glyphs.load(split), "tinted_glyphs", DRAWINGS_OF_A_CLASS)
