"""Episodes as a pure function of (data set, split, setting, seed, i): independent of batch, worker
and device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from graphfsl.core.arguments import A_SPLIT, check_kind, described, real_number, whole_number
from graphfsl.core.display import block
from graphfsl.core.schema import make
from graphfsl.data.deck import Deck, label_split
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    CLASSES,
    GROUPS,
    IMAGES,
    IMBALANCE,
    POOL,
    POOL_IMBALANCE,
    POOL_ORDER,
    QUERY_ORDER,
    SHOTS,
    choose,
    episode_numbers,
    keys_of,
    unequal,
    uniform,
)
from graphfsl.io.errors import InputError


@dataclass(frozen=True)
class Setting:
    """What an episode looks like.

    way, shot, query: classes, support images per class, query images per class.
    unlabeled: unlabeled images per class. distractors: further classes, each with `unlabeled`
        images in the pool.
    labeled_fraction: the share of each class's images that may be support or query; unlabeled
        images then come from the rest. Fixed per class by `label_seed` (Ren et al. 2018). 1 = all
        images may be anything.
    dirichlet: None for `query` queries of every class; alpha > 0 for way * query queries whose
        class shares are drawn from a symmetric Dirichlet (2 is the usual unbalanced setting).
    pool_dirichlet: the same of the pool: None for `unlabeled` images of every class; alpha > 0 for
        way * unlabeled images in unequal shares. Each distractor class keeps its `unlabeled`
        images.
    max_shot: None for `shot` of every class; else each class draws its own number from
        shot..max_shot.
    groups: "any" classes, all "within" one superclass, or each from another ("across").
    """

    way: int = 5
    shot: int = 1
    query: int = 15
    unlabeled: int = 0
    distractors: int = 0
    labeled_fraction: float = 1.0
    label_seed: int = 0
    dirichlet: float | None = None
    max_shot: int | None = None
    groups: str = "any"
    pool_dirichlet: float | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("way", 2),
            ("shot", 1),
            ("query", 1),
            ("unlabeled", 0),
            ("distractors", 0),
        ):
            object.__setattr__(
                self, name, whole_number(getattr(self, name), f"episode.{name}", least)
            )
        object.__setattr__(self, "label_seed", whole_number(self.label_seed, "episode.label_seed"))
        for name in ("labeled_fraction", "dirichlet", "pool_dirichlet"):
            if (value := getattr(self, name)) is not None or name == "labeled_fraction":
                object.__setattr__(self, name, real_number(value, f"episode.{name}"))
        if not 0 < self.labeled_fraction <= 1:
            raise InputError(
                f"episode.labeled_fraction must lie in (0, 1], not {self.labeled_fraction!r}"
            )
        for name in ("dirichlet", "pool_dirichlet"):
            if (alpha := getattr(self, name)) is not None and not 0 < alpha <= 1e9:
                raise InputError(f"episode.{name} must lie in (0, 1e9], or be null, not {alpha!r}")
        if self.max_shot is not None and not (
            isinstance(self.max_shot, int) and self.max_shot >= self.shot
        ):
            raise InputError(
                f"episode.max_shot must be a whole number of at least shot {self.shot}, or null, "
                f"not {self.max_shot!r}"
            )
        if self.groups not in ("any", "within", "across"):
            raise InputError(f"episode.groups must be any, within or across, not {self.groups!r}")

    @property
    def most_shots(self) -> int:
        return self.max_shot or self.shot

    def __str__(self) -> str:
        """In words: "5-way 1-shot, 15 queries and 30 unlabeled of a class, dirichlet=2"."""
        known = ("way", "shot", "query", "unlabeled")
        other = (
            f"{f.name}={v}"
            for f in fields(self)
            if f.name not in known and (v := getattr(self, f.name)) != f.default
        )
        pool = f" and {self.unlabeled} unlabeled" if self.unlabeled else ""
        return ", ".join(
            [f"{self.way}-way {self.shot}-shot", f"{self.query} queries{pool} of a class", *other]
        )

    @classmethod
    def of(cls, given: Setting | Mapping[str, Any] | None, options: Mapping[str, Any]) -> Setting:
        """What a caller gave: a setting, or its fields as a mapping or as keywords; InputError for
        more than one.
        """
        if given is not None and options:
            raise InputError(
                f"give a setting or its fields, not both: {', '.join(options)} beside a setting"
            )
        if given is None or isinstance(given, Mapping):
            setting: Setting = make(cls, options if given is None else given, "episode")
            return setting
        if not isinstance(given, cls):
            raise InputError(
                f"the setting must be a gf.Setting, such as gf.Setting(way=5), not "
                f"{described(given)}"
            )
        return given


@dataclass(frozen=True)
class Draw:
    """Which samples make B episodes: ids (B, n), -1 = padding; label (B, n) the class column, -1 =
    a distractor or unknown, -100 = padding; classes (B, way), the data set's class of each column.
    """

    ids: np.ndarray
    label: np.ndarray
    classes: np.ndarray
    n_support: int
    n_query: int

    def __repr__(self) -> str:
        b, n = self.ids.shape
        facts = {
            "nodes": f"{n}: {self.n_support} support, {self.n_query} queries",
            "ids": f"{self.ids[:1].tolist()}",
        }
        return block(f"Draw of {b:,} episodes", facts)

    def rows(self, rows: slice | np.ndarray) -> Draw:
        """Some of these episodes."""
        return Draw(
            self.ids[rows], self.label[rows], self.classes[rows], self.n_support, self.n_query
        )


class Sampler:
    """Draws the episodes of a split: `draw(i)` is a pure function of (split.name, its labels,
    setting, seed, i).

    Raises InputError where the split has too few classes or images for the setting.
    """

    def __init__(self, split: Split, setting: Setting | Mapping[str, Any], seed: int = 0) -> None:
        check_kind(split, Split, "the split", A_SPLIT)
        self.split, self.setting, self.seed = (
            split,
            Setting.of(setting, {}),
            whole_number(seed, "the seed"),
        )
        setting = self.setting
        y, c = split.y.numpy(), len(split.classes)
        everything = np.flatnonzero(y >= 0)
        self.free = np.flatnonzero(y < 0)  # images that came without labels
        self.pool: Deck | None = None  # images whose labels are withheld
        if setting.labeled_fraction < 1:
            labeled, rest = label_split(split, setting.labeled_fraction, setting.label_seed)
            self.deck, self.pool = Deck(labeled, y, c), Deck(rest, y, c)
        else:
            self.deck = Deck(everything, y, c)
        self.members = self._groups()
        self._check()

    def __repr__(self) -> str:
        return block(
            f"Sampler of {self.split.name}", {"episodes": str(self.setting), "seed": self.seed}
        )

    def _groups(self) -> list[np.ndarray]:
        """The classes of each superclass that may serve, or one group of all classes."""
        s, groups = self.setting, self.split.groups
        if s.groups == "any":
            return [np.arange(len(self.split.classes))]
        if groups is None:
            raise InputError(
                f"{self.split.name} has no superclasses; episode.groups must be any, not {s.groups}"
            )
        members = [
            np.array([c for c, g in enumerate(groups) if g == name]) for name in sorted(set(groups))
        ]
        return [
            m for m in members if s.groups == "across" or len(m) >= s.way + s.distractors
        ] or members

    def _check(self) -> None:
        s, name = self.setting, self.split.name
        classes = s.way + s.distractors
        have = len(self.members) if s.groups == "across" else max(len(m) for m in self.members)
        what = {
            "any": "classes",
            "within": "classes in its largest superclass",
            "across": "superclasses",
        }[s.groups]
        if have < classes:
            needed = (
                (f"way {s.way} + distractors {s.distractors}") if s.distractors else f"way {s.way}"
            )
            raise InputError(
                f"{name} has {have} {what}, but {needed} needs {classes}; lower episode.way"
            )
        own_pool = self.pool is not None or len(self.free) > 0
        parts = [("shot", s.most_shots), ("query", s.query)] + (
            [] if own_pool else [("unlabeled", s.unlabeled)]
        )
        self._enough(self.deck, parts, " with labels" if self.pool is not None else "")
        if self.pool is not None and s.unlabeled and not len(self.free):
            self._enough(self.pool, [("unlabeled", s.unlabeled)], " without labels")
        if len(self.free) and len(self.free) < s.way * s.unlabeled:
            raise InputError(
                f"{name} has {len(self.free)} unlabeled images, but way {s.way} x unlabeled "
                f"{s.unlabeled} needs "
                f"{s.way * s.unlabeled}; lower episode.unlabeled"
            )
        if len(self.free) and s.unlabeled and s.pool_dirichlet is not None:
            raise InputError(
                f"{name} brings its own unlabeled images, whose classes are not known; "
                f"episode.pool_dirichlet must be "
                f"null, not {s.pool_dirichlet}"
            )
        if len(self.free) and s.distractors:
            raise InputError(
                f"{name} brings its own unlabeled images; episode.distractors must be 0, not "
                f"{s.distractors}"
            )

    def _enough(self, deck: Deck, parts: list[tuple[str, int]], which: str) -> None:
        least, needed = int(deck.count.argmin()), sum(n for _, n in parts)
        if deck.count[least] < needed:
            terms = " + ".join(f"{k} {n}" for k, n in parts if n)
            enough = (
                not which
                and (deck.count >= needed).sum() >= self.setting.way + self.setting.distractors
            )
            other = f", or leave out smaller classes by data.min_samples={needed}" if enough else ""
            raise InputError(
                f"{self.split.name}: class {self.split.classes[least]!r} has {deck.count[least]} "
                f"images{which}, but "
                f"{terms} needs {needed}; lower "
                f"episode.{' or episode.'.join(k for k, n in parts if n)}{other}"
            )

    def _classes(self, keys: np.ndarray) -> np.ndarray:
        """(B, way + distractors) the data set's classes of each episode."""
        s, k = self.setting, self.setting.way + self.setting.distractors
        u = uniform(keys, CLASSES, 1, k)
        sizes = np.array([len(m) for m in self.members])
        table = np.zeros((len(sizes), int(sizes.max())), dtype=np.int64)
        for g, m in enumerate(self.members):
            table[g, : len(m)] = m
        if s.groups == "across":
            each = choose(np.full((len(keys), 1), len(sizes)), uniform(keys, GROUPS, 1, k))[:, 0]
            return table[each, (u[:, 0] * sizes[each]).astype(np.int64)]
        one = (uniform(keys, GROUPS, 1, 1)[:, 0, 0] * len(sizes)).astype(np.int64)
        return table[one[:, None], choose(sizes[one][:, None], u)[:, 0]]

    def _counts(
        self, keys: np.ndarray, stream: int, alpha: float | None, each: int, room: np.ndarray
    ) -> np.ndarray:
        """(B, way) images of each class, way * each in all; room (B, way) is how many each class
        can give.
        """
        if alpha is None:
            return np.full(room.shape, each)
        way = room.shape[1]
        return unequal(uniform(keys, stream, 1, way)[:, 0], alpha, way * each, room)

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        s = self.setting
        keys = keys_of(self.split.name, self.seed, episode_numbers(i))
        b = len(keys)
        classes = self._classes(keys)
        own, batch = classes[:, : s.way], np.arange(b)[:, None]
        shots = s.shot + (
            uniform(keys, SHOTS, 1, s.way)[:, 0] * (s.most_shots - s.shot + 1)
        ).astype(np.int64)
        shared = 0 if self.pool is not None or len(self.free) else s.unlabeled
        room = self.deck.count[own]
        queries = self._counts(keys, IMBALANCE, s.dirichlet, s.query, room - s.most_shots - shared)
        room = self.pool.count[own] if self.pool is not None else room - shots - queries
        pooled = self._counts(keys, POOL_IMBALANCE, s.pool_dirichlet, s.unlabeled, room)
        most = s.most_shots + int(queries.max()) + (int(pooled.max()) if shared else 0)
        drawn_from = classes if shared else own
        drawn = self.deck.draw(drawn_from, uniform(keys, IMAGES, drawn_from.shape[1], most))

        column = np.repeat(np.arange(s.way), s.most_shots)
        j = np.tile(np.arange(s.most_shots), s.way)
        real = j < shots[:, column]
        support = np.where(real, drawn[:, column, j], -1), np.where(real, column, -100)

        column, j = _places(queries)
        j = j + np.take_along_axis(shots, column, 1)
        shuffle = np.argsort(uniform(keys, QUERY_ORDER, 1, s.way * s.query)[:, 0], axis=1)
        query = drawn[batch, column, j][batch, shuffle], column[batch, shuffle]

        pool = self._unlabeled(keys, classes, drawn, shots + queries, pooled)
        ids, label = (np.concatenate(p, 1) for p in zip(support, query, pool, strict=True))
        return Draw(ids, label, own, s.way * s.most_shots, s.way * s.query)

    def _unlabeled(
        self,
        keys: np.ndarray,
        classes: np.ndarray,
        drawn: np.ndarray,
        used: np.ndarray,
        counts: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids and hidden labels (B, U) of the unlabeled nodes, shuffled: `counts` (B, way) of each
        class, of which `used` (B, way) are spent, and `unlabeled` of each distractor.
        """
        s, b = self.setting, len(keys)
        if not s.unlabeled:
            return np.empty((b, 0), np.int64), np.empty((b, 0), np.int64)
        batch = np.arange(b)[:, None]
        if len(self.free):
            n = np.full((b, 1), len(self.free))
            ids = self.free[choose(n, uniform(keys, POOL, 1, s.way * s.unlabeled))[:, 0]]
            return ids, np.full_like(ids, -1)
        counts = np.pad(counts, ((0, 0), (0, s.distractors)), constant_values=s.unlabeled)
        used = np.pad(used, ((0, 0), (0, s.distractors)))
        if self.pool is not None:
            drawn = self.pool.draw(
                classes, uniform(keys, POOL, classes.shape[1], int(counts.max()))
            )
            used = np.zeros_like(used)
        column, j = _places(counts)
        j = j + np.take_along_axis(used, column, 1)
        label = np.where(column < s.way, column, -1)
        shuffle = np.argsort(uniform(keys, POOL_ORDER, 1, column.shape[1])[:, 0], axis=1)
        return drawn[batch, column, j][batch, shuffle], label[batch, shuffle]


def _places(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (B, n) in class order, of which counts (B, classes) are for each: the class of each,
    and its number.
    """
    end = np.cumsum(counts, 1)
    place = np.arange(int(end[0, -1]))
    column = (place[None, :, None] >= end[:, None, :]).sum(-1)
    return column, place - np.take_along_axis(end - counts, column, 1)
