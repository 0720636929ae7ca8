"""Splits to draw from, and what must hold of every draw."""

from __future__ import annotations

import numpy as np
import torch

from graphfsl.data import Setting, Split
from graphfsl.data.tasks._class_sampler import Draw

PARTS = ("ids", "label", "classes")


def make(
    counts: list[int] | int = 20,
    classes: int = 12,
    free: int = 0,
    name: str = "fake/train",
    groups: int = 3,
) -> Split:
    """A split of 1 x 2 x 2 images that show their own id, in shuffled order; `groups` superclasses
    in turn.
    """
    counts = [counts] * classes if isinstance(counts, int) else counts
    y = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.full(free, -1)])
    y = y[np.random.default_rng(0).permutation(len(y))]
    x = torch.arange(len(y)).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).to(torch.uint8)
    names = tuple(f"c{k:02d}" for k in range(len(counts)))
    return Split(
        x, torch.from_numpy(y), names, name, tuple(f"g{k % groups}" for k in range(len(counts)))
    )


def parts(d: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids of support, queries and pool."""
    k, q = d.n_support, d.n_support + d.n_query
    return d.ids[:, :k], d.ids[:, k:q], d.ids[:, q:]


def labels(d: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels of support, queries and pool."""
    k, q = d.n_support, d.n_support + d.n_query
    return d.label[:, :k], d.label[:, k:q], d.label[:, q:]


def check(split: Split, setting: Setting, d: Draw) -> None:
    """What must hold of every draw."""
    y, s, free = split.y.numpy(), setting, bool((split.y < 0).any())
    b = len(d.ids)
    pool = s.unlabeled * (s.way + s.distractors)
    assert d.n_support == s.way * s.most_shots and d.n_query == s.way * s.query
    assert d.ids.shape == d.label.shape == (
        b,
        d.n_support + d.n_query + pool,
    ) and d.classes.shape == (b, s.way)
    assert ((d.ids >= 0) == (d.label != -100)).all() and d.ids.max() < len(y)
    for ids, label, classes in zip(d.ids, d.label, d.classes, strict=True):
        real = ids[ids >= 0]
        assert len(set(real)) == len(real), "a sample stands twice in an episode"
        assert len(set(classes)) == s.way
        known = label >= 0
        assert (y[ids[known]] == classes[label[known]]).all()
        strangers = ids[label == -1]
        assert (y[strangers] == -1).all() if free else not set(y[strangers]) & set(classes)
    support, query, unlabeled = labels(d)
    count = np.stack([(support == c).sum(1) for c in range(s.way)], 1)
    assert (count >= s.shot).all() and (count <= s.most_shots).all()
    assert (query >= 0).all()
    if s.dirichlet is None:
        assert all((np.bincount(row, minlength=s.way) == s.query).all() for row in query)
    if free:
        assert (unlabeled == -1).all()
    else:
        own = np.stack([(unlabeled == c).sum(1) for c in range(s.way)], 1)
        assert (own.sum(1) == s.way * s.unlabeled).all() and (
            s.pool_dirichlet is not None or (own == s.unlabeled).all()
        )
        assert ((unlabeled == -1).sum(1) == s.unlabeled * s.distractors).all()
