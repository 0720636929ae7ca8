"""Images and masks in files: what is read, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graphfsl import data
from graphfsl.apply.segment.support_masks import read_support
from graphfsl.data.mask_files import in_tiles, mask_pairs, read_mask
from graphfsl.data.sets import pascal5i
from graphfsl.io.errors import InputError
from tests.support.scenes import scenes


def save(path: Path, pixels: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels.astype(np.uint8))
    if palette:
        image = Image.fromarray(pixels.astype(np.uint8), "P")
        image.putpalette([k % 256 for k in range(768)])
    image.save(path)
    return path


def pictures(folder: Path, numbers: list[int], palette: bool = True) -> None:
    """One image and one mask for each number, half of which it covers; the last row is 255."""
    for k, number in enumerate(numbers):
        save(folder / "images" / f"{k}.jpg", np.full((8, 10, 3), 40 * k))
        mask = np.zeros((8, 10))
        mask[:4] = number
        mask[-1] = 255
        save(folder / "masks" / f"{k}.png", mask, palette)


def test_a_folder_of_palettes_is_a_split(tmp_path: Path) -> None:
    pictures(tmp_path / "test", [3, 7, 3])
    (tmp_path / "classes.txt").write_text("3 cell\n7 grain of dust\n")
    split: Any = data.load("masks", "test", root=tmp_path, size=8)
    assert split.classes == ("cell", "grain of dust") and split.x.shape == (3, 3, 8, 8)
    maps = split.label_maps(torch.arange(3))
    assert maps[:, 0, 0].tolist() == [0, 1, 0] and (maps[:, 5] == -1).all()
    assert (maps[:, -1] == -100).all()
    assert split.counts.tolist() == [2, 1]
    assert split.shown(0.6).sum() == 0 and split.shown(0.4).sum() == 3


def test_layouts_of_pairs(tmp_path: Path) -> None:
    gray = np.zeros((4, 4))
    save(tmp_path / "side" / "1.jpg", gray)
    save(tmp_path / "side" / "1.png", gray)
    save(tmp_path / "side" / "2.jpg", gray)
    save(tmp_path / "side" / "2_mask.png", gray)
    save(tmp_path / "side" / "3.jpg", gray)
    pairs, alone = mask_pairs(tmp_path / "side")
    assert [mask.name for _, mask in pairs] == ["1.png", "2_mask.png"]
    assert [path.name for path in alone] == ["3.jpg"]
    save(tmp_path / "voc" / "JPEGImages" / "a.jpg", gray)
    save(tmp_path / "voc" / "SegmentationClass" / "a.png", gray)
    assert len(mask_pairs(tmp_path / "voc")[0]) == 1
    with pytest.raises(InputError, match="holds no image with a mask"):
        mask_pairs(tmp_path)


def test_a_mask_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    colours = save(tmp_path / "c.png", np.arange(48).reshape(4, 4, 3))
    with pytest.raises(InputError, match="holds colours"):
        read_mask(colours)
    small = save(tmp_path / "s.png", np.zeros((4, 5)))
    with pytest.raises(InputError, match="is 5 x 4, but its image is 8 x 6"):
        read_mask(small, (6, 8))
    lossy = save(tmp_path / "l.jpg", np.zeros((4, 4)))
    with pytest.raises(InputError, match="JPEG"):
        read_mask(lossy)
    pictures(tmp_path / "test", [3, 9])
    (tmp_path / "classes.txt").write_text("3 cell\n")
    with pytest.raises(InputError, match=r"holds \[9\], which no class has"):
        data.load("masks", "test", root=tmp_path, size=8)


def test_fss1000_takes_its_lists(tmp_path: Path) -> None:
    for name in ("ab", "cd", "ef", "gh"):
        for k in (1, 2):
            mask = np.zeros((6, 6))
            mask[2:4] = 255
            save(tmp_path / "fewshot_data" / name / f"{k}.jpg", np.full((6, 6, 3), 90))
            save(tmp_path / "fewshot_data" / name / f"{k}.png", mask)
    (tmp_path / "test.txt").write_text("ef\nab\n")
    listed = data.load("fss1000", "test", root=tmp_path, size=6)
    assert listed.classes == ("ef", "ab") and listed.counts.tolist() == [2, 2]
    assert set(data.load("fss1000", "train", root=tmp_path, size=6).classes) == {"ab", "cd"}
    (tmp_path / "val.txt").write_text("zz\n")
    with pytest.raises(InputError, match="'zz' has no folder"):
        data.load("fss1000", "val", root=tmp_path)


def test_folds_of_pascal_are_disjoint_and_novel_pixels_are_background(tmp_path: Path) -> None:
    for fold in range(4):
        parts = [pascal5i.classes_of(split, fold) for split in ("train", "val", "test")]
        assert sorted(n for part in parts for n in part) == list(range(1, 21))
    assert [pascal5i.CLASSES[n - 1] for n in pascal5i.fold_classes(1)] == [
        *("bus", "car", "cat", "chair", "cow")
    ]
    voc = tmp_path / "VOC2012"
    for stem, numbers in (("a", (13, 1)), ("b", (13, 14)), ("c", (2, 1))):
        mask = np.zeros((6, 6))
        mask[:2], mask[2:4], mask[5] = numbers[0], numbers[1], 255
        save(voc / "JPEGImages" / f"{stem}.jpg", np.full((6, 6, 3), 90))
        save(voc / "SegmentationClass" / f"{stem}.png", mask, palette=True)
    lists = voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc\n")
    kept: Any = data.load("pascal5i", "train", root=tmp_path, fold=0, size=6)
    assert kept.classes == ("horse", "motorbike") and len(kept.x) == 2
    assert (kept.maps[0, 2:4] == -1).all() and (kept.maps[0, :2] == 0).all()
    dropped = data.load("pascal5i", "train", root=tmp_path, fold=0, size=6, drop=True)
    assert len(dropped.x) == 1


def test_tiles_keep_every_pixel_with_its_label() -> None:
    split = scenes(3)
    tiles: Any = in_tiles(split, 2)
    assert tiles.x.shape == (12, 3, 6, 6)
    assert torch.equal(tiles.x[5], split.x[1, :, :6, 6:])
    assert torch.equal(tiles.maps[5], split.maps[1, :6, 6:])


def test_arrays_of_camvid_leave_out_what_is_void(tmp_path: Path) -> None:
    masks = np.zeros((2, 4, 4), np.uint8)
    masks[:, 0], masks[0, 1] = 11, 3
    names = np.array([*(f"class {k}" for k in range(11)), "void"])
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "camvid_val_240x180.npz", images=images, masks=masks, class_names=names)
    split: Any = data.load("camvid", "train", root=tmp_path, part="val")
    assert split.classes == ("class 0", "class 3") and split.name == "camvid/val"
    assert (split.maps[:, 0] == -100).all() and (split.maps[0, 1] == 1).all()
    with pytest.raises(InputError, match="no CamVid in"):
        data.load("camvid", "test", root=tmp_path)


def test_gray_in_three_colours_and_smooth_edges_are_black_and_white(tmp_path: Path) -> None:
    ramp = np.zeros((20, 20))
    ramp[5:, 2:] = 255
    ramp[4, 2:18] = np.arange(16) * 16
    save(tmp_path / "images" / "a.jpg", np.zeros((20, 20, 3)))
    save(tmp_path / "masks" / "a.png", ramp[..., None].repeat(3, 2))
    found = read_support(tmp_path)
    assert found.classes == [tmp_path.name]
    assert (found.maps[0] == np.where(ramp > 127, 0, -1)).all()
    few = np.where((ramp == 255) | (ramp == 16), ramp, 0)  # void around a small class 16
    save(tmp_path / "masks" / "a.png", few)
    assert read_support(tmp_path).classes == [tmp_path.name]
    assert (read_support(tmp_path).maps[0] == 0).sum() == 1
    for text in ("16 a\n16 b\n", "16 a\n17 a\n"):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(InputError, match="the number or the name of another line"):
            read_support(tmp_path)


def test_numbers_that_bytes_do_not_hold_are_counted_anew(tmp_path: Path) -> None:
    mask = np.zeros((6, 6), np.uint16)
    mask[:2], mask[4:] = 300, 7
    save(tmp_path / "images" / "a.png", np.zeros((6, 6, 3)))
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    found = read_support(tmp_path)
    assert found.classes == ["7", "300"] and list(found.numbers) == [1, 2]


def test_a_split_of_black_and_white_masks_has_one_class(tmp_path: Path) -> None:
    pictures(tmp_path / "test", [255, 255])
    split: Any = data.load("masks", "test", root=tmp_path, size=8)
    assert split.classes == (tmp_path.name,)
    assert split.label_maps(torch.arange(1))[0, 0, 0] == 0


def test_names_of_classes_are_read_as_other_programs_write_them(tmp_path: Path) -> None:
    """With the mark of Windows' editors in front, and a tab between number and name."""
    pictures(tmp_path, [3, 7])
    file = tmp_path / "classes.txt"
    file.write_bytes(b"\xef\xbb\xbf3\tcell\r\n7  grain of dust \r\n")
    found = read_support(tmp_path)
    assert found.classes == ["cell", "grain of dust"] and found.numbers == [3, 7]
    file.write_bytes("3 Stra\u00dfe\n7 b\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not in UTF-8"):
        read_support(tmp_path)


def test_white_is_the_one_class_that_is_named(tmp_path: Path) -> None:
    """Of several names the first one would be a guess; of one name the number is kept."""
    save(tmp_path / "images" / "a.png", np.zeros((6, 6, 3)))
    save(tmp_path / "masks" / "a.png", np.eye(6) * 255)
    (tmp_path / "classes.txt").write_text("1 road\n3 car\n")
    with pytest.raises(InputError, match=r"shows one class, but .* names 2"):
        read_support(tmp_path)
    (tmp_path / "classes.txt").write_text("3 car\n")
    found = read_support(tmp_path)
    assert found.classes == ["car"] and found.numbers == [3]


def test_masks_in_capitals_are_found_and_no_mask_is_of_two_images(tmp_path: Path) -> None:
    pictures(tmp_path, [3])
    (tmp_path / "masks" / "0.png").rename(tmp_path / "masks" / "0.PNG")
    assert [mask.name for _, mask in mask_pairs(tmp_path)[0]] == ["0.PNG"]
    save(tmp_path / "images" / "0.png", np.zeros((8, 10, 3)))
    with pytest.raises(InputError, match=r"0\.jpg and 0\.png are both called as the mask"):
        mask_pairs(tmp_path)
