"""One episode of segmentation, drawn: masks of a letter in scenes of other letters.

`python docs/examples/letter_masks.py` draws scenes of the data set `glyph_scenes`, asks `graphfsl
segment` about three of them, with five that have a mask, and puts one of the five and the three
side by side in `letter_masks.jpg`. It runs in the checkout, where the encoder's weights lie.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from graphfsl import data
from graphfsl.data.scenes import SceneSplit

EXPERIMENT = "panet/wang2019_glyph_scenes_parts_1w1s"
SCALE, EDGE = 3, 6  # how much larger a scene is drawn, pixels between scenes
FOUND, MISSED, WRONG = (90, 230, 90), (90, 150, 255), (255, 90, 70)
SHOTS, ASKED = 5, 3  # scenes with a mask, and those that are asked about


def scenes_of_a_letter(split: SceneSplit, column: int) -> list[int]:
    """The scenes of the first series that show a letter."""
    return [i for i in range(40) if column in split.objects_of(i).labels]


def write(folder: Path, split: SceneSplit, ids: list[int], column: int | None) -> None:
    """Scenes as PNG files, with the masks of a letter where it is given."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, maps = split.gather(torch.tensor(ids)), split.label_maps(torch.tensor(ids))
    for number, image, labels in zip(ids, images.numpy(), maps.numpy(), strict=True):
        Image.fromarray(image[0]).save(folder / "images" / f"{number}.png")
        if column is not None:
            mask = np.where(labels == column, 255, 0).astype(np.uint8)
            Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


def graphfsl(*arguments: object) -> None:
    """Run the command line."""
    command = [sys.executable, "-m", "graphfsl", *map(str, arguments)]
    subprocess.run(command, check=True)


def coloured(image: np.ndarray, found: np.ndarray, true: np.ndarray) -> Image.Image:
    """A scene (H, W), enlarged: green what was found, blue what was missed, red what is another."""
    colours = np.full((*image.shape, 3), 255)
    colours[true], colours[found & true], colours[found & ~true] = MISSED, FOUND, WRONG
    picture = Image.fromarray((image[..., None] / 255 * colours).astype(np.uint8))
    return picture.resize([SCALE * side for side in picture.size], Image.Resampling.NEAREST)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("letter_masks.jpg"))
    out = parser.parse_args().out
    split = data.load("glyph_scenes", "test")
    assert isinstance(split, SceneSplit)
    column = int(split.objects_of(0).labels[0])
    ids = scenes_of_a_letter(split, column)
    known, asked = ids[:SHOTS], ids[SHOTS : SHOTS + ASKED]
    images = split.gather(torch.tensor(ids))[:, 0].numpy()
    true = (split.label_maps(torch.tensor(ids)) == column).numpy()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "letter", split, known, column)
        write(folder / "asked", split, asked, None)
        graphfsl("run", EXPERIMENT, "evaluation.episodes=10", "--out", folder / "run")
        options = ("--support", folder / "letter", "--query", folder / "asked" / "images")
        graphfsl("segment", folder / "run", *options, "--out", folder / "found")
        parts = [coloured(images[0], true[0], true[0])]
        for k, number in enumerate(asked, SHOTS):
            mask = np.asarray(Image.open(folder / "found/masks" / f"{number}.png.png")) > 0
            parts.append(coloured(images[k], mask, true[k]))
    side = parts[0].width
    whole = Image.new("RGB", (len(parts) * (side + EDGE) - EDGE, side), "white")
    for k, part in enumerate(parts):
        whole.paste(part, (k * (side + EDGE), 0))
    whole.save(out, quality=75)


if __name__ == "__main__":
    main()
