"""`graphfsl sessions`: harmonic means beside each other, class by class, on the same sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graphfsl.apply.sessions import Measured, sessions
from graphfsl.functional.bootstrap import resampled_counts
from graphfsl.io.errors import InputError

GAIN = "gain in it (95% interval over classes)"
GIVEN = "episode={task: sessions, base: 2, sessions: 2, way: 1, shot: 1, query: 4}"  # of 6 classes
OTHER = "learner.head={name: protonet, distance: cosine, learned: false}"


@pytest.fixture(scope="module")
def lines(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    folder = tmp_path_factory.mktemp("sessions")
    found, _, _ = sessions([trained], [GIVEN], against=[OTHER], repeats=12, out=folder)
    return found


def test_the_gain_is_that_of_the_harmonic_means_beside_it(lines: list[dict[str, str]]) -> None:
    """Without a list each repeat has other base classes."""
    first, second = (float(line["harmonic mean"].split()[0]) for line in lines)
    assert first != second
    assert float(lines[1][GAIN].split()[0]) == pytest.approx(second - first, abs=0.011)
    low, high = (float(number) for number in lines[0][GAIN].split(" to "))
    assert low <= first <= high


@pytest.mark.parametrize("change", ["evaluation.seed=3", "episode.query=3"])
def test_other_sessions_do_not_stand_beside_each_other(
    trained: Path, tmp_path: Path, change: str
) -> None:
    with pytest.raises(InputError, match="is asked other sessions than"):
        sessions([trained], [GIVEN], against=[change], out=tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="is named twice"):
        sessions([trained, trained], [GIVEN], out=tmp_path)


def of_counts(right: list[list[float]], asked: list[list[float]]) -> Measured:
    row: Any = None
    return Measured("a", row, torch.tensor(right).double(), torch.tensor(asked).double())


def test_a_class_counts_in_both_parts_where_it_was_in_both() -> None:
    one = of_counts([[4, 1, 0, 0], [0, 2, 3, 0]], [[4, 4, 0, 0], [0, 4, 4, 0]])
    assert one.roles.tolist() == [2, 3, 1, 0]
    base, novel = 5 / 8, 5 / 8
    ones = torch.ones(1, 4, dtype=torch.float64)
    assert one.harmonic_means(ones).tolist() == [2 * base * novel / (base + novel)]
    counts = torch.tensor([[2.0, 0.0, 1.0, 1.0]]).double()
    base, novel = 8 / 8, 3 / 4
    assert one.harmonic_means(counts).tolist() == [2 * base * novel / (base + novel)]


def test_classes_that_never_came_do_not_take_the_place_of_others() -> None:
    never = [0.0] * 50
    one = of_counts(
        [[4, 3, 0, 0, *never], [0, 0, 2, 1, *never]], [[4, 4, 0, 0, *never], [0, 0, 4, 4, *never]]
    )
    assert one.harmonic_means(resampled_counts(one.roles, 2000)).isfinite().all()
