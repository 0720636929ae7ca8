"""Label propagation, EPNet's too: the closed form against loops and limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.functional.propagation import symmetric
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.label_propagation import LabelPropagation
from graphfsl.methods.heads.tpn import TPN
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features_and_target
from tests.support.propagation import (
    EPNET,
    constant,
    distance,
    inverse,
    padded,
    std_affinity,
    tpn,
    union_of_neighbors,
    used,
)


def test_label_propagation_equals_a_loop() -> None:
    episode = padded()
    found = LabelPropagation(scale=0.5, k=4).score(episode)
    for b in range(2):
        x, y = episode.x[b, episode.mask[b]], episode.w[b, episode.mask[b]]
        n = len(x)
        apart = sorted(distance(x[i], x[j]) ** 0.5 for i in range(n) for j in range(n) if i != j)
        sigma = 0.5 * apart[(len(apart) - 1) // 2]
        w = [[math.exp(-distance(x[i], x[j]) / (2 * sigma**2)) for j in range(n)] for i in range(n)]
        expected = inverse(union_of_neighbors(torch.tensor(w, dtype=x.dtype), 4), 0.99) @ y
        torch.testing.assert_close(found[b, episode.mask[b]], expected)


def test_epnets_label_propagation_equals_a_loop() -> None:
    episode = padded()
    found = LabelPropagation(**EPNET).score(episode)
    for b in range(2):
        x, y = episode.x[b, episode.mask[b]], episode.w[b, episode.mask[b]]
        p = inverse(std_affinity(x), 0.2, 1e-4)
        expected = (F.normalize(p, p=1, dim=1) @ y + 1e-6).log()
        torch.testing.assert_close(found[b, episode.mask[b]], expected)


@pytest.mark.parametrize(
    "build", [lambda k: LabelPropagation(k=k), lambda k: tpn(k=k)], ids=["label_propagation", "tpn"]
)
def test_the_graph_of_n_neighbors_is_the_complete_one(build) -> None:
    episode, _ = features_and_target()
    torch.manual_seed(1)
    complete = build(None).score(episode)
    for k, same in ((episode.x.shape[1], True), (100, True), (3, False)):
        torch.manual_seed(1)
        assert torch.allclose(build(k).score(episode), complete) is same


@pytest.mark.parametrize("build", [LabelPropagation, tpn], ids=["label_propagation", "tpn"])
def test_the_closed_form_is_the_limit_of_propagation(build) -> None:
    """F <- alpha S F + (1 - alpha) Y, 3000 times, is (1 - alpha) F: the same answers."""
    episode, _ = features_and_target()
    head = build(k=None, alpha=0.95)
    s, f = symmetric(head.affinity(episode)), episode.w
    for _ in range(3000):
        f = 0.95 * s @ f + 0.05 * episode.w
    torch.testing.assert_close(head.score(episode), f / 0.05)
    assert torch.linalg.matrix_norm(s, 2).max() <= 1 + 1e-9


@pytest.mark.parametrize(
    "build",
    [LabelPropagation, lambda: used(TPN(DIM)), lambda: LabelPropagation(**EPNET)],
    ids=["label_propagation", "tpn", "epnet"],
)
def test_a_support_node_keeps_its_label(build) -> None:
    """Where classes lie apart; at alpha = 0.99 an outlier goes with its neighbours."""
    episode, _ = features_and_target(batch=20, shot=3, noise=0.2)
    found = build().score(episode)[:, episode.support]
    assert torch.equal(found.argmax(-1), episode.w[:, episode.support].argmax(-1))


@pytest.mark.parametrize(
    "build", [LabelPropagation, lambda: tpn(k=4)], ids=["label_propagation", "tpn"]
)
def test_a_chain_of_unlabeled_nodes_carries_a_label(build) -> None:
    """The query is nearer to the other class, but a chain of pool nodes leads to its own."""
    x = torch.tensor(
        [0.0, 9.0, 5.5, *range(1, 6), 0.5, 1.5, 2.5, 3.5, 4.5, 5.0], dtype=torch.float64
    )
    x = F.pad(x[:, None], (0, DIM - 1))[None]
    w = F.pad(torch.eye(2, dtype=torch.float64), (0, 0, 0, x.shape[1] - 2))[None]
    head = build()
    if isinstance(head, TPN):
        constant(head, 0.15)
    assert head(Episode(x, w, 2, 1)).argmax() == 0
    assert head(Episode(x[:, :3], w[:, :3], 2, 1)).argmax() == 1


def test_weights_and_classes_that_are_not_there() -> None:
    episode, _ = features_and_target()
    w = F.pad(episode.w, (0, 1))
    found = LabelPropagation(**EPNET).score(episode.replace(w=w))
    assert torch.isneginf(found[..., WAY]).all() and torch.isfinite(found[..., :WAY]).all()
    # F is linear in Y: half a label is half of what it gives.
    head = LabelPropagation()
    torch.testing.assert_close(
        head.score(episode.replace(w=episode.w / 2)), head.score(episode) / 2
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": "median"}, "scale"),
        ({"scale": 0.0}, "scale"),
        ({"k": 0}, "k of 1"),
        ({"alpha": 1.0}, r"\[0, 1\)"),
    ],
)
def test_options_of_label_propagation(options, said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabelPropagation(**options)


@pytest.mark.parametrize(
    "build", [LabelPropagation, tpn, lambda **o: LabelPropagation(**EPNET | o)]
)
def test_gradients_pass_through_the_inverse(build) -> None:
    episode, _ = features_and_target(batch=1, shot=1, query=1, unlabeled=1)
    head = build(k=None, alpha=0.9)
    assert torch.autograd.gradcheck(
        lambda x: head.score(episode.replace(x=x)), episode.x.requires_grad_()
    )
