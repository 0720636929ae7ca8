"""A pool's labels from a handful: propagation over its neighbours.

Each comes with the support samples that spoke for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.label.pool_arguments import check_pool, features_of
from graphfsl.apply.label.pool_graph import pool_graph
from graphfsl.core.arguments import class_numbers
from graphfsl.core.display import block
from graphfsl.functional.distinct_neighbors import distinct_neighbors
from graphfsl.functional.held_out import (
    FOREIGN,
    MAYBE_FOREIGN,
    REACHED,
    HeldOut,
    borne_out,
    class_weights,
    held_out,
    scores_of,
    temperature,
)  # fmt: skip
from graphfsl.functional.membership import membership, shortfall
from graphfsl.functional.neighbors import Bar, silent
from graphfsl.functional.statistics import or_one

SUPPORT = "support, which samples of the pool are labeled,"
SPOKE = 3  # support samples that are named for each sample
LOW = 0.1  # the share of held-out rows below a usual mass
# how often a given label is right before the others are heard: as many as they find again, within
LEAST_TRUST, MOST_TRUST = 0.5, 0.95
NUMBERS = 2**25  # of the samples that are answered at once


class Graph(Protocol):
    """What labels go over: a `PoolGraph`, or one that lies in files."""

    @property
    def degree(self) -> Tensor:
        """(N,) of the nodes."""

    @property
    def node(self) -> Tensor:
        """(n,) the node of each sample."""

    @property
    def distinct(self) -> int:
        """How many samples are no copies of others."""

    def propagate(self, y: Tensor, alpha: float) -> Tensor:
        """(I - alpha S)^-1 Y (N, m) of label weights (N, m)."""


# the columns (N, m) of G that belong to these m samples of the support, in blocks
Columns = Callable[[], list[Tensor]]


@dataclass(frozen=True)
class Labels:
    """What is known of each of n samples, as arrays.

    Attributes:
        label: (n,) the class, -1 for none of these and for what no label reaches.
        best: (n,) the likeliest class, -1 where no label reaches.
        score: (n,) how far `best` leads, as a probability of being right.
        none: (n,) from 0 to 1, how weakly the labels reach a sample: it ranks, and is no
            probability.
        given: (n,) bool, the support, of which all is certain.
        support: (n, 3) the positions in the support of the samples of `best` that spoke loudest, -1
            where there are no more.
        share: (n, 3) their shares of its score.
        doubt: (m,) of each support sample the probability that it is not of the class that its
            label says: by what the others say and, by Bayes' rule, by how many labels they find
            again; NaN where no other label of its class tells.
        said: (m,) the likeliest class by both.
        against: (m, 3) the positions in the support of the samples of that class that speak
            loudest, -1 where there are no more.
        facts: how it was done, in words and numbers.
    """

    label: np.ndarray
    best: np.ndarray
    score: np.ndarray
    none: np.ndarray
    given: np.ndarray
    support: np.ndarray
    share: np.ndarray
    doubt: np.ndarray
    said: np.ndarray
    against: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        mine = ~self.given & (self.label >= 0)
        classes = self.label.max(initial=-1) + 1
        each = [f"{(mine & (self.label == c)).sum():,}" for c in range(classes)]
        facts = {
            "classes": classes,
            "given": f"{self.given.sum():,}",
            "labeled": f"{mine.sum():,}",
            "of each": ", ".join(each),
            "none": f"{len(self.of(-1)):,}, and {len(self.of(-2)):,} that no label reaches",
        }
        if mine.any():
            facts["score"] = f"median {np.median(self.score[mine]):.3f}"
            borne_out = self.facts.get("borne out")
            unsure = "none: held-out labels do not bear it out"
            facts["confidence"] = "as score" if borne_out else unsure
        return block(f"Labels of {len(self.label):,} samples", facts)

    @property
    def confidence(self) -> np.ndarray:
        """The score (n,) where held-out labels bear it out, else NaN."""
        return self.score if self.facts["borne out"] else np.full_like(self.score, np.nan)

    @property
    def doubted(self) -> np.ndarray:
        """The positions in the support for which another class is likelier, the surest first."""
        wrong = np.flatnonzero(self.against[:, 0] >= 0)
        ordered: np.ndarray = wrong[np.argsort(-self.doubt[wrong], kind="stable")]
        return ordered

    @property
    def reached(self) -> np.ndarray:
        """Which samples (n,) a label reaches, or which have one of their own or of their copy."""
        return self.given | (self.best >= 0) | (self.share[:, 0] > 0)

    def of(self, c: int) -> np.ndarray:
        """The positions of those that were found to be of class c.

        c is -1 for those called none of these, -2 for those that were not reached.
        """
        kind = np.where(self.reached, self.label, -2)
        return np.flatnonzero(~self.given & (kind == c))


def label_pool(
    x: np.ndarray,
    support: np.ndarray,
    label: np.ndarray,
    neighbors: int = 10,
    alpha: float = 0.9,
    prior: str = "none",
    none: float | None = None,
    chunk: int = 64,
    bar: Bar | None = None,
) -> Labels:
    """Label a pool of features by a few of its samples, by propagation over its nearest neighbours.

    Labels go over the graph of nearest neighbours among distinct samples (`distinct_neighbors`),
    whose edges weigh cos^3:

        G = (I - alpha S)^-1,  S = D^-1/2 W D^-1/2
        F_ic = v_c sum_s G_is over the support samples s of class c

    Column s of G is what support sample s gives, so that a class's score falls exactly into what
    each gave. The row of a support sample without its own column is exactly what the others say of
    it. These held-out rows, of classes with two labels or more, tell three things: how sure, how
    far, and whether anything is of no class.

    How sure. Among the classes a sample has probabilities F_ic^(1/T) / sum_c' F_ic'^(1/T), and T is
    the most likely for the held-out rows that a label reaches (near 0.7 where they are few). Where
    the pool's masses rank below those of held-out rows, they are multiplied by `membership`. The
    score is called a confidence where there are enough held-out rows, of every class, their
    probabilities and the share that is right agree, and the pool surely ranks hardly lower than
    they do, or so far below that the labels show what is foreign.

    How far. With the propagated mass M_i = max_c F_ic / sqrt(degree_i), `none` is r / (r + M_i),
    where r is the mass that one held-out row in ten falls short of (without held-out rows the
    pool's median). Support labeled -1 competes, each sample as a class of its own: its mass adds to
    r, which is 0 unless the labels show what is foreign. What no label reaches is labeled -1 and
    has `best` -1 too.

    Args:
        x: (n, d) features. Lists, tensors and data frames do as well as arrays, here and below.
        support: (m,) which samples are labeled.
        label: (m,) their classes, 0 .. C - 1, or -1 for a sample of none of them.
        neighbors: of each sample in the graph.
        alpha: how far labels go, from 0 to 0.999.
        prior: v_c. "none": 1 / K_c, the mean over the class's K_c samples. "uniform": 1 / mass_c,
            class mass normalisation, for a pool with as many samples of every class; the mass is
            that of the pool without the support. "labels": K_c / mass_c, for classes as frequent in
            the pool as in the support.
        none: a sample whose `none` is above it is labeled -1. None: 0.5 where the labels show it,
            since some are labeled -1 or the pool surely ranks below held-out rows; elsewhere no
            sample. 1: no sample.
        chunk: support samples propagated at once; it changes memory and time, not the answer.
            Memory is 4 n (m + 7 chunk) bytes beside features and graph.
        bar: shows progress.

    Returns:
        What was found of each sample.

    Raises:
        InputError: for options or a support that cannot be used.
    """
    x = features_of(x)
    support = class_numbers(support, SUPPORT).numpy()
    label = class_numbers(label, "label").numpy()
    check_pool(x, support, label, neighbors, alpha, prior, none, chunk)
    bar = bar or silent

    distinct = distinct_neighbors(x, neighbors, support, label, bar)
    near = distinct.near
    found = label_graph(pool_graph(distinct), support, label, alpha, prior, none, chunk, bar)
    facts = {
        "k": near.index.shape[1],
        "alpha": alpha,
        "prior": prior,
        "neighbours": how_found(near.cells, near.searched),
        "recall": near.recall,
    }
    return replace(found, facts=facts | found.facts)


def label_graph(
    graph: Graph,
    support: np.ndarray,
    label: np.ndarray,
    alpha: float = 0.9,
    prior: str = "none",
    none: float | None = None,
    chunk: int = 64,
    bar: Bar | None = None,
    columns: Columns | None = None,
    calibrates: np.ndarray | None = None,
) -> Labels:
    """Label the samples of a graph that stands already, as `label_pool` does.

    Args:
        graph: of n samples.
        support: see `label_pool`; nothing is checked here.
        label: see `label_pool`.
        alpha: see `label_pool`.
        prior: see `label_pool`.
        none: see `label_pool`.
        chunk: see `label_pool`.
        bar: shows progress.
        columns: gives the support's columns of G, where somebody keeps them; None solves them.
        calibrates: (m,) bool, the support samples that are held out to tell how far the answers can
            be trusted; None takes all.
    """
    given = _given(graph, support, label)
    mass = torch.zeros(len(given.node))
    if prior != "none":
        mass = _pool_mass(graph, given, alpha)
    if columns is None:
        influence = _influence(graph, given, alpha, chunk, bar or silent)
    else:
        influence = columns()

    every = held_out(
        _rows(influence, given.node),
        given.node,
        given.group,
        given.member,
        mass,
        prior,
        given.classes,
    )
    held = every
    if calibrates is not None:
        held = every.of(torch.from_numpy(calibrates)[every.ids])
    t = temperature(held.scores[held.reached], held.group[held.reached])
    doubt, said, contradicts = _doubts(_rows(influence, given.node), given, every, t)
    weights = class_weights(prior, given.member.sum(0), given.member.T @ mass)
    found = _answers(influence, weights, given, t).of(graph.node)

    # How strongly labels reach a sample: the propagated mass over the root of the node's degree.
    root = or_one(graph.degree).sqrt()
    strength, rival = found.mass / root[graph.node], found.rival / root[graph.node]
    held_mass = held.scores[:, : given.classes].amax(1).where(held.reached, 0)
    held_strength = held_mass / root[given.node[held.ids]]

    asked = torch.ones(len(graph.node), dtype=torch.bool)
    asked[given.sample] = False
    lower, error = shortfall(strength[asked], found.best[asked], held_strength, held.group)
    z = lower / error
    shows_foreign, has_none = z > FOREIGN, bool((given.label < 0).any())
    if z > MAYBE_FOREIGN:
        found.score[asked] *= membership(strength[asked], held_strength)
    found.score[found.best < 0] = 0

    against = rival
    if shows_foreign or not has_none:
        against = rival + _low(strength[asked], held_strength)
    nothing = (against / or_one(against + strength)).where(found.best >= 0, 1)
    bound = none
    if bound is None:
        bound = 0.5 if shows_foreign or has_none else 1
    answer = found.best.where((nothing <= bound) & (found.best >= 0), -1)
    _fill_in_given(answer, nothing, found, graph, given, asked)

    facts = {
        "temperature": t,
        "distinct": graph.distinct,
        "held out": len(held.ids),
        "reached": int(held.reached.sum()),
        "right": held.right,
        "held out of every class": held.of_every_class,
        "shortfall": z,
        "tells": shows_foreign or has_none,
        "none": bound,
        "borne out": borne_out(held, t, lower, error),
    }
    return Labels(
        label=answer.numpy(), best=found.best.numpy(), score=found.score.numpy(),
        none=nothing.numpy(), given=(~asked).numpy(), support=found.support.numpy(),
        share=found.share.numpy(), doubt=doubt.numpy(), said=said.numpy(),
        against=contradicts.numpy(), facts=facts,
    )  # fmt: skip


@dataclass(frozen=True)
class _Given:
    """The m samples of the support.

    sample: (m,) which they are. label: (m,) their classes, -1 for none. node: (m,) in the graph.
    group: (m,) what competes: the classes, and then each sample of none. member: (m, groups) the
    same, one-hot. classes: how many.
    """

    sample: Tensor
    label: Tensor
    node: Tensor
    group: Tensor
    member: Tensor
    classes: int


@dataclass(frozen=True)
class _Answers:
    """What the support says of N nodes or n samples.

    mass: of the best class, and rival: of the nearest sample of none. best: the class, -1 where no
    label reaches. score: its probability among the classes. support, share (…, SPOKE): as in
    `Labels`.
    """

    mass: Tensor
    rival: Tensor
    best: Tensor
    score: Tensor
    support: Tensor
    share: Tensor

    def of(self, node: Tensor) -> _Answers:
        """The answers of these nodes."""
        return _Answers(*(getattr(self, f.name)[node] for f in fields(self)))

    @staticmethod
    def joined(parts: Sequence[_Answers]) -> _Answers:
        """The answers of all parts, one after the other."""
        return _Answers(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(_Answers)))


def how_found(cells: int, searched: int) -> str:
    """How neighbours were sought, in words.

    Args:
        cells: into how many samples were divided.
        searched: with how many of them a sample was compared.
    """
    if cells == 1:
        return "exact"
    return f"approximate: {cells:,} cells, {searched} of them searched"


def _given(graph: Graph, support: np.ndarray, label: np.ndarray) -> _Given:
    sample = torch.from_numpy(support.astype(np.int64))
    labels = torch.from_numpy(label.astype(np.int64))
    classes = int(label.max(initial=-1)) + 1
    group = labels.masked_scatter(labels < 0, classes + torch.arange(len(labels)))
    member = F.one_hot(group).float()
    return _Given(sample, labels, graph.node[sample], group, member, classes)


def _pool_mass(graph: Graph, given: _Given, alpha: float) -> Tensor:
    """(m,) sum_i G_is over the nodes i without a label, for each support sample s.

    G is symmetric, so that one column holds them all.
    """
    pool = torch.ones(len(graph.degree), 1)
    pool[given.node] = 0
    return graph.propagate(pool, alpha)[given.node, 0]


def _influence(graph: Graph, given: _Given, alpha: float, chunk: int, bar: Bar) -> list[Tensor]:
    """What each support sample gives to every node, in blocks of `chunk` samples.

    They are the columns (N, m) of G that belong to the support.
    """
    blocks = torch.arange(len(given.node)).split(chunk)
    return [columns_of(graph, given.node[of], alpha) for of in bar(blocks, "propagating")]


def columns_of(graph: Graph, nodes: Tensor, alpha: float) -> Tensor:
    """The columns (N, m) of G that belong to m nodes: what each gives to every node."""
    source = torch.zeros(len(graph.degree), len(nodes))
    source[nodes, torch.arange(len(nodes))] = 1
    return graph.propagate(source, alpha).clamp_min_(0)


def _rows(blocks: list[Tensor], nodes: Tensor | slice) -> Tensor:
    """Some rows of what stands in blocks of columns."""
    return torch.cat([block[nodes] for block in blocks], 1)


def _answers(influence: list[Tensor], weights: Tensor, given: _Given, t: float) -> _Answers:
    """Of all nodes, some at a time."""
    size = max(1, NUMBERS // len(given.node))
    parts = []
    for start in range(0, len(influence[0]), size):
        rows = _rows(influence, slice(start, start + size))
        parts.append(_answers_of(rows, weights, given, t))
    return _Answers.joined(parts)


def _answers_of(influence: Tensor, weights: Tensor, given: _Given, t: float) -> _Answers:
    """Of some nodes, from what the support gives to them (r, m)."""
    raw = influence @ given.member
    score = scores_of(raw, weights)
    mass, best = score[:, : given.classes].max(1)
    of_none = score[:, given.classes :]
    rival = of_none.amax(1) if of_none.shape[1] else torch.zeros_like(mass)
    p = (score.log() / t).softmax(1).gather(1, best[:, None])[:, 0]

    of_best = influence * given.member.T[best]
    loudest = of_best.topk(min(SPOKE, len(given.node)), 1)
    missing = SPOKE - loudest.values.shape[1]
    share = loudest.values / raw.gather(1, best[:, None]).clamp_min(REACHED)
    share, support = F.pad(share, (0, missing)), F.pad(loudest.indices, (0, missing))

    reached = raw[:, : given.classes].amax(1) > REACHED
    heard = (share > 0) & reached[:, None]
    return _Answers(
        mass, rival, best.where(reached, -1), p, support.where(heard, -1), share.where(heard, 0)
    )


def _doubts(
    influence: Tensor, given: _Given, held: HeldOut, t: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What the other labels say against each given one: `doubt`, `said` and `against` of `Labels`.

    influence: (m, m) what column s, a support sample, gives to the node of row i.
    """
    m = len(given.node)
    doubt = torch.full((m,), torch.nan)
    said = given.label.clone()
    against = torch.full((m, SPOKE), -1)

    reached = held.ids[held.reached]
    scores = held.scores[held.reached, : given.classes]
    label = F.one_hot(given.label[reached], given.classes)
    trust = min(max(held.right or 0.0, LEAST_TRUST), MOST_TRUST)
    elsewhere = (1 - trust) / max(given.classes - 1, 1)
    prior = trust * label + elsewhere * (1 - label)
    p = (scores.log() / t + prior.log()).softmax(1)
    doubt[reached] = 1 - p.gather(1, given.label[reached, None])[:, 0]
    said[reached] = p.argmax(1)

    same_node = given.node[:, None] == given.node
    of_said = influence.masked_fill(same_node, 0) * (given.label == said[:, None])
    loudest = of_said.topk(min(SPOKE, m), 1)
    heard = (loudest.values > REACHED) & (said != given.label)[:, None]
    against[:, : loudest.indices.shape[1]] = loudest.indices.where(heard, -1)
    return doubt, said, against


def _low(strength: Tensor, held_strength: Tensor) -> Tensor:
    """r: the mass that one held-out row in ten falls short of.

    Without held-out rows it is the median of the pool.
    """
    if len(held_strength):
        return held_strength.quantile(LOW)
    return strength.quantile(0.5) if len(strength) else torch.tensor(0.0)


def _fill_in_given(
    answer: Tensor, nothing: Tensor, found: _Answers, graph: Graph, given: _Given, asked: Tensor
) -> None:
    """Write the labels of the support, and of the copies of its samples, which are certain."""
    copy, source = _copies_of_support(graph, given, asked)
    for samples, label in ((given.sample, given.label), (copy, given.label[source])):
        answer[samples] = found.best[samples] = label
        found.score[samples] = (label >= 0).float()
        nothing[samples] = (label < 0).float()
        found.support[samples], found.share[samples] = -1, 0.0
    found.support[copy, 0], found.share[copy, 0] = source, 1.0


def _copies_of_support(graph: Graph, given: _Given, asked: Tensor) -> tuple[Tensor, Tensor]:
    """Which other samples share a node with the support, whose label they then have for certain.

    A node holds samples that are the same up to rounding, or nearly (`distinct_neighbors`). Where
    the support samples of a node disagree, none of its samples is such a copy.

    Returns:
        is_copy (n,) bool, of the samples that are asked for; and for each copy, in order, the
        position in the support of one sample on its node.
    """
    # long enough, as there are no more nodes than samples; a node without support keeps what both
    # start at, which no label is
    lowest = torch.full_like(graph.node, len(given.label))
    lowest = lowest.scatter_reduce(0, given.node, given.label, "amin")
    highest = torch.full_like(graph.node, -2)
    highest = highest.scatter_reduce(0, given.node, given.label, "amax")
    copy = (lowest == highest)[graph.node] & asked
    position = torch.arange(len(given.node))
    source = torch.zeros_like(graph.node).scatter(0, given.node, position)
    return copy, source[graph.node[copy]]
