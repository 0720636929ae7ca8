"""What refiners share that learn from a pool of unlabeled nodes: no leak, and a pool helps."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.learner import Refine
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.fixmatch import FixMatch
from graphfsl.methods.refine.gated_propagation import GatedPropagation
from graphfsl.methods.refine.ici import ICI
from graphfsl.methods.refine.ilpc import ILPC
from graphfsl.methods.refine.logit_propagation import LogitPropagation
from graphfsl.methods.refine.lst import LST
from graphfsl.methods.refine.plcm import PLCM
from graphfsl.methods.refine.pseudo_label import PseudoLabel
from graphfsl.methods.refine.soft_kmeans import MaskedSoftKmeans
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features
from tests.support.pool_refiners import accuracy, clusters, refined

torch.manual_seed(0)  # LST starts from random weights
REFINERS: dict[str, Refine] = {
    "pseudo_label": PseudoLabel(),
    "fixmatch": FixMatch(DIM).eval(),
    "ici": ICI(),
    "ilpc": ILPC(),
    "logit_propagation": LogitPropagation(),
    "lst": LST(DIM),
    "gated_propagation": GatedPropagation(WAY),
    "plcm": PLCM(WAY),
    "poisson": LogitPropagation("poisson"),
}
each = pytest.mark.parametrize("name", REFINERS)


@each
def test_an_empty_pool_leaves_the_head(name: str) -> None:
    episode = features(unlabeled=0)
    scores = ProtoNet().score(episode)
    assert torch.equal(REFINERS[name](episode, scores, ProtoNet()), scores)


@each
def test_the_order_of_the_pool_does_not_matter(name: str) -> None:
    episode = features(unlabeled=5)
    order = torch.arange(episode.x.shape[1])
    pool = episode.unlabeled.start
    order[pool:] = pool + torch.randperm(
        len(order) - pool, generator=torch.Generator().manual_seed(2)
    )
    turned = episode.replace(x=episode.x[:, order], w=episode.w[:, order], relabeled=False)
    found = refined(REFINERS[name], episode)[:, order]
    torch.testing.assert_close(refined(REFINERS[name], turned), found, atol=1e-7, rtol=1e-7)


@each
def test_classes_may_be_renamed(name: str) -> None:
    episode, order = features(unlabeled=5), torch.tensor([2, 0, 1])
    turned = refined(REFINERS[name], episode.replace(w=episode.w[..., order], relabeled=False))
    torch.testing.assert_close(
        turned, refined(REFINERS[name], episode)[..., order], atol=1e-7, rtol=1e-7
    )


@each
def test_queries_do_not_move_each_other(name: str) -> None:
    episode = features(unlabeled=5, query=3)
    x = episode.x.clone()
    x[:, episode.query.start + 1 : episode.query.stop] += 1.0
    first = [
        refined(REFINERS[name], episode.replace(x=v))[:, episode.query.start]
        for v in (episode.x, x)
    ]
    torch.testing.assert_close(*first, atol=1e-9, rtol=1e-9)


@each
def test_a_pool_helps_on_clusters_and_distractors_do_not_break_it(name: str) -> None:
    episode, target = clusters(10)
    plain, found = accuracy(None, episode, target), accuracy(REFINERS[name], episode, target)
    assert found > plain + 0.02, (plain, found)
    assert accuracy(REFINERS[name], *clusters(10, distractors=10)) > plain - 0.01


@each
def test_saturated_scores_are_finite(name: str) -> None:
    """Probabilities that round to 0 and 1, as squared distances of wide features give."""
    episode = features(unlabeled=4)
    episode = episode.replace(x=1e3 * episode.x.float(), w=episode.w.float(), relabeled=False)
    assert torch.isfinite(refined(REFINERS[name], episode)).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (MaskedSoftKmeans, {"hidden": -1}),
        (LST, {"dim": DIM, "hidden": -1}),
        (LST, {"dim": 0}),
        (PLCM, {"way": 0}),
        (GatedPropagation, {"way": 0}),
    ],
)
def test_sizes_below_one_are_one_line(kind: type[Refine], options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be 1 or more"):
        kind(**options)
