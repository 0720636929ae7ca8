"""`suggest`: from a folder of images, or features, to the samples that are worth most to label."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphfsl.apply.label.label_table import read_labels, samples_meant
from graphfsl.apply.label.pool_files import Pool, check_places, read_pool, shown_bar, write_table
from graphfsl.apply.label.suggest_pool import Suggestions, suggest_pool
from graphfsl.data.pixel_range import Range
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.checkpoint import write_atomically
from graphfsl.report.contact_sheet import Tile, contact_sheet

TABLE, SHEET = "suggest.csv", "sheets/000-label_next.png"
SHOWN = 240  # images of the sheet


def suggest(
    source: Path,
    out: Path,
    count: int,
    support: Path | None = None,
    encoder: str | Mapping[str, Any] | PartSpec = "efficientnet_lite0",
    run: Path | None = None,
    size: int | None = None,
    range: Range | None = None,
    **options: Any,
) -> tuple[list[Path], str]:
    """Say which samples of a pool of images or features to label next, and write them.

    The files are suggest.csv and, of images, sheets/000-label_next.png. suggest.csv has

        sample      its path below the folder, or its name
        rank        1 for the one that is worth most
        gain        how much more of the pool is covered with it, in distinct samples

    Args:
        source: a folder of images, encoded as `graphfsl features` does, or a file of features.
        out: the folder that is written.
        count: how many samples are named.
        support: a table of the labels so far, as `label` takes it; None where there is none.
        encoder: of images; a name, or a name with options.
        run: a run directory whose encoder is taken instead.
        size: the side of the images in pixels; None takes the encoder's own.
        range: the values of black and white of images.
        options: those of `suggest_pool`.

    Returns:
        The files that were written, and in a line what was found.

    Raises:
        InputError: for anything that cannot be used, before anything is written.
    """
    spec = PartSpec.of(encoder, "encoder")
    source, out = Path(source), Path(out)
    table, sheet = out / TABLE, out / SHEET
    check_places([out, sheet.parent], [table, sheet])
    # read first, since a pool of images may take long to encode
    rows = {} if support is None else read_labels(support)
    pool = read_pool(source, spec, run, size, range, out)
    given = {}
    if support is not None:
        given = samples_meant(support, rows, pool.every_name, source, pool.called)
    place = {name: i for i, name in enumerate(pool.names)}
    labeled = np.array([place[name] for name in given if name in place], np.int64)

    found = suggest_pool(pool.x, count, labeled, bar=shown_bar, **options)
    columns = {
        "sample": [pool.names[i] for i in found.sample],
        "rank": list(np.arange(1, len(found.sample) + 1).tolist()),
        "gain": found.gain.tolist(),
    }
    picture = _sheet(pool, found, labeled) if pool.images else None
    write_table(table, columns)
    if picture is None:
        sheet.unlink(missing_ok=True)  # of an earlier call
        return [table], _line(pool, found, labeled)
    write_atomically(sheet, picture)
    return [table, sheet], _line(pool, found, labeled)


def _sheet(pool: Pool, found: Suggestions, labeled: np.ndarray) -> bytes:
    """The samples to label with their gains, as PNG."""
    tiles = [
        Tile(pool.images[i], f"{rank}: +{gain:.2f}", limits=pool.range)
        for rank, (i, gain) in enumerate(zip(found.sample, found.gain, strict=True), 1)
    ]
    title = f"label next: {len(tiles):,} of {len(pool.names) - len(labeled):,}"
    heading = "rank, and the gain in samples that are covered"
    file = io.BytesIO()
    contact_sheet(title, {heading: tiles[:SHOWN]}).save(file, "PNG")
    return file.getvalue()


def _line(pool: Pool, found: Suggestions, labeled: np.ndarray) -> str:
    count, n = len(found.sample), len(pool.names)
    words = [f"{count:,} of {n - len(labeled):,} samples to label next"]
    distinct = found.facts["distinct"]
    of_what = "the pool" if distinct == n else f"its {distinct:,} distinct samples"
    words.append(f"labels cover {100 * found.before:.1f} % of {of_what}, and with these")
    words[-1] += f" {100 * found.after:.1f} %"
    if pool.unreadable:
        words.append(f"{len(pool.unreadable):,} not readable")
    return "; ".join(words)
