"""N-way K-shot: which of a few classes does each query show?

Episodes are a pure function of (data set, split, setting, seed, i), independent of batch, worker
and device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphfsl.core import task
from graphfsl.core.arguments import A_SPLIT, check_kind, real_number, whole_number
from graphfsl.core.display import block
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Answer, Demands, Metric, Normalise, Task
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
from graphfsl.data.tasks import as_task
from graphfsl.functional.calibration import confusion, reliability
from graphfsl.functional.episode_metrics import calibration_error, calibration_sums, macro_f1
from graphfsl.functional.statistics import accuracy
from graphfsl.io.errors import InputError

__all__ = ["Setting"]

CONFUSED = 70  # classes of a confusion matrix that can still be read


@dataclass(frozen=True)
class Draw(task.Draw):
    """Which samples make B episodes of classes.

    Args:
        ids: (B, n) the sample of each node, -1 = padding.
        label: (B, n) its class column, -1 = a distractor or unknown, -100 = padding.
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


@dataclass(frozen=True)
class Setting(Task):
    """What an N-way K-shot episode looks like.

    Args:
        way: classes.
        shot: support images per class.
        query: query images per class.
        unlabeled: unlabeled images per class.
        distractors: further classes, each with `unlabeled` images in the pool.
        labeled_fraction: the share of each class's images that may be support or query; unlabeled
            images then come from the rest. Fixed per class by `label_seed` (Ren et al. 2018). 1 =
            all images may be anything.
        label_seed: which share of the images that is.
        dirichlet: None for `query` queries of every class; alpha > 0 for way * query queries whose
            class shares are drawn from a symmetric Dirichlet (2 is the usual unbalanced setting).
        max_shot: None for `shot` of every class; else each class draws its own number from
            shot..max_shot.
        groups: "any" classes, all "within" one superclass, or each from another ("across").
        pool_dirichlet: the same of the pool: None for `unlabeled` images of every class; alpha > 0
            for way * unlabeled images in unequal shares. Each distractor class keeps its
            `unlabeled` images.
    """

    unpublished: ClassVar = ("query", "label_seed")
    columns: ClassVar = (
        "way",
        "shot",
        "max_shot",
        "unlabeled",
        "distractors",
        "query",
        "labeled_fraction",
        "label_seed",
        "dirichlet",
        "pool_dirichlet",
        "groups",
    )
    always_shown: ClassVar = ("way", "shot", "query")
    shared: ClassVar = {"query": " queries per class"}
    diagnoses: ClassVar = ("reliability", "confusion")
    draw_type: ClassVar = Draw
    curves: ClassVar = {
        "shot": ("shots", "labeled samples per class"),
        "distractors": ("distractors", "distractor classes"),
    }

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
        """The support images of the class that has most."""
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

    @property
    def title(self) -> str:
        """Its name for people: "5-way 1-shot"."""
        return f"{self.way}-way {self.shot}-shot"

    @property
    def details(self) -> list[str]:
        """Its pool and its imbalance, where it has them: "5 unlabeled", "Dirichlet 2"."""
        found = {
            f"{self.unlabeled} unlabeled": self.unlabeled,
            f"{self.distractors} distractors": self.distractors,
            f"Dirichlet {self.dirichlet or 0:g}": self.dirichlet,
            f"pool of Dirichlet {self.pool_dirichlet or 0:g}": self.pool_dirichlet,
        }
        return [text for text, value in found.items() if value]

    @property
    def size(self) -> tuple[int, ...]:
        """What tables are sorted by: way, shot, and the size of the pool."""
        return self.way, self.shot, self.unlabeled, self.distractors

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        support, queries = self.way * self.most_shots, self.way * self.query
        pool = (self.way + self.distractors) * self.unlabeled
        return Demands(
            way=self.way,
            nodes=support + queries + pool,
            support=support,
            queries=queries,
            shots=self.most_shots,
            queries_per_class=self.query if self.dirichlet is None else None,
            pool=self.unlabeled > 0,
            balanced_pool=self.pool_dirichlet is None,
            labeled_fraction=self.labeled_fraction,
            label_seed=self.label_seed,
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Accuracy, the calibration error of the probabilities, and the F1 score."""
        return METRICS

    def draws(self, split: Split, seed: int) -> Sampler:
        """The sampler of a split.

        Raises:
            InputError: where the split is too small.
        """
        return Sampler(split, self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, Target]:
        """The batch that a draw describes: one node a sample, and labels of the support as weights.

        All other labels are hidden in the target.
        """
        x = normalise(raw)
        ids, label = torch.from_numpy(draw.ids), torch.from_numpy(draw.label)
        padded = self.max_shot is not None
        mask = (ids >= 0).to(device) if padded else None
        if mask is not None:
            x = x * mask.view(*mask.shape, *(1,) * (x.ndim - 2))
        k, q = draw.n_support, draw.n_query
        columns = torch.arange(self.way)
        w = torch.zeros(*ids.shape, self.way)
        w[:, :k] = (label[:, :k, None] == columns).float()
        classes = torch.from_numpy(draw.classes)
        target = Target(label[:, k : k + q], label[:, k + q :], ids, classes)
        episode = Episode(x, w.to(device, x.dtype), k, q, mask, padded=padded, relabeled=False)  # type: ignore[arg-type]
        return episode, target.to(device)

    def check_draw(self, draw: Draw, split: Split) -> None:
        """Refuse a list that contradicts itself or the labels of the split.

        Raises:
            ValueError: says how.
        """
        ids, label, columns = draw.ids, draw.label, draw.classes
        k, q = draw.n_support, draw.n_query
        if ids.ndim != 2 or ids.shape != label.shape or columns.shape != (len(ids), self.way):
            raise ValueError("lists of unequal length")
        if min(k, q) < 1 or k + q > ids.shape[1]:
            raise ValueError("lists of unequal length")
        if ids.min() < -1 or ids.max() >= len(split.x) or ((ids < 0) != (label == -100)).any():
            raise ValueError("an id that no sample has")
        known = label[:, : k + q]
        if known[ids[:, : k + q] >= 0].min(initial=0) < 0 or label.max() >= self.way:
            raise ValueError("a support or query node without a class")
        real = label >= 0
        truth = np.where(real, np.take_along_axis(columns, label.clip(0), 1), -1)
        if (split.y.numpy()[ids.clip(0)] != truth)[real].any():
            raise ValueError("a label that the split does not have")

    def diagnose(self, answers: Iterable[Answer], split: Split) -> dict[str, Any]:
        """How far the probabilities can be trusted, and which classes are taken for which.

        Returns:
            reliability: [answers, mean probability, accuracy] for 15 equal bins of the top
                probability; confusion: the split's classes, and how often each was answered with
                each, where it has at most CONFUSED of them.
        """
        classes = split.classes
        outcomes: list[list[Tensor]] = []
        for scores, target, _ in answers:
            assert isinstance(target, Target)
            p = scores.float().softmax(-1)
            columns = torch.cat([p.argmax(-1), target.query.clamp_min(0)], 1)
            named, truth = target.classes.gather(1, columns).chunk(2, 1)
            real = target.query >= 0
            right, truth = real & (named == truth), truth.where(real, -100)
            outcomes.append([x.flatten() for x in (p.amax(-1), right, named, truth)])
        top, right, named, truth = (torch.cat(x) for x in zip(*outcomes, strict=True))
        if not bool(top[truth >= 0].isfinite().all()):
            raise InputError(
                "some queries have no finite scores; `evaluate` names the part that made them"
            )
        # Two columns, right and wrong, have the same top probability and the same hits.
        pair = torch.stack([top, torch.zeros_like(top)], -1)
        bins = reliability(pair, (~right).long().where(truth >= 0, -100))
        found: dict[str, Any] = {
            "reliability": [[int(n), round(c, 4), round(a, 4)] for n, c, a in bins.tolist()]
        }
        if len(classes) <= CONFUSED:
            counts = confusion(named, truth, len(classes))
            found["confusion"] = {"classes": list(classes), "counts": counts.tolist()}
        return found


def _accuracy(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return accuracy(scores, target.query)


def _calibration(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return calibration_sums(scores.float().softmax(-1), target.query)


def _macro_f1(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return macro_f1(scores, target.query)


METRICS = {
    "accuracy": Metric(_accuracy),
    "calibration error": Metric(_calibration, more_is_better=False, ratio=calibration_error),
    "macro-F1": Metric(_macro_f1),
}


class Sampler:
    """Draws the episodes of a split.

    `draw(i)` is a pure function of (split.name, its labels, setting, seed, i).

    Raises:
        InputError: where the split has too few classes or images for the setting.
    """

    def __init__(self, split: Split, setting: Setting | Mapping[str, Any], seed: int = 0) -> None:
        check_kind(split, Split, "the split", A_SPLIT)
        asked = as_task(setting)
        if not isinstance(asked, Setting):
            raise InputError(f"a sampler draws episodes of classes, not of {asked!r:.100}")
        setting = asked
        self.split, self.setting = split, setting
        self.seed = whole_number(seed, "the seed")
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
            spread: np.ndarray = table[each, (u[:, 0] * sizes[each]).astype(np.int64)]
            return spread
        one = (uniform(keys, GROUPS, 1, 1)[:, 0, 0] * len(sizes)).astype(np.int64)
        within: np.ndarray = table[one[:, None], choose(sizes[one][:, None], u)[:, 0]]
        return within

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        s = self.setting
        keys = keys_of(self.split.name, self.seed, episode_numbers(i))
        classes = self._classes(keys)
        own = classes[:, : s.way]

        shots = self._shots(keys)
        queries, pooled = self._queries_and_pool(keys, own, shots)
        images = self._images(keys, classes, queries, pooled)

        support = self._support(images, shots)
        query = self._query(keys, images, shots, queries)
        pool = self._pool(keys, classes, images, shots + queries, pooled)
        ids = np.concatenate([support[0], query[0], pool[0]], 1)
        label = np.concatenate([support[1], query[1], pool[1]], 1)
        return Draw(ids, label, own, s.way * s.most_shots, s.way * s.query)

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
        """(B, way) queries, and unlabeled images, of each class; `own` are the split's classes."""
        s = self.setting
        have = self.deck.count[own]
        kept = s.unlabeled if self._pool_from_deck else 0
        room = have - s.most_shots - kept
        queries = _shared_out(keys, IMBALANCE, s.dirichlet, s.query, room)
        room = self.pool.count[own] if self.pool is not None else have - shots - queries
        pooled = _shared_out(keys, POOL_IMBALANCE, s.pool_dirichlet, s.unlabeled, room)
        return queries, pooled

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

    def _query(
        self, keys: np.ndarray, images: np.ndarray, shots: np.ndarray, queries: np.ndarray
    ) -> Nodes:
        """The images of each class that follow its support, shuffled."""
        column, number = _places(queries)
        number = number + np.take_along_axis(shots, column, 1)
        batch = np.arange(len(keys))[:, None]
        shuffle = np.argsort(uniform(keys, QUERY_ORDER, 1, column.shape[1])[:, 0], axis=1)
        return images[batch, column, number][batch, shuffle], column[batch, shuffle]

    def _pool(
        self,
        keys: np.ndarray,
        classes: np.ndarray,
        images: np.ndarray,
        used: np.ndarray,
        counts: np.ndarray,
    ) -> Nodes:
        """The unlabeled nodes, shuffled, with their hidden labels.

        `counts` (B, way) of each class, of whose images `used` (B, way) are spent, and `unlabeled`
        of each distractor.
        """
        s, b = self.setting, len(keys)
        if not s.unlabeled:
            return np.empty((b, 0), np.int64), np.empty((b, 0), np.int64)
        if len(self.free):
            n = np.full((b, 1), len(self.free))
            ids = self.free[choose(n, uniform(keys, POOL, 1, s.way * s.unlabeled))[:, 0]]
            return ids, np.full_like(ids, -1)
        counts = np.pad(counts, ((0, 0), (0, s.distractors)), constant_values=s.unlabeled)
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


Nodes = tuple[np.ndarray, np.ndarray]  # ids and labels (B, n) of some of an episode's nodes


def _shared_out(
    keys: np.ndarray, stream: int, alpha: float | None, each: int, room: np.ndarray
) -> np.ndarray:
    """(B, way) images of each class, way * each in all.

    alpha: of the Dirichlet that shares are drawn from; None for equal ones. room: (B, way) how many
    each class can give.
    """
    if alpha is None:
        return np.full(room.shape, each)
    way = room.shape[1]
    return unequal(uniform(keys, stream, 1, way)[:, 0], alpha, way * each, room)


def _places(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class, and the number within it, of n places in class order: (B, n) each.

    counts: (B, classes) how many places are of each class.
    """
    end = np.cumsum(counts, 1)
    place = np.arange(int(end[0, -1]))
    column = (place[None, :, None] >= end[:, None, :]).sum(-1)
    return column, place - np.take_along_axis(end - counts, column, 1)
