"""What the effect of an axis is, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from graphfsl.functional.comparison import Contrast
from graphfsl.functional.effects import Comparison, Level, MainEffect
from graphfsl.loops.row import p_is, scale_of


def sentence(effect: MainEffect, unit: str = "%") -> str:
    """What one axis shows in plain English; p is the corrected one where present.

    The values are such that more is better; shares, of the unit "%", become percentage points. A
    difference is asserted where the interval leaves out 0 and p < 0.05, denied where neither,
    else called chance.
    """
    name = f"`{effect.axis}`"
    if not effect.comparisons:
        return f"{name}: {_nothing_to_compare(effect)}."
    top, ranked = _top(effect)
    best = top.first if top.contrast.difference >= 0 else top.second
    unmet = _never_compared(best, ranked, effect)
    compared = len(ranked) - len(unmet)
    clauses = [_finding(top, compared, unit) + _basis(top.contrast)]
    widest = max(effect.comparisons, key=lambda c: abs(c.contrast.difference))
    if widest is not top:
        clauses.append(_range(widest, unit))
    if unmet:
        clauses.append(
            f"{_name(best)} could not be compared with {_names(unmet)}, with which it shares no "
            "combination of the other axes"
        )
    if effect.incomparable:
        clauses.append(_left_out(effect))
    return f"{name}: {'; '.join(clauses)}."


def _never_compared(level: Level, others: Sequence[Level], effect: MainEffect) -> list[Level]:
    """The other levels that share no combination of the other axes with this one."""
    met = {level}
    for c in effect.comparisons:
        if level in (c.first, c.second):
            met |= {c.first, c.second}
    return [other for other in others if other not in met]


def _nothing_to_compare(effect: MainEffect) -> str:
    levels = _names(effect.incomparable)
    if len(effect.incomparable) == 1:
        return f"{levels} is the only level, so there is nothing to compare"
    return f"{levels} cannot be compared, for no two of them share a combination of the other axes"


def _finding(top: Comparison, levels: int, unit: str) -> str:
    """What of the best of so many levels and the next is asserted, denied or called chance."""
    best, rival = _better_first(top)
    size, evidence, verdict = _evidence(top.contrast, unit)
    several = levels > 2
    if verdict == "none":
        subject = f"{best} instead of {rival} makes"
        if several:
            subject = f"of {levels} levels the best two, {best} and {rival}, make"
        return (
            f"{subject} no difference that {top.contrast.episodes:,} episodes can show: "
            f"{size} ({evidence})"
        )
    text = f"{best} is {size} better than {rival}"
    if several:
        text = f"{best} is the best of {levels} levels, {size} better than {rival}, the next"
    if verdict == "chance":
        text += ", which may be chance"
    return f"{text} ({evidence})"


def _basis(contrast: Contrast) -> str:
    """Over what a difference is averaged."""
    pairs = "1 matched pair" if contrast.matched == 1 else f"{contrast.matched} matched pairs"
    unlike = "" if contrast.paired else " with different episodes"
    return f", averaged over {pairs} of cells{unlike}"


def _range(widest: Comparison, unit: str) -> str:
    top, bottom = _better_first(widest)
    size, evidence, _ = _evidence(widest.contrast, unit)
    return f"the range is {size}, from {bottom} up to {top} ({evidence})"


def _left_out(effect: MainEffect) -> str:
    they = "it shares" if len(effect.incomparable) == 1 else "they share"
    return (
        f"{_names(effect.incomparable)} could not be compared, for {they} no combination of the "
        f"other axes with another level"
    )


def _top(effect: MainEffect) -> tuple[Comparison, list[Level]]:
    """The best level beside the next that it was compared with, and all of them in order.

    The order is by their mean gain over those that they were compared with.
    """
    gains: dict[Level, list[float]] = {}
    for c in effect.comparisons:
        gains.setdefault(c.first, []).append(c.contrast.difference)
        gains.setdefault(c.second, []).append(-c.contrast.difference)
    ranked = sorted(gains, key=lambda level: -sum(gains[level]) / len(gains[level]))

    def lower_rank(c: Comparison) -> int:
        return max(ranked.index(c.first), ranked.index(c.second))

    of_the_best = [c for c in effect.comparisons if ranked[0] in (c.first, c.second)]
    return min(of_the_best, key=lower_rank), ranked


def _better_first(c: Comparison) -> tuple[str, str]:
    first, second = (c.first, c.second) if c.contrast.difference >= 0 else (c.second, c.first)
    return _name(first), _name(second)


def amount(value: float, half: float, unit: str) -> str:
    """A number as precise as its half-width asks for: "3.2" points, or "0.0123" of another unit."""
    if unit != "%":
        return f"{value:.3g}".replace("-", "−")
    digits = 1 if half >= 0.1 else 2
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def word_of(unit: str) -> str:
    """The word that follows a difference: " points" of shares, the unit of others, or nothing."""
    return " points" if unit == "%" else f" {unit}".rstrip()


def _evidence(c: Contrast, unit: str) -> tuple[str, str, str]:
    """The size of a difference, its interval and p, and what they say.

    That is "sure", "chance" or "none".
    """
    scale = scale_of(unit)
    size, half = scale * abs(c.difference), scale * c.half
    p = c.p if c.corrected is None else c.corrected
    label = "p" if c.corrected is None else "corrected p"
    low, high = amount(size - half, half, unit), amount(size + half, half, unit)
    verdict = ("none", "chance", "sure")[(size > half) + (p < 0.05)]
    return (
        amount(size, half, unit) + word_of(unit),
        (f"95% interval {low} to {high}, {p_is(p, label)}"),
        verdict,
    )


def _name(level: Level) -> str:
    return str(level).lower() if level is None or isinstance(level, bool) else str(level)


def _names(levels: Sequence[Level]) -> str:
    *most, last = [_name(level) for level in levels] or [""]
    return f"{', '.join(most)} and {last}" if most else last
