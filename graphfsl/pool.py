"""A pool's labels from a handful: propagation over its neighbours, with the support samples that spoke for each."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.errors import InputError, unknown
from graphfsl.functional.belonging import belonging
from graphfsl.functional.sparse_propagation import propagate_sparse, symmetric_sparse, union
from graphfsl.neighbors import Bar, Neighbors, nearest_neighbors, silent

PRIORS = ("none", "uniform", "labels")
POWER = 3  # of the cosine in an edge's weight, as in iLPC
SPOKE = 3  # support samples that are named for each sample
REACHED = 1e-7  # a score below it is what the solver left over
USUAL_T, DOUBT = 0.7, 0.5  # the temperature that is expected, and the standard deviation of its logarithm
NUMBERS = 2**25  # of the samples that are answered at once


@dataclass(frozen=True)
class Labels:
    """What is known of each of n samples, as arrays.

    label: (n,) the class, -1 for none of these. best: (n,) the likeliest class, -1 where no label reaches. confidence:
    (n,) the probability of `best`; none: (n,) that of no class. given: (n,) bool, the support, of which all is certain.
    support, share: (n, 3) the positions in the support of the samples of `best` that spoke loudest (-1: no more), and
    their shares of its score. facts: how it was done, in words and numbers.
    """

    label: np.ndarray
    best: np.ndarray
    confidence: np.ndarray
    none: np.ndarray
    given: np.ndarray
    support: np.ndarray
    share: np.ndarray
    facts: dict[str, Any] = field(default_factory=dict)


def label_pool(
    x: np.ndarray,
    support: np.ndarray,
    label: np.ndarray,
    neighbors: int = 10,
    alpha: float = 0.9,
    prior: str = "none",
    none: float = 0.5,
    chunk: int = 64,
    bar: Bar = silent,
) -> Labels:
    """Label a pool x (n, d) of features by the samples `support` (m,) of classes `label` (m,): 0 .. C - 1, or -1 for
    a sample of none of them.

    G = (I - alpha S)^-1 on the graph of nearest `neighbors`, edges weighted by cos^3, S = D^-1/2 W D^-1/2. Column s
    of G is what support sample s says, so a class's score F_ic = v_c sum_s G_is falls exactly into what each said.

    prior: v_c. `none`: 1 / K_c, the mean over the class's K_c samples. `uniform`: 1 / mass_c, class mass normalisation,
        for a pool with as many samples of every class; the mass is that of the pool without the support. `labels`:
        K_c / mass_c, for classes as frequent in the pool as in the support.
    The row of a support sample without its own column is exactly what the others say of it. These held-out rows, of
    classes with two labels or more, calibrate twice. Among the classes a sample has probabilities F_ic^(1/T) / sum_c'
    F_ic'^(1/T), and T is the most likely for the held-out rows (near 0.7 where they are few). That it belongs to any
    class at all, its best score says beside theirs: see `belonging`. The two multiply.
    none: a sample whose probability of no class is above it is labeled -1. Support labeled -1 competes as well, each
        sample as a class of its own, and is what tells where no class has a second label. 1 takes nothing for none
        but what no label reaches.
    chunk: support samples propagated at once; it changes memory and time, not the answer. Memory is 4 n (m + 5 chunk)
        bytes beside features and graph.

    Raises InputError for options or a support that cannot be used.
    """
    count = int(label.max(initial=-1)) + 1
    _check(x, support, label, neighbors, alpha, prior, none, chunk)
    near = nearest_neighbors(x, neighbors, bar)
    s, place = _graph(near)
    at, known = (torch.from_numpy(a.astype(np.int64)) for a in (support, label))
    rows = place[at]

    # The groups that compete: each class, and each sample of none.
    group = known.masked_scatter(known < 0, count + torch.arange(len(known)))
    member = F.one_hot(group).float()  # (m, groups)
    pool = torch.ones(len(x), 1)
    pool[rows] = 0
    mass = propagate_sparse(s, pool, alpha)[rows, 0].clamp_min(REACHED)  # sum_i G_is of the pool, as G is symmetric
    blocks = []
    for columns in bar(torch.arange(len(rows)).split(chunk), "propagating"):
        y = torch.zeros(len(x), len(columns))
        y[rows[columns], torch.arange(len(columns))] = 1
        blocks.append(propagate_sparse(s, y, alpha).clamp_min_(0))

    def said(nodes: Tensor | slice) -> Tensor:
        return torch.cat([b[nodes] for b in blocks], 1)

    v = _class_weights(prior, member.sum(0), member.T @ mass)
    held, held_group = _held_out(said(rows), group, member, mass, prior, count)
    t = _temperature(held, held_group)
    size = max(1, NUMBERS // len(rows))
    parts = [_answer(said(slice(i, i + size)), v, member, count, t) for i in range(0, len(x), size)]
    top, best, confidence, nothing, spoke, share = (torch.cat(p)[place] for p in zip(*parts, strict=True))
    given = torch.zeros(len(x), dtype=torch.bool)
    given[at] = True
    belongs = torch.ones(len(x))
    belongs[~given] = belonging(top[~given], held[:, :count].amax(1))
    belongs[best < 0] = 0
    confidence, nothing = confidence * belongs, 1 - (1 - nothing) * belongs
    found = best.where((nothing <= none) & (best >= 0), -1)
    found[at], best[at], spoke[at] = known, known, -1
    confidence[at], nothing[at], share[at] = (known >= 0).float(), (known < 0).float(), 0.0
    facts = {
        "k": neighbors, "alpha": alpha, "prior": prior, "neighbours": near.how, "recall": near.recall, "temperature": t,
        "held out": len(held), "right": float((held.argmax(1) == held_group).float().mean()) if len(held) else None,
    }  # fmt: skip
    return Labels(
        label=found.numpy(), best=best.numpy(), confidence=confidence.numpy(), none=nothing.numpy(),
        given=given.numpy(), support=spoke.numpy(), share=share.numpy(), facts=facts,
    )  # fmt: skip


def _graph(near: Neighbors) -> tuple[Tensor, Tensor]:
    """S, its nodes in an order that keeps neighbours close, which more than halves the time to multiply by it; and the
    place of each sample in that order."""
    order = torch.from_numpy(near.order)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    weight = torch.from_numpy(near.cosine).clamp_min(0) ** POWER
    return symmetric_sparse(union(place[torch.from_numpy(near.index)[order]], weight[order])), place


def _check(
    x: np.ndarray, support: np.ndarray, label: np.ndarray, k: int, alpha: float, prior: str, none: float, chunk: int
) -> None:
    if prior not in PRIORS:
        raise unknown("prior", prior, PRIORS)
    for name, value, low, high in (("neighbors", k, 1, 1000), ("alpha", alpha, 0, 0.999), ("none", none, 0, 1)):
        if not low <= value <= high:
            raise InputError(f"{name} must lie between {low} and {high}, not be {value}")
    if chunk < 1:
        raise InputError(f"chunk must be at least 1, not {chunk}")
    if x.ndim != 2 or not np.isfinite(x).all():
        raise InputError("a pool must be finite features (n, d)")
    if len(np.unique(support)) < len(support) or (len(support) and not 0 <= support.min() <= support.max() < len(x)):
        raise InputError(f"the support must be different samples of the pool's {len(x)}")
    need, have = 4 * len(x) * len(support), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        sizes = f"need {need / 1e9:.1f} GB, and this machine has {have / 1e9:.1f}"
        raise InputError(f"{len(support):,} labels in a pool of {len(x):,} {sizes}; a handful of labels will do")
    classes = np.unique(label[label >= 0])
    if not np.array_equal(classes, np.arange(len(classes))):
        raise InputError("classes of the support must be numbered 0 .. C - 1, none left out; -1 is none of them")
    if len(classes) + (label < 0).any() < 2 or not len(classes):
        raise InputError(
            f"the support has {len(classes)} class; at least 2 are needed, or 1 and a sample of none of them"
        )


def _class_weights(prior: str, labels: Tensor, mass: Tensor) -> Tensor:
    """v_c from the number of labels of each class and its mass in the pool."""
    return 1 / labels if prior == "none" else (1 if prior == "uniform" else labels) / mass


def _held_out(
    said: Tensor, group: Tensor, member: Tensor, mass: Tensor, prior: str, count: int
) -> tuple[Tensor, Tensor]:
    """What the support (m, m) says of each of its samples without itself: scores (h, groups), and their groups (h,).

    Only of samples of classes that have another.
    """
    labels = member.sum(0).expand(len(member), -1) - member
    left = (member.T @ mass) - member * mass[:, None]
    ids = ((group < count) & (labels.gather(1, group[:, None])[:, 0] > 0)).nonzero()[:, 0]
    scores = (said.fill_diagonal_(0) @ member).clamp_min(REACHED) * _class_weights(prior, labels, left)
    return scores[ids], group[ids]


def _temperature(scores: Tensor, group: Tensor) -> float:
    """The T in [0.05, 20] that makes the groups of held-out scores most likely; few of them move it little from 0.7."""
    t = torch.logspace(math.log10(0.05), math.log10(20), 200)
    loss = torch.stack([F.cross_entropy(scores.log() / v, group, reduction="sum") for v in t])
    return float(t[(loss + (t / USUAL_T).log().square() / (2 * DOUBT**2)).argmin()])


def _answer(said: Tensor, v: Tensor, member: Tensor, count: int, t: float) -> tuple[Tensor, ...]:
    """Of some samples, from what the support says of them (r, m): their best score, its class, the probabilities of it
    and of none, and the support and shares behind it."""
    raw = said @ member
    score = raw.clamp_min(REACHED) * v
    top, best = score[:, :count].max(1)
    p = (score.log() / t).softmax(1)
    share, spoke = (said * member.T[best]).topk(min(SPOKE, len(member)), 1)
    share = share / raw.gather(1, best[:, None]).clamp_min(REACHED)
    share, spoke = F.pad(share, (0, SPOKE - share.shape[1])), F.pad(spoke, (0, SPOKE - spoke.shape[1]))
    reached = raw[:, :count].amax(1) > REACHED
    heard = (share > 0) & reached[:, None]
    confidence, nothing = p.gather(1, best[:, None])[:, 0], p[:, count:].sum(1)
    return top, best.where(reached, -1), confidence, nothing, spoke.where(heard, -1), share.where(heard, 0)
