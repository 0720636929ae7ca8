"""Who gets which sample: in the order of their worth, no sample to two people but a share."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphfsl.apply.annotate.answer_store import AnswerStore
from graphfsl.apply.annotate.answers import SKIP, Answers

AT_ONCE = 100  # samples that are ordered together: fewer take as long in a large pool
LEASE = 600.0  # seconds for which a dealt sample is one person's
AHEAD = 60  # ordered samples that shall wait at least
PEOPLE = 2  # who are asked about a sample of the share that is dealt twice


class Dealer:
    """Deals the samples of a pool to people.

    Until samples are ordered, they come in a random order.

    Args:
        names: of the samples.
        store: where leases last.
        users: who labels.
        twice: the share of samples that two people are asked, where there are two.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        names: Sequence[str],
        store: AnswerStore,
        users: Sequence[str],
        twice: float,
        now: Callable[[], float],
    ) -> None:
        self._names, self._store, self._now = names, store, now
        self._people = len(users)
        self._twice = twice if len(users) > 1 else 0.0
        self._order: list[int] = []
        self._at_random = list(range(len(names)))
        random.Random(0).shuffle(self._at_random)
        self._left = len(names)  # ordered samples that nobody has answered, at the last deal
        self._is_whole = False

    @property
    def is_ordered(self) -> bool:
        """Whether some samples are ordered by their worth."""
        return bool(self._order) or self._is_whole

    @property
    def wants_more(self) -> bool:
        """Whether few ordered samples are left."""
        return not self._is_whole and (not self._order or self._left < AHEAD * self._people)

    def extend(self, samples: Sequence[int]) -> None:
        """These come next; an empty list says that all samples are ordered."""
        self._order += samples
        self._left = (self._left if len(self._order) > len(samples) else 0) + len(samples)
        self._is_whole = not samples

    def deal(
        self,
        user: str,
        count: int,
        answers: Answers,
        shown: set[int],
        labelled: np.ndarray,
    ) -> list[int]:
        """The next samples for somebody, leased for a while.

        Args:
            user: who.
            count: how many at the most.
            answers: those so far.
            shown: samples that are not dealt now.
            labelled: (n,) bool, which have a label.
        """
        now = self._now()
        leases = self._store.leases(now)
        ordered = set(self._order)
        dealt: list[int] = []
        for n in self._in_order(ordered):
            if len(dealt) == count:
                break
            if n not in shown and self._may_have(user, self._names[n], answers, leases):
                dealt.append(n)
        self._left = sum(not labelled[n] for n in self._order)
        if self._people > 1 and dealt:
            names = [self._names[n] for n in dealt]
            self._store.lease(names, user, now + LEASE, now)
        return dealt

    def _in_order(self, ordered: set[int]) -> Iterator[int]:
        yield from self._order
        for n in self._at_random:
            if n not in ordered:
                yield n

    def _may_have(
        self, user: str, name: str, answers: Answers, leases: dict[str, dict[str, float]]
    ) -> bool:
        if answers.own(name, user) is not None:
            return False
        others = set(leases.get(name, {})) - {user}
        for other, answer in answers.latest.get(name, {}).items():
            value = answers.resolved(answer.value)
            if other != user and value is not None and value != SKIP:
                others.add(other)
        most = PEOPLE if self.is_twice(name) else 1
        return len(others) < most

    def is_twice(self, name: str) -> bool:
        """Whether a sample is of the share that two people are asked: always the same ones."""
        digest = hashlib.sha256(name.encode()).digest()
        return int.from_bytes(digest[:4], "big") / 2**32 < self._twice
