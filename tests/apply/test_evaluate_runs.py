"""What `graphfsl evaluate` asks, and what it refuses to."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphfsl.apply.evaluate_runs import Question
from graphfsl.io.errors import InputError
from graphfsl.loops.attack import PGD
from graphfsl.loops.corruption import Corruption


def test_the_same_learner_twice_is_refused() -> None:
    a, b = Path("a"), Path("b")
    assert Question([a, b], against=["learner.head=rfs"]).is_compared
    with pytest.raises(InputError, match="a is named twice"):
        Question([a, b, a])
    with pytest.raises(InputError, match=r"learner\.head=rfs is named twice"):
        Question([a], against=["learner.head=rfs", "learner.head=rfs"])


def test_what_is_called_alike_is_refused() -> None:
    """They would share a line of the table, and a file."""
    close = [PGD(0.1), PGD(0.10001)]
    with pytest.raises(InputError, match=r"eps 0\.1, 20 steps is named twice; name each attack"):
        Question([Path("a")], attacks=close)
    with pytest.raises(InputError, match="named twice"):
        Question([Path("a")], corruptions=[Corruption("fog"), Corruption("fog")])
    with pytest.raises(InputError, match="mnist is named twice; name each data set once"):
        Question([Path("a")], on=["mnist", "mnist"])


def test_an_answer_is_kept_under_a_name_that_its_question_tells() -> None:
    def name(**options: object) -> str:
        return Question([Path("a")], **options).file.name  # type: ignore[arg-type]

    names = {name(), name(changes=["episode.way=20"]), name(on=["glyphs"]), name(against=["x=1"])}
    assert len(names) == 4 and name() == name()
