"""Learn classes from a few photographs each, and classify others, by an export of graphfsl.

    python classify.py enrol CLASS PHOTO...    keeps the class in classes.npz
    python classify.py classify PHOTO...       prints photo, class, and the probability of each

It needs numpy, Pillow and onnxruntime alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
KNOWN = HERE / "classes.npz"  # features (k, d) of the classes' photographs, and names (k,)
DEEP_COLORS = (b"\x10\x02", b"\x10\x04", b"\x10\x06")  # PNG of 16 bits, of which Pillow keeps 8


def read(path: str, rule: dict[str, Any]) -> Any:
    """One photograph as floats (channels, size, size), by the rules of model.json."""
    try:
        image: Any = Image.open(path)
        image.load()
    except OSError as error:
        sys.exit(f"{path} is no image that can be read: {error}")
    if image.format == "PNG" and Path(path).read_bytes()[24:26] in DEEP_COLORS:
        sys.exit(f"{path} has colours of 16 bits; save it with 8")
    clear = image.info.get("transparency")
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # gray of more than 8 bits
        values = np.asarray(image, float)
        white = 1 if image.mode == "F" else 65535
        image = Image.fromarray((values * (255 / white) + 0.5).astype(np.uint8))
        if clear is not None:
            image.putalpha(Image.fromarray(values != clear).convert("L"))
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


def main(command: str, words: list[str]) -> None:
    """Learn a class, or classify."""
    model = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
    version = [int(number) for number in onnxruntime.__version__.split(".")[:2]]
    if version < model["onnxruntime"]:
        sys.exit(f"onnxruntime {model['onnxruntime']} or newer is needed, not {version}")
    if model["image"]["range"] is not None:
        sys.exit("this run reads images over a range of its own; graphfsl predict does that")
    encoder, head = (onnxruntime.InferenceSession(HERE / model[k]) for k in ("encoder", "head"))
    paths = words[1:] if command == "enrol" else words
    if not paths:
        sys.exit(f"{words[0]} has no photograph; name some behind the class")
    photos = [read(path, model["image"]) for path in paths]
    z = encoder.run(None, {"images": np.stack(photos)})[0]
    known = dict(np.load(KNOWN, allow_pickle=False)) if KNOWN.exists() else {}
    if known and str(known["model"]) != model["model"]:
        sys.exit(f"{KNOWN} holds features of another encoder; remove it and enrol again")
    features, names = known.get("features", z[:0]), known.get("names", np.array([], str))
    if command == "enrol":
        others = names != words[0]
        features = np.concatenate([features[others], z])
        names = np.concatenate([names[others], np.array([words[0]] * len(z))])
        np.savez(KNOWN, features=features, names=names, model=np.array(model["model"]))
        return
    classes = np.unique(names)
    if len(classes) < 2:
        sys.exit(f"{len(classes)} class is enrolled; at least 2 are needed")
    labels = (names[:, None] == classes).astype(np.float32)
    episode = {"support": features, "labels": labels, "mask": labels.any(1), "query": z}
    for path, p in zip(words, head.run(None, episode)[0], strict=True):
        each = " ".join(f"{name}={value:.4f}" for name, value in zip(classes, p, strict=True))
        print(path, classes[p.argmax()], each, sep="\t")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("enrol", "classify"):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
