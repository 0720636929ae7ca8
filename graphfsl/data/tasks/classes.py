"""N-way K-shot: which of a few classes does each query show?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.arguments import real_number, whole_number
from graphfsl.core.class_names import NO_CLASS
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Answer, Caption, Demands, Metric, Normalise, PoolCurve, Task
from graphfsl.data.split import Split
from graphfsl.data.tasks._class_metrics import METRICS, OPEN_METRICS
from graphfsl.data.tasks._class_sampler import Draw, Sampler
from graphfsl.functional.calibration import confusion, reliability
from graphfsl.io.errors import require

__all__ = ["Setting"]

NOISE_KINDS = ("symmetric", "paired", "outliers")
CONFUSED = 70  # classes of a confusion matrix that can still be read


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
            A class gives no more than it has, and the others give the rest: there is a warning
            where that cuts many episodes short, and an error where it leaves all classes equal.
        max_shot: None for `shot` of every class; else each class draws its own number from
            shot..max_shot.
        groups: "any" classes, all "within" one superclass, or each from another ("across").
        pool_dirichlet: the same of the pool: None for `unlabeled` images of every class; alpha > 0
            for way * unlabeled images in unequal shares, cut short in the same way. Each
            distractor class keeps its `unlabeled` images.
        noise: wrong labels among the `shot` support images of each class. The images are those of
            an episode without noise, but for outliers; queries and pool stay as they are.
        noise_kind: "symmetric": a class's wrong images are of the other classes, as evenly as may
            be; "paired": all of one other class; "outliers": of classes that are not asked for.
            There are always more right images of a class than wrong ones of another.
        open_classes: further classes whose images are among the queries, though no support sample
            shows them: the right answer to these is none of the classes.
        open_query: query images of each open class; None for `query`.
        foreign_share: None for `unlabeled` images of each distractor class; else the share of the
            pool that is of distractor classes, from 0 to 1 for a pool of nothing else. The pool
            keeps its size, (way + distractors) * unlabeled.
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
        "noise",
        "noise_kind",
        "open_classes",
        "open_query",
        "foreign_share",
    )
    always_shown: ClassVar = ("way", "shot", "query")
    shared: ClassVar = {"query": " queries per class"}
    diagnoses: ClassVar = ("reliability", "confusion")
    draw_type: ClassVar = Draw
    curves: ClassVar = {
        "shot": ("shots", "labeled samples per class"),
        "distractors": ("distractors", "distractor classes"),
        "noise": ("wrong labels", "wrong labels of a class's support"),
        "open_classes": ("open classes", "classes of queries without support"),
        "foreign_share": ("foreign images", "share of the pool that is foreign"),
    }
    needs: ClassVar = {
        "distractors": "unlabeled",
        "noise_kind": "noise",
        "open_query": "open_classes",
        "foreign_share": "distractors",
    }
    pool_curve: ClassVar = PoolCurve(
        size="unlabeled",
        distractors="distractors",
        heading="unlabeled samples",
        axis="unlabeled samples per class",
    )
    captions: ClassVar = {
        "way": Caption("{}-way", always=True),
        "shot": Caption("{}-shot"),
        "query": Caption("{} queries per class"),
        "unlabeled": Caption("{} unlabeled per class", always=True),
        "distractors": Caption("{} distractor classes"),
        "dirichlet": Caption("Dirichlet {}", "as many queries of every class"),
        "pool_dirichlet": Caption("pool of Dirichlet {}", "as many unlabeled of every class"),
        "noise": Caption("{} wrong labels per class"),
        "open_classes": Caption("{} open classes"),
        "foreign_share": Caption("foreign share {}"),
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
    noise: int = 0
    noise_kind: str = "symmetric"
    open_classes: int = 0
    open_query: int | None = None
    foreign_share: float | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("way", 2),
            ("shot", 0),
            ("query", 1),
            ("unlabeled", 0),
            ("distractors", 0),
            ("noise", 0),
            ("open_classes", 0),
            ("open_query", 1),
        ):
            if (value := getattr(self, name)) is not None or name != "open_query":
                object.__setattr__(self, name, whole_number(value, f"episode.{name}", least))
        object.__setattr__(self, "label_seed", whole_number(self.label_seed, "episode.label_seed"))
        for name in ("labeled_fraction", "dirichlet", "pool_dirichlet", "foreign_share"):
            if (value := getattr(self, name)) is not None or name == "labeled_fraction":
                object.__setattr__(self, name, real_number(value, f"episode.{name}"))
        require(
            0 < self.labeled_fraction <= 1,
            f"episode.labeled_fraction must lie in (0, 1], not {self.labeled_fraction!r}",
        )
        for name in ("dirichlet", "pool_dirichlet"):
            alpha = getattr(self, name)
            require(
                alpha is None or 0 < alpha <= 1e9,
                f"episode.{name} must lie in (0, 1e9], or be null, not {alpha!r}",
            )
        require(
            self.max_shot is None
            or (isinstance(self.max_shot, int) and self.max_shot >= self.shot),
            f"episode.max_shot must be a whole number of at least shot {self.shot}, or null, "
            f"not {self.max_shot!r}",
        )
        require(
            self.groups in ("any", "within", "across"),
            f"episode.groups must be any, within or across, not {self.groups!r}",
        )
        self._check_noise()
        self._check_foreign()

    def _check_foreign(self) -> None:
        """InputError where the share of foreign images is none, or has no class to come from."""
        share = self.foreign_share
        require(
            share is None or 0 <= share <= 1,
            f"episode.foreign_share must lie in [0, 1], or be null, not {share!r}",
        )
        require(
            not share or self.distractors > 0,
            f"episode.foreign_share {share} needs classes that the foreign images are of; set "
            "episode.distractors",
        )

    def _check_noise(self) -> None:
        """InputError where wrong labels are no number of them, or hide the right ones."""
        require(
            self.noise_kind in NOISE_KINDS,
            f"episode.noise_kind must be {', '.join(NOISE_KINDS[:-1])} or {NOISE_KINDS[-1]}, not "
            f"{self.noise_kind!r}",
        )
        right = self.shot - self.noise
        require(
            right >= 0,
            f"episode.noise must be at most shot {self.shot}, not {self.noise}",
        )
        together = self.noise  # wrong images of one class among those of another
        if self.noise_kind == "symmetric":
            together = -(-self.noise // (self.way - 1))
        elif self.noise_kind == "outliers":
            together = min(1, self.noise)
        require(
            not self.noise or together < right,
            f"episode.noise {self.noise} ({self.noise_kind}) of shot {self.shot} leaves {right} "
            f"right images of a class beside {together} of another, which no method could tell "
            "apart; lower noise, or raise shot",
        )

    @property
    def pool_size(self) -> int:
        """The unlabeled images of an episode."""
        return (self.way + self.distractors) * self.unlabeled

    @property
    def foreigners(self) -> int:
        """How many of them are of distractor classes."""
        if self.foreign_share is None:
            return self.distractors * self.unlabeled
        return round(self.foreign_share * self.pool_size)

    @property
    def most_unlabeled(self) -> int:
        """The unlabeled images of the class that has most, where shares are equal."""
        known = -(-(self.pool_size - self.foreigners) // self.way)
        return max(known, -(-self.foreigners // max(self.distractors, 1)))

    @property
    def open_queries(self) -> int:
        """The queries of each open class."""
        return self.query if self.open_query is None else self.open_query

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
            f"{self.noise} wrong labels a class ({self.noise_kind})": self.noise,
            f"{self.open_classes} open classes": self.open_classes,
            f"foreign share {self.foreign_share or 0:g}": self.foreign_share is not None,
        }
        return [text for text, value in found.items() if value]

    @property
    def size(self) -> tuple[int, ...]:
        """What tables are sorted by: way, shot, and the size of the pool."""
        return self.way, self.shot, self.unlabeled, self.distractors

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        support = self.way * self.most_shots
        queries = self.way * self.query + self.open_classes * self.open_queries
        balanced = self.dirichlet is None and not self.open_classes
        return Demands(
            way=self.way,
            nodes=support + queries + self.pool_size,
            support=support,
            queries=queries,
            shots=self.most_shots,
            queries_per_class=self.query if balanced else None,
            pool=self.unlabeled > 0,
            balanced_pool=self.pool_dirichlet is None,
            labeled_fraction=self.labeled_fraction,
            label_seed=self.label_seed,
            open=self.open_classes > 0,
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Accuracy, the calibration error of the probabilities, and the F1 score.

        With open classes first how well novelty tells their queries from the others.
        """
        return OPEN_METRICS if self.open_classes else METRICS

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
        names = split.name_keys[classes].masked_fill(classes < 0, NO_CLASS)
        target = Target(
            label[:, k : k + q],
            label[:, k + q :],
            ids,
            classes,
            names,
            support=self._true_support(draw, split),
        )
        episode = Episode(x, w.to(device, x.dtype), k, q, mask, padded=padded, relabeled=False)  # type: ignore[arg-type]
        return episode, target.to(device)

    def _true_support(self, draw: Draw, split: Split) -> Tensor | None:
        """The columns (B, k) that support images are truly of, where some labels are wrong.

        -1 stands for none of them, -100 for padding.
        """
        if not self.noise:
            return None
        ids = torch.from_numpy(draw.ids[:, : draw.n_support])
        true = split.y[ids.clamp_min(0)]
        of_column = true.unsqueeze(-1) == torch.from_numpy(draw.classes).unsqueeze(1)
        column = of_column.int().argmax(-1).where(of_column.any(-1), -1)
        return column.masked_fill(ids < 0, -100)

    def check_draw(self, draw: Draw, split: Split) -> None:
        """Refuse a list that contradicts itself or the labels of the split.

        Raises:
            ValueError: says how.
        """
        ids, label, columns = draw.ids, draw.label, draw.classes
        k, q = draw.n_support, draw.n_query
        if ids.ndim != 2 or ids.shape != label.shape or columns.shape != (len(ids), self.way):
            raise ValueError("lists of unequal length")
        if k < 0 or q < 1 or k + q > ids.shape[1]:
            raise ValueError("lists of unequal length")
        if ids.min() < -1 or ids.max() >= len(split.x) or ((ids < 0) != (label == -100)).any():
            raise ValueError("an id that no sample has")
        known = label[:, : k if self.open_classes else k + q]
        real = ids[:, : known.shape[1]] >= 0
        if known[real].min(initial=0) < 0 or label.max() >= self.way:
            raise ValueError("a support or query node without a class")
        if any(np.isin(row[:k][row[:k] >= 0], row[k:]).any() for row in ids):
            raise ValueError("a support sample that is asked about or in the pool, too")
        real = label >= 0
        if self.noise:
            real[:, :k] = False  # what a wrong label says is not what the split has
        truth = np.where(real, np.take_along_axis(columns, label.clip(0), 1), -1)
        y = split.y.numpy()[ids.clip(0)]
        if (y != truth)[real].any():
            raise ValueError("a label that the split does not have")
        if self.noise:
            said = np.take_along_axis(columns, label[:, :k].clip(0), 1)
            wrong = ((y[:, :k] != said) & (ids[:, :k] >= 0)).sum(1)
            if (wrong != self.way * self.noise).any():
                raise ValueError(f"another number of wrong labels than {self.noise} of a class")
        of_none = (label[:, k : k + q] == -1) & (ids[:, k : k + q] >= 0)
        inside = (y[:, k : k + q, None] == columns[:, None]).any(-1)
        if (of_none.sum(1) != self.open_classes * self.open_queries).any() or inside[of_none].any():
            raise ValueError("queries of no class that are of one, or another number of them")

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
            p = scores[..., : self.way].float().softmax(-1)
            columns = torch.cat([p.argmax(-1), target.query.clamp_min(0)], 1)
            named, truth = target.classes.gather(1, columns).chunk(2, 1)
            real = target.query >= 0
            right, truth = real & (named == truth), truth.where(real, -100)
            outcomes.append([x.flatten() for x in (p.amax(-1), right, named, truth)])
        top, right, named, truth = (torch.cat(x) for x in zip(*outcomes, strict=True))
        require(
            bool(top[truth >= 0].isfinite().all()),
            "some queries have no finite scores; `evaluate` names the part that made them",
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
