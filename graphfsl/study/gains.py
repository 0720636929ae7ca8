"""What each cell of a study has more than a reference: `against` of a study file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphfsl.functional.comparison import Contrast, contrasts, holm
from graphfsl.loops.row import Row, p_text, shown_of
from graphfsl.report.tables import Section
from graphfsl.study.findings import scores_of
from graphfsl.study.grid import Label, shown

TOLD = (
    "Paired by episode where the data are the same; a gain is better, in points of the metric, "
    "with its 95% interval, and p of a sign-flip permutation test, corrected (Holm) over the rows "
    "of this table."
)


@dataclass(frozen=True)
class Gain:
    """A cell beside the one that differs from it in the levels of a reference only.

    Args:
        cell: axis -> level.
        against: axis -> level of the reference.
        setting: the kind of both.
        metric: what is compared.
        unit: of the metric.
        contrast: the cell less its reference, positive where it is better.
    """

    cell: Mapping[str, Label]
    against: Mapping[str, Label]
    setting: str
    metric: str
    unit: str
    contrast: Contrast

    def to_dict(self) -> dict[str, Any]:
        """Its numbers in the unit that people are shown."""
        c = self.contrast
        return {
            "setting": self.setting,
            "metric": self.metric,
            "cell": dict(self.cell),
            "against": dict(self.against),
            "gain": shown_of(c.difference, self.unit),
            "half": shown_of(c.half, self.unit),
            "p": c.p,
            "corrected": c.corrected,
            "paired": c.paired,
        }


def gains(references: Sequence[Mapping[str, Label]], rows: Sequence[Row]) -> list[Gain]:
    """Every row beside its reference, where that is among the rows and of the same kind.

    Args:
        references: axis -> level, each for itself.
        rows: finished ones, each with its `cell`.
    """
    found = []
    for reference in references:
        for kind, metric in dict.fromkeys((row.setting, row.metric) for row in rows):
            own = [row for row in rows if (row.setting, row.metric) == (kind, metric)]
            found += _gains_of_kind(reference, own)
    return found


def _gains_of_kind(reference: Mapping[str, Label], rows: Sequence[Row]) -> list[Gain]:
    cells = [dict(row.cell or {}) for row in rows]
    place = {tuple(cell.items()): i for i, cell in enumerate(cells)}
    pairs = []
    for i, cell in enumerate(cells):
        other = place.get(tuple({**cell, **reference}.items()))
        if other is not None and other != i:
            pairs.append((i, other))
    if not pairs:
        return []

    weights = torch.zeros(len(pairs), len(rows), dtype=torch.float64)
    for line, (i, other) in enumerate(pairs):
        weights[line, i], weights[line, other] = 1, -1
    made = contrasts(weights, *scores_of(rows), matched=[1] * len(pairs))
    corrected = holm(torch.tensor([c.p for c in made], dtype=torch.float64)).tolist()
    return [
        Gain(
            cells[i],
            reference,
            rows[i].setting,
            rows[i].metric,
            rows[i].value.unit,
            replace(c, corrected=p),
        )
        for (i, _), c, p in zip(pairs, made, corrected, strict=True)
    ]


def sections(found: Sequence[Gain]) -> list[Section]:
    """A table for each metric, reference and kind of setting."""
    groups: dict[tuple[str, str, str], list[Gain]] = {}
    for gain in found:
        groups.setdefault((gain.metric, shown(gain.against), gain.setting), []).append(gain)
    several = len({setting for _, _, setting in groups}) > 1
    metrics = len({metric for metric, _, _ in groups}) > 1
    made = []
    for (metric, reference, setting), own in groups.items():
        kind = (f", {metric}" if metrics else "") + (f", {setting}" if several else "")
        heads = [*own[0].cell, "gain", "95% interval", "corrected p"]
        lines = [[*map(_told, gain.cell.values()), *_numbers(gain)] for gain in own]
        heading = f"Gains over {reference}{kind}"
        made.append(Section(heading, TOLD, heads, lines, words=len(own[0].cell)))
    return made


def _told(level: Label) -> str:
    return "none" if level is None else str(level)


def _numbers(gain: Gain) -> list[str]:
    told = gain.to_dict()
    size, half, p = told["gain"], told["half"], told["corrected"]
    digits = ".2f" if gain.unit == "%" else ".3g"
    between = f"{size - half:+{digits}} to {size + half:+{digits}}"
    numbers = [f"{size:+{digits}}", between, p_text(p)]
    return [number.replace("-", "−") for number in numbers]
