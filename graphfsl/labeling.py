"""`label`: from a folder of images, or features, and a table of a few labels to files that label them all."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track

from graphfsl.checkpoint import write_atomically
from graphfsl.contact_sheet import Tile, contact_sheet
from graphfsl.data.depth import Range
from graphfsl.errors import InputError
from graphfsl.pool import SPOKE, Labels, label_pool
from graphfsl.pool_files import Pool, check_format, read_labels, read_pool, write_table
from graphfsl.pool_report import pool_page

SURE, UNSURE, GIVEN = 24, 24, 12  # images of a sheet
EMBEDDED = 8  # sheets that the report itself holds
NONE, UNFIT = "none of these", re.compile(r"[^\w.-]+")  # letters that do not go into a file's name


def label(
    source: Path,
    support: Path,
    out: Path,
    truth: Path | None = None,
    encoder: str | Mapping[str, Any] = "efficientnet_lite0",
    run: Path | None = None,
    size: int | None = None,
    file_format: str = "csv",
    range: Range | None = None,
    **options: Any,
) -> tuple[list[Path], str]:
    """Label a pool and write `out`; returns the files, and in a line what was found.

    source: a folder of images, encoded as `graphfsl features` does, or a file of features. support, truth: tables of
    labels, see `read_labels`. range: the values of black and white of images. options: those of `label_pool`.
    Files: labels.csv or .parquet, unreadable.csv, report.html and, of images, sheets/<number>-<class>.png.

    Raises InputError for anything that cannot be used, before anything is written.
    """
    check_format(file_format)
    given, known = read_labels(support), read_labels(truth) if truth is not None else {}
    pool = read_pool(source, encoder, run, size, range)
    place = {name: i for i, name in enumerate(pool.names)}
    _check(
        source, pool, {*place, *(name for name, _ in pool.unreadable)}, ((support, given), (truth or support, known))
    )
    classes = sorted({c for c in given.values() if c})
    chosen = {name: c for name, c in given.items() if name in place}
    if lost := set(classes) - set(chosen.values()):
        raise InputError(f"{support}: no sample of class {min(lost)!r} can be read; label one that can")
    number = {c: i for i, c in enumerate(classes)}
    rows = np.array([place[name] for name in chosen], np.int64)
    found = label_pool(pool.x, rows, np.array([number.get(c, -1) for c in chosen.values()]), bar=_bar, **options)
    answers = np.full(len(pool.names), -2)
    for name, c in known.items():
        if name in place:
            answers[place[name]] = number.get(c, -1)

    table, missing, page = out / f"labels.{file_format}", out / "unreadable.csv", out / "report.html"
    write_table(table, _columns(pool, found, classes, list(chosen)))
    write_table(missing, {k: [u[i] for u in pool.unreadable] for i, k in enumerate(("sample", "why"))})
    links: dict[int, str] = {}
    shown: list[tuple[str, bytes]] = []
    for c in _bar([*np.arange(len(classes)).tolist(), -1] if pool.images else [], "drawing contact sheets"):
        name = classes[c] if c >= 0 else NONE
        links[c] = f"sheets/{c + 1:03d}-{UNFIT.sub('_', name)[:40]}.png"
        sheet = _sheet(pool, found, c, name, answers)
        write_atomically(out / links[c], _encoded(sheet, "PNG"))
        if len(shown) < EMBEDDED:
            shown.append((name, _encoded(sheet, "JPEG")))
    title, line = f"{len(pool.names):,} samples labeled from {len(chosen):,}", _summary(pool, found, answers)
    notes = [f"`{source}`, labels of `{support}`: {line}", *_method(found)]
    truths = answers if known else None
    text = pool_page(title, notes, found, classes, truths, links, shown, pool.unreadable)
    write_atomically(page, text.encode())
    return [table, missing, page, *(out / link for link in links.values())], line


def _check(source: Path, pool: Pool, names: set[str], tables: Iterable[tuple[Path, Mapping[str, str]]]) -> None:
    told = "paths relative to it" if pool.images else "its `paths`, or else the numbers of its rows"
    for path, table in tables:
        for name in table:
            if name not in names:
                raise InputError(f"{path}: sample {name!r} is not in {source}; samples are {told}")


def _columns(pool: Pool, found: Labels, classes: Sequence[str], support: Sequence[str]) -> dict[str, list[Any]]:
    names, support = [*classes, ""], [*support, ""]  # -1 is the last
    columns: dict[str, list[Any]] = {
        "sample": pool.names,
        "label": [names[c] for c in found.label],
        "confidence": found.confidence.tolist(),
        "best": [names[c] for c in found.best],
        "none": found.none.tolist(),
        "given": found.given.astype(int).tolist(),
    }
    for i in range(SPOKE):
        columns[f"support_{i + 1}"] = [support[s] for s in found.support[:, i]]
        columns[f"share_{i + 1}"] = found.share[:, i].tolist()
    return columns


def _sheet(pool: Pool, found: Labels, c: int, name: str, truth: np.ndarray) -> Image.Image:
    """What was given of class c (-1: none of these), and what was found, the surest and the least sure."""
    given = np.flatnonzero(found.given & (found.label == c))
    own = np.flatnonzero(~found.given & (found.label == c))
    sure = found.confidence if c >= 0 else found.none
    own = own[np.argsort(-sure[own], kind="stable")]

    def tiles(ids: np.ndarray, words: bool = True) -> list[Tile]:
        wrong = (truth[ids] > -2) & (truth[ids] != c)
        return [
            Tile(pool.images[i], f"{sure[i]:.3f}" if words else "", bool(w), pool.range)
            for i, w in zip(ids, wrong, strict=True)
        ]

    rest = own[SURE:]
    sections = {
        f"given ({len(given):,})": tiles(given[:GIVEN], False),
        f"found, the surest of {len(own):,}": tiles(own[:SURE]),
        "found, the least sure": tiles(rest[-UNSURE:]),
    }
    framed = "; framed: wrong by the truth" if (truth > -2).any() else ""
    return contact_sheet(f"{name}: {len(own):,} found{framed}", sections)


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _summary(pool: Pool, found: Labels, truth: np.ndarray) -> str:
    mine = ~found.given & (found.label >= 0)
    words = [f"{mine.sum():,} of {(~found.given).sum():,} labeled"]
    if mine.any():
        words[0] += f" (median confidence {np.median(found.confidence[mine]):.2f})"
    words.append(f"{(~found.given & (found.label < 0)).sum():,} none of these")
    if pool.unreadable:
        words.append(f"{len(pool.unreadable):,} not readable")
    if (known := mine & (truth > -2)).any():
        words.append(f"{100 * (found.label == truth)[known].mean():.2f} % of the labels right")
    return ", ".join(words)


def _method(found: Labels) -> list[str]:
    f = found.facts
    graph = f"{f['k']} nearest neighbours ({f['neighbours']}"
    graph += f"; {100 * f['recall']:.1f} % of the true ones)" if f["recall"] < 1 else ")"
    if not f["held out"]:
        sure = "No class has a second label to hold out: confidence is not calibrated, and what belongs to no class is "
        sure += "not told apart. Label two of each class."
    else:
        sure = f"Confidence is calibrated on {f['held out']:,} held-out labels, of which {100 * f['right']:.0f} % were "
        sure += f"found again: temperature {f['temperature']:.2f}."
    return [f"Propagation with alpha {f['alpha']} on {graph}, prior `{f['prior']}`.", sure]


def _bar(items: Iterable[Any], what: str) -> Iterable[Any]:
    """Progress for what takes long."""
    items = list(items)
    return track(items, what, disable=len(items) < 4, transient=True)
