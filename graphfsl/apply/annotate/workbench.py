"""What the page asks of a pool: answers, screens, classes, audits, and how far the pool is."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from graphfsl.apply.annotate import pool_statistics as statistics
from graphfsl.apply.annotate.answer_store import AnswerStore, Event, Mark
from graphfsl.apply.annotate.answers import (
    CLEAR,
    NONE,
    SKIP,
    Answer,
    Answers,
    Audit,
    class_name,
)
from graphfsl.apply.annotate.dealing import AT_ONCE, Dealer
from graphfsl.apply.annotate.pool_model import Label, PoolModel, Predictions
from graphfsl.apply.annotate.pool_refiner import PoolRefiner
from graphfsl.apply.annotate.sample_files import UNKNOWN, SampleFiles, in_words
from graphfsl.apply.label.pool_files import Pool
from graphfsl.io.errors import InputError, require

LISTED = 200  # tiles of one request, and classes
MOST_AUDITED = 2000
PAUSE = 0.5  # seconds between two times that answers are written elsewhere
OURSELVES = "graphfsl"  # who follows a file that moved
MOST_MARKS = 20_000  # of one answer
DEALT_VIEWS = ("next", "unlabelled")  # where a sample comes up by itself, not looked up
LOOKED_UP = ("class", "labelled", "mine", "skipped", "doubted", "disagreed", "like", "copies")
VIEWS = (*DEALT_VIEWS, *LOOKED_UP, "audit")
AS_FOUND = ("mine", "skipped", "doubted", "disagreed", "like", "copies", "audit")  # their order
UNLABELLED, OF_NONE = -2, -1  # beside the numbers of classes


class Conflict(Exception):
    """An answer to a sample that the same person has answered elsewhere meanwhile."""

    def __init__(self, samples: list[int]) -> None:
        super().__init__("answered in another tab meanwhile")
        self.samples = samples


@dataclass(frozen=True)
class State:
    """Predictions, and up to which event they hold.

    Attributes:
        predictions: None before two classes have a label.
        event: the last event that they know, -1 before any are made.
        seconds: how long they took.
        refined: whether the refiner has had its turn, and what the page says of it.
        number: which state it is; it grows.
    """

    predictions: Predictions | None = None
    event: int = -1
    seconds: float = 0.0
    refined: str | None = None
    number: int = 0


class Workbench:
    """A pool that people label, and what is known of it.

    Answers go into the store before a call returns. Predictions and the order in which samples are
    dealt are computed by threads of their own, which `start` starts.

    Args:
        pool: of images.
        store: of the answers.
        users: who labels.
        twice: the share of samples that two people are asked.
        now: the clock, in seconds.
        refiner: betters what propagation says, while nobody answers; None where there is none.
        why: the page's words where there is none.
    """

    def __init__(
        self,
        pool: Pool,
        store: AnswerStore,
        users: Sequence[str],
        twice: float = 0.1,
        now: Callable[[], float] = time.time,
        refiner: PoolRefiner | None = None,
        why: str = "",
    ) -> None:
        self.pool, self.store, self.users = pool, store, list(users)
        self.lock = threading.RLock()
        self.place = {name: i for i, name in enumerate(pool.names)}
        self.files = SampleFiles(pool)
        self._by_request: dict[str, Event] = {}
        self._hidden = -1, frozenset[int]()  # up to which event `_blind` is known, and what it is
        self.model: PoolModel | None = None
        self.refiner, self._why = refiner, why
        self.state = State()
        self.failure = ""  # of a thread
        self.notices: list[str] = []
        self._unwritten: list[str] = []  # why answers are not written elsewhere
        self.curve = statistics.Changes()
        self._events: list[Event] = list(store.events())
        self.answers = Answers.of(self._events)
        self._follow_moved_files()
        self.notices += self.files.compare(self.answers)
        self.given = np.full(len(pool.names), UNLABELLED, np.int64)
        self._fill_given()
        self.dealer = Dealer(pool.names, store, self.users, twice, now)
        self._changed = threading.Condition(self.lock)
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._write_elsewhere: Callable[[Workbench], None] | None = None
        self._written = -1  # the event up to which answers are written elsewhere

    def _follow_moved_files(self) -> None:
        """Answers go with a file that has another path now: an event says so."""
        moved = self.files.moved(self.answers)
        for old, new in moved.items():
            event = self.store.add(OURSELVES, "move", body={"from": old, "to": new})
            assert event is not None
            self._events.append(event)
            self.answers.take(event)
        if moved:
            old, new = next(iter(moved.items()))
            self.notices.append(
                f"{in_words(len(moved))} moved after being answered, and the answers went along: "
                f"{old} is {new} now"
            )

    # Threads

    def start(self, write: Callable[[Workbench], None] | None = None) -> None:
        """Begin to predict and to order, in the background.

        Args:
            write: called a while after answers changed, to write them elsewhere too.
        """
        self._write_elsewhere = write
        for work in (self._keep_predicting, self._keep_writing):
            self._begin(work)

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """End the threads; what they were at is lost, and no answer is."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=60)

    def settled(self, timeout: float = 60) -> bool:
        """Wait until predictions know the last answer and samples are ordered."""
        with self._changed:
            return self._changed.wait_for(
                lambda: bool(self.failure) or (self._is_ready and self.dealer.is_ordered), timeout
            )

    @property
    def _is_ready(self) -> bool:
        """Whether the predictions that are shown know the last answer, and nothing betters them."""
        return self.state.event == self.answers.last and not self._is_refining

    @property
    def _is_refining(self) -> bool:
        state = self.state
        return None not in (self.refiner, state.predictions) and state.refined is None

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # the page goes on without, and says so
            with self._changed:
                self.failure = f"{type(error).__name__}: {error}"
                self._changed.notify_all()

    def _keep_predicting(self) -> None:
        self.model = PoolModel(self.pool.x)
        self._begin(self._keep_ordering)
        if self.refiner is not None:
            self._begin(self._keep_refining)
        while self._wait(lambda: self.state.event != self.answers.last):
            with self.lock:
                labels, event = self._labels(), self.answers.last
            start = time.perf_counter()
            predictions = self.model.predict(labels)
            seconds = time.perf_counter() - start
            with self._changed:
                self.state = State(predictions, event, seconds, number=self.state.number + 1)
                self.curve.take(predictions, len(labels), self.given == UNLABELLED)
                self._changed.notify_all()

    def _wait(self, wanted: Callable[[], bool]) -> bool:
        """Wait until something is to be done; False where the bench stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or wanted())
            return not self._stopped

    def _keep_refining(self) -> None:
        """Refine the last predictions once nobody has answered for a while."""
        assert self.refiner is not None
        while self._wait(lambda: self._is_ready_to_refine):
            with self._changed:
                state, labels = self.state, self._labels()
                came_more = self._changed.wait_for(partial(self._is_behind, state), PAUSE)
            if came_more or state.predictions is None:
                continue
            wanted = partial(self._is_current, state)
            found = self.refiner.refine(state.predictions, labels, wanted)
            with self._changed:
                if found is not None and self.state is state:  # else newer answers go first
                    predictions = found.predictions or state.predictions
                    self.state = replace(
                        state, predictions=predictions, refined=found.words, number=state.number + 1
                    )
                    self._changed.notify_all()

    def _is_current(self, state: State) -> bool:
        return not self._is_behind(state)

    def _is_behind(self, state: State) -> bool:
        return self._stopped or self.answers.last != state.event

    @property
    def _is_ready_to_refine(self) -> bool:
        return self._is_refining and self.state.event == self.answers.last

    def _keep_ordering(self) -> None:
        assert self.model is not None
        order = self.model.order()
        while self._wait(lambda: self.dealer.wants_more):
            with self.lock:
                labelled = np.flatnonzero(self.given != UNLABELLED)
            order.cover(labelled)
            more = order.next(AT_ONCE)
            with self._changed:
                self.dealer.extend(more.tolist())
                self._changed.notify_all()

    def _keep_writing(self) -> None:
        while self._wait(lambda: self._written != self.answers.last):
            self._write_once()
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, PAUSE)
        if self._written != self.answers.last:
            self._write_once()

    def _write_once(self) -> None:
        if self._write_elsewhere is None:
            return
        event = self.answers.last
        try:
            self._write_elsewhere(self)
            self._unwritten = []
        except InputError as error:  # the store has all of it
            self._unwritten = [str(error)]
        self._written = event

    def _labels(self) -> dict[int, Label]:
        found = {}
        for name, answer, value in self.answers.labels():
            place = self.place.get(name)
            if place is not None and self.files.holds(name):
                found[place] = Label(value, answer.how in ("single", "audit"))
        return found

    # Answers

    def answer(
        self,
        user: str,
        answers: list[dict[str, Any]],
        view: str = "next",
        audit: int | None = None,
        bulk: bool = False,
        request: str | None = None,
    ) -> list[int]:
        """Write what a person answered; on the disk when this returns.

        Args:
            user: who.
            answers: each with `n`, the sample, `value`, and `seen`, the number of the person's own
                last answer to it as the page knows it, 0 for none.
            view: where it was answered.
            audit: the audit that it belongs to.
            bulk: whether guesses were accepted, be it of one sample.
            request: a name of this request; what comes twice counts once.

        Returns:
            The samples.

        Raises:
            InputError: for an answer that cannot be; nothing is written.
            Conflict: where another tab has answered meanwhile; nothing is written.
            NotStored: where it cannot be written.
        """
        require(
            isinstance(answers, list) and all(isinstance(one, dict) for one in answers),
            "answers must be a list of objects, each with a sample and a value",
        )
        require(answers, "an answer names a sample")
        require(len(answers) <= MOST_MARKS, f"at most {MOST_MARKS:,} samples at once")
        require(view in VIEWS, f"view must be one of {', '.join(VIEWS)}")
        with self._changed:
            samples = [self._sample(answer.get("n")) for answer in answers]
            require(len(set(samples)) == len(samples), "a sample stands in an answer twice")
            for answer in answers:
                self._check_value(answer.get("value"))
            others = [
                n
                for n, answer in zip(samples, answers, strict=True)
                if self._seen(n, user) != answer.get("seen", 0)
            ]
            if others and not self._known(request):
                raise Conflict(others)
            how = self._how(user, samples, view, audit, bulk)
            body: dict[str, Any] = {"view": view}
            if how == "audit":
                body["audit"] = audit
            marks = [
                self._mark(n, str(answer["value"]))
                for n, answer in zip(samples, answers, strict=True)
            ]
            self._write(user, "answer", how, body, marks, request)
        return samples

    def undo(self, user: str, request: str | None = None) -> tuple[str, list[int]]:
        """Take back the last thing that a person did.

        Returns:
            What it was, and the samples of it.

        Raises:
            InputError: where there is nothing, or where others have built on it.
        """
        with self._changed:
            if self._known(request):
                return "undone already", []
            undone = {event.body["event"] for event in self._events if event.kind == "undo"}
            mine = (
                event
                for event in reversed(self._events)
                if event.user == user and event.kind != "undo" and event.id not in undone
            )
            event = next(mine, None)
            if event is None:
                raise InputError("there is nothing to undo")
            if event.kind == "class" and (users := self._use(str(event.body["class"]))):
                raise InputError(
                    f"{self._named(event.body['class'])} has {users:,} answers; delete the class "
                    "instead"
                )
            self._check_names_without(event)
            self._write(user, "undo", body={"event": event.id}, request=request)
            samples = [self.place[m.sample] for m in event.marks if m.sample in self.place]
            return self._told(event), samples

    def _check_names_without(self, event: Event) -> None:
        """InputError where undoing an event gives two classes one name."""
        if event.kind not in ("rename", "merge", "delete"):
            return
        undo = Event(self.answers.last + 1, event.at, event.user, "undo", body={"event": event.id})
        counts = Counter(Answers.of([*self._events, undo]).classes.values())
        twice = next((name for name, count in counts.items() if count > 1), None)
        require(
            twice is None,
            f"there is another class {twice!r} meanwhile; rename that one, or merge the two",
        )

    def change_class(self, user: str, action: str, request: str | None = None, **body: Any) -> str:
        """Make, rename, merge or delete a class.

        Args:
            user: who.
            action: "class", "rename", "merge" or "delete".
            request: as in `answer`.
            body: `name` of a new class; `class` and `name`; `class` and `into`; `class`.

        Returns:
            The class that it is about, or that it became.

        Raises:
            InputError: where there is no such class, or the name cannot be.
        """
        with self._changed:
            classes = self.answers.classes
            own = body.get("class")
            if self._known(request):
                return self._made(str(request)) or str(own)
            if action == "class":
                name = class_name(body.get("name"), classes)
                own = self._next_class()
                self._write(user, "class", body={"class": own, "name": name}, request=request)
                return own
            require(isinstance(own, str) and own in classes, f"there is no class {own!r}")
            own = str(own)
            if action == "rename":
                name = class_name(body.get("name"), classes, own)
                self._write(user, "rename", body={"class": own, "name": name}, request=request)
                return own
            if action == "merge":
                into = str(body.get("into"))
                require(
                    into in classes and into != own,
                    f"{own!r} can be merged into another class only, not into {into!r}",
                )
                self._write(user, "merge", body={"class": own, "into": into}, request=request)
                return into
            require(
                action == "delete", "a class is made, renamed, merged or deleted, and nothing else"
            )
            self._write(user, "delete", body={"class": own}, request=request)
            return own

    def audit(self, user: str, count: int, request: str | None = None) -> int:
        """Draw samples at random, to be answered blind, and keep what is predicted of them now.

        Returns:
            The number of the audit.

        Raises:
            InputError: where nothing is predicted yet, or no sample is left.
        """
        with self._changed:
            require(
                isinstance(count, int) and 1 <= count <= MOST_AUDITED,
                f"an audit asks for 1 to {MOST_AUDITED:,} samples",
            )
            predictions = self.state.predictions
            if predictions is None or self.state.event != self.answers.last:
                raise InputError(
                    "nothing is predicted yet: label two classes first, and wait for predictions"
                )
            free = [int(n) for n in np.flatnonzero(self.given == UNLABELLED)]
            free = [n for n in free if not self.answers.latest.get(self.pool.names[n])]
            require(free, "every sample has an answer: there is nothing to audit")
            drawn = random.SystemRandom().sample(free, min(count, len(free)))
            guesses = {self.pool.names[n]: self.guess(n, answered=True)[0] for n in drawn}
            body = {"guesses": guesses, "population": len(free)}
            self._write(user, "audit", body=body, request=request)
            return max(self.answers.audits)

    def _write(
        self,
        user: str,
        kind: str,
        how: str = "",
        body: dict[str, Any] | None = None,
        marks: Sequence[Mark] = (),
        request: str | None = None,
    ) -> None:
        event = self.store.add(user, kind, how, body, marks, request)
        if event is None:  # it came twice
            return
        self._events.append(event)
        if request is not None:
            self._by_request[request] = event
        if kind == "undo":
            self.answers = Answers.of(self._events)
        else:
            self.answers.take(event)
        for mark in marks:
            self.files.answered(mark)
        self._fill_given([mark.sample for mark in marks] if kind == "answer" else None)
        self._changed.notify_all()

    def _known(self, request: str | None) -> bool:
        return request is not None and request in self._by_request

    def _made(self, request: str) -> str | None:
        return self._by_request[request].body.get("class")

    def _next_class(self) -> str:
        numbers = [int(e.body["class"][1:]) for e in self._events if e.kind == "class"]
        return f"c{max(numbers, default=-1) + 1}"

    def _sample(self, n: Any) -> int:
        require(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n < len(self.pool.names),
            f"there is no sample {n!r:.40}; samples are 0 to {len(self.pool.names) - 1}",
        )
        return int(n)

    def _check_value(self, value: Any) -> None:
        require(
            isinstance(value, str)
            and (value in (NONE, SKIP, CLEAR) or value in self.answers.classes),
            f"{value!r:.40} is no class, and not none, skip or clear",
        )

    def _seen(self, n: int, user: str) -> int:
        answer = self.answers.latest.get(self.pool.names[n], {}).get(user)
        return 0 if answer is None else answer.event

    def _how(
        self, user: str, samples: Sequence[int], view: str, audit: int | None, bulk: bool
    ) -> str:
        if audit is not None:
            asked = self.open_audit()
            names = [self.pool.names[n] for n in samples]
            fits = asked is not None and asked.event == audit and len(samples) == 1
            require(
                fits and asked is not None and names[0] in asked.guesses,
                "this sample is not asked by the audit that is open",
            )
            again = any(self.answers.own(name, user) for name in names)
            return "correction" if again else "audit"
        if len(samples) > 1 or bulk:
            return "bulk"
        again = self.answers.own(self.pool.names[samples[0]], user) is not None
        return "correction" if again or view not in DEALT_VIEWS else "single"

    def _mark(self, n: int, value: str) -> Mark:
        if value == SKIP and self.files.is_gone(n):
            return Mark(self.pool.names[n], UNKNOWN, 0, value)
        content, size = self.files.content(n)
        guess, score = self.guess(n, answered=True)
        return Mark(self.pool.names[n], content, size, value, guess, score)

    def _use(self, name: str) -> int:
        """How many samples have an answer of a class."""
        resolved = self.answers.resolved
        return sum(
            resolved(answer.value) == name
            for answers in self.answers.latest.values()
            for answer in answers.values()
        )

    def _fill_given(self, samples: Iterable[str] | None = None) -> None:
        if samples is None:
            self.given[:] = UNLABELLED
            samples = list(self.answers.latest)
        for name in samples:
            place = self.place.get(name)
            if place is None:
                continue
            answer = self.answers.label(name)
            number = UNLABELLED
            if answer is not None and self.files.holds(name):
                value = self.answers.resolved(answer.value)
                number = OF_NONE if value == NONE else int(str(value)[1:])
            self.given[place] = number

    # What is shown

    def guess(self, n: int, answered: bool = False) -> tuple[str | None, float | None]:
        """What is predicted of a sample, as a class or "none", and its score.

        Args:
            n: the sample.
            answered: whether it is asked for samples with a label, too.
        """
        found = self.state.predictions
        if found is None or (not answered and self.given[n] != UNLABELLED):
            return None, None
        if found.answer[n] >= 0:
            value = self.answers.resolved(found.classes[found.answer[n]])
            return value, round(float(found.score[n]), 4)
        return (NONE, None) if found.best[n] >= 0 else (None, None)

    def open_audit(self) -> Audit | None:
        """The last audit while some of its samples are not answered; else None."""
        if not self.answers.audits:
            return None
        audit = self.answers.audits[max(self.answers.audits)]
        return audit if self._left(audit) else None

    def _left(self, audit: Audit) -> list[int]:
        """Samples that an audit still asks; not those that somebody has answered elsewhere."""
        over = self.answers.audited.get(audit.event, {}).keys() | self.answers.elsewhere(audit)
        left = [name for name in audit.guesses if name in self.place and name not in over]
        return [self.place[name] for name in left]

    def tile(self, n: int, user: str, view: str = "next") -> dict[str, Any]:
        """What the page shows of a sample.

        Guesses and other people's answers are left out where they would lead an answer: guesses in
        an audit, others' answers where samples are dealt.
        """
        name = self.pool.names[n]
        own = self.answers.latest.get(name, {}).get(user)
        shown = {
            "n": n,
            "name": name,
            "v": self.files.version(n),
            "own": None if own is None else self.answers.resolved(own.value),
            "seen": 0 if own is None else own.event,
            "how": None if own is None else own.how,
        }
        if view != "audit" and n not in self._blind():
            guess, score = self.guess(n)
            shown |= {"guess": guess, "score": score}
        if view not in (*DEALT_VIEWS, "audit"):
            shown["others"] = {
                other: value
                for other, value in self.answers.opinions(name).items()
                if other != user
            }
            doubt = self.state.predictions and self.state.predictions.doubted.get(n)
            if doubt:
                shown["doubt"] = {"says": doubt[0], "p": round(doubt[1], 3)}
        return shown

    def deal(self, user: str, count: int, shown: Sequence[int] = ()) -> list[dict[str, Any]]:
        """The next samples for somebody, who has them for a while.

        Args:
            user: who.
            count: how many, at the most.
            shown: samples that the page has already.
        """
        require(isinstance(count, int), "count must be a whole number")
        with self.lock:
            count = min(max(count, 1), LISTED)
            left_out = {*self._blind(), *(n for n in shown if isinstance(n, int))}
            samples = self.dealer.deal(
                user, count, self.answers, left_out, self.given != UNLABELLED
            )
            return [self.tile(n, user) for n in samples]

    def _blind(self) -> frozenset[int]:
        """Samples of an open audit, whose guesses nobody may see."""
        event, blind = self._hidden
        if event != self.answers.last:
            audit = self.open_audit()
            names = audit.guesses if audit else {}
            blind = frozenset(self.place[name] for name in names if name in self.place)
            self._hidden = self.answers.last, blind
        return blind

    def grid(
        self,
        user: str,
        view: str,
        of: str | None = None,
        order: str = "sure",
        low: float = 0.0,
        high: float = 1.0,
        sample: int | None = None,
        offset: int = 0,
        limit: int = 60,
    ) -> dict[str, Any]:
        """The samples of a view.

        Args:
            user: who looks.
            view: one of VIEWS but "next".
            of: only samples with this class, given or predicted; "none" too.
            order: "sure" or "unsure", by the score.
            low: only scores from here; labels count as 1.
            high: only scores up to here.
            sample: of "like" and "copies", the one that others are compared with.
            offset: how many are passed over.
            limit: how many there are at the most.

        Raises:
            InputError: for a view that is none.
        """
        with self.lock:
            require(view in VIEWS and view != "next", f"view must be one of {', '.join(VIEWS)}")
            found = self._found(user, view, sample)
            found = self._filtered(found, view, of, low, high)
            blind = self._blind()
            if blind and view != "audit":
                found = found[~np.isin(found, np.fromiter(blind, np.int64))]
            found = self._ordered(found, view, order)
            limit = min(max(int(limit), 1), LISTED)
            some = found[max(int(offset), 0) :][:limit]
            return {"total": len(found), "tiles": [self.tile(int(n), user, view) for n in some]}

    def _found(self, user: str, view: str, sample: int | None) -> np.ndarray:
        everyone = np.arange(len(self.pool.names))
        labelled = self.given != UNLABELLED
        if view == "class":
            return everyone
        if view == "unlabelled":
            return np.flatnonzero(~labelled)
        if view == "labelled":
            return np.flatnonzero(labelled)
        if view in ("like", "copies"):
            n = self._sample(sample)
            if self.model is None:
                return everyone[:0]
            near = self.model.nearest if view == "like" else self.model.copies
            return np.concatenate([[n], near(n, LISTED)]).astype(np.int64)
        if view == "doubted":
            predictions = self.state.predictions
            doubted = predictions.doubted if predictions else {}
            return np.array([n for n in doubted if labelled[n]], np.int64)
        if view == "audit":
            return self._asked()
        kept: list[tuple[int, int]] = []
        for name, answers in self.answers.latest.items():
            place, own = self.place.get(name), self.answers.own(name, user)
            value = None if own is None else self.answers.resolved(own.value)
            wanted = {
                "mine": value not in (None, SKIP),
                "skipped": value == SKIP,
                "disagreed": self.answers.disagrees(name),
            }[view]
            if place is not None and wanted:
                kept.append((max(a.event for a in answers.values()), place))
        return np.array([place for _, place in sorted(kept, reverse=True)], np.int64)

    def _asked(self) -> np.ndarray:
        audit = self.open_audit()
        if audit is None:
            return np.empty(0, np.int64)
        return np.array(self._left(audit), np.int64)

    def _filtered(
        self, found: np.ndarray, view: str, of: str | None, low: float, high: float
    ) -> np.ndarray:
        kind, score = self._kinds(), self._scores()
        if of is not None and of != "":
            require(of == NONE or of in self.answers.classes, f"there is no class {of!r:.40}")
            found = found[kind[found] == (OF_NONE if of == NONE else int(of[1:]))]
        if view != "audit" and (low > 0 or high < 1):
            found = found[(score[found] >= low) & (score[found] <= high)]
        return found

    def _ordered(self, found: np.ndarray, view: str, order: str) -> np.ndarray:
        if view in AS_FOUND:
            return found
        score = self._scores()[found]
        labelled = self.given[found] != UNLABELLED
        sign = 1 if order == "unsure" else -1
        rank = np.lexsort((sign * score, labelled))  # labels last, since they are certain
        return np.asarray(found[rank])

    def _kinds(self) -> np.ndarray:
        """(n,) of each sample the number of its class, given or else predicted."""
        kind = self.given.copy()
        predictions = self.state.predictions
        if predictions is not None:
            numbers = [self._number_of(name) for name in predictions.classes]
            table = np.array([*numbers, OF_NONE])
            free = (kind == UNLABELLED) & (predictions.best >= 0)
            kind[free] = table[predictions.answer[free]]
        return kind

    def _number_of(self, name: str) -> int:
        value = self.answers.resolved(name)
        return UNLABELLED if value is None else int(value[1:])

    def _scores(self) -> np.ndarray:
        """(n,) 1 of what has a label, else the score of the prediction."""
        predictions = self.state.predictions
        score = np.zeros(len(self.given)) if predictions is None else predictions.score.copy()
        score[self.given != UNLABELLED] = 1
        return score

    def summary(self, user: str, bar: float = 0.9) -> dict[str, Any]:
        """How far the pool is, in numbers and words."""
        with self.lock:
            predictions = self.state.predictions
            labelled = self.given != UNLABELLED
            kind, score = self._kinds(), self._scores()
            sure = ~labelled & (kind >= 0) & (score >= bar)
            return {
                "user": user,
                "users": self.users,
                "samples": len(self.given),
                "labelled": int(labelled.sum()),
                "sure": int(sure.sum()),
                "bar": bar,
                "called": "confidence" if predictions and predictions.borne_out else "score",
                "held_out": predictions.held_out if predictions else 0,
                "classes": len(self.answers.classes),
                "first": self.classes(limit=LISTED),
                "skipped": self._count_skipped(user),
                "doubted": sum(bool(labelled[n]) for n in predictions.doubted)
                if predictions
                else 0,
                "disagreed": sum(map(self.answers.disagrees, self.answers.latest)),
                "event": self.answers.last,
                "state": self._state_in_words(),
                "ready": self._is_ready,
                "shown": self.state.number,
                "plateau": self.curve.told(),
                "audit": statistics.audit_told(self.answers, self.open_audit()),
                "agreement": statistics.agreement(self.answers),
                "notices": [*self.notices, *self._unwritten],
                "unreadable": len(self.pool.unreadable),
                "screen": self.store.screen(user),
            }

    def classes(self, text: str = "", limit: int = 50) -> list[dict[str, Any]]:
        """The classes whose names hold a text, those that begin with it first.

        Each has its key, "1" to "9" for the first nine, and counts of labels and predictions.
        """
        with self.lock:
            text = text.casefold().strip()
            kinds = self._kinds()
            most = max((int(c[1:]) for c in self.answers.classes), default=0) + 1
            given = np.bincount(self.given[self.given >= 0], minlength=most)
            every = np.bincount(kinds[kinds >= 0], minlength=most)
            found = []
            for position, (own, name) in enumerate(self.answers.classes.items()):
                if text in name.casefold():
                    found.append((not name.casefold().startswith(text), position, own, name))
            shown = []
            for _, position, own, name in sorted(found)[: min(max(limit, 1), LISTED)]:
                number = int(own[1:])
                shown.append(
                    {
                        "class": own,
                        "name": name,
                        "key": str(position + 1) if position < 9 else "",
                        "given": int(given[number]),
                        "predicted": int(every[number] - given[number]),
                    }
                )
            return shown

    def keep_screen(self, user: str, screen: Mapping[str, Any]) -> None:
        """Remember what somebody sees, for the next start."""
        samples = [self._sample(n) for n in screen.get("samples", [])][:LISTED]
        names = [self.pool.names[n] for n in samples]
        cursor = screen.get("cursor", 0)
        require(isinstance(cursor, int), "cursor must be a number")
        self.store.keep_screen(user, {"names": names, "cursor": cursor})

    def restored(self, user: str) -> dict[str, Any]:
        """The screen that somebody saw last, with its samples as they are now."""
        with self.lock:
            screen = self.store.screen(user) or {}
            names = [name for name in screen.get("names", []) if name in self.place]
            blind = self._blind()
            samples = [self.place[name] for name in names if self.place[name] not in blind]
            tiles = [self.tile(n, user) for n in samples]
            return {"tiles": tiles, "cursor": screen.get("cursor", 0)}

    def history(self, limit: int = 50) -> list[dict[str, Any]]:
        """The last events, in words, the newest first."""
        with self.lock:
            undone = {event.body["event"] for event in self._events if event.kind == "undo"}
            return [
                {
                    "id": event.id,
                    "at": event.at,
                    "user": event.user,
                    "what": self._told(event),
                    "undone": event.id in undone,
                }
                for event in reversed(self._events[-limit:])
            ]

    def _state_in_words(self) -> str:
        if self.failure:
            return f"Predictions stopped ({self.failure}). Answers are kept; start again."
        if self.model is None:
            return "The graph of the pool is being built. Samples come at random until then."
        behind = self.answers.last - max(self.state.event, 0)
        if self.state.predictions is None:
            if behind:
                return "Predictions are being computed."
            return "Nothing is predicted yet: label samples of two classes."
        done = f"Predictions from {self.state.predictions.used:,} labels"
        if behind:
            return f"{done}, propagated; {behind:,} newer steps are being added."
        if self.refiner is None:
            return f"{done}, propagated. {self._why}".strip()
        if self.state.refined is None:
            return f"{done}, propagated; {self.refiner.name} is refining them."
        shown = "refined" if self.state.predictions.refined else "propagated"
        return f"{done}, {shown}: {self.state.refined}."

    def _count_skipped(self, user: str) -> int:
        return sum(
            user in answers and answers[user].value == SKIP
            for answers in self.answers.latest.values()
        )

    def _named(self, value: Any) -> str:
        words = {NONE: "none of these", SKIP: "skipped", CLEAR: "cleared"}
        if value in words:
            return words[value]
        made = (e for e in reversed(self._events) if e.body.get("class") == value)
        named = next((e.body["name"] for e in made if "name" in e.body), value)
        return f"“{self.answers.classes.get(str(value), named)}”"

    def _told(self, event: Event) -> str:
        """An event in words."""
        body = event.body
        if event.kind == "answer":
            values = {mark.value for mark in event.marks}
            what = self._named(values.pop()) if len(values) == 1 else "several classes"
            one = event.marks[0].sample
            of = one if len(event.marks) == 1 else f"{len(event.marks):,} samples"
            return f"{of}: {what} ({event.how})"
        if event.kind == "class":
            return f"new class “{body['name']}”"
        if event.kind == "rename":
            return f"a class renamed to “{body['name']}”"
        if event.kind == "merge":
            return f"{self._named(body['class'])} merged into {self._named(body['into'])}"
        if event.kind == "delete":
            return f"class {self._named(body['class'])} deleted"
        if event.kind == "move":
            return f"{body['from']} is {body['to']} now"
        if event.kind == "audit":
            return f"an audit of {len(body['guesses']):,} samples begun"
        return f"step {body['event']} undone"

    def given_answers(self) -> list[tuple[str, Answer, str]]:
        """(sample, answer, name of the class or "") of every label whose file is as it was."""
        with self.lock:
            found = []
            for name, answer, value in self.answers.labels():
                if name in self.place and self.files.holds(name):
                    found.append((name, answer, self.answers.classes.get(value, "")))
            return sorted(found, key=lambda row: row[0])
