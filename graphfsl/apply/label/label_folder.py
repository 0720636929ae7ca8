"""`label`: from a folder of images, or features, to files that label them all.

A table of a few labels says what the classes are.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from graphfsl.apply.label.label_pool import SPOKE, Labels, label_pool
from graphfsl.apply.label.label_table import read_labels, samples_meant
from graphfsl.apply.label.pool_files import (
    FORMATS,
    SHEET,
    Pool,
    check_format,
    check_places,
    read_pool,
    shown_bar,
    write_table,
)
from graphfsl.apply.label.pool_page import OTHERS, pool_page
from graphfsl.apply.label.shards.encode import opened, shard_pool
from graphfsl.apply.label.shards.label_shards import label_shards
from graphfsl.apply.label.shards.shard_files import PoolShards, is_shards
from graphfsl.apply.label.shards.workers import workers
from graphfsl.core.arguments import whole_number
from graphfsl.data.pixel_range import Range
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.functional.held_out import FOREIGN
from graphfsl.io.checkpoint import write_atomically
from graphfsl.io.errors import InputError, require
from graphfsl.report.contact_sheet import Tile, contact_sheet

SHARD = 50_000  # samples of a shard, where nobody says
SURE, UNSURE, GIVEN = 24, 24, 12  # images of a sheet
EMBEDDED = 8  # sheets that the report itself holds
NONE, LOST = -1, -2  # beside classes: called none of these, reached by no label
NAMED = 3  # classes that a line names
UNFIT = re.compile(r"[^\w.-]+")  # letters that do not go into a file's name


def label(
    source: Path,
    support: Path,
    out: Path,
    truth: Path | None = None,
    encoder: str | Mapping[str, Any] | PartSpec = "efficientnet_lite0",
    run: Path | None = None,
    size: int | None = None,
    file_format: str = "csv",
    range: Range | None = None,
    shard_size: int | None = None,
    ray: str | None = None,
    **options: Any,
) -> tuple[list[Path], str]:
    """Label a pool of images or features from a table of a few labels, and write what was found.

    The files are labels.csv or .parquet, doubts.csv with the given labels that the others
    contradict, unreadable.csv, report.html and, of images, sheets/<number>-<class>.png. Labels and
    sheets that an earlier call left are removed. labels.csv has

        sample      its path below the folder, or its name
        label       the class, empty for none of the classes
        confidence  the probability that `best` is right (where the pool does not show what is
                    foreign: for a sample of one of the classes); empty where held-out labels do
                    not bear it out
        score       the same number whether they do or not
        best        the likeliest class
        none        how weakly labels reach the sample: a rank and no probability
        reached     0 where no label does
        given       1 where the label was given
        support_1, share_1, …  which labels spoke for `best`, as in `Labels`

    Args:
        source: a folder of images, encoded as `graphfsl features` does, or a file of features.
        support: a table of the labels that are given, see `read_labels`.
        out: the folder that is written.
        truth: a table of labels that are known, to compare with; None where there is none.
        encoder: of images; a name, or a name with options.
        run: a run directory whose encoder is taken instead.
        size: the side of the images in pixels; None takes the encoder's own.
        file_format: "csv" or "parquet".
        range: the values of black and white of images.
        shard_size: samples of a shard, where the pool is worked through in shards, see
            `label_shards`; they lie in `out`/shards. None holds it in memory.
        ray: the address of a Ray cluster that does so, "local" for one on this machine.
        options: those of `label_pool`.

    Returns:
        The files that were written, and in a line what was found.

    Raises:
        InputError: for anything that cannot be used, before anything is written.
    """
    spec = PartSpec.of(encoder, "encoder")
    check_format(file_format)
    source, support, out = Path(source), Path(support), Path(out)
    truth = None if truth is None else Path(truth)
    table, missing = out / f"labels.{file_format}", out / "unreadable.csv"
    page, doubts = out / "report.html", out / "doubts.csv"
    check_places([out, out / "sheets"], [table, missing, page, doubts])

    with workers(ray, shown_bar) as work:

        def read() -> Pool:
            if is_shards(source):
                in_shards = f"{source} is in shards already; leave --shard-size out"
                require(shard_size is None, in_shards)
                return opened(source)
            if shard_size is None and ray is None:
                return read_pool(source, spec, run, size, range, out)
            rows = whole_number(shard_size or SHARD, "--shard-size", 1)
            return shard_pool(source, out / "shards", rows, spec, run, size, range, out, work)

        task = _read_task(source, support, truth, read)
        pool, classes = task.pool, task.classes
        if isinstance(pool.x, PoolShards):
            found = label_shards(pool.x, *task.support(), bar=shown_bar, work=work, **options)
        else:
            found = label_pool(pool.x, *task.support(), bar=shown_bar, **options)
    answers = task.answers()
    line = ", ".join([*_summary(pool, found, answers), *_asides(task)])

    write_table(table, _columns(pool, found, classes, task.chosen))
    write_table(missing, _unreadable(pool))
    doubted = _doubts(found, task)
    write_table(doubts, doubted)
    links, shown = _write_sheets(out, pool, found, classes, answers)
    title = f"A pool of {len(pool.names):,} samples, {len(task.chosen):,} of them given"
    notes = [f"`{source}`, labels of `{support}`: {line}", *_method(found)]
    truths = answers if task.known else None
    text = pool_page(
        title, notes, found, classes, truths, links, shown, pool.unreadable, _contradicted(doubted)
    )
    write_atomically(page, text.encode())

    sheets = [out / link for link in links.values()]
    _remove_old(out, [table, *sheets, support, *([truth] if truth else [])])
    return [table, doubts, missing, page, *sheets], line


@dataclass(frozen=True)
class _Task:
    """What is asked: a pool, the labels that are given, and those that are known to be true.

    given, known: sample -> class, "" for none of them; also of samples that cannot be read. place:
    sample -> its number in the pool. number: of each class that is given.
    """

    pool: Pool
    given: Mapping[str, str]
    known: Mapping[str, str]
    place: Mapping[str, int]
    number: Mapping[str, int]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their numbers."""
        return list(self.number)

    @property
    def chosen(self) -> list[str]:
        """The given samples that can be read."""
        return [name for name in self.given if name in self.place]

    def support(self) -> tuple[np.ndarray, np.ndarray]:
        """Their numbers in the pool and their classes, -1 for none."""
        rows = [self.place[name] for name in self.chosen]
        labels = [self.number.get(self.given[name], -1) for name in self.chosen]
        return np.array(rows, np.int64), np.array(labels)

    def answers(self) -> np.ndarray:
        """The true class of every sample of the pool, -1 for none of them, -2 where not known."""
        answers = np.full(len(self.pool.names), -2)
        for name, label in self.known.items():
            if name in self.place:
                answers[self.place[name]] = self.number.get(label, -1)
        return answers


def _read_task(
    source: Path,
    support: Path,
    truth: Path | None,
    read: Callable[[], Pool],
) -> _Task:
    """The tables are read first, since a pool of images may take long to encode."""
    rows = read_labels(support)
    true_rows = None if truth is None else read_labels(truth)
    pool = read()
    place = {name: i for i, name in enumerate(pool.names)}
    given = samples_meant(support, rows, pool.every_name, source, pool.called)
    known: Mapping[str, str] = {}
    if truth is not None and true_rows is not None:
        known = samples_meant(truth, true_rows, pool.every_name, source, pool.called)

    readable = {name: label for name, label in given.items() if name in place}
    _check_equals(support, pool, {place[name]: label for name, label in readable.items()})
    classes = sorted({label for label in given.values() if label})
    if lost := set(classes) - set(readable.values()):
        raise InputError(
            f"{support}: no sample of class {min(lost)!r} can be read; label one that can"
        )
    return _Task(pool, given, known, place, {c: i for i, c in enumerate(classes)})


def _unreadable(pool: Pool) -> dict[str, list[str]]:
    return {
        "sample": [name for name, _ in pool.unreadable],
        "why": [why for _, why in pool.unreadable],
    }


def _write_sheets(
    out: Path, pool: Pool, found: Labels, classes: Sequence[str], truth: np.ndarray
) -> tuple[dict[int, str], list[tuple[str, bytes]]]:
    """A contact sheet for each class, and for NONE and LOST; of features there are none.

    Returns the file of each, relative to `out`; and (name, JPEG) of the first ones.
    """
    links: dict[int, str] = {}
    shown: list[tuple[str, bytes]] = []
    if not pool.images:
        return links, shown
    kinds = [*np.arange(len(classes)).tolist(), NONE]
    if not found.reached.all():
        kinds.append(LOST)
    for c in shown_bar(kinds, "making contact sheets"):
        name = classes[c] if c >= 0 else OTHERS[c]
        number = c + 1 if c >= NONE else 0
        links[c] = f"sheets/{number:03d}-{UNFIT.sub('_', name)[:40]}.png"
        sheet = _sheet(pool, found, c, name, truth)
        write_atomically(out / links[c], _encoded(sheet, "PNG"))
        if len(shown) < EMBEDDED:
            shown.append((name, _encoded(sheet, "JPEG")))
    return links, shown


def _check_equals(path: Path, pool: Pool, given: Mapping[int, str]) -> None:
    """InputError where two samples that are equal, byte by byte, have two labels."""
    first: dict[bytes, int] = {}
    for i, label in given.items():
        try:
            content = pool.images[i].read_bytes() if pool.images else pool.x[i].tobytes()
        except OSError:  # it was there when it was encoded
            continue
        other = first.setdefault(hashlib.sha256(content).digest(), i)
        if given[other] != label:
            raise InputError(
                f"{path}: {pool.names[other]!r} is {given[other]!r} and {pool.names[i]!r} is "
                f"{label!r}, but the two "
                "are equal; keep one label"
            )


def _remove_old(out: Path, kept: Iterable[Path]) -> None:
    """Remove tables and sheets of an earlier call, which are none of this one's files."""
    keep = {path.resolve() for path in kept}
    old = [out / f"labels.{name}" for name in FORMATS]
    old += [path for path in (out / "sheets").glob("*.png") if SHEET.fullmatch(path.name)]
    for path in old:
        if path.resolve() not in keep:
            path.unlink(missing_ok=True)


def _columns(
    pool: Pool, found: Labels, classes: Sequence[str], support: Sequence[str]
) -> dict[str, list[Any]]:
    """Of labels.csv."""
    class_names = [*classes, ""]  # -1, none of them, is the last
    sources = [*support, ""]
    scores = found.score.tolist()
    confidence = scores if found.facts["borne out"] else [None] * len(scores)
    columns: dict[str, list[Any]] = {
        "sample": pool.names,
        "label": [class_names[c] for c in found.label],
        "confidence": confidence,
        "score": scores,
        "best": [class_names[c] for c in found.best],
        "none": found.none.tolist(),
        "reached": found.reached.astype(int).tolist(),
        "given": found.given.astype(int).tolist(),
    }
    for i in range(SPOKE):
        columns[f"support_{i + 1}"] = [sources[s] for s in found.support[:, i]]
        columns[f"share_{i + 1}"] = found.share[:, i].tolist()
    return columns


def _doubts(found: Labels, task: _Task) -> dict[str, list[Any]]:
    """Of doubts.csv: the given labels that the others contradict."""
    sources, rows, classes = [*task.chosen, ""], found.doubted, task.classes
    columns: dict[str, list[Any]] = {
        "sample": [sources[s] for s in rows],
        "label": [task.given[sources[s]] for s in rows],
        "doubt": found.doubt[rows].tolist(),
        "others_say": [classes[found.said[s]] for s in rows],
    }
    for i in range(SPOKE):
        columns[f"support_{i + 1}"] = [sources[s] for s in found.against[rows, i]]
    return columns


def _contradicted(doubted: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line for each given label that the others contradict."""
    lines = []
    for row in zip(*doubted.values(), strict=True):
        sample, label, doubt, said, *sources = row
        spoke = ", ".join(f"`{source}`" for source in sources if source)
        lines.append(
            f"`{sample}` was given as {label}; the other labels say {said} ({doubt:.2f}): {spoke}"
        )
    return lines


def _sheet(pool: Pool, found: Labels, c: int, name: str, truth: np.ndarray) -> Image.Image:
    """What was given of class c, and what was found, the surest and the least sure.

    c is NONE or LOST for what is of none.
    """
    given = np.flatnonzero(found.given & (found.label == c))
    own = found.of(c)
    nothing_called_none = c == NONE and not len(own)
    if nothing_called_none:  # what is nearest to it
        own = np.flatnonzero(~found.given & found.reached)
    sure = found.score if c >= 0 else found.none
    own = own[np.argsort(-sure[own], kind="stable")]

    def tiles(ids: np.ndarray, words: bool = True) -> list[Tile]:
        wrong = (truth[ids] > -2) & (truth[ids] != max(c, NONE)) & (not nothing_called_none)
        return [
            Tile(pool.images[i], f"{sure[i]:.3f}" if words else "", bool(w), pool.range)
            for i, w in zip(ids, wrong, strict=True)
        ]

    shown = {f"given ({len(given):,})": tiles(given[:GIVEN], words=False)}
    if nothing_called_none:
        shown[f"labeled all the same, the weakest reached of {len(own):,}"] = tiles(own[:SURE])
        return contact_sheet(f"{name}: 0 found", shown)
    first, last = "the weakest reached", "the strongest reached"
    if c >= 0:
        first, last = "the highest scores", "the lowest scores"
    shown[f"found, {first} of {len(own):,}"] = tiles(own[:SURE])
    shown[f"found, {last}"] = tiles(own[SURE:][-UNSURE:])
    framed = "; framed: wrong by the truth" if (truth > -2).any() else ""
    return contact_sheet(f"{name}: {len(own):,} found{framed}", shown)


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _summary(pool: Pool, found: Labels, truth: np.ndarray) -> list[str]:
    mine = ~found.given & (found.label >= 0)
    words = [f"{mine.sum():,} of {(~found.given).sum():,} labeled"]
    if mine.any() and found.facts["borne out"]:
        condition = ", if of a class" if _of_members(found.facts) else ""
        words[0] += f" (median confidence {np.median(found.confidence[mine]):.2f}{condition})"
    words.append(f"{len(found.of(NONE)):,} none of these")
    if lost := len(found.of(LOST)):
        words.append(f"{lost:,} that no label reaches")
    if doubted := len(found.doubted):
        words.append(f"{doubted:,} given labels doubted (doubts.csv)")
    if pool.unreadable:
        words.append(f"{len(pool.unreadable):,} not readable")
    if (known := mine & (truth > -2)).any():
        some = "the" if known.sum() == mine.sum() else f"{known.sum():,} known"
        words.append(f"{100 * (found.label == truth)[known].mean():.2f} % of {some} labels right")
    return words


def _asides(task: _Task) -> list[str]:
    """What of the tables does not count, or not as it looks."""
    words = []
    if lost := len(task.given) - len(task.chosen):
        words.append(f"{lost:,} given labels are of samples that cannot be read")
    others = sorted({c for c in task.known.values() if c} - set(task.given.values()))
    unlike = 0
    for name in task.given.keys() & task.known.keys():
        true = "" if task.known[name] in others else task.known[name]
        unlike += task.given[name] != true
    if unlike:
        words.append(f"{unlike:,} given labels are not the truth's")
    if task.known and not task.known.keys() - task.given.keys():
        words.append("the truth names given samples alone, so that nothing is compared")
    if others:
        named = ", ".join(map(repr, others[:NAMED])) + (", …" if len(others) > NAMED else "")
        words.append(
            f"{len(others):,} classes of the truth have no given label and count as "
            f"none of these ({named})"
        )
    return words


def _method(found: Labels) -> list[str]:
    """How it was done, what each number is, and what the labels cannot tell."""
    f = found.facts
    graph = f"{f['k']} nearest neighbours ({f['neighbours']}"
    graph += f"; {100 * f['recall']:.1f} % of the true ones)" if f["recall"] < 1 else ")"
    if f["distinct"] < len(found.label):
        graph += f" among {f['distinct']:,} distinct samples"
    return [
        f"Propagation with alpha {f['alpha']} on {graph}, prior `{f['prior']}`.",
        _of_score(f),
        _of_none(f),
    ]


def _of_score(f: Mapping[str, Any]) -> str:
    if not f["held out"]:
        return (
            "No class has labels of two distinct samples, one to hold out: scores are not "
            "calibrated, and none is "
            "called a confidence. Label two of each class."
        )
    again = round(f["held out"] * f["right"])
    line = f"Of {f['held out']:,} held-out labels {again:,} were found again"
    lost = f["held out"] - f["reached"]
    line += f", and no other label reaches {lost:,}" if lost else ""
    line += f"; temperature {f['temperature']:.2f}. "
    if not f["borne out"]:
        return line + (
            f"They do not bear out the scores, of which none is called a confidence: {_wanting(f)}."
        )
    line += (
        "They bear out the scores, which are called confidence: the probability that `best` "
        "is right"
    )
    line += ", for a sample of one of the classes, as held-out ones are" if _of_members(f) else ""
    return line + ". It holds where those labeled are like any other samples of their classes."


def _wanting(f: Mapping[str, Any]) -> str:
    """Why held-out labels do not bear out the scores."""
    if not f["held out of every class"]:
        return "labels of two distinct samples of every class may"
    return "more labels may, in a pool that is not reached more weakly than they are"


def _of_members(f: Mapping[str, Any]) -> bool:
    """Whether a confidence is that of samples of the classes only.

    It is where the pool does not rank so far below held-out labels that it shows what else there
    is.
    """
    return bool(f["shortfall"] <= FOREIGN)


def _of_none(f: Mapping[str, Any]) -> str:
    line = (
        "`none` ranks samples by how weakly the labels reach them (propagated mass over the root "
        "of degree); it is no "
    )
    line += "probability. "
    if f["tells"] and f["none"] >= 1:
        return line + "As its bound is 1, no sample is called none of these."
    if not _of_members(f):
        line += (
            "Class by class the pool is reached more weakly than held-out labels: much of it is "
            "of no class, or those "
            "labeled are more alike than others of their class (frames of one video). "
        )
    if f["tells"]:
        return line + f"Above {f['none']:g} a sample is called none of these."
    if f["none"] < 1:
        return line + (
            f"The labels cannot tell which samples are of no class; above "
            f"{f['none']:g} they are called so."
        )
    return (
        line + "The labels cannot tell which samples are of no class, so none is called so: look "
        "through the highest."
    )
