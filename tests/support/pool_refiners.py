"""Pools of clusters, and refiners run on them."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.fixmatch import FixMatch
from graphfsl.methods.refine.lst import LST
from graphfsl.testing import WAY, episodes


def clusters(unlabeled: int, distractors: int = 0) -> tuple[Episode, Tensor]:
    """Directions in 64 dimensions with noise, one shot; distractors are nodes of another class in
    the pool.
    """
    episode, target = episodes(batch=100, shot=1, query=5, unlabeled=unlabeled, noise=1.6, seed=3)
    x = episode.x.flatten(2)
    if distractors:
        g = torch.Generator().manual_seed(4)
        other = torch.randn(100, 1, x.shape[-1], generator=g)
        other = other + 1.6 * torch.randn(100, distractors, x.shape[-1], generator=g)
        x = torch.cat([x, other], 1)
    w = torch.cat([episode.w, episode.w.new_zeros(100, distractors, WAY)], 1)
    return Episode(x, w, episode.n_support, episode.n_query, relabeled=False), target.query


def accuracy(refine: Refine | None, episode: Episode, target: Tensor) -> float:
    """The share of queries that are right after a refinement."""
    if isinstance(refine, (FixMatch, LST)):
        torch.manual_seed(0)
        refine = type(refine)(episode.x.shape[-1])
    refine = refine.float() if refine is not None else None
    scores = Pipeline(head=ProtoNet("cosine"), refine=refine).eval()(episode)
    assert torch.isfinite(scores).all()
    return float((scores.argmax(-1) == target).float().mean())


def refined(refine: Refine, episode: Episode, head: Head | None = None) -> Tensor:
    """The scores of a head after a refinement."""
    head = head or ProtoNet()
    return refine.to(episode.x.dtype)(episode, head.score(episode), head)


def pool_of(episode: Episode) -> tuple[Episode, Tensor]:
    """The episode without queries, and which of its nodes are in the pool."""
    graph = episode.parts(query=False)
    return graph, (torch.arange(graph.x.shape[1]) >= graph.n_support).expand(len(graph.x), -1)
