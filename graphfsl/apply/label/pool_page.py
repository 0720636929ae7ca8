"""What became of a pool, as one self-contained web page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import torch

from graphfsl.apply.label.label_pool import Labels
from graphfsl.functional.calibration import (
    accuracy_coverage,
    expected_calibration_error,
    reliability,
)
from graphfsl.functional.open_set import auroc
from graphfsl.report.figures import COLORS, Figure, draw
from graphfsl.report.html import html_table, listed, page, pictures, words_first
from graphfsl.report.reliability import reliability_diagram

COVERAGES = (0.1, 0.25, 0.5, 0.75, 1.0)
POINTS = 500  # of a curve
LISTED = 50  # lines about files
OTHERS = {-1: "none of these", -2: "no label reaches"}  # beside classes


def pool_page(
    title: str,
    notes: Sequence[str],
    found: Labels,
    classes: Sequence[str],
    truth: np.ndarray | None = None,
    links: Mapping[int, str] | None = None,
    sheets: Sequence[tuple[str, bytes]] = (),
    unreadable: Sequence[tuple[str, str]] = (),
    doubts: Sequence[str] = (),
) -> str:
    """What became of a pool, as one self-contained web page.

    Args:
        title: of the page.
        notes: sentences that stand first.
        found: the labels.
        classes: their names.
        truth: (n,) the right classes, -1 for none of them, -2 where it is not known.
        links: from a class (-1: none, -2: not reached) to its sheet's file.
        sheets: captions, and the bytes of JPEGs.
        unreadable: files, and why each could not be read.
        doubts: sentences about given labels that the others contradict.

    Returns:
        The page's HTML.
    """
    parts = listed(notes)
    figures = [_scores(found), _nones(found)]
    if truth is not None:
        asked = ~found.given & (truth > -2)
        parts += ["<h2>Against the truth</h2>", *listed(_findings(found, truth, asked), "findings")]
        if asked.any():
            against = [_coverage(found, truth, asked), _reliability(found, truth, asked)]
            figures = [*against, *figures]
    parts += ["<h2>How sure the labels are</h2>", *pictures(figures)]
    parts += ["<h2>Classes</h2>", *_table(found, classes, truth, links or {})]
    if doubts:
        lines = list(doubts[:LISTED])
        if len(doubts) > LISTED:
            lines.append(f"and {len(doubts) - LISTED:,} more, in doubts.csv")
        parts += [f"<h2>Given labels that the others contradict: {len(doubts):,}</h2>"]
        parts += listed(lines, "failed")
    if sheets:
        parts += ["<h2>Contact sheets</h2>", *pictures(sheets)]
    if unreadable:
        lines = [f"`{name}`: {why}" for name, why in unreadable[:LISTED]]
        if len(unreadable) > LISTED:
            lines.append(f"and {len(unreadable) - LISTED:,} more, in unreadable.csv")
        parts += [f"<h2>Not read: {len(unreadable):,}</h2>", *listed(lines, "failed")]
    return page(title, parts)


def accuracies(found: Labels, truth: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """How the labels compare with the truth.

    Args:
        found: the labels.
        truth: (n,) the right classes, -1 for none of them, -2 where it is not known.
        asked: (n,) bool, the samples that count.

    Returns:
        Shares by name, NaN where there is nothing to count.
    """

    def share(of: np.ndarray, among: np.ndarray) -> float:
        return float((of & among).sum() / among.sum()) if among.any() else math.nan

    member = asked & (truth >= 0)
    foreign = asked & (truth == -1)
    answered = found.label >= 0
    called_none = found.reached & ~answered
    error = expected_calibration_error(_bins(found, truth, asked))
    return {
        "answered": share(answered, asked),
        "accuracy of answers": share(found.label == truth, asked & answered),
        "accuracy of the likeliest class": share(found.best == truth, member),
        "found to be none": share(called_none, foreign),
        "taken for none": share(called_none, member),
        "not reached": share(~found.reached, asked),
        "ranked none above members": _auroc(found.none, truth, asked),
        "calibration error": float(error),
    }


def _auroc(none: np.ndarray, truth: np.ndarray, asked: np.ndarray) -> float:
    """How often `none` is higher for a sample of none of the classes than for another.

    A tie is half.
    """
    member, foreign = (torch.from_numpy(asked & of)[None] for of in (truth >= 0, truth == -1))
    return float(auroc(torch.from_numpy(none)[None].double(), member, foreign))


def _findings(found: Labels, truth: np.ndarray, asked: np.ndarray) -> list[str]:
    if not asked.any():
        return ["The truth holds none of the samples that were to be labeled."]
    shares = accuracies(found, truth, asked)
    percent = {name: f"{100 * share:.1f}" for name, share in shares.items()}
    curve = _curve(found, truth, asked)
    lines = [_answered(percent, int(asked.sum()), any_answer=len(curve) > 0)]
    if len(curve):
        lines.append(f"Accuracy {_at_coverages(curve)} of all samples.")
    error = percent["calibration error"]
    lines.append(f"Expected calibration error of the {_called(found)}: {error} points.")
    if (~found.reached)[asked].any():
        lines.append(f"No label reaches {percent['not reached']} %.")
    foreign, member = (truth[asked] == -1).any(), (truth[asked] >= 0).any()
    if foreign:
        share = percent["found to be none"]
        lines.append(f"Of the samples of none of the classes {share} % are found.")
    if foreign and member:
        lines.append(
            f"Of the others {percent['taken for none']} % are taken for such. `none` is higher for "
            f"one of the former than for one of the latter in "
            f"{percent['ranked none above members']} % of pairs."
        )
    return lines


def _answered(percent: Mapping[str, str], count: int, any_answer: bool) -> str:
    rightly = f", {percent['accuracy of answers']} % of these rightly" if any_answer else ""
    return f"{percent['answered']} % of {count:,} samples are labeled{rightly}."


def _at_coverages(curve: np.ndarray) -> str:
    """The points of the curve (k, 2) that are nearest above each of COVERAGES."""
    rows = np.minimum(np.searchsorted(curve[:, 0], COVERAGES), len(curve) - 1)
    points = [
        f"{100 * accuracy:.1f} % for the surest {100 * share:.0f} %"
        for share, accuracy in curve[np.unique(rows)]
    ]
    return ", ".join(points)


def _curve(found: Labels, truth: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """(k, 2) of the surest labels: their share of all that are asked, and their accuracy."""
    rows = asked & (found.label >= 0)
    right = torch.from_numpy(found.label[rows] == truth[rows])
    curve = accuracy_coverage(torch.from_numpy(found.score[rows]), right).numpy()
    scaled: np.ndarray = curve * (rows.sum() / max(asked.sum(), 1), 1)
    return scaled


def _coverage(found: Labels, truth: np.ndarray, asked: np.ndarray) -> Figure:
    curve = _thinned(_curve(found, truth, asked))

    def plot(axes: Any) -> None:
        axes.plot(100 * curve[:, 0], 100 * curve[:, 1], color=COLORS[0])
        axes.set(xlim=(0, 101))

    x = "samples that are labeled, the surest first (%)"
    return "Accuracy against coverage", draw(plot, x, "accuracy (%)")


def _thinned(curve: np.ndarray) -> np.ndarray:
    """At most POINTS of its points, evenly spread."""
    if not len(curve):
        return curve
    points: np.ndarray = curve[np.unique(np.linspace(0, len(curve) - 1, POINTS).astype(int))]
    return points


def _bins(found: Labels, truth: np.ndarray, asked: np.ndarray) -> torch.Tensor:
    """Reliability of `score` as the probability that `best` is right.

    It counts where `best` is not answered, too.
    """
    wrong = torch.from_numpy(((found.best != truth) | (truth < 0))[asked].astype(np.int64))
    return reliability(torch.from_numpy(found.score[asked, None]), wrong)  # class 0 of one: right


def _reliability(found: Labels, truth: np.ndarray, asked: np.ndarray) -> Figure:
    caption = (
        f"{_called(found).capitalize()} against accuracy: on the line they agree; larger "
        f"dots hold more samples"
    )
    bins = _bins(found, truth, asked).tolist()
    return reliability_diagram(bins, caption, f"{_called(found)} of the likeliest class")


def _called(found: Labels) -> str:
    """What `score` may be called: a confidence where held-out labels bear it out."""
    return "confidence" if found.facts["borne out"] else "score"


def _scores(found: Labels) -> Figure:
    labeled = ~found.given & (found.label >= 0)
    groups = {
        "labeled": labeled,
        "none of these": ~labeled & found.reached,
        "no label reaches": ~found.reached,
    }

    def plot(axes: Any) -> None:
        values = [found.score[rows & ~found.given] for rows in groups.values()]
        names = [f"{name}: {len(v):,}" for name, v in zip(groups, values, strict=True)]
        axes.hist(
            values,
            bins=20,
            range=(0, 1),
            stacked=True,
            color=[COLORS[0], "#c4c8cf", "#8a8f98"],
            label=names,
        )

    caption = f"How many samples have which {_called(found)}"
    return caption, draw(plot, f"{_called(found)} of the likeliest class", "samples")


def _nones(found: Labels) -> Figure:
    """`none` from the strongest reached to the weakest, and where samples are called none."""
    none = _thinned(np.sort(found.none[~found.given & found.reached]))

    def plot(axes: Any) -> None:
        axes.plot(np.linspace(0, 100, len(none)), none, color=COLORS[0])
        if found.facts["none"] < 1:
            axes.axhline(found.facts["none"], color="#999999", linewidth=1, linestyle="--")
        axes.set(xlim=(0, 101), ylim=(0, 1.02))

    caption = "How weakly labels reach the samples"
    if found.facts["none"] < 1:
        caption += "; above the line: none of these"
    elif not found.facts["tells"]:
        caption += ": labels cannot tell what is of none"
    return caption, draw(plot, "samples, the strongest reached first (%)", "none")


def _table(
    found: Labels, classes: Sequence[str], truth: np.ndarray | None, links: Mapping[int, str]
) -> list[str]:
    """A line for each class, for none of them and for what no label reaches."""
    heads = ["class", "given", "found", f"median {_called(found)}"]
    if truth is not None:
        heads += ["precision", "recall"]
    rows = []
    lost = [] if found.reached.all() else [-2]
    for c in [*range(len(classes)), -1, *lost]:
        name = escape(classes[c] if c >= 0 else OTHERS[c])
        if c in links:
            name = f'<a href="{escape(links[c])}">{name}</a>'
        rows.append([name, *_cells(found, c, truth)])
    return html_table(heads, rows, words_first(heads, 1), ["new"] * len(rows))


def _cells(found: Labels, c: int, truth: np.ndarray | None) -> list[str]:
    """How many of class c were given and found, how sure they are, and how many rightly."""
    mine = np.zeros(len(found.label), bool)
    mine[found.of(c)] = True
    given = found.given & (found.label == c)
    median = f"{np.median(found.score[mine]):.2f}" if mine.any() and c >= 0 else ""
    cells = [f"{given.sum():,}", f"{mine.sum():,}", median]
    if truth is None:
        return cells
    if c == -2:
        return [*cells, "", ""]
    known = ~found.given & (truth > -2)
    right = known & (truth == c)
    precision = _percent(mine & right, mine & known)
    return [*cells, precision, _percent(mine & right, right)]


def _percent(part: np.ndarray, whole: np.ndarray) -> str:
    return f"{100 * part.sum() / whole.sum():.1f} %" if whole.any() else ""
