"""Contact sheets: what was found of a class, on one picture.

They show what it was given, and what was found with most and least confidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from graphfsl.data.images import decode
from graphfsl.data.pixel_range import Range
from graphfsl.io.errors import InputError
from graphfsl.io.files import read_regular

# pixels of a tile, between tiles and of a line; tiles in a row
SIDE, GAP, TEXT, ACROSS = 96, 8, 14, 12
INK, SOFT, WRONG = "#1d1f23", "#5d636d", "#b3261e"


@dataclass(frozen=True)
class Tile:
    """An image, the words below it, and whether they are known to be wrong.

    Attributes:
        image: its file, or the image itself.
        words: what stands below it.
        wrong: whether it has a red rim.
        limits: the values of black and white, see `images.to_array`.
    """

    image: Path | Image.Image
    words: str
    wrong: bool = False
    limits: Range | None = None


def contact_sheet(title: str, sections: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """Tiles in rows of twelve below the heading of their section.

    A section without tiles is left out.
    """
    shown = {heading: tiles for heading, tiles in sections.items() if tiles}
    line, row = TEXT + GAP, SIDE + TEXT + 2 * GAP
    height = GAP + 2 * line + sum(line + -(-len(tiles) // ACROSS) * row for tiles in shown.values())
    sheet = Image.new("RGB", (GAP + ACROSS * (SIDE + GAP), height), "white")
    pen, small, large = ImageDraw.Draw(sheet), _font(TEXT - 2), _font(TEXT + 4)
    pen.text((GAP, GAP), title, INK, large)
    y = GAP + 2 * line
    for heading, tiles in shown.items():
        pen.text((GAP, y), heading, SOFT, small)
        y += line
        for i, tile in enumerate(tiles):
            x, top = GAP + i % ACROSS * (SIDE + GAP), y + i // ACROSS * row
            sheet.paste(_thumbnail(tile.image, tile.limits), (x, top))
            pen.text((x, top + SIDE + 2), tile.words, WRONG if tile.wrong else SOFT, small)
            if tile.wrong:
                pen.rectangle(
                    (x - 2, top - 2, x + SIDE + 1, top + SIDE + 1), outline=WRONG, width=2
                )
        y += -(-len(tiles) // ACROSS) * row
    return sheet


def _thumbnail(image: Path | Image.Image, limits: Range | None) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
    path = image
    try:
        return Image.fromarray(
            decode(read_regular(path), SIDE, 3, str(path), limits).transpose(1, 2, 0)
        )
    except (InputError, OSError):  # it was there when it was encoded
        return Image.new("RGB", (SIDE, SIDE), "#dfe1e5")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's, which has the letters of most scripts."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
