"""`Episode`: B few-shot tasks at once, all that travels from the sampler to the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from graphfsl.core.arguments import A_TARGET, AN_EPISODE, as_tensor, check_kind, whole_number
from graphfsl.core.display import block, kind_of
from graphfsl.functional.layers import last_layer
from graphfsl.io.errors import InputError, require

OF_CLASSES = ("classes", "session")  # fields whose second axis is that of the classes, not of nodes


@dataclass(frozen=True)
class Episode:
    """B tasks of n nodes each, ordered support, query, unlabeled.

    Arrays and lists become tensors, and label weights have the type of features that are floats.
    Query targets are not part of it: a loader yields (episode, target), and a learner cannot cheat.

    Args:
        x: (B, n, *S) images, feature maps or features.
        w: (B, n, C) label weights: one-hot, soft, or zero where the label may not be seen. A class
            without weight anywhere in its task is absent from it.
        n_support: how many nodes are support, the first ones.
        n_query: how many are queries, behind them; the rest is unlabeled.
        mask: (B, n) bool, false = padding. None means that no node is padding; `padded` then lets a
            layer skip the masked path without asking the device.
        relabeled: whether nodes beyond the support may carry weight; where they do not, a head that
            fits a classifier reads only the support (`labeled`), without asking the device.
            `replace(w=…)` sets it.
        oracle: (B, m, C) what the last m nodes are, zero where that is not known, for a learner
            that asks (`Learner.asks`); None for all others. These are the unlabeled nodes, or the
            queries where there are none of these.
        budget: how many of the oracle's labels the slot `acquire` may ask for in each task.
        asked: how many it has asked for. So many unlabeled nodes, or queries where there are none
            of these, then carry weight, less where the oracle knew no answer (`asked_first`).
        values: (B, n, D) real values of the nodes whose weight w (B, n, 1) is 1, zero for all
            others, where a task asks for values; None where it asks for classes.
        classes: (B, C) a key of each column's class name (`core.class_names.name_keys`), 0 where
            there is no class, for a learner that `uses_class_names`; None for all others.
        cells: (h, w) of the feature maps that nodes are cells of: each h * w nodes in a row are one
            image, row by row. None where a node is a whole sample.

    Where every pixel of an image has a label, w is (B, n, C, H, W) until a pipeline has encoded the
    images and spread these maps over the cells of theirs (`Pipeline.encode`).
        session: (B, C) whole numbers, the session in which each class came: 0 for base classes, -1
            for an absent class. None where all classes are there from the start.

    Raises:
        InputError: where the shapes do not fit each other.
    """

    x: Tensor
    w: Tensor
    n_support: int
    n_query: int
    mask: Tensor = None  # type: ignore[assignment]
    padded: bool = dataclasses.field(default=True, kw_only=True)
    relabeled: bool = dataclasses.field(default=True, kw_only=True)
    oracle: Tensor | None = dataclasses.field(default=None, kw_only=True)
    budget: int = dataclasses.field(default=0, kw_only=True)
    asked: int = dataclasses.field(default=0, kw_only=True)
    values: Tensor | None = dataclasses.field(default=None, kw_only=True)
    classes: Tensor | None = dataclasses.field(default=None, kw_only=True)
    cells: tuple[int, int] | None = dataclasses.field(default=None, kw_only=True)
    session: Tensor | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("x", "w", "mask"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Tensor):
                object.__setattr__(self, name, as_tensor(value, f"{name} of an episode"))
        kind = self.x.dtype if self.x.is_floating_point() else torch.get_default_dtype()
        if self.w.dtype != kind and (self.x.is_floating_point() or not self.w.is_floating_point()):
            object.__setattr__(self, "w", self.w.to(kind))
        if self.mask is not None and self.mask.dtype != torch.bool:
            object.__setattr__(self, "mask", self.mask.bool())
        for name in ("n_support", "n_query", "budget", "asked"):
            object.__setattr__(
                self, name, whole_number(getattr(self, name), f"{name} of an episode")
            )
        if self.mask is None:
            object.__setattr__(self, "mask", self.x.new_ones(self.x.shape[:2], dtype=torch.bool))
            object.__setattr__(self, "padded", False)
        if wrong := self._wrong():
            shapes = f"{tuple(self.x.shape)}, {tuple(self.w.shape)}, {tuple(self.mask.shape)}"
            raise InputError(
                f"an episode needs x (B, n, …), w (B, n, C), mask (B, n), not {shapes}: {wrong}"
            )
        if (
            not 0 <= self.n_support + self.n_query <= self.x.shape[1]
            or min(self.n_support, self.n_query) < 0
        ):
            raise InputError(
                f"{self.n_support} support and {self.n_query} query nodes do not fit into "
                f"{self.x.shape[1]} nodes"
            )
        if self.oracle is not None and (why := self._wrong_oracle(self.oracle)):
            raise InputError(why)

    def __repr__(self) -> str:
        b, n = self.x.shape[:2]
        parts = f"{self.n_support} support, {self.n_query} queries, {self.n_unlabeled} unlabeled"
        facts = {
            "nodes": f"{n}: {parts}" + (", some of them padding" if self.padded else ""),
            "classes": self.way,
            "x": kind_of(self.x),
            "w": kind_of(self.w) + (", on nodes beyond the support too" if self.relabeled else ""),
            "oracle": "" if self.oracle is None else kind_of(self.oracle),
            "budget": f"{self.budget} labels of each task" if self.budget else "",
            "asked": f"{self.asked} labels of each task" if self.asked else "",
            "values": "" if self.values is None else kind_of(self.values),
            "class names": "" if self.classes is None else "known",
            "cells": "" if self.cells is None else "{} x {} of each image".format(*self.cells),
            "session": "" if self.session is None else kind_of(self.session),
        }
        return block(f"Episode of {b:,} task{'s' if b != 1 else ''}", facts)

    def _wrong(self) -> str | None:
        """What is wrong with the shapes; None where nothing is."""
        x, w, mask = self.x.shape, self.w.shape, self.mask.shape
        if len(x) < 3:
            return "x has no axis of tasks, which x[None] adds for one task"
        if len(w) != 3 and not (len(w) == 5 and len(x) == 5):
            return (
                "w holds a weight for each class, not class numbers; "
                "torch.nn.functional.one_hot makes them"
            )
        for name, shape in (("w", w), ("mask", mask)):
            if shape[0] != x[0]:
                return f"x has {x[0]} tasks, but {name} has {shape[0]}"
            if shape[1:2] != x[1:2]:
                more = (
                    ("; queries and unlabeled nodes have rows of zeros")
                    if name == "w" and w[1] < x[1]
                    else ""
                )
                return (
                    f"x has {x[1]} nodes, but {name} has "
                    f"{', '.join(map(str, shape[1:2])) or 'none'}{more}"
                )
        if mask != x[:2]:
            return "mask has another shape than (B, n)"
        if self.values is not None and (self.values.ndim != 3 or self.values.shape[:2] != x[:2]):
            return f"values must be (B, n, D), not {tuple(self.values.shape)}"
        if self.classes is not None and self.classes.shape != (w[0], w[2]):
            return f"classes must be (B, C), not {tuple(self.classes.shape)}"
        if self.n_query % self.cells_per_image or self.n_unlabeled % self.cells_per_image:
            return f"its queries are no whole images of {self.cells_per_image} cells"
        if self.session is not None and self.session.shape != (w[0], w[2]):
            return f"session must be (B, C), not {tuple(self.session.shape)}"
        return None

    def _wrong_oracle(self, oracle: Tensor) -> str | None:
        """What is wrong with the oracle or the budget; None where nothing is."""
        right = self.n_unlabeled or self.n_query
        if oracle.ndim != 3 or (len(oracle), oracle.shape[2]) != (len(self.x), self.way):
            return f"an oracle must be (B, m, C), not {tuple(oracle.shape)}"
        if oracle.shape[1] not in (self.n_unlabeled, right):
            return (
                f"an oracle speaks of the {self.n_unlabeled} unlabeled nodes, or of all queries "
                f"where there are none, not of {oracle.shape[1]} nodes"
            )
        if self.budget > oracle.shape[1]:
            return (
                f"a budget of {self.budget} labels is above the {oracle.shape[1]} nodes that may "
                "be asked for"
            )
        return None

    @property
    def n_unlabeled(self) -> int:
        """U, the number of unlabeled nodes."""
        return self.x.shape[1] - self.n_support - self.n_query

    @property
    def way(self) -> int:
        """C, the number of label columns; the largest way in the batch."""
        return self.w.shape[2]

    @property
    def has_label_maps(self) -> bool:
        """Whether every pixel of an image has label weights of its own, (B, n, C, H, W)."""
        return self.w.ndim == 5

    @property
    def cells_per_image(self) -> int:
        """How many nodes an image has; 1 where a node is a whole sample."""
        return 1 if self.cells is None else self.cells[0] * self.cells[1]

    @property
    def queries(self) -> int:
        """How many samples are asked about: the query nodes, or the images that these are of."""
        return self.n_query // self.cells_per_image

    @property
    def support(self) -> slice:
        """The slice of the support nodes."""
        return slice(0, self.n_support)

    @property
    def query(self) -> slice:
        """The slice of the query nodes."""
        return slice(self.n_support, self.n_support + self.n_query)

    @property
    def unlabeled(self) -> slice:
        """The slice of the unlabeled nodes."""
        return slice(self.n_support + self.n_query, None)

    @property
    def asks_queries(self) -> bool:
        """Whether the oracle speaks of queries."""
        return self.oracle is not None and self.oracle.shape[1] > self.n_unlabeled

    @property
    def full_oracle(self) -> Tensor:
        """(B, n, C) what the oracle says of every node, zero where it says nothing."""
        if self.oracle is None:
            return torch.zeros_like(self.w)
        return F.pad(self.oracle, (0, 0, self.x.shape[1] - self.oracle.shape[1], 0))

    @property
    def labeled(self) -> slice:
        """The nodes that may carry label weight: the support, until others are labeled too."""
        return slice(None) if self.relabeled else self.support

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name; the first axis of each is that of the tasks."""
        every = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in every.items() if isinstance(value, Tensor)}

    def with_tensors(self, tensors: Mapping[str, Any]) -> Episode:
        """The same kind of episode of other tensors, those that `tensors` names."""
        return dataclasses.replace(self, **tensors)

    def replace(self, **changes: Any) -> Episode:
        """A copy with these fields changed."""
        if "mask" in changes:
            changes.setdefault("padded", True)
        if "w" in changes:
            changes.setdefault("relabeled", True)
        return dataclasses.replace(self, **changes)

    def label_pool(self, z: Tensor) -> Episode:
        """A copy whose unlabeled nodes carry the label weights z (B, U, C)."""
        z = as_tensor(z, "label weights of the pool")
        if z.shape != (len(self.w), self.n_unlabeled, self.way):
            right = (len(self.w), self.n_unlabeled, self.way)
            raise InputError(
                f"label weights of this pool must be (B, U, C) = {right}, not {tuple(z.shape)}"
            )
        return self.replace(w=torch.cat([self.w[:, : self.unlabeled.start], z.to(self.w.dtype)], 1))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Episode:
        """A copy on another device.

        Args:
            device: None leaves it where it is.
            dtype: of label weights, and of samples that are floats.
        """
        moved = {}
        for name, tensor in self.tensors.items():
            of_images = name == "x" and not tensor.is_floating_point()
            keeps_type = name in ("mask", *OF_CLASSES) or of_images
            moved[name] = tensor.to(device) if keeps_type else tensor.to(device, dtype)
        return self.with_tensors(moved)

    def parts(self, support: bool = True, query: bool = True, unlabeled: bool = True) -> Episode:
        """The episode of only these parts of every task."""
        wanted: list[slice] = []
        if support:
            wanted.append(self.support)
        if query:
            wanted.append(self.query)
        if unlabeled:
            wanted.append(self.unlabeled)

        def cut(t: Tensor) -> Tensor:
            if len(wanted) == 1:
                return t[:, wanted[0]]
            return torch.cat([t[:, nodes] for nodes in wanted], 1)

        with_pool = unlabeled if self.n_unlabeled else query  # the nodes that are asked for
        oracle = self.oracle if with_pool or (unlabeled and not self.asks_queries) else None
        return Episode(
            cut(self.x),
            cut(self.w),
            self.n_support if support else 0,
            self.n_query if query else 0,
            cut(self.mask),
            padded=self.padded,
            relabeled=self.relabeled,
            oracle=oracle,
            budget=0 if oracle is None else self.budget,
            asked=self.asked if with_pool else 0,
            values=None if self.values is None else cut(self.values),
            classes=self.classes,
            cells=self.cells,
            session=self.session,
        )

    def add_support(self, x: Tensor, w: Tensor, mask: Tensor) -> Episode:
        """Append m weighted nodes to the support slice: x (B, m, *S), w (B, m, C), mask (B, m)."""
        require(
            self.values is None, "an episode of values takes no further support nodes of classes"
        )
        k = self.n_support

        def join(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([old[:, :k], as_tensor(new, "what is added").to(old), old[:, k:]], 1)

        x, w, mask, k = join(self.x, x), join(self.w, w), join(self.mask, mask), k + x.shape[1]
        return Episode(
            x,
            w,
            k,
            self.n_query,
            mask,
            relabeled=self.relabeled,
            oracle=self.oracle,
            budget=self.budget,
            asked=self.asked,
            classes=self.classes,
            cells=self.cells,
            session=self.session,
        )

    def more_classes(self, columns: int, nodes: int = 0) -> Episode:
        """The same tasks with more classes, all of them absent.

        Args:
            columns: how many more.
            nodes: of padding that the support gets.
        """
        oracle = None if self.oracle is None else F.pad(self.oracle, (0, columns))
        classes = None if self.classes is None else F.pad(self.classes, (0, columns))
        session = None if self.session is None else F.pad(self.session, (0, columns), value=-1)
        wider = self.replace(
            w=F.pad(self.w, (0, columns)),
            relabeled=self.relabeled,
            oracle=oracle,
            classes=classes,
            session=session,
        )
        if not nodes:
            return wider
        x, w = (t.new_zeros(len(t), nodes, *t.shape[2:]) for t in (wider.x, wider.w))
        return wider.add_support(x, w, self.mask.new_zeros(len(x), nodes))

    def one_query_each(self) -> Episode:
        """Every query in a copy of its own: B tasks of Q queries -> B*Q tasks of one.

        A task's queries are adjacent. Where nodes are cells, a query is an image with all of its
        own.
        """
        b, q = self.x.shape[0], self.queries

        def spread(t: Tensor) -> Tensor:
            shared = t.unsqueeze(1).expand(b, q, *t.shape[1:])
            own = t[:, self.query].unflatten(1, (q, self.cells_per_image))
            nodes = [shared[:, :, self.support], own, shared[:, :, self.unlabeled]]
            return torch.cat(nodes, 2).flatten(0, 1)

        x, w, mask = spread(self.x), spread(self.w), spread(self.mask)
        oracle = None
        if self.oracle is not None:
            told = self.n_unlabeled + self.asks_queries
            oracle = _last(spread(self.full_oracle), told)
        values = None if self.values is None else spread(self.values)
        return Episode(
            x,
            w,
            self.n_support,
            self.cells_per_image,
            mask,
            padded=self.padded,
            relabeled=self.relabeled,
            oracle=oracle,
            budget=0 if oracle is None else min(self.budget, oracle.shape[1]),
            asked=self.asked if self.n_unlabeled else 0,
            values=values,
            classes=None if self.classes is None else self.classes.repeat_interleave(q, 0),
            cells=self.cells,
            session=None if self.session is None else self.session.repeat_interleave(q, 0),
        )

    def asked_first(self) -> tuple[Episode, Tensor]:
        """The same tasks with what was asked for as support, and the node (B, n) at each place.

        So all that reads the support reads these labels. Where fewer were answered, the first of
        the others that might have been asked for stand there without a label.
        """
        k, of_pool = self.n_support, self.n_unlabeled > 0
        place = torch.arange(self.x.shape[1], device=self.x.device)
        might = place >= (self.unlabeled.start if of_pool else k)
        labeled = (self.w.sum(-1) > 0) & might
        others = ~labeled & might
        missing = self.asked - labeled.sum(-1, keepdim=True)
        first = labeled | (others & (others.cumsum(-1) <= missing))

        group = (place >= k).long() * 2 + (place >= self.unlabeled.start).long()
        order = group.expand_as(first).masked_fill(first, 1).argsort(dim=-1, stable=True)

        def ordered(t: Tensor) -> Tensor:
            rows = order.view(*order.shape, *(1,) * (t.ndim - 2)).expand(*order.shape, *t.shape[2:])
            return t.gather(1, rows)

        n_query = self.n_query if of_pool else self.n_query - self.asked
        moved = Episode(
            ordered(self.x),
            ordered(self.w),
            k + self.asked,
            n_query,
            ordered(self.mask),
            padded=self.padded,
            relabeled=False,
            classes=self.classes,
            session=self.session,
        )
        return moved, order


@dataclass(frozen=True)
class BaseTarget:
    """What is true of an episode, kept apart from it; each task has its own.

    Its fields are tensors whose first axis is that of the tasks.
    """

    def loss(self, scores: Tensor, episode: Episode) -> Tensor:
        """What wrong answers cost, where a learner has no loss of its own: a scalar.

        Args:
            scores: (B, n, …) of all nodes, or (L, B, n, …), of which the last layer is the answer.
            episode: that was scored.
        """
        raise NotImplementedError

    def side_loss(self, scores: Tensor, episode: Episode) -> Tensor | float:
        """What wrong answers cost beside the learner's own loss; 0 for most tasks.

        Args:
            scores: as for `loss`.
            episode: that was scored.
        """
        return 0.0

    def told(self, episode: Episode) -> Episode:
        """The episode with an oracle, for a learner that asks it for labels."""
        raise InputError("this task has no labels that a learner could ask for")

    def named(self, episode: Episode) -> Episode:
        """The episode with the names of its classes, for a learner that uses them."""
        raise InputError("this task has no classes whose names a learner could use")

    def known(self, episode: Episode) -> Tensor:
        """Label weights of support and queries together, for a criterion that reads both."""
        raise InputError(
            "the loss of this head reads the class of every query, which this task has not; "
            "choose another learner.head"
        )

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, without those that it has not."""
        every = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in every.items() if value is not None}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """The same kind of target of other tensors."""
        return dataclasses.replace(self, **tensors)

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device."""
        return self.with_tensors({name: t.to(device) for name, t in self.tensors.items()})

    def __repr__(self) -> str:
        return block(type(self).__name__, {name: kind_of(t) for name, t in self.tensors.items()})


@dataclass(frozen=True, repr=False)
class Target(BaseTarget):
    """What is true of an episode of classes: for losses, metrics, oracles and disjointness checks.

    Args:
        query: (B, Q) the class column of each query, -1 for one of none of the classes, -100 for
            padding.
        unlabeled: (B, U) the class column of each unlabeled node, -1 for a distractor or where it
            is not known.
        ids: (B, n) the sample that each node shows, -1 for padding.
        classes: (B, C) the data set's class behind each column, -1 where the task has no such
            column.
        names: (B, C) a key of each column's class name, as in `Episode.classes`; None where names
            are not known.
        support: (B, k) the class column that each support node is truly of, -1 for none of them,
            -100 for padding; None where the labels of the support are right.
    """

    query: Tensor
    unlabeled: Tensor
    ids: Tensor
    classes: Tensor
    names: Tensor | None = None
    support: Tensor | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not isinstance(value, Tensor):
                object.__setattr__(
                    self, field.name, as_tensor(value, f"{field.name} of a target").long()
                )

    @property
    def of_class(self) -> Tensor:
        """(B, Q) the class column of each query that is of a class, -100 for all others."""
        return self.query.where(self.query >= 0, -100)

    def loss(self, scores: Tensor, episode: Episode) -> Tensor:
        """Mean cross-entropy of the queries that are of a class."""
        queries = last_layer(scores)[:, episode.query]
        return F.cross_entropy(queries.flatten(0, 1), self.of_class.flatten(), ignore_index=-100)

    def known(self, episode: Episode) -> Tensor:
        """Label weights (B, k + q, C) of support and queries together.

        They are for a criterion that reads both.
        """
        y = F.one_hot(self.query.clamp_min(0), episode.way).to(episode.w) * (
            self.query >= 0
        ).unsqueeze(-1)
        return torch.cat([episode.w[:, episode.support], y], 1)

    def right(self, episode: Episode) -> Tensor:
        """The label weights (B, k, C) of the support without those labels that are wrong.

        Nodes that were added behind its images count as right.
        """
        given = episode.w[:, episode.support]
        if self.support is None:
            return given
        columns = torch.arange(episode.way, device=given.device)
        images, added = given.tensor_split([self.support.shape[1]], 1)
        return torch.cat([images * (self.support.unsqueeze(-1) == columns), added], 1)

    def named(self, episode: Episode) -> Episode:
        """The episode with the names of its classes, for a learner that uses them."""
        require(self.names is not None, "the names of these episodes' classes are not known")
        return episode.with_tensors({"classes": self.names})

    def told(self, episode: Episode) -> Episode:
        """The episode with an oracle, for a learner that asks it for labels of unlabeled nodes."""
        y = F.one_hot(self.unlabeled.clamp_min(0), episode.way).to(episode.w)
        return episode.replace(oracle=y * (self.unlabeled >= 0).unsqueeze(-1).to(y.device))


@dataclass(frozen=True, repr=False)
class ValueTarget(BaseTarget):
    """What is true of an episode of real values, the metric's truth and the loss's.

    Args:
        query: (B, Q, D) the values of the queries.
    """

    query: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.query, Tensor):
            object.__setattr__(self, "query", as_tensor(self.query, "query of a target").float())

    def loss(self, scores: Tensor, episode: Episode) -> Tensor:
        """Mean squared error of the queries."""
        return self.squared_errors(last_layer(scores)[:, episode.query], episode).mean()

    def squared_errors(self, answers: Tensor, episode: Episode) -> Tensor:
        """The mean squared error (B,) of each task's real queries.

        Raises InputError for answers of another shape than the truth.

        Args:
            answers: (B, Q, D) what a learner says of the queries, or (B, Q, 2 D) with standard
                deviations behind the values.
            episode: that they are of.
        """
        if answers.shape[-1] == 2 * self.query.shape[-1]:
            answers = answers.chunk(2, -1)[0]
        if answers.shape != self.query.shape:
            raise InputError(
                f"the learner answers with {answers.shape[-1]} numbers a node, but "
                f"{self.query.shape[-1]} are asked for; choose another learner.head, or its "
                "outputs"
            )
        return self._mean((answers - self.query).square().mean(-1), episode)

    def log_likelihoods(self, answers: Tensor, episode: Episode) -> Tensor:
        """The mean log-likelihood (B,) in nats of each task's real queries.

        Args:
            answers: (B, Q, 2 D) means, and behind them the standard deviations of Gaussians.
            episode: that they are of.
        """
        mean, scale = answers.chunk(2, -1)
        nats = Normal(mean, scale, validate_args=False).log_prob(self.query).sum(-1)
        return self._mean(nats, episode)

    def _mean(self, of_queries: Tensor, episode: Episode) -> Tensor:
        """What is told of queries (B, Q) -> its mean (B,) over those that are real."""
        real = episode.mask[:, episode.query]
        return of_queries.masked_fill(~real, 0).sum(1) / real.sum(1)


def check_episode(given: Any) -> Episode:
    """Refuse what is no episode, or give it back.

    Raises:
        InputError: names what a learner is called with.
    """
    return check_kind(given, Episode, "what a learner scores", AN_EPISODE)


def check_target(given: Any) -> BaseTarget:
    """Refuse what is no target, or give it back.

    Raises:
        InputError: names what a learner's loss is of.
    """
    return check_kind(given, BaseTarget, "what is true of an episode", A_TARGET)


def stack(episodes: Sequence[Episode]) -> Episode:
    """Put episodes of different way or size into one batch.

    Parts are padded to the largest, and missing classes are absent.
    """
    n_support = max(e.n_support for e in episodes)
    n_query = max(e.n_query for e in episodes)
    n_unlabeled = max(e.n_unlabeled for e in episodes)
    way = max(e.way for e in episodes)

    def pad(e: Episode, t: Tensor) -> Tensor:
        support = _with_rows(t[:, e.support], n_support)
        query = _with_rows(t[:, e.query], n_query)
        unlabeled = _with_rows(t[:, e.unlabeled], n_unlabeled)
        return torch.cat([support, query, unlabeled], 1)

    x, w, mask, oracle, values, classes, session = [], [], [], [], [], [], []
    for e in episodes:
        x.append(pad(e, e.x))
        columns = (0, 0) * (e.w.ndim - 3) + (0, way - e.way)
        w.append(F.pad(pad(e, e.w), columns))
        mask.append(pad(e, e.mask))
        if e.oracle is not None:
            oracle.append(F.pad(pad(e, e.full_oracle), (0, way - e.way)))
        if e.values is not None:
            values.append(pad(e, e.values))
        if e.classes is not None:
            classes.append(F.pad(e.classes, (0, way - e.way)))
        if e.session is not None:
            session.append(F.pad(e.session, (0, way - e.way), value=-1))
    require(
        len(classes) in (0, len(episodes)),
        "episodes with names of their classes and without them cannot share a batch",
    )
    require(
        len(oracle) in (0, len(episodes)),
        "episodes with an oracle and without one cannot share a batch",
    )
    require(
        len({(e.budget, e.asked) for e in episodes}) == 1,
        "episodes of different budgets cannot share a batch",
    )
    require(
        len({e.cells for e in episodes}) == 1,
        "episodes of different feature maps cannot share a batch",
    )
    told = n_unlabeled or n_query * any(e.asks_queries for e in episodes)
    require(
        len(values) in (0, len(episodes)),
        "episodes of values and of classes cannot share a batch",
    )
    require(
        len(session) in (0, len(episodes)),
        "episodes with sessions and without cannot share a batch",
    )
    return Episode(
        torch.cat(x),
        torch.cat(w),
        n_support,
        n_query,
        torch.cat(mask),
        relabeled=any(e.relabeled for e in episodes),
        oracle=_last(torch.cat(oracle), told) if oracle else None,
        budget=episodes[0].budget,
        asked=episodes[0].asked,
        values=torch.cat(values) if values else None,
        classes=torch.cat(classes) if classes else None,
        cells=episodes[0].cells,
        session=torch.cat(session) if session else None,
    )


def _last(t: Tensor, count: int) -> Tensor:
    """(B, n, *S) -> the last `count` of n, which may be none."""
    return t[:, t.shape[1] - count :]


def _with_rows(t: Tensor, count: int) -> Tensor:
    """(B, m, *S) -> (B, count, *S): zeros follow."""
    padding = t.new_zeros(len(t), count - t.shape[1], *t.shape[2:])
    return torch.cat([t, padding], 1)
