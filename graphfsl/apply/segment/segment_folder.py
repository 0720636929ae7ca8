"""`graphfsl segment`: masks, overlays, a table and a page of a user's images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from graphfsl.apply.folder_encoder import folder_range
from graphfsl.apply.segment.clicks import mask_of_clicks, read_clicks
from graphfsl.apply.segment.segmenter import FoundMask, overlay, segmenter_of
from graphfsl.apply.segment.support_masks import read_support
from graphfsl.data.images import image_paths
from graphfsl.data.mask_files import read_image
from graphfsl.data.pixel_range import Range
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.checkpoint import check_unused, whole_folder
from graphfsl.io.errors import InputError, require
from graphfsl.io.plain_text import csv_table
from graphfsl.report.figures import COLORS
from graphfsl.report.html import html_table, listed, page, pictures

SHOWN = 40  # images on the page
ON_PAGE = 640  # pixels of their longer side
LISTED = 50  # lines about files
NUMBERS = "classes.txt"  # what the numbers in the masks are called, as labeled images have it
COLUMNS = ("image", "class", "there", "presence", "share")


@dataclass(frozen=True)
class Answer:
    """What was found in one image.

    Args:
        name: of the image, as files are called.
        image: (channels, H, W) uint8.
        found: its mask.
    """

    name: str
    image: np.ndarray
    found: FoundMask


def segment(
    run: Path | None,
    support: Path,
    query: Path,
    out: Path,
    encoder: PartSpec,
    overrides: Sequence[str] = (),
    side: int | None = None,
    least: float = 0.5,
    limits: Range | None = None,
) -> tuple[list[Path], str]:
    """Find the classes that labeled images show in other images.

    Args:
        run: a trained run of episodes whose pixels have labels; None takes the encoder.
        support: a folder of images and masks (`support_masks.read_support`).
        query: an image, or a folder of images.
        out: the folder that is written; it must not be there, or be empty.
        encoder: with weights of its own, where there is no run.
        overrides: changes of the run's learner.
        side: pixels of a side that the learner sees; None takes its own.
        least: the sign of presence, from 0 to 1, below which a class is not there.
        limits: which values are black and white, see `images.to_bytes`; None takes the run's own.

    Returns:
        The files that matter most, and a sentence.

    Raises:
        InputError: where nothing can be answered.
    """
    require(0 <= least <= 1, f"--there must lie in [0, 1], not {least}")
    check_unused(out)
    limits = folder_range(run, limits)
    labeled = read_support(support, limits=limits)
    queries = image_paths(query)
    segmenter = segmenter_of(run, overrides, encoder, side, labeled)
    if segmenter.channels != 3:
        labeled = read_support(support, segmenter.channels, limits)
        segmenter = segmenter_of(run, overrides, encoder, side, labeled)
    skipped = list(labeled.skipped)
    base = query if query.is_dir() else query.parent

    def answers() -> Iterator[Answer]:
        for path in queries:
            try:
                image = read_image(path, segmenter.channels, limits)
            except InputError as error:
                skipped.append(str(error))
                continue
            yield Answer(path.relative_to(base).as_posix(), image, segmenter.find(image, least))

    notes = [
        f"{len(labeled.images)} labeled images of {_counted(labeled.classes)}: "
        f"{', '.join(labeled.classes)}.",
        f"Images are looked at in {segmenter.side} x {segmenter.side} pixels; masks are as large "
        "as the images.",
    ]
    with whole_folder(out) as folder:
        count, missing = _write(folder, answers(), labeled.classes, labeled.numbers, notes, skipped)
    sentence = f"{count} images: {missing}" + (f"; {len(skipped)} files skipped" if skipped else "")
    return [out / "index.html", out / "segments.csv", out / "masks"], sentence


def segment_by_clicks(
    image: Path, clicks: Path, out: Path, limits: Range | None = None
) -> tuple[list[Path], str]:
    """Divide one image among classes of which a user has clicked some pixels.

    Args:
        image: the image.
        clicks: a JSON file (`clicks.read_clicks`).
        out: the folder that is written; it must not be there, or be empty.
        limits: which values are black and white.

    Returns:
        The files that matter most, and a sentence.
    """
    check_unused(out)
    pixels = read_image(image, 3, limits)
    named = read_clicks(clicks, (pixels.shape[1], pixels.shape[2]))
    labels = mask_of_clicks(pixels, named) + 1
    sure = np.ones(len(named.classes))
    answer = Answer(image.name, pixels, FoundMask(labels, sure, sure > 0))
    notes = [f"{len(named.points)} clicks of {_counted(named.classes)}; nothing was trained."]
    with whole_folder(out) as folder:
        _write(folder, [answer], named.classes, range(1, len(sure) + 1), notes, [])
    shares = [float((labels == k + 1).mean()) for k in range(len(named.classes))]
    told = ", ".join(f"{n} {s:.1%}" for n, s in zip(named.classes, shares, strict=True))
    return [out / "index.html", out / "masks"], f"{image.name}: {told}"


def _counted(classes: Sequence[str]) -> str:
    return f"{len(classes)} class{'es' if len(classes) != 1 else ''}"


def colors_of(count: int) -> list[tuple[int, int, int]]:
    """A colour for each class."""
    every = [ImageColor.getrgb(COLORS[k % len(COLORS)]) for k in range(count)]
    return [(rgb[0], rgb[1], rgb[2]) for rgb in every]


def _write(
    folder: Path,
    answers: Sequence[Answer] | Iterator[Answer],
    classes: Sequence[str],
    numbers: Sequence[int],
    notes: Sequence[str],
    skipped: list[str],
) -> tuple[int, str]:
    """Write masks, overlays, the table, the names of numbers and the page.

    A mask has the number of each class that the labeled images have.

    Returns:
        How many images there are, and in how many each class is.
    """
    colors = colors_of(len(classes))
    number_of = np.array([0, *numbers], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[list(numbers)] = colors
    rows: list[list[str]] = []
    shown: list[tuple[str, str | bytes]] = []
    times = np.zeros(len(classes), int)
    count = 0
    for answer in answers:
        count += 1
        mask = Image.fromarray(number_of[answer.found.labels], "P")
        mask.putpalette(palette.ravel().tolist())
        picture = overlay(answer.image, answer.found.labels, colors)
        for place, drawn, suffix in (("masks", mask, ".png"), ("overlays", picture, ".jpg")):
            path = folder / place / f"{answer.name}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(path)
        times += answer.found.there
        rows += list(_rows(answer, classes))
        if len(shown) < SHOWN:
            shown.append((_caption(answer, classes), _small(picture)))
    require(count > 0, f"no image could be read: {(skipped or [''])[0]}")
    (folder / "segments.csv").write_text(csv_table(COLUMNS, rows), encoding="utf-8")
    named = [f"{number} {name}\n" for number, name in zip(numbers, classes, strict=True)]
    (folder / NUMBERS).write_text("".join(named), encoding="utf-8")
    summary = ", ".join(f"{n} in {k}" for n, k in zip(classes, times, strict=True))
    parts = [*listed([*notes, f"{count} images: {summary}."]), *_legend(classes), *pictures(shown)]
    if count > len(shown):
        parts += listed([f"{count - len(shown):,} more images lie in overlays."])
    if skipped:
        lines = [
            *skipped[:LISTED],
            *([f"and {len(skipped) - LISTED} more"] * (len(skipped) > LISTED)),
        ]
        parts += [f"<h2>Skipped: {len(skipped)}</h2>", *listed(lines, "failed")]
    (folder / "index.html").write_text(page("Masks", parts), encoding="utf-8")
    return count, summary


def _rows(answer: Answer, classes: Sequence[str]) -> Iterator[list[str]]:
    """The lines of the table for one image."""
    for k, name in enumerate(classes):
        share = float((answer.found.labels == k + 1).mean())
        there = "yes" if answer.found.there[k] else "no"
        yield [answer.name, name, there, f"{answer.found.presence[k]:.4f}", f"{share:.6f}"]


def _caption(answer: Answer, classes: Sequence[str]) -> str:
    """What stands above an image: the share of each class, or that it is not there."""
    words = []
    for k, name in enumerate(classes):
        share = float((answer.found.labels == k + 1).mean())
        words.append(f"{name} {share:.1%}" if answer.found.there[k] else f"{name}: not there")
    return f"{answer.name}: {', '.join(words)}"


def _legend(classes: Sequence[str]) -> list[str]:
    """The colours of the classes, as a table."""
    names = [COLORS[k % len(COLORS)] for k in range(len(classes))]
    rows = [
        [f'<span style="background:{c}">&emsp;</span>', escape(n)]
        for c, n in zip(names, classes, strict=True)
    ]
    return html_table(["colour", "class"], rows, ["", ""])


def _small(picture: Image.Image) -> bytes:
    """The bytes of a JPEG that fits on the page."""
    small = picture.copy()
    small.thumbnail((ON_PAGE, ON_PAGE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()
