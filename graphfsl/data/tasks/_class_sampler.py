"""Which samples make an N-way K-shot episode.

Episodes are a pure function of (data set, split, setting, seed, i), independent of batch, worker
and device.

The underscore keeps this file from being a kind of task of its own, see `graphfsl.data.tasks`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from graphfsl.core import task
from graphfsl.core.arguments import A_SPLIT, check_kind, whole_number
from graphfsl.core.display import block
from graphfsl.data.deck import Deck, label_split
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    CLASSES,
    GROUPS,
    IMAGES,
    IMBALANCE,
    NOISE,
    OPEN,
    OUTLIERS,
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
from graphfsl.data.tasks import as_task
from graphfsl.io.errors import InputError, require

if TYPE_CHECKING:
    from graphfsl.data.tasks.classes import Setting

LOOKED_AT = 200  # episodes whose unequal shares are looked at
FEW_CUT = 0.1  # the share of episodes that may be cut short without a word


@dataclass(frozen=True)
class Draw(task.Draw):
    """Which samples make B episodes of classes.

    Args:
        ids: (B, n) the sample of each node, -1 = padding.
        label: (B, n) its class column, of a support node the one that its label says; -1 = of none
            of the classes, or unknown; -100 = padding.
        classes: (B, way) the data set's class of each column.
        n_support: how many nodes are support, the first ones.
        n_query: how many are queries, behind them.
    """

    listed_as: ClassVar = {"label": "labels"}

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


class Sampler:
    """Draws the episodes of a split.

    `draw(i)` is a pure function of (split.name, its labels, setting, seed, i).

    Raises:
        InputError: where the split has too few classes or images for the setting.
    """

    def __init__(self, split: Split, setting: Setting | Mapping[str, Any], seed: int = 0) -> None:
        check_kind(split, Split, "the split", A_SPLIT)
        self.split = split
        self.setting = _as_setting(setting)
        self.seed = whole_number(seed, "the seed")
        y = split.y.numpy()
        classes = len(split.classes)
        fraction = self.setting.labeled_fraction
        self.free = np.flatnonzero(y < 0)  # images that came without labels
        self.pool: Deck | None = None  # images whose labels are withheld
        if fraction < 1:
            labeled, rest = label_split(split, fraction, self.setting.label_seed)
            self.deck = Deck(labeled, y, classes)
            self.pool = Deck(rest, y, classes)
        else:
            self.deck = Deck(np.flatnonzero(y >= 0), y, classes)
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
        if s.groups == "across":
            return members
        return [m for m in members if len(m) >= self._asked_classes] or members

    @property
    def _asked_classes(self) -> int:
        """The classes that an episode draws: its own, distractors, of outliers, and open ones."""
        s = self.setting
        return s.way + s.distractors + self._outside + s.open_classes

    @property
    def _outside(self) -> int:
        """The classes of outliers in the support."""
        return self.setting.noise if self.setting.noise_kind == "outliers" else 0

    def _check(self) -> None:
        """InputError where the split has too few classes or images."""
        self._check_classes()
        self._check_counts()
        self._check_own_images()
        self._check_shares()

    def _check_classes(self) -> None:
        s = self.setting
        have = len(self.members) if s.groups == "across" else max(len(m) for m in self.members)
        what = {
            "any": "classes",
            "within": "classes in its largest superclass",
            "across": "superclasses",
        }[s.groups]
        asked = {"way": s.way, "distractors": s.distractors, "open_classes": s.open_classes}
        each = [f"{name} {count}" for name, count in asked.items() if count]
        if self._outside:
            each.append(f"noise {self._outside} of outliers")
        lower = " or ".join(name for name, count in asked.items() if count)
        require(
            have >= self._asked_classes,
            f"{self.split.name} has {have} {what}, but {' + '.join(each)} needs "
            f"{self._asked_classes}; lower episode.{lower}",
        )

    def _check_counts(self) -> None:
        s = self.setting
        wanted = [("shot", s.most_shots), ("query", s.query)]
        if self._pool_from_deck:
            wanted.append(("unlabeled", s.most_unlabeled))
        self._enough(self.deck, wanted, " with labels" if self.pool is not None else "")
        if self._outside:
            self._enough(self.deck, [("way", s.way)], " for outliers")
        if s.open_classes:
            self._enough(self.deck, [("open_query", s.open_queries)], " for open classes")
        if self.pool is not None and s.unlabeled and not len(self.free):
            self._enough(self.pool, [("unlabeled", s.most_unlabeled)], " without labels")

    def _check_own_images(self) -> None:
        """What a split that brings unlabeled images of its own does not allow."""
        s = self.setting
        name = self.split.name
        if not len(self.free):
            return
        require(
            len(self.free) >= s.pool_size,
            f"{name} has {len(self.free)} unlabeled images, but way {s.way} x unlabeled "
            f"{s.unlabeled} needs {s.pool_size}; lower episode.unlabeled",
        )
        require(
            not s.unlabeled or s.pool_dirichlet is None,
            f"{name} brings its own unlabeled images, whose classes are not known; "
            f"episode.pool_dirichlet must be null, not {s.pool_dirichlet}",
        )
        require(
            not s.distractors,
            f"{name} brings its own unlabeled images; episode.distractors must be 0, not "
            f"{s.distractors}",
        )

    def _check_shares(self) -> None:
        """Refuse unequal shares that no class has images for; warn where many are cut short."""
        s = self.setting
        if s.dirichlet is None and s.pool_dirichlet is None:
            return
        keys = keys_of(self.split.name, self.seed, np.arange(LOOKED_AT))
        own = self._classes(keys)[:, : s.way]
        queries, pooled = self._queries_and_pool(keys, own, self._shots(keys))
        self._check_cut("dirichlet", IMBALANCE, keys, queries)
        if s.unlabeled and not len(self.free):
            self._check_cut("pool_dirichlet", POOL_IMBALANCE, keys, pooled[:, : s.way])

    def _check_cut(self, name: str, stream: int, keys: np.ndarray, counts: np.ndarray) -> None:
        """The same for one option, whose `counts` (B, way) are drawn with what room there is."""
        s = self.setting
        alpha, total = getattr(s, name), int(counts[0].sum())
        asked = _shared_out(keys, stream, alpha, total, np.full_like(counts, total))
        cut = (asked != counts).any(1)
        if not cut.any():
            return
        told = (
            f"{self.split.name} has classes of {self.deck.count.min()} images: episode.{name} "
            f"{alpha:g} of shot {s.most_shots}, query {s.query} and unlabeled {s.unlabeled}"
        )
        require(
            (counts != even(total, s.way)).any(),
            f"{told} leaves every class as many as the others; lower one of these, or leave "
            f"episode.{name} out",
        )
        if cut.mean() > FEW_CUT:
            warnings.warn(
                f"{told} is cut short in {100 * cut.mean():.0f} % of episodes, where a class has "
                "no more images: shares are more alike than it says",
                stacklevel=2,
            )

    def _enough(self, deck: Deck, wanted: list[tuple[str, int]], which: str) -> None:
        """InputError where the smallest class has fewer images than are wanted of each."""
        least = int(deck.count.argmin())
        needed = sum(count for _, count in wanted)
        asked = [(name, count) for name, count in wanted if count]
        terms = " + ".join(f"{name} {count}" for name, count in asked)
        options = " or episode.".join(name for name, _ in asked)
        large = (deck.count >= needed).sum()
        other = ""
        if not which and large >= self.setting.way + self.setting.distractors:
            other = f", or leave out smaller classes by data.min_samples={needed}"
        require(
            deck.count[least] >= needed,
            f"{self.split.name}: class {self.split.classes[least]!r} has {deck.count[least]} "
            f"images{which}, but {terms} needs {needed}; lower episode.{options}{other}",
        )

    def _classes(self, keys: np.ndarray) -> np.ndarray:
        """(B, classes) of the data set: `_asked_classes` in their order."""
        s, k = self.setting, self._asked_classes
        u = uniform(keys, CLASSES, 1, k)
        sizes = np.array([len(m) for m in self.members])
        table = np.zeros((len(sizes), int(sizes.max())), dtype=np.int64)
        for g, m in enumerate(self.members):
            table[g, : len(m)] = m
        if s.groups == "across":
            each = choose(np.full((len(keys), 1), len(sizes)), uniform(keys, GROUPS, 1, k))[:, 0]
            spread: np.ndarray = table[each, (u[:, 0] * sizes[each]).astype(np.int64)]
            return spread
        one = (uniform(keys, GROUPS, 1, 1)[:, 0, 0] * len(sizes)).astype(np.int64)
        within: np.ndarray = table[one[:, None], choose(sizes[one][:, None], u)[:, 0]]
        return within

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        s = self.setting
        keys = keys_of(self.split.name, self.seed, episode_numbers(i))
        inside = s.way + s.distractors
        every = self._classes(keys)
        classes, outside, strange = np.split(every, [inside, inside + self._outside], 1)
        own = classes[:, : s.way]

        shots = self._shots(keys)
        queries, pooled = self._queries_and_pool(keys, own, shots)
        images = self._images(keys, classes, queries, pooled)

        support = self._mislabeled(keys, self._support(images, shots), outside)
        query = self._query(keys, images, shots, queries, strange)
        pool = self._pool(keys, classes, images, shots + queries, pooled)
        ids = np.concatenate([support[0], query[0], pool[0]], 1)
        label = np.concatenate([support[1], query[1], pool[1]], 1)
        return Draw(ids, label, own, s.way * s.most_shots, query[0].shape[1])

    @property
    def _pool_from_deck(self) -> bool:
        """Whether unlabeled images are of those that might be support or query as well."""
        return self.pool is None and not len(self.free)

    def _shots(self, keys: np.ndarray) -> np.ndarray:
        """(B, way) support images of each class."""
        s = self.setting
        choices = s.most_shots - s.shot + 1
        return s.shot + (uniform(keys, SHOTS, 1, s.way)[:, 0] * choices).astype(np.int64)

    def _queries_and_pool(
        self, keys: np.ndarray, own: np.ndarray, shots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(B, way) queries of each class, and (B, way + distractors) unlabeled images.

        `own` are the split's classes.
        """
        s = self.setting
        have = self.deck.count[own]
        kept = s.most_unlabeled if self._pool_from_deck else 0
        room = have - s.most_shots - kept
        queries = _shared_out(keys, IMBALANCE, s.dirichlet, s.way * s.query, room)
        room = self.pool.count[own] if self.pool is not None else have - shots - queries
        known = s.pool_size - s.foreigners
        pooled = _shared_out(keys, POOL_IMBALANCE, s.pool_dirichlet, known, room)
        foreign = np.broadcast_to(even(s.foreigners, s.distractors), (len(keys), s.distractors))
        return queries, np.concatenate([pooled, foreign], 1)

    def _images(
        self, keys: np.ndarray, classes: np.ndarray, queries: np.ndarray, pooled: np.ndarray
    ) -> np.ndarray:
        """(B, classes, k) ids of each class in the order in which they are dealt out.

        First to the support, then to the queries, and to the pool where that takes of them.
        """
        s = self.setting
        most = s.most_shots + int(queries.max())
        if not self._pool_from_deck:
            own = classes[:, : s.way]
            return self.deck.draw(own, uniform(keys, IMAGES, s.way, most))
        pool = int(pooled.max()) if s.unlabeled else 0
        return self.deck.draw(classes, uniform(keys, IMAGES, classes.shape[1], most + pool))

    def _support(self, images: np.ndarray, shots: np.ndarray) -> Nodes:
        """The first images of each class; beyond its own shots padding."""
        s = self.setting
        column = np.repeat(np.arange(s.way), s.most_shots)
        number = np.tile(np.arange(s.most_shots), s.way)
        real = number < shots[:, column]
        return np.where(real, images[:, column, number], -1), np.where(real, column, -100)

    def _mislabeled(self, keys: np.ndarray, support: Nodes, outside: np.ndarray) -> Nodes:
        """The support with other images at the first `noise` places of each class.

        outside: (B, noise) classes of outliers.
        """
        s, b = self.setting, len(keys)
        if not s.noise:
            return support
        ids = support[0].reshape(b, s.way, s.most_shots).copy()
        wrong = ids[:, :, : s.noise]
        if s.noise_kind == "outliers":
            drawn = self.deck.draw(outside, uniform(keys, OUTLIERS, s.noise, s.way))
            ids[:, :, : s.noise] = drawn.transpose(0, 2, 1)
        else:
            # around a ring of the classes in random order; each place goes another way
            u = uniform(keys, NOISE, 2, s.way)
            ring = u[:, 0].argsort(1)
            position = ring.argsort(1)
            steps = 1 + u[:, 1, : s.way - 1].argsort(1)
            if s.noise_kind == "paired":
                steps = steps[:, :1]
            turn = steps[:, np.arange(s.noise) % steps.shape[1]]  # (B, noise)
            giver = (position[:, :, None] + turn[:, None, :]) % s.way  # (B, way, noise)
            giver = np.take_along_axis(ring[:, :, None], giver, 1)
            ids[:, :, : s.noise] = np.take_along_axis(wrong, giver, 1)
        return ids.reshape(b, -1), support[1]

    def _query(
        self,
        keys: np.ndarray,
        images: np.ndarray,
        shots: np.ndarray,
        queries: np.ndarray,
        strange: np.ndarray,
    ) -> Nodes:
        """The images of each class that follow its support, and those of open classes, shuffled.

        strange: (B, open_classes) the split's classes that have no support.
        """
        s, b = self.setting, len(keys)
        column, number = _places(queries)
        number = number + np.take_along_axis(shots, column, 1)
        batch = np.arange(b)[:, None]
        ids = images[batch, column, number]
        if s.open_classes:
            of_none = self.deck.draw(strange, uniform(keys, OPEN, s.open_classes, s.open_queries))
            ids = np.concatenate([ids, of_none.reshape(b, -1)], 1)
            column = np.pad(column, ((0, 0), (0, of_none[0].size)), constant_values=-1)
        shuffle = np.argsort(uniform(keys, QUERY_ORDER, 1, ids.shape[1])[:, 0], axis=1)
        return ids[batch, shuffle], column[batch, shuffle]

    def _pool(
        self,
        keys: np.ndarray,
        classes: np.ndarray,
        images: np.ndarray,
        used: np.ndarray,
        counts: np.ndarray,
    ) -> Nodes:
        """The unlabeled nodes, shuffled, with their hidden labels.

        `counts` (B, way + distractors) of each class, of whose images `used` (B, way) are spent.
        """
        s, b = self.setting, len(keys)
        if not s.unlabeled:
            return np.empty((b, 0), np.int64), np.empty((b, 0), np.int64)
        if len(self.free):
            n = np.full((b, 1), len(self.free))
            ids = self.free[choose(n, uniform(keys, POOL, 1, s.pool_size))[:, 0]]
            return ids, np.full_like(ids, -1)
        used = np.pad(used, ((0, 0), (0, s.distractors)))
        if self.pool is not None:
            most = int(counts.max())
            images = self.pool.draw(classes, uniform(keys, POOL, classes.shape[1], most))
            used = np.zeros_like(used)
        column, number = _places(counts)
        number = number + np.take_along_axis(used, column, 1)
        label = np.where(column < s.way, column, -1)
        batch = np.arange(b)[:, None]
        shuffle = np.argsort(uniform(keys, POOL_ORDER, 1, column.shape[1])[:, 0], axis=1)
        return images[batch, column, number][batch, shuffle], label[batch, shuffle]


def _as_setting(given: Any) -> Setting:
    """What a caller gave, as a task whose episodes are of classes; InputError for another."""
    asked = as_task(given)
    require(asked.draw_type is Draw, f"a sampler draws episodes of classes, not of {asked!r:.100}")
    return cast("Setting", asked)


Nodes = tuple[np.ndarray, np.ndarray]  # ids and labels (B, n) of some of an episode's nodes


def _shared_out(
    keys: np.ndarray, stream: int, alpha: float | None, total: int, room: np.ndarray
) -> np.ndarray:
    """(B, way) images of each class, `total` in all.

    alpha: of the Dirichlet that shares are drawn from; None for equal ones. room: (B, way) how many
    each class can give.
    """
    b, way = room.shape
    if alpha is None:
        return np.broadcast_to(even(total, way), (b, way))
    return unequal(uniform(keys, stream, 1, way)[:, 0], alpha, total, room)


def even(total: int, classes: int) -> np.ndarray:
    """(classes,) `total` images shared out as evenly as may be, the first ones getting more."""
    return (total + np.arange(classes)[::-1]) // max(classes, 1)


def _places(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class, and the number within it, of n places in class order: (B, n) each.

    counts: (B, classes) how many places are of each class.
    """
    end = np.cumsum(counts, 1)
    place = np.arange(int(end[0, -1]))
    column = (place[None, :, None] >= end[:, None, :]).sum(-1)
    return column, place - np.take_along_axis(end - counts, column, 1)
