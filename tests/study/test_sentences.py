"""What a study says of its effects agrees with its numbers."""

from __future__ import annotations

import pytest

from graphfsl.functional.effects import MainEffect, corrected, main_effects
from graphfsl.study.sentences import sentence
from tests.support.grids import GRID, effect, simulated

OVER = ", averaged over 4 matched pairs of cells"
THREE = (("a", "c", 2.0, 0.2, 0.001), ("b", "c", 3.0, 0.2, 0.001))
SENTENCES = [
    (
        effect(("cosine", "sqeuclidean", -1.8, 0.3, 0.0004), corrected=0.001),
        f"sqeuclidean is 1.8 points better than cosine (95% interval 1.5 to 2.1, corrected p = "
        f"0.001){OVER}.",
    ),
    (
        effect(("sqeuclidean", "cosine", 0.1, 0.3, 0.52), matched=1, episodes=1200, paired=False),
        "sqeuclidean instead of cosine makes no difference that 1,200 episodes can show: 0.1 "
        "points "
        "(95% interval −0.2 to 0.4, p = 0.52), averaged over 1 matched pair of cells with "
        "different episodes.",
    ),
    (
        effect(("a", "b", 0.04, 0.03, 0.0002), corrected=0.0003),
        f"a is 0.04 points better than b (95% interval 0.01 to 0.07, corrected p < 0.001){OVER}.",
    ),
    (
        effect(("a", "b", 0.5, 0.4, 0.02), corrected=0.12),
        f"a is 0.5 points better than b, which may be chance (95% interval 0.1 to 0.9, corrected "
        f"p = 0.12){OVER}.",
    ),
    (
        effect(("a", "b", -1.0, 0.2, 0.001), *THREE, incomparable=(None,)),
        f"b is the best of 3 levels, 1.0 points better than a, the next (95% interval 0.8 to "
        f"1.2, p = 0.001){OVER}; "
        "the range is 3.0 points, from c up to b (95% interval 2.8 to 3.2, p = 0.001); "
        "none could not be compared, for it shares no combination of the other axes with another "
        "level.",
    ),
    (
        effect(("a", "b", -0.1, 0.2, 0.3), *THREE, incomparable=("d", True)),
        "of 3 levels the best two, b and a, make no difference that 600 episodes can show: 0.1 "
        "points "
        f"(95% interval −0.1 to 0.3, p = 0.30){OVER}; "
        "the range is 3.0 points, from c up to b (95% interval 2.8 to 3.2, p = 0.001); "
        "d and true could not be compared, for they share no combination of the other axes with "
        "another level.",
    ),
    (
        effect(("a", "c", 5.0, 0.2, 0.001), ("b", "c", 3.0, 0.2, 0.001)),
        f"a is 5.0 points better than c (95% interval 4.8 to 5.2, p = 0.001){OVER}; a could not be "
        "compared with b, with which it shares no combination of the other axes.",
    ),
    (
        effect(
            ("a", "b", 2.0, 0.2, 0.001), ("a", "c", 5.0, 0.2, 0.001), ("b", "d", 1.0, 0.2, 0.001)
        ),
        f"a is the best of 3 levels, 2.0 points better than b, the next (95% interval 1.8 to 2.2, "
        f"p = 0.001){OVER}; the range is 5.0 points, from c up to a (95% interval 4.8 to 5.2, p = "
        "0.001); a could not be compared with d, with which it shares no combination of the other "
        "axes.",
    ),
    (effect(incomparable=("a",)), "a is the only level, so there is nothing to compare."),
    (
        effect(incomparable=("a", "b", 3)),
        "a, b and 3 cannot be compared, for no two of them share a combination of the other axes.",
    ),
]


@pytest.mark.parametrize(("given", "expected"), SENTENCES)
def test_sentence(given: MainEffect, expected: str) -> None:
    assert sentence(given) == f"`distance`: {expected}"


def test_a_sentence_of_a_grid_agrees_with_its_numbers() -> None:
    accuracies, keys = simulated(GRID, 600)
    for e in corrected(main_effects(GRID, accuracies, keys)):
        best = max(e.means, key=lambda level: e.means[level])
        assert f"{best} is " in sentence(e) or f" {best} " in sentence(e)
        gap = 100 * (e.means[best] - sorted(e.means.values())[-2])
        assert f" {gap:.1f} points" in sentence(e)
