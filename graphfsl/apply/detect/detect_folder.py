"""`graphfsl detect`: boxes in a user's images, as COCO's JSON, drawn, and as a page."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from graphfsl.apply.detect.detector import Detector, detector_of
from graphfsl.apply.folder_encoder import folder_range
from graphfsl.data.box_files import category_ids, read_boxes
from graphfsl.data.images import image_paths
from graphfsl.data.pixel_range import Range
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.functional.detection_metrics import Boxes
from graphfsl.io.checkpoint import check_unused, whole_folder
from graphfsl.io.errors import InputError, require
from graphfsl.report.figures import COLORS
from graphfsl.report.html import html_table, listed, page, pictures

SHOWN, ON_PAGE, LISTED = 40, 640, 50  # images on the page, their longer side, lines about files


def detect(
    run: Path | None,
    support: Path,
    query: Path,
    out: Path,
    encoder: PartSpec,
    overrides: Sequence[str] = (),
    side: int | None = None,
    least: float = 0.5,
    kind: str = "components",
    most: int = 200,
    limits: Range | None = None,
) -> tuple[list[Path], str]:
    """Find objects of classes of which a few boxes are known.

    Args:
        run: a trained run of images as large as crops; None takes the encoder.
        support: labeled images (`box_files.read_boxes`).
        query: an image, or a folder of images.
        out: the folder that is written; it must not be there, or be empty.
        encoder: with weights of its own, where there is no run.
        overrides: changes of the run's learner.
        side: pixels of a side of the crops that the encoder sees; None takes its own.
        least: the probability from which a box is drawn; the JSON holds all.
        kind: of the proposals.
        most: regions of an image.
        limits: which values are black and white, see `images.to_bytes`; None takes the run's own.

    Returns:
        The files that matter most, and a sentence.

    Raises:
        InputError: where nothing can be answered.
    """
    require(0 <= least <= 1, f"--least must lie in [0, 1], not {least}")
    check_unused(out)
    limits = folder_range(run, limits)
    labeled, skipped = read_boxes(support)
    labeled = [image for image in labeled if len(image.boxes)]
    classes = sorted({name for image in labeled for name in image.shown})
    require(
        classes,
        f"{support} holds no box that lies in its image and is neither a crowd nor difficult"
        + (f" ({skipped[0]})" if skipped else ""),
    )
    own = category_ids(support)
    numbers = [own[name] for name in classes] if own else list(range(1, len(classes) + 1))
    queries = image_paths(query)
    detector = detector_of(run, overrides, encoder, side, labeled, classes, kind, most, limits)
    base = query if query.is_dir() else query.parent
    boxes = sum(len(image.shown) for image in labeled)
    notes = [
        f"{boxes} labeled boxes in {len(labeled)} images: {', '.join(classes)}.",
        f"Regions by {kind.replace('_', ' ')}, at most {most} of an image; what overlaps no box "
        "in the labeled images is taken for background.",
    ]
    with whole_folder(out) as folder:
        found, count = _write(folder, detector, numbers, queries, base, least, notes, skipped)
    sentence = f"{found} boxes in {count} images"
    sentence += f"; {len(skipped)} lines or files skipped" if skipped else ""
    return [out / "index.html", out / "detections.json", out / "drawn"], sentence


def _write(
    folder: Path,
    detector: Detector,
    numbers: Sequence[Any],
    queries: Sequence[Path],
    base: Path,
    least: float,
    notes: Sequence[str],
    skipped: list[str],
) -> tuple[int, int]:
    """Write the JSON, the drawn boxes and the page; in the JSON each class has its number.

    Returns:
        How many boxes are drawn, and how many images could be read.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    shown: list[tuple[str, str | bytes]] = []
    counts = np.zeros(len(detector.classes), int)
    for path in queries:
        try:
            image = detector.read(path)
        except InputError as error:
            skipped.append(str(error))
            continue
        found = detector.find(image)
        name = path.relative_to(base).as_posix()
        number = len(images) + 1
        height, width = image.shape[1:]
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations += _annotations(found, numbers, number, len(annotations))
        sure = found.where(found.score >= least)
        counts += np.bincount(sure.label - 1, minlength=len(counts))
        picture = drawn(image, sure, detector.classes)
        target = folder / "drawn" / f"{name}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)
        if len(shown) < SHOWN:
            shown.append((f"{name}: {len(sure.score)} boxes", _small(picture)))
    require(images, f"no image could be read: {(skipped or [''])[0]}")
    named = zip(numbers, detector.classes, strict=True)
    categories = [{"id": k, "name": name} for k, name in named]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "detections.json").write_text(json.dumps(whole), encoding="utf-8")
    rows = [[escape(n), str(k)] for n, k in zip(detector.classes, counts, strict=True)]
    told = [*notes, f"Drawn are boxes of a probability of {least:g} or more."]
    parts = [*listed(told), *html_table(["class", "boxes"], rows, ["", "number"])]
    parts += pictures(shown)
    if skipped:
        lines = skipped[:LISTED]
        if len(skipped) > LISTED:
            lines.append(f"and {len(skipped) - LISTED} more")
        parts += [f"<h2>Skipped: {len(skipped)}</h2>", *listed(lines, "failed")]
    (folder / "index.html").write_text(page("Detections", parts), encoding="utf-8")
    return int(counts.sum()), len(images)


def _annotations(
    found: Boxes, numbers: Sequence[Any], image: int, before: int
) -> list[dict[str, Any]]:
    """Detections as COCO writes them, with a score."""
    lines = []
    for i, (box, label, score) in enumerate(
        zip(found.boxes, found.label, found.score, strict=True)
    ):
        left, top, right, bottom = (round(float(v), 2) for v in box)
        lines.append(
            {
                "id": before + i + 1,
                "image_id": image,
                "category_id": numbers[int(label) - 1],
                "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                "area": round((right - left) * (bottom - top), 2),
                "iscrowd": 0,
                "score": round(float(score), 6),
            }
        )
    return lines


def drawn(image: np.ndarray, found: Boxes, classes: Sequence[str]) -> Image.Image:
    """An image (channels, H, W) with boxes, their classes and scores."""
    channels = np.repeat(image, 3, 0) if len(image) == 1 else image
    picture = Image.fromarray(np.ascontiguousarray(channels.transpose(1, 2, 0)))
    pen = ImageDraw.Draw(picture)
    longer = max(picture.size)
    wide = max(1, round(longer / 300))
    font = ImageFont.load_default(max(10, round(longer / 45)))
    boxes = found.boxes.tolist()
    colours = [ImageColor.getrgb(COLORS[(label - 1) % len(COLORS)]) for label in found.label]
    texts = [
        f"{classes[label - 1]} {score:.2f}"
        for label, score in zip(found.label, found.score, strict=True)
    ]
    for (left, top, right, bottom), colour in zip(boxes, colours, strict=True):
        pen.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=wide)
    # Texts lie on the lines of other boxes.
    for (left, top, *_), colour, text in zip(boxes, colours, texts, strict=True):
        _write_above(pen, text, (left, top), colour, font)
    return picture


def _write_above(
    pen: ImageDraw.ImageDraw, text: str, place: Sequence[float], rgb: Any, font: Any
) -> None:
    """A text on a ground of its own, that ends where a box begins, or lies in the image."""
    left, top = place
    height = pen.textbbox((0, 0), text, font)[3] + 2
    start = (left + 1, max(top - height, 0))
    x0, _, x1, _ = pen.textbbox(start, text, font)
    pen.rectangle((x0 - 1, start[1], x1 + 1, start[1] + height - 1), fill=rgb)
    pen.text(start, text, "white" if sum(rgb) < 400 else "black", font)


def _small(picture: Image.Image) -> bytes:
    small = picture.copy()
    small.thumbnail((ON_PAGE, ON_PAGE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()
