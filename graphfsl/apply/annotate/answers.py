"""What people's answers come to: classes and labels, derived from the events alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from graphfsl.apply.annotate.answer_store import Event
from graphfsl.apply.label.label_table import NO_CLASS
from graphfsl.io.errors import require
from graphfsl.io.plain_text import one_line

NONE, SKIP, CLEAR = "none", "skip", "clear"  # answers that are no class
LONGEST = 100  # letters of a class's name


@dataclass(frozen=True)
class Answer:
    """What one person says of one sample.

    Attributes:
        event: the number of its event.
        user: who.
        value: as in `Mark`; of a class, the one that it has become by merging.
        how: "single", "bulk", "correction" or "audit".
        content: SHA-256 of the file then.
        size: of the file then.
        at: when.
        guess: what was predicted then; None where nothing was.
        settles: whether it was given to end a disagreement that the person saw.
    """

    event: int
    user: str
    value: str
    how: str
    content: str
    size: int
    at: str
    guess: str | None = None
    settles: bool = False


@dataclass(frozen=True)
class Audit:
    """Samples that were drawn at random, and what was predicted of them then.

    Attributes:
        event: its number, and its event's.
        user: who asked for it.
        guesses: sample -> the class that was predicted, or None.
        population: of how many samples they were drawn.
    """

    event: int
    user: str
    guesses: dict[str, str | None]
    population: int


@dataclass
class Answers:
    """Classes and answers after some events.

    Attributes:
        classes: "c" and a number -> name, in the order in which they were made.
        latest: sample -> user -> the answer that counts.
        audits: by number.
        audited: audit -> sample -> the answer that was given blind.
        first: sample -> user -> the first single answer, before anybody saw another's.
        last: the number of the last event.
        count: of answers that were given, those that were replaced too.
    """

    classes: dict[str, str] = field(default_factory=dict)
    latest: dict[str, dict[str, Answer]] = field(default_factory=dict)
    audits: dict[int, Audit] = field(default_factory=dict)
    audited: dict[int, dict[str, Answer]] = field(default_factory=dict)
    first: dict[str, dict[str, str]] = field(default_factory=dict)
    last: int = 0
    count: int = 0
    _merged: dict[str, str] = field(default_factory=dict)  # class -> the one that it became

    @staticmethod
    def of(events: Iterable[Event]) -> Answers:
        """All events that are not undone, one after the other."""
        events = list(events)
        undone = {event.body["event"] for event in events if event.kind == "undo"}
        answers = Answers()
        for event in events:
            if event.id not in undone:
                answers.take(event)
            answers.last = event.id
        return answers

    def take(self, event: Event) -> None:
        """One event more; an undo is for `of`."""
        self.last = event.id
        body = event.body
        if event.kind == "answer":
            self._take_answer(event)
        elif event.kind in ("class", "rename"):
            if event.kind == "class" or body["class"] in self.classes:
                self.classes[body["class"]] = body["name"]
        elif event.kind == "merge":
            if body["class"] in self.classes and body["into"] in self.classes:
                del self.classes[body["class"]]
                self._merged[body["class"]] = body["into"]
        elif event.kind == "delete":
            self.classes.pop(body["class"], None)
        elif event.kind == "move":
            tables: list[dict[str, Any]] = [self.latest, self.first, *self.audited.values()]
            for of_sample in tables:
                if body["from"] in of_sample:
                    of_sample[body["to"]] = of_sample.pop(body["from"])
            for audit in self.audits.values():
                if body["from"] in audit.guesses:
                    audit.guesses[body["to"]] = audit.guesses.pop(body["from"])
        elif event.kind == "audit":
            guesses = dict(body["guesses"])
            self.audits[event.id] = Audit(event.id, event.user, guesses, body["population"])

    def _take_answer(self, event: Event) -> None:
        for mark in event.marks:
            answer = Answer(
                event.id,
                event.user,
                mark.value,
                event.how,
                mark.content,
                mark.size,
                event.at,
                mark.guess,
                event.body.get("view") == "disagreed",
            )
            if event.how == "single":
                self.first.setdefault(mark.sample, {}).setdefault(event.user, mark.value)
            self.latest.setdefault(mark.sample, {})[event.user] = answer
            self.count += 1
            if event.how == "audit":
                asked = self.audited.setdefault(event.body["audit"], {})
                asked.setdefault(mark.sample, answer)

    # What answers mean now

    def resolved(self, value: str | None) -> str | None:
        """A class as the one it was merged into; None for one that was deleted, and for `clear`."""
        while value in self._merged:
            value = self._merged[value]
        if value in (NONE, SKIP) or value in self.classes:
            return value
        return None

    def opinions(self, sample: str) -> dict[str, str]:
        """User -> class or "none" of a sample, without those who skipped it."""
        found = {}
        for user, answer in self.latest.get(sample, {}).items():
            value = self.resolved(answer.value)
            if value is not None and value != SKIP:
                found[user] = value
        return found

    def label(self, sample: str) -> Answer | None:
        """The answer that counts as the sample's label; None where people disagree.

        What was answered last, among the disagreed ones, settles it.
        """
        opinions = self.opinions(sample)
        if not opinions:
            return None
        answers = [self.latest[sample][user] for user in opinions]
        newest = max(answers, key=lambda answer: answer.event)
        if len(set(opinions.values())) == 1 or newest.settles:
            return newest
        return None

    def disagrees(self, sample: str) -> bool:
        """Whether people say different things of a sample, and nobody has settled it."""
        return len(set(self.opinions(sample).values())) > 1 and self.label(sample) is None

    def own(self, sample: str, user: str) -> Answer | None:
        """The last answer of one person to a sample, a skip too; None where it is cleared."""
        answer = self.latest.get(sample, {}).get(user)
        if answer is None or self.resolved(answer.value) is None:
            return None
        return answer

    def elsewhere(self, audit: Audit) -> set[str]:
        """The samples of an audit that were answered outside of it: not blind, and not counted."""
        blind = self.audited.get(audit.event, {})
        answered = set()
        for name in audit.guesses:
            users = self.latest.get(name, {})
            if name not in blind and any(self.own(name, user) for user in users):
                answered.add(name)
        return answered

    def labels(self) -> Iterator[tuple[str, Answer, str]]:
        """(sample, answer, class or "none") of every sample with a label."""
        for sample in self.latest:
            answer = self.label(sample)
            if answer is not None:
                value = self.resolved(answer.value)
                assert value is not None
                yield sample, answer, value


def class_name(text: Any, classes: dict[str, str], own: str | None = None) -> str:
    """The name of a class as it is kept: composed (NFC), without blanks around it.

    Args:
        text: what somebody typed.
        classes: those that there are.
        own: the class that gets this name.

    Raises:
        InputError: for a name that files of labels cannot hold, or that another class has.
    """
    require(isinstance(text, str), "the name of a class is a text")
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    require(name, "a class needs a name")
    require(
        len(name) <= LONGEST, f"the name has {len(name)} letters; at most {LONGEST} are possible"
    )
    require(
        one_line(name) == name and not any(unicodedata.category(x) == "Cs" for x in name),
        "the name holds letters that steer a terminal or are none; type it without them",
    )
    require(
        name.lower() not in NO_CLASS,
        f"{name!r} is no class; for a sample of none of the classes press x",
    )
    taken = next((c for c, other in classes.items() if other == name and c != own), None)
    require(taken is None, f"there is a class {name!r} already; merge the two instead")
    return name
