"""The graphs of an export of graphfsl, and photographs as they take them.

It needs numpy, Pillow and onnxruntime alone.
"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
MODEL = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
DEEP_COLORS = (b"\x10\x02", b"\x10\x04", b"\x10\x06")  # PNG of 16 bits, of which Pillow keeps 8
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF, and two of their values
WHITE_IS_ZERO, SIGNED = 0, 2
AT_ONCE = 16  # photographs that are encoded together, so that memory does not grow with them
VERSION = [int(number) for number in onnxruntime.__version__.split(".")[:2]]

if MODEL["onnxruntime"] > VERSION:
    sys.exit(f"onnxruntime {MODEL['onnxruntime']} or newer is needed, not {VERSION}")


def features(paths: Sequence[str]) -> Any:
    """Features (n, d) of n photographs."""
    if not paths:
        sys.exit("no photograph is named")
    if MODEL["image"]["range"] is not None:
        sys.exit("this run reads images over a range of its own; graphfsl predict does that")
    encoder, found = _graph("encoder"), []
    for first in range(0, len(paths), AT_ONCE):
        some = paths[first : first + AT_ONCE]
        photographs = np.stack([_photograph(path, MODEL["image"]) for path in some])
        found.append(encoder.run(None, {"images": photographs})[0])
    return np.concatenate(found)


def probabilities(support: Any, labels: Any, query: Any) -> Any:
    """Probabilities (q, C) of queries, from the features (k, d) and classes (k, C) of a support."""
    episode = {"support": support, "labels": labels, "mask": labels.any(1), "query": query}
    return _graph("head").run(None, episode)[0]


def _graph(name: str) -> Any:
    return onnxruntime.InferenceSession(HERE / MODEL[name])


def _photograph(path: str, rule: dict[str, Any]) -> Any:
    """One photograph as floats (channels, size, size), by the rules of model.json."""
    try:
        data = Path(path).read_bytes()  # of a file that it maps Pillow leaves some as they lie
        Image.init()
        image: Any = Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN])
        image.load()
    except Exception as error:  # broken bytes make Pillow raise almost anything
        sys.exit(f"{path} is no image that can be read: {error}")
    if image.format == "PNG" and data[24:26] in DEEP_COLORS:
        sys.exit(f"{path} has colours of 16 bits; save it with 8")
    clear, tags = image.info.get("transparency"), getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # gray of more than 8 bits
        values = np.asarray(image, float)
        white = 1 if image.mode == "F" else 2 ** min(tags.get(BITS, (16,))[0], 16) - 1
        if not (values.min() >= 0 and values.max() <= white):  # also for NaN
            sys.exit(f"{path} has pixels outside of 0 to {white}; save it with 8 bits")
        gray = (values * (255 / white) + 0.5).astype(np.uint8)
        image = Image.fromarray(255 - gray if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else gray)
        if clear is not None:
            image.putalpha(Image.fromarray(values != clear).convert("L"))
    elif SIGNED in tags.get(SAMPLE_FORMAT, ()):
        sys.exit(f"{path} has pixels of 8 bits with a sign; save it without")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if rule["channels"] == 1 else "RGB")
    x = np.asarray(image.resize((rule["size"],) * 2, Image.Resampling.BILINEAR))
    border = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
    if rule["ink"] and np.median(border) > 127:
        x = 255 - x
    x = x.reshape(rule["size"], rule["size"], -1) / np.float32(255)
    return ((x - np.float32(rule["mean"])) / np.float32(rule["std"])).transpose(2, 0, 1)
