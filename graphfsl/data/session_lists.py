"""`SessionList`: which classes come in which session, and of which of their images.

A list is a JSON file, one of data/sessions/ or a user's own:

    {"sessions": [{"Gurmukhi/character01": "......ss...sss.qqqqqq", …}, …]}

The first session is the base session. Each class of it stands beside a letter for each of its
samples, in their order: s where the sample may be support, q where it may be a query, and a dot
where it is neither. A session that is a list of names leaves that to chance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphfsl.data.split import Split
from graphfsl.io.errors import InputError, require
from graphfsl.io.package_data import class_list

SUPPORT, QUERY, NEITHER = "s", "q", "."


@dataclass(frozen=True)
class SessionList:
    """Classes in the order in which they come.

    Args:
        name: of the list, for messages.
        sessions: the classes of each session, the base session first.
        letters: class -> a letter for each of its samples; classes by name alone are not in it.
    """

    name: str
    sessions: tuple[tuple[str, ...], ...]
    letters: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, in the order in which they come."""
        return tuple(name for session in self.sessions for name in session)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many base classes, later sessions and classes of each of these there are."""
        return len(self.sessions[0]), len(self.sessions) - 1, len(self.sessions[1])

    @property
    def queries(self) -> int | None:
        """The fewest samples that are marked as queries of a class; None where no class is."""
        return min((text.count(QUERY) for text in self.letters.values()), default=None)

    def columns(self, split: Split) -> list[int]:
        """The split's number of each class, in the order in which they come.

        Raises:
            InputError: for a class that the split does not have.
        """
        number = {name: i for i, name in enumerate(split.classes)}
        missing = [name for name in self.classes if name not in number]
        require(
            not missing,
            f"{self.name} names {len(missing)} classes that {split.name} has not, "
            f"{(missing or ['none'])[0]!r} first; its own are such as {split.classes[0]!r}",
        )
        return [number[name] for name in self.classes]


def read_session_list(order: str) -> SessionList:
    """A list by its name below data/sessions, or a user's own JSON file.

    Raises:
        InputError: for a file that is no such list, and where a class comes twice.
    """
    path = Path(order)
    if path.suffix != ".json":
        return _checked(order, class_list(f"sessions/{order}"))
    try:
        found = json.loads(path.read_bytes(), object_pairs_hook=_without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{order} is no list of sessions that can be read ({error})") from None
    return _checked(order, found)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of a JSON file; ValueError where a name comes twice, of which one would be lost."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} comes twice in one mapping")
    return dict(pairs)


def _checked(name: str, found: Any) -> SessionList:
    """The list that a file holds; InputError where it is none."""
    sessions: Any = found.get("sessions") if isinstance(found, Mapping) else None
    right = isinstance(sessions, list) and len(sessions) >= 2 and all(sessions)
    kinds = right and all(isinstance(session, (list, Mapping)) for session in sessions)
    require(
        kinds,
        f'{name} must be {{"sessions": […]}} of 2 sessions or more, each a list of classes or a '
        "mapping of classes to a letter for each sample (s, q or .)",
    )
    letters: dict[str, str] = {}
    first: dict[str, int] = {}  # the session of each class
    for number, session in enumerate(sessions):
        for given in session:
            known = str(given)
            require(
                known not in first,
                f"{name}: class {known!r} stands in session {first.get(known)} and in session "
                f"{number}; a class comes once",
            )
            first[known] = number
            if isinstance(session, Mapping):
                letters[known] = _letters(name, known, session[given])
    require(
        len(sessions[0]) >= 2,
        f"{name}: the base session has one class, and two are needed to tell apart",
    )
    sizes = [len(session) for session in sessions[1:]]
    require(
        len(set(sizes)) == 1,
        f"{name}: all sessions but the first must have as many classes, not {sizes}",
    )
    return SessionList(name, tuple(tuple(map(str, session)) for session in sessions), letters)


def _letters(name: str, known: str, text: Any) -> str:
    """What is said of the samples of a class; InputError where it is none of the letters."""
    right = isinstance(text, str) and set(text) <= {SUPPORT, QUERY, NEITHER}
    require(
        right,
        f"{name}: class {known!r} must have a letter for each sample, s, q or ., not {text!r:.60}",
    )
    require(
        {SUPPORT, QUERY} <= set(text),
        f"{name}: class {known!r} needs a sample s and a sample q at least, not {text!r:.60}",
    )
    return str(text)
