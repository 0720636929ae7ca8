"""Pseudo-labels against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.pseudo_label import PseudoLabel
from graphfsl.testing import WAY, episodes
from tests.support.episodes import features
from tests.support.pool_refiners import refined


def test_pseudo_label_that_takes_all_is_the_head_on_hard_labels() -> None:
    """Without a curriculum, one step: every node of the pool has its most probable class, as far as
    each has room.
    """
    episode, target = episodes(unlabeled=3, noise=0.05)
    episode = episode.replace(
        x=episode.x.flatten(2).double(), w=episode.w.double(), relabeled=False
    )
    truth = F.one_hot(target.unlabeled, WAY).double()
    found = refined(PseudoLabel(steps=1, curriculum=False), episode)
    torch.testing.assert_close(found, ProtoNet().score(episode.label_pool(truth)))


def test_pseudo_label_equals_a_loop() -> None:
    episode, head, steps, share = features(unlabeled=4), ProtoNet(), 3, 0.7
    found = refined(PseudoLabel(steps, share), episode)
    pool, u = episode.unlabeled.start, episode.n_unlabeled
    for b in range(2):
        one = episode.replace(
            x=episode.x[b : b + 1], w=episode.w[b : b + 1], mask=episode.mask[b : b + 1]
        )
        scores = head.score(one)
        for t in range(1, steps + 1):
            room = math.ceil(share * t / steps * u / WAY)
            p = scores[0, pool:].softmax(-1)
            w = one.w.clone()
            for c in range(WAY):
                own = sorted(
                    (j for j in range(u) if p[j].argmax() == c),
                    key=lambda j, c=c: -float(p[j, c]),  # type: ignore[misc]
                )
                for j in own[:room]:
                    w[0, pool + j, c] = 1
            scores = head.score(one.replace(w=w))
        torch.testing.assert_close(found[b], scores[0])


def test_pseudo_label_below_the_threshold_is_the_head() -> None:
    episode = features(unlabeled=4)
    flat = ProtoNet("cosine", scale=0.01).double()  # no class reaches 0.5
    torch.testing.assert_close(
        refined(PseudoLabel(threshold=0.5), episode, flat), flat.score(episode)
    )
    with pytest.raises(InputError, match="share in"):
        PseudoLabel(share=0.0)


def test_soft_pseudo_labels_without_a_choice_are_soft_kmeans() -> None:
    """Where every class has room for all nodes that fall to it, one soft step is one of soft
    k-means.
    """
    episode, _ = episodes(unlabeled=3, noise=0.4)
    episode = episode.replace(
        x=0.2 * episode.x.flatten(2).double(), w=episode.w.double(), relabeled=False
    )
    z = ProtoNet().score(episode)[:, episode.unlabeled].softmax(-1)
    assert torch.equal(
        z.argmax(-1).sort(-1).values, torch.arange(WAY).repeat_interleave(3).expand(2, -1)
    )
    assert z.amax() < 0.99
    found = refined(PseudoLabel(steps=1, soft=True), episode)
    torch.testing.assert_close(found, ProtoNet().score(episode.label_pool(z)))


def test_soft_pseudo_labels_are_of_the_chosen_nodes_alone() -> None:
    episode = features(unlabeled=4)
    episode = episode.replace(x=0.3 * episode.x)
    scores = ProtoNet().score(episode)[:, episode.unlabeled]
    p, w = scores.softmax(-1), torch.zeros_like(scores)
    for b in range(2):
        for c in range(WAY):
            own = sorted(
                (j for j in range(12) if p[b, j].argmax() == c),
                key=lambda j, b=b, c=c: -float(p[b, j, c]),  # type: ignore[misc]
            )
            for j in own[:2]:  # half of an equal part of the pool
                w[b, j] = p[b, j]
    assert (w.sum(-1) == 0).any()
    found = refined(PseudoLabel(steps=1, share=0.5, soft=True), episode)
    torch.testing.assert_close(found, ProtoNet().score(episode.label_pool(w)))
