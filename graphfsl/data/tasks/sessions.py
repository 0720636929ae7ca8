"""Class-incremental sessions: base classes, then session after session a few new ones.

After each session a learner answers with all classes seen so far, and of old classes it has nothing
but the mean feature and how many samples that is of. Sessions are a pure function of (data set,
split, options, seed, i), independent of batch, worker and device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core import task
from graphfsl.core.arguments import whole_number
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Answer, Caption, Demands, Draws, Metric, Normalise, Task
from graphfsl.data.deck import Deck
from graphfsl.data.session_lists import QUERY, SUPPORT, SessionList, read_session_list
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    CLASSES,
    IMAGES,
    QUERIES,
    QUERY_ORDER,
    choose,
    episode_numbers,
    keys_of,
    uniform,
)
from graphfsl.functional import sessions as of_sessions
from graphfsl.functional.statistics import accuracy
from graphfsl.io.errors import require

__all__ = ["Sessions"]


@dataclass(frozen=True)
class Draw(task.Draw):
    """Which samples make B sessions.

    Args:
        ids: (B, n) the samples behind the classes of all sessions, in the order of the columns, and
            behind them the queries in random order; -1 where the class is yet to come.
        label: (B, n) the class column of each, -100 where it is yet to come.
        classes: (B, C) the split's class of each column.
        session: (B,) the number of the session.
    """

    label: np.ndarray
    classes: np.ndarray
    session: np.ndarray


@dataclass(frozen=True)
class Sessions(Task):
    """Base classes, then session after session of `way` new classes of `shot` samples each.

    An episode is one session, and `sessions` + 1 of them in a row are a unit, of the same classes
    and samples. Its support holds a node for each old class, the mean of its samples with their
    number as weight, and `shot` nodes for each class of this session; base classes are old from the
    start. The queries are of all classes seen so far.

    Args:
        base: base classes.
        sessions: T, the sessions that follow.
        way: new classes of a session.
        shot: samples of a new class.
        base_shot: samples behind the mean of a base class; None takes `shot`.
        query: queries of a class, the same ones in every session.
        order: which classes come when, a list of data/sessions or a JSON file, see
            `graphfsl.data.session_lists`. The first unit has its order; in further ones the new
            classes come in other orders. None draws the classes of each unit.
    """

    unpublished: ClassVar = ("query",)
    columns: ClassVar = ("base", "sessions", "way", "shot", "base_shot", "query", "order")
    always_shown: ClassVar = ("base", "sessions", "way", "shot")
    shared: ClassVar = {"query": " queries per class"}
    curves: ClassVar = {"shot": ("shots", "samples of a new class")}
    captions: ClassVar = {
        "base": Caption("{} base classes", always=True),
        "sessions": Caption("{} sessions", always=True),
        "way": Caption("{}-way", always=True),
        "shot": Caption("{}-shot"),
        "base_shot": Caption("base classes of {} samples", "base classes of as many samples"),
    }
    diagnoses: ClassVar = ("curve", "matrix")
    draw_type: ClassVar = Draw

    base: int = 20
    sessions: int = 4
    way: int = 5
    shot: int = 5
    base_shot: int | None = None
    query: int = 6
    order: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("base", 2), ("sessions", 1), ("way", 1), ("shot", 1), ("query", 1)):
            number = whole_number(getattr(self, name), f"episode.{name}", least)
            object.__setattr__(self, name, number)
        if self.base_shot is not None:
            number = whole_number(self.base_shot, "episode.base_shot", 1)
            object.__setattr__(self, "base_shot", number)

    def __str__(self) -> str:
        """In words: "20 base classes, then 4 sessions of 5-way 5-shot, 6 queries of a class"."""
        return ", ".join([self.title, *self.details, f"{self.query} queries of a class"])

    @property
    def title(self) -> str:
        """Its name for people: "20 base classes, then 4 sessions of 5-way 5-shot"."""
        later = f"{self.sessions} sessions of {self.way}-way {self.shot}-shot"
        return f"{self.base} base classes, then {later}"

    @property
    def details(self) -> list[str]:
        """Where the classes come from, and what is behind base classes, where that is named."""
        found = {
            f"base classes of {self.base_shot} samples": self.base_shot is not None,
            f"order of {self.order}": self.order is not None,
        }
        return [text for text, value in found.items() if value]

    @property
    def size(self) -> tuple[int, ...]:
        """What tables are sorted by."""
        return self.base, self.sessions, self.way, self.shot, self.of_base

    @property
    def unit(self) -> int:  # type: ignore[override]
        """The sessions of a unit, the base session among them."""
        return self.sessions + 1

    @property
    def of_base(self) -> int:
        """The samples behind the mean of a base class."""
        return self.shot if self.base_shot is None else self.base_shot

    @property
    def classes(self) -> int:
        """C, the classes of all sessions."""
        return self.base + self.sessions * self.way

    @property
    def behind_support(self) -> int:
        """The samples that are shown for the support of a whole unit."""
        return self.base * self.of_base + self.sessions * self.way * self.shot

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        old = self.classes - self.way
        support = old + self.way * self.shot
        queries = self.classes * self.query
        return Demands(
            way=self.classes,
            nodes=support + queries,
            support=support,
            queries=queries,
            queries_per_class=self.query,
            keeps_features=True,
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The mean accuracy of the sessions, then what became of base and of new classes.

        All but the first are ratios of counts, see `graphfsl.functional.sessions`.
        """
        counted = partial(_counted, sessions=self.sessions)
        of_counts = {
            "performance drop": (of_sessions.performance_drop, False),
            "base accuracy": (of_sessions.base_accuracy, True),
            "novel accuracy": (of_sessions.novel_accuracy, True),
            "harmonic mean": (of_sessions.harmonic_mean, True),
            "backward transfer": (of_sessions.backward_transfer, True),
            "forgetting": (of_sessions.forgetting, False),
        }
        found = {"accuracy": Metric(_accuracy)}
        for name, (ratio, more_is_better) in of_counts.items():
            found[name] = Metric(counted, more_is_better=more_is_better, ratio=ratio)
        return found

    def draws(self, split: Split, seed: int) -> Draws:
        """What draws the sessions of a split.

        Raises:
            InputError: where the split has too few classes or samples, and where the list of
                `order` is of other sizes or names classes that the split has not.
        """
        return _Sampler(split, self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, Target]:
        """The sessions that a draw describes.

        Of features an old class is one node. While an encoder is trained there are images, of which
        no mean is a class's, so that each is a node of its own, with the same class means.
        """
        x = normalise(raw)
        behind = self.behind_support
        label = torch.from_numpy(draw.label).to(device)
        session = torch.from_numpy(draw.session).to(device)
        came = self.session_of_columns.to(device)
        there = came <= session[:, None]
        if x.ndim == 3:
            support, mask, w = self._condensed(x[:, :behind], session, came)
        else:
            support, mask = x[:, :behind], label[:, :behind] >= 0
            w = F.one_hot(label[:, :behind].clamp_min(0), self.classes) * mask.unsqueeze(-1)
        queries, asked = x[:, behind:], label[:, behind:]

        nodes = torch.cat([support, queries], 1)
        mask = torch.cat([mask, asked >= 0], 1)
        nodes = nodes * mask.view(*mask.shape, *(1,) * (nodes.ndim - 2))
        episode = Episode(
            nodes,
            F.pad(w.to(nodes.dtype), (0, 0, 0, queries.shape[1])),
            support.shape[1],
            queries.shape[1],
            mask,
            relabeled=False,
            session=came.where(there, -1),
        )
        ids = torch.full(mask.shape, -1, device=device)
        ids[:, episode.query] = torch.from_numpy(draw.ids[:, behind:]).to(device)
        classes = torch.from_numpy(draw.classes).to(device).where(there, -1)
        return episode, Target(asked, asked[:, :0], ids, classes)

    def _condensed(self, x: Tensor, session: Tensor, came: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The support of a session: means of old classes, then the samples of its new ones.

        Args:
            x: (B, m, d) the features behind the classes of all sessions.
            session: (B,) which it is.
            came: (C,) the session of each column.

        Returns:
            nodes (B, k, d), which of them are real (B, k), and their label weights (B, k, C).
        """
        base, new = x.split([self.base * self.of_base, self.sessions * self.way * self.shot], 1)
        of_base = base.unflatten(1, (self.base, self.of_base)).mean(2)
        of_new = new.unflatten(1, (self.sessions * self.way, self.shot)).mean(2)
        old = self.classes - self.way  # those of the last session never are
        means = torch.cat([of_base, of_new], 1)[:, :old]
        is_old = came[:old] < session[:, None].clamp_min(1)
        count = torch.full_like(came[:old], self.shot)
        count[: self.base] = self.of_base

        # where the samples of this session stand; in the base session there are none
        before = session.clamp_min(1) - 1
        place = torch.arange(self.way * self.shot, device=x.device)
        place = before[:, None] * self.way * self.shot + place
        shown = new.gather(1, place.unsqueeze(-1).expand(-1, -1, new.shape[-1]))
        is_shown = (session > 0)[:, None].expand_as(place)

        mask = torch.cat([is_old, is_shown], 1)
        column = torch.arange(old, device=x.device).expand(len(x), -1)
        column = torch.cat([column, self.base + place // self.shot], 1)
        weight = F.pad(count, (0, place.shape[1]), value=1) * mask
        w = x.new_zeros(*mask.shape, self.classes)
        w.scatter_(2, column.unsqueeze(-1), weight.unsqueeze(-1).to(w.dtype))
        return torch.cat([means, shown], 1), mask, w

    @property
    def session_of_columns(self) -> Tensor:
        """(C,) the session in which the class of each column comes."""
        later = torch.arange(1, self.sessions + 1).repeat_interleave(self.way)
        return torch.cat([torch.zeros(self.base, dtype=torch.long), later])

    def check_draw(self, draw: Draw, split: Split) -> None:
        """Refuse a list that contradicts itself or the labels of the split.

        Raises:
            ValueError: says how.
        """
        super().check_draw(draw, split)
        nodes = self.behind_support + self.classes * self.query
        if draw.ids.shape[1] != nodes or draw.label.shape != draw.ids.shape:
            raise ValueError("lists of unequal length")
        if draw.classes.shape != (len(draw.ids), self.classes):
            raise ValueError("lists of unequal length")
        if (draw.session != np.arange(len(draw.ids)) % self.unit).any():
            raise ValueError("sessions in another order than one after another")
        came = self.session_of_columns.numpy()
        column = draw.label.clip(0, self.classes - 1)
        real = draw.ids >= 0
        if (real != (draw.label >= 0)).any() or (came[column] > draw.session[:, None])[real].any():
            raise ValueError("a sample of a class that is yet to come")
        y = split.y.numpy()[draw.ids.clip(0)]
        if (y != np.take_along_axis(draw.classes, column, 1))[real].any():
            raise ValueError("a label that the split does not have")

    def diagnose(self, answers: Iterable[Answer], split: Split) -> dict[str, Any]:
        """The accuracy after each session, and on the classes of each session after each.

        Returns:
            curve and matrix, as `graphfsl.report.diagrams` plots them.
        """
        total = torch.zeros(2 * self.unit**2, dtype=torch.float64)
        for scores, target, episode in answers:
            assert isinstance(target, Target)
            total += _counted(scores, target, episode, self.sessions).sum(0).cpu()
        accuracies = of_sessions.session_accuracies(total)
        matrix = of_sessions.session_matrix(total)
        numbers = list(range(self.unit))
        # after session t there are no classes of later ones
        rows = [line[: t + 1] for t, line in enumerate(matrix.tolist())]
        shown = [[round(100 * v, 3) for v in row] for row in rows]
        return {
            "curve": {
                "x": numbers,
                "y": [round(100 * v, 3) for v in accuracies.tolist()],
                "across": "session",
                "up": "accuracy on all classes seen (%)",
            },
            "matrix": {
                "values": shown,
                "across": "classes of session",
                "down": "after session",
                "what": "accuracy (%)",
            },
        }


class _Sampler:
    """Draws the sessions of a split; `draw(i)` is a pure function of split, task, seed and i."""

    def __init__(self, split: Split, asked: Sessions, seed: int) -> None:
        self.name = split.name
        self.asked = asked
        self.seed = seed
        y = split.y.numpy()
        known = np.flatnonzero(y >= 0)
        self.support = self.query = Deck(known, y, len(split.classes))
        self.listed: np.ndarray | None = None  # the split's class of each column
        if asked.order is not None:
            order = read_session_list(asked.order)
            _check_sizes(order, asked)
            self.listed = np.array(order.columns(split))
            lettered = _letters_of_samples(order, split, self.listed)
            self.support = _deck_of(SUPPORT, lettered, y, len(split.classes))
            self.query = _deck_of(QUERY, lettered, y, len(split.classes))
            # classes whose queries are other samples than those of their support
            self.apart = np.array([name in order.letters for name in split.classes])
        else:
            self.apart = np.zeros(len(split.classes), bool)
            require(
                len(split.classes) >= asked.classes,
                f"{split.name} has {len(split.classes)} classes, but base {asked.base} + sessions "
                f"{asked.sessions} x way {asked.way} needs {asked.classes}; lower episode.base",
            )
        self._check_counts(split)

    def _check_counts(self, split: Split) -> None:
        """InputError where a class has too few samples."""
        asked = self.asked
        columns = np.arange(len(split.classes)) if self.listed is None else self.listed
        support = np.full(len(columns), max(asked.of_base, asked.shot))
        if self.listed is not None:
            support[: asked.base] = asked.of_base
            support[asked.base :] = asked.shot
        apart = self.apart[columns]
        wanted = support + np.where(apart, 0, asked.query)
        have = self.support.count[columns]
        short = int((have - wanted).argmin())
        require(
            have[short] >= wanted[short],
            f"{split.name}: class {split.classes[columns[short]]!r} has {have[short]} samples "
            f"for {wanted[short]} that are asked for; lower episode.shot, episode.base_shot or "
            "episode.query",
        )
        fewest = int(self.query.count[columns][apart].min(initial=asked.query))
        require(
            fewest >= asked.query,
            f"{asked.order} has {fewest} queries for a class; set episode.query={fewest}",
        )

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The sessions with the numbers i (B,)."""
        asked = self.asked
        numbers, session = np.divmod(episode_numbers(i), asked.unit)
        keys = keys_of(self.name, self.seed, numbers)
        classes = self._classes(keys, numbers)
        support, query = self._samples(keys, classes)

        column = np.arange(asked.classes)
        behind = np.concatenate(
            [
                np.repeat(column[: asked.base], asked.of_base),
                np.repeat(column[asked.base :], asked.shot),
            ]
        )
        order = np.argsort(uniform(keys, QUERY_ORDER, 1, query.shape[1])[:, 0], axis=1)
        asked_of = np.repeat(column, asked.query)[order]
        label = np.concatenate([np.tile(behind, (len(keys), 1)), asked_of], 1)
        ids = np.concatenate([support, np.take_along_axis(query, order, 1)], 1)
        there = asked.session_of_columns.numpy()[label] <= session[:, None]
        return Draw(np.where(there, ids, -1), np.where(there, label, -100), classes, session)

    def _classes(self, keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """(B, C) the split's class of each column; in the first unit of a list, as it says."""
        asked = self.asked
        if self.listed is None:
            count = np.full((len(keys), 1), len(self.support.count))
            return choose(count, uniform(keys, CLASSES, 1, asked.classes))[:, 0].astype(np.int64)
        new = asked.classes - asked.base
        shuffled = np.argsort(uniform(keys, CLASSES, 1, new)[:, 0], axis=1)
        place = np.where((numbers == 0)[:, None], np.arange(new), shuffled)
        base = np.tile(self.listed[: asked.base], (len(keys), 1))
        return np.concatenate([base, self.listed[asked.base :][place]], 1)

    def _samples(self, keys: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples behind the classes' support, and those of their queries, (B, …) each."""
        asked = self.asked
        most = max(asked.of_base, asked.shot)
        dealt = self.support.draw(classes, uniform(keys, IMAGES, asked.classes, most + asked.query))
        of_base = dealt[:, : asked.base, : asked.of_base].reshape(len(keys), -1)
        of_new = dealt[:, asked.base :, : asked.shot].reshape(len(keys), -1)
        used = np.where(np.arange(asked.classes) < asked.base, asked.of_base, asked.shot)
        place = (used[:, None] + np.arange(asked.query))[None]
        behind = np.take_along_axis(dealt, np.broadcast_to(place, (len(keys), *place.shape[1:])), 2)
        own = self.query.draw(classes, uniform(keys, QUERIES, asked.classes, asked.query))
        query = np.where(self.apart[classes][..., None], own, behind)
        return np.concatenate([of_base, of_new], 1), query.reshape(len(keys), -1)


def _check_sizes(order: SessionList, asked: Sessions) -> None:
    """InputError where a list is of other sizes than the task."""
    base, sessions, way = order.sizes
    right = f"episode.base={base} episode.sessions={sessions} episode.way={way}"
    require(
        (base, sessions, way) == (asked.base, asked.sessions, asked.way),
        f"{order.name} has {base} base classes and {sessions} sessions of {way}; set {right}",
    )


def _letters_of_samples(order: SessionList, split: Split, columns: np.ndarray) -> np.ndarray:
    """(N,) the letter of each sample of the split, "" where none is said.

    Raises:
        InputError: where a class has not as many samples as letters.
    """
    found = np.full(len(split.y), "", dtype="<U1")
    y = split.y.numpy()
    by_class = np.argsort(y, kind="stable")
    start = np.searchsorted(y[by_class], np.arange(len(split.classes) + 1))
    for name, column in zip(order.classes, columns, strict=True):
        if name not in order.letters:
            continue
        own = by_class[start[column] : start[column + 1]]
        text = order.letters[name]
        require(
            len(own) == len(text),
            f"{order.name} has {len(text)} letters for class {name!r}, but {split.name} has "
            f"{len(own)} samples of it",
        )
        found[own] = list(text)
    return found


def _deck_of(letter: str, letters: np.ndarray, y: np.ndarray, classes: int) -> Deck:
    """The samples with a letter, and all of the classes that have none."""
    own = np.flatnonzero((y >= 0) & ((letters == letter) | (letters == "")))
    return Deck(own, y, classes)


def _accuracy(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return accuracy(scores, target.query)


def _counted(scores: Tensor, target: Target, episode: Episode, sessions: int) -> Tensor:
    """The counts (B, 2 (T + 1)^2) of `session_sums`."""
    assert episode.session is not None
    column = target.query.clamp_min(0)
    came = episode.session.gather(1, column).where(target.query >= 0, -1)
    right = scores.argmax(-1) == target.query
    return of_sessions.session_sums(right, came, episode.session.amax(1), sessions)
