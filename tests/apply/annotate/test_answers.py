"""What events come to: the last word of each person, merged classes, what is undone."""

from __future__ import annotations

from typing import Any

import pytest

from graphfsl.apply.annotate.answer_store import Event, Mark
from graphfsl.apply.annotate.answers import Answers, class_name
from graphfsl.apply.annotate.pool_statistics import agreement, audit_told
from graphfsl.io.errors import InputError


class Diary:
    """Events with growing numbers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        for number in range(3):
            self.add("class", body={"class": f"c{number}", "name": "abc"[number]})

    def add(self, kind: str, user: str = "anna", how: str = "", **rest: Any) -> int:
        number = len(self.events) + 1
        self.events.append(Event(number, "", user, kind, how, **rest))
        return number

    def answer(self, sample: str, value: str, user: str = "anna", **rest: Any) -> int:
        how = rest.pop("how", "single")
        return self.add("answer", user, how, marks=(Mark(sample, "", 0, value),), **rest)

    def labels(self) -> dict[str, str]:
        return {sample: value for sample, _, value in Answers.of(self.events).labels()}


def test_the_last_answer_counts_and_undoing_brings_back_the_one_before() -> None:
    diary = Diary()
    diary.answer("x", "c0")
    second = diary.answer("x", "c1")
    diary.answer("y", "skip")
    assert diary.labels() == {"x": "c1"}
    diary.add("undo", body={"event": second})
    assert diary.labels() == {"x": "c0"}
    diary.answer("x", "clear")
    assert diary.labels() == {}


def test_classes_are_merged_deleted_and_all_of_it_undone() -> None:
    diary = Diary()
    diary.answer("x", "c0")
    diary.answer("y", "c1")
    first = diary.add("merge", body={"class": "c0", "into": "c1"})
    diary.add("merge", body={"class": "c1", "into": "c2"})
    assert diary.labels() == {"x": "c2", "y": "c2"}
    deleted = diary.add("delete", body={"class": "c2"})
    assert diary.labels() == {} and not Answers.of(diary.events).classes
    diary.add("undo", body={"event": deleted})
    diary.add("undo", body={"event": first})
    assert diary.labels() == {"x": "c0", "y": "c2"}


def test_where_people_disagree_there_is_no_label_until_it_is_settled() -> None:
    diary = Diary()
    diary.answer("x", "c0")
    diary.answer("x", "c1", user="bo")
    answers = Answers.of(diary.events)
    assert answers.disagrees("x") and diary.labels() == {}
    diary.answer("x", "c2", how="correction", body={"view": "disagreed"})
    assert not Answers.of(diary.events).disagrees("x") and diary.labels() == {"x": "c2"}


def test_agreement_is_of_first_answers_by_cohens_kappa() -> None:
    """Cohen 1960: po = 3/4, pe = (3 * 2 + 1 * 2) / 16 = 1/2, kappa = 1/2."""
    diary = Diary()
    for sample, of_anna, of_bo in ("1ab", "2aa", "3aa", "4bb"):
        diary.answer(sample, f"c{'ab'.index(of_anna)}")
        diary.answer(sample, f"c{'ab'.index(of_bo)}", user="bo")
    diary.answer("1", "c1", how="correction", body={"view": "disagreed"})
    found = agreement(Answers.of(diary.events))
    assert found == {"samples": 4, "same": 3, "kappa": pytest.approx(0.5)}


def test_an_audit_counts_blind_answers_only_and_tells_when_it_is_whole() -> None:
    diary = Diary()
    guesses = {"1": "c0", "2": "c0", "3": "none", "4": None, "5": "c1"}
    audit = diary.add("audit", body={"guesses": guesses, "population": 50})
    diary.answer("1", "c1", how="bulk")  # not blind
    for sample, value in {"1": "c0", "2": "c1", "3": "none", "4": "c0", "5": "skip"}.items():
        diary.answer(sample, value, how="audit", body={"audit": audit})
    diary.answer("2", "c0", how="correction")  # afterwards
    answers = Answers.of(diary.events)
    assert "accuracy" not in audit_told(answers, answers.audits[audit])
    told = audit_told(answers, None)
    assert (told["right"], told["judged"], told["skipped"]) == (2, 4, 1)
    assert told["accuracy"] == 0.5 and told["low"] < 0.1 and told["high"] > 0.9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("  ", "needs a name"),
        ("none of these", "press x"),
        ("a", "already"),
        ("x\u202ey", "steer"),
        ("\ud800", "steer"),
        ("y" * 101, "at most 100"),
    ],
)
def test_a_name_that_no_table_can_hold_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        class_name(text, {"c0": "a"})


def test_names_in_any_script_are_composed() -> None:
    assert class_name(" e\u0301  b ", {}) == "é b"
    assert class_name("می\u200cخواهم", {}) == "می\u200cخواهم"
