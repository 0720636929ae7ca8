"""A pool's labels from a handful: propagation over its neighbours, with the support samples that
spoke for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.label.pool_arguments import check_pool, features_of
from graphfsl.core.arguments import class_numbers
from graphfsl.core.display import block
from graphfsl.functional.distinct_neighbors import Distinct, distinct_neighbors
from graphfsl.functional.held_out import (
    FOREIGN,
    MAYBE_FOREIGN,
    REACHED,
    borne_out,
    class_weights,
    held_out,
    scores_of,
    temperature,
)  # fmt: skip
from graphfsl.functional.membership import belonging, shortfall
from graphfsl.functional.neighbors import Bar, silent
from graphfsl.functional.sparse_propagation import both_ways, propagate_sparse, symmetric_sparse
from graphfsl.functional.statistics import or_one

SUPPORT = "support, which samples of the pool are labeled,"
POWER = 3  # of the cosine in an edge's weight, as in iLPC
SPOKE = 3  # support samples that are named for each sample
LOW = 0.1  # the share of held-out rows below a usual mass
NUMBERS = 2**25  # of the samples that are answered at once


@dataclass(frozen=True)
class Labels:
    """What is known of each of n samples, as arrays.

    label: (n,) the class, -1 for none of these and for what no label reaches. best: (n,) the
    likeliest class, -1 where no label reaches. score: (n,) how far `best` leads, as a probability
    of being right; confidence: (n,) the same number where held-out labels bear it out, else NaN.
    none: (n,) from 0 to 1, how weakly the labels reach a sample: it ranks, and is no probability.
    given: (n,) bool, the support, of which all is certain. support, share: (n, 3) the positions in
        the support of the samples of `best` that spoke loudest (-1: no more), and their shares of
        its score.
    facts: how it was done, in words and numbers.
    """

    label: np.ndarray
    best: np.ndarray
    score: np.ndarray
    none: np.ndarray
    given: np.ndarray
    support: np.ndarray
    share: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        mine, classes = ~self.given & (self.label >= 0), self.label.max(initial=-1) + 1
        borne = self.facts.get("borne out")
        facts = {
            "classes": classes,
            "given": f"{self.given.sum():,}",
            "labeled": f"{mine.sum():,}",
            "of each": ", ".join(f"{(mine & (self.label == c)).sum():,}" for c in range(classes)),
            "none": f"{len(self.of(-1)):,}, and {len(self.of(-2)):,} that no label reaches",
            "score": f"median {np.median(self.score[mine]):.3f}" if mine.any() else "",
            "confidence": ""
            if not mine.any()
            else "as score"
            if borne
            else "none: held-out labels do not bear it out",
        }
        return block(f"Labels of {len(self.label):,} samples", facts)

    @property
    def confidence(self) -> np.ndarray:
        return self.score if self.facts["borne out"] else np.full_like(self.score, np.nan)

    @property
    def reached(self) -> np.ndarray:
        """(n,) bool: a label reaches the sample, or is its own or that of its copy."""
        return self.given | (self.best >= 0) | (self.share[:, 0] > 0)

    def of(self, c: int) -> np.ndarray:
        """The positions of those that were found to be of class c; -1: called none of these, -2:
        not reached.
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
    """Label a pool x (n, d) of features by the samples `support` (m,) of classes `label` (m,): 0 ..
    C - 1, or -1 for a sample of none of them. Lists, tensors and data frames do as well as arrays.

    G = (I - alpha S)^-1 on the graph of nearest `neighbors` among distinct samples
    (`distinct_neighbors`), edges weighted by cos^3, S = D^-1/2 W D^-1/2. Column s of G is what
    support sample s says, so a class's score F_ic = v_c sum_s G_is falls exactly into what each
    said.

    prior: v_c. `none`: 1 / K_c, the mean over the class's K_c samples. `uniform`: 1 / mass_c, class
        mass normalisation, for a pool with as many samples of every class; the mass is that of the
        pool without the support. `labels`: K_c / mass_c, for classes as frequent in the pool as in
        the support.
    The row of a support sample without its own column is exactly what the others say of it. These
    held-out rows, of classes with two labels or more, tell three things.
    score: among the classes a sample has probabilities F_ic^(1/T) / sum_c' F_ic'^(1/T), and T is
        the most likely for the held-out rows that a label reaches (near 0.7 where they are few).
        Where the pool's masses rank below those of held-out rows, they are multiplied by
        `belonging`. It is called `confidence` where there are enough held-out rows, of every class,
        their probabilities and the share that is right agree, and the pool surely ranks hardly
        lower than they do, or so far below that the labels tell what is foreign.
    none: r / (r + M_i), where M_i = max_c F_ic / sqrt(degree_i) is the propagated mass and r is the
        mass that one held-out row in ten falls short of (without held-out rows the pool's median).
        Support labeled -1 competes, each sample as a class of its own: its mass adds to r, which is
        0 unless the labels tell. A sample whose `none` is above the option `none` is labeled -1.
        None: above 0.5 where the labels tell, since some are labeled -1 or the pool surely ranks
            below held-out rows; elsewhere no sample. 1: no sample.
    What no label reaches is labeled -1 and has `best` -1 too.
    chunk: support samples propagated at once; it changes memory and time, not the answer. Memory is
        4 n (m + 5 chunk) bytes beside features and graph.

    Raises InputError for options or a support that cannot be used.
    """
    x, support, label = (
        features_of(x),
        *(class_numbers(v, w).numpy() for v, w in ((support, SUPPORT), (label, "label"))),
    )
    count = int(label.max(initial=-1)) + 1
    check_pool(x, support, label, neighbors, alpha, prior, none, chunk)
    bar = bar or silent
    near = distinct_neighbors(x, neighbors, support, label, bar)
    s, degree, place = _graph(near)
    place = place[torch.from_numpy(near.group)]  # the node of each sample
    at, known = (torch.from_numpy(a.astype(np.int64)) for a in (support, label))
    rows = place[at]

    # The groups that compete: each class, and each sample of none.
    group = known.masked_scatter(known < 0, count + torch.arange(len(known)))
    member = F.one_hot(group).float()  # (m, groups)
    mass = _pool_mass(s, rows, alpha)
    blocks = _columns(s, rows, alpha, chunk, bar)

    def said(nodes: Tensor | slice) -> Tensor:
        return torch.cat([b[nodes] for b in blocks], 1)

    v = class_weights(prior, member.sum(0), member.T @ mass)
    held = held_out(said(rows), rows, group, member, mass, prior, count)
    t = temperature(held.scores[held.reached], held.group[held.reached])
    size = max(1, NUMBERS // len(rows))
    parts = [_answer(said(slice(i, i + size)), v, member, count, t) for i in range(0, len(s), size)]
    top, against, best, score, spoke, share = (
        torch.cat(p)[place] for p in zip(*parts, strict=True)
    )
    given = torch.zeros(len(x), dtype=torch.bool)
    given[at] = True

    root = or_one(degree).sqrt()
    held_mass = held.scores[:, :count].amax(1).where(held.reached, 0) / root[rows[held.ids]]
    mass_of, against = top / root[place], against / root[place]
    lower, error = shortfall(mass_of[~given], best[~given], held_mass, held.group)
    z = lower / error
    tells = bool((known < 0).any()) or z > FOREIGN
    if z > MAYBE_FOREIGN:
        score[~given] *= belonging(mass_of[~given], held_mass)
    score[best < 0] = 0
    few = against + (
        _low(mass_of[~given], held_mass) if z > FOREIGN or not (known < 0).any() else 0
    )
    nothing = (few / or_one(few + mass_of)).where(best >= 0, 1)
    bound = (0.5 if tells else 1) if none is None else none
    found = best.where((nothing <= bound) & (best >= 0), -1)
    copy, source = _copies(place, rows, known, given)
    for ids, own in ((at, known), (copy, known[source])):  # the label is certain
        found[ids], best[ids], spoke[ids] = own, own, -1
        score[ids], nothing[ids], share[ids] = (own >= 0).float(), (own < 0).float(), 0.0
    spoke[copy, 0], share[copy, 0] = source, 1.0
    facts = {
        "k": near.index.shape[1],
        "alpha": alpha,
        "prior": prior,
        "neighbours": near.how,
        "recall": near.recall,
        "temperature": t,
        "distinct": len(s),
        "held out": len(held.ids),
        "reached": int(held.reached.sum()),
        "right": held.right,
        "held out of every class": held.of_every_class,
        "shortfall": z,
        "tells": tells,
        "none": bound,
        "borne out": borne_out(held, t, lower, error),
    }
    return Labels(
        label=found.numpy(), best=best.numpy(), score=score.numpy(), none=nothing.numpy(),
        given=given.numpy(), support=spoke.numpy(), share=share.numpy(), facts=facts,
    )  # fmt: skip


def _graph(near: Distinct) -> tuple[Tensor, Tensor, Tensor]:
    """S, its nodes in an order that keeps neighbours close, which more than halves the time to
    multiply by it; the degrees of its nodes; and the place of each sample in that order."""
    order = torch.from_numpy(near.order)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    weight = torch.from_numpy(near.cosine).clamp_min(0) ** POWER
    k = near.index.shape[1]
    start = torch.arange(len(order)).repeat_interleave(k)
    edges = torch.stack([start, place[torch.from_numpy(near.index)[order]].flatten()])
    bridges = place[torch.from_numpy(near.bridges.T)]
    across = torch.from_numpy(near.bridge_cosine).clamp_min(0) ** POWER
    w = both_ways(
        torch.cat([edges, bridges], 1), torch.cat([weight[order].flatten(), across]), len(order)
    )
    return symmetric_sparse(w), (w @ torch.ones(len(order), 1))[:, 0], place


def _pool_mass(s: Tensor, rows: Tensor, alpha: float) -> Tensor:
    """(m,) sum_i G_is over the nodes i without a label, for the labeled nodes `rows` (m,): G is
    symmetric.
    """
    pool = torch.ones(len(s), 1)
    pool[rows] = 0
    return propagate_sparse(s, pool, alpha)[rows, 0]


def _columns(s: Tensor, rows: Tensor, alpha: float, chunk: int, bar: Bar) -> list[Tensor]:
    """The columns of G of the nodes `rows` (m,), in blocks of `chunk`."""
    blocks = []
    for columns in bar(torch.arange(len(rows)).split(chunk), "propagating"):
        y = torch.zeros(len(s), len(columns))
        y[rows[columns], torch.arange(len(columns))] = 1
        blocks.append(propagate_sparse(s, y, alpha).clamp_min_(0))
    return blocks


def _low(mass: Tensor, held_mass: Tensor) -> Tensor:
    """r: the mass that one held-out row in ten falls short of; without held-out rows the median of
    the pool.
    """
    if len(held_mass):
        return held_mass.quantile(LOW)
    return mass.quantile(0.5) if len(mass) else torch.tensor(0.0)


def _copies(place: Tensor, rows: Tensor, known: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """The samples that are not `given`, but on the node of support samples which all have one
    label: (n,) bool; and the position in the support of one of these, for each such sample."""
    low = torch.full_like(place, len(known)).scatter_reduce(0, rows, known, "amin")
    high = torch.full_like(place, -2).scatter_reduce(0, rows, known, "amax")
    copy = (low == high)[place] & ~given
    source = torch.zeros_like(place).scatter(0, rows, torch.arange(len(rows)))
    return copy, source[place[copy]]


def _answer(said: Tensor, v: Tensor, member: Tensor, count: int, t: float) -> tuple[Tensor, ...]:
    """Of some samples, from what the support says of them (r, m): their best score, that of the
    sample of none which is nearest, the best class, its probability, and the support and shares
    behind it."""
    raw = said @ member
    score = scores_of(raw, v)
    top, best = score[:, :count].max(1)
    against = score[:, count:].amax(1) if score.shape[1] > count else torch.zeros_like(top)
    p = (score.log() / t).softmax(1)
    share, spoke = (said * member.T[best]).topk(min(SPOKE, len(member)), 1)
    share = share / raw.gather(1, best[:, None]).clamp_min(REACHED)
    share, spoke = (
        F.pad(share, (0, SPOKE - share.shape[1])),
        F.pad(spoke, (0, SPOKE - spoke.shape[1])),
    )
    reached = raw[:, :count].amax(1) > REACHED
    heard = (share > 0) & reached[:, None]
    probability = p.gather(1, best[:, None])[:, 0]
    return (
        top,
        against,
        best.where(reached, -1),
        probability,
        spoke.where(heard, -1),
        share.where(heard, 0),
    )
