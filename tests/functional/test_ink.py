"""What is ink: a threshold by a naive loop, and either brightness of it."""

from __future__ import annotations

import numpy as np
import pytest

from graphfsl.functional.ink import ink_of, otsu


def test_the_threshold_leaves_the_least_variance_inside_both_sides() -> None:
    rng = np.random.default_rng(0)
    gray = np.concatenate([rng.normal(60, 12, 400), rng.normal(170, 20, 200)])
    gray = gray.clip(0, 255).round().reshape(20, 30)

    def inside(threshold: float) -> float:
        sides = [gray[gray <= threshold], gray[gray > threshold]]
        return sum(len(side) * side.var() for side in sides if len(side))

    best = min(inside(level) for level in range(256))
    assert inside(otsu(gray)) == pytest.approx(best, rel=1e-6)
    assert 90 < otsu(gray) < 130


@pytest.mark.parametrize(("paper", "pen"), [(20.0, 220.0), (230.0, 40.0)])
def test_ink_is_what_the_border_is_not(paper: float, pen: float) -> None:
    gray = np.full((12, 12), paper)
    gray[4:8, 5:7] = pen
    assert (ink_of(gray) == (gray == pen)).all()


def test_an_image_of_one_value_has_no_ink() -> None:
    assert not ink_of(np.full((5, 5), 80.0)).any()
