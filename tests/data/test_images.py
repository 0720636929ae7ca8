"""What image files become, and all broken ones named at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphfsl.data.images import Files, image_paths, read_folder_classes, read_images
from graphfsl.data.sets import folder
from graphfsl.io.errors import InputError
from tests.support.pictures import fill, picture
from tests.support.refusal import refused

pytestmark = pytest.mark.usefixtures("home")  # an empty cache


def test_images_of_every_kind(tmp_path: Path) -> None:
    ramp = np.arange(100, dtype=np.uint8).reshape(10, 10)
    see_through = np.zeros((10, 10, 4), np.uint8)
    see_through[:5, :, 3] = 255  # black ink above, nothing below
    turned = Image.Exif()
    turned[0x0112] = 6  # must be turned by 90 degrees clockwise to stand upright
    picture(tmp_path / "a" / "0.png", ramp)
    picture(tmp_path / "a" / "1.png", ramp.astype(np.uint16) * 257)
    picture(tmp_path / "a" / "2.png", see_through)
    picture(tmp_path / "a" / "3.png", ramp, exif=turned)
    picture(tmp_path / "a" / "4.png", 1, mode="1")
    picture(tmp_path / "b" / "0.gif", 7, mode="P")
    x = folder.load("test", str(tmp_path), 10, color=False, fractions=[0, 0, 1]).x[:, 0].numpy()
    assert np.array_equal(x[0], ramp) and np.array_equal(x[1], ramp), "8 and 16 bits show the same"
    assert (x[2][:5] == 0).all() and (x[2][5:] == 255).all(), "transparent parts lie on white"
    assert np.array_equal(x[3], np.rot90(ramp, -1)) and (x[4] == 255).all()


def test_images_for_a_prediction(tmp_path: Path) -> None:
    fill(tmp_path, {"b": 2, "a": 1, "unlabeled": 1})
    assert read_folder_classes(tmp_path) == {
        "a": [tmp_path / "a" / "0.png"],
        "b": [tmp_path / "b" / "0.png", tmp_path / "b" / "1.png"],
    }
    assert image_paths(tmp_path / "b" / "1.png") == [tmp_path / "b" / "1.png"]
    assert len(image_paths(tmp_path)) == 4
    (tmp_path / "x.txt").touch()
    for wrong in ("x.txt", "no.png"):
        with refused(str(tmp_path / wrong)):
            image_paths(tmp_path / wrong)


@pytest.mark.parametrize("count", [1, 3, 14])
def test_all_broken_images_are_named_at_once(tmp_path: Path, count: int) -> None:
    for i in range(count + 1):
        (tmp_path / f"b{i:02}.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "b00.png")
    files = Files(tmp_path)
    with pytest.raises(InputError, match=r"b01\.png is not a readable image") as error:
        read_images(files, files.names, 4, 1, "broken")
    said = str(error.value)
    assert "\n" not in said and said.count("replace or remove") == 1 and "b00" not in said
    assert all(f"b{i:02}.png" in said for i in range(1, min(count, 10) + 1))
    assert (f"{count} images cannot be read" in said) == (count > 1) and ("…" in said) == (
        count > 10
    )
