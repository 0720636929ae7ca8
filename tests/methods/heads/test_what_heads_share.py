"""What several heads promise alike."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.learner import Head
from graphfsl.methods.heads.imprinting import Imprinting
from graphfsl.methods.heads.label_propagation import LabelPropagation
from graphfsl.methods.heads.matchingnet import MatchingNet
from graphfsl.methods.heads.meta_baseline import MetaBaseline
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.methods.heads.wdae import WDAE
from graphfsl.testing import DIM
from tests.support.episodes import features, features_and_target
from tests.support.propagation import EPNET, tpn, used


@pytest.mark.parametrize(
    "head", [ProtoNet(), NearestNeighbor(), SimpleShot(DIM, "un")], ids=lambda h: type(h).__name__
)
def test_a_common_offset_changes_no_answer_in_single_precision(head: Head) -> None:
    """A table whose columns lie a thousand standard deviations from zero, with an absent class;
    exact: double.
    """
    plain = features(shot=1, unlabeled=0)
    w = F.pad(plain.w, (0, 1))
    exact = head(plain.replace(w=w, relabeled=False))
    far = plain.replace(x=(plain.x + 1000 * plain.x.std()).float(), w=w.float(), relabeled=False)
    found = head(far)
    assert bool((found[..., -1] == -math.inf).all())
    torch.testing.assert_close(found[..., :-1], exact[..., :-1].float(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "head",
    [MetaBaseline(), ProtoNet("cosine"), MatchingNet(DIM), Imprinting(), WDAE(DIM)],
    ids=lambda h: type(h).__name__,
)
def test_a_cosine_begins_at_ten(head: Any) -> None:
    """As in the authors' code of Meta-Baseline and wDAE; at 1 the softmax of cosines is flat and
    nothing trains.
    """
    assert float(getattr(head, "scale", 0) or head.log_scale.detach().exp()) == pytest.approx(10)


EVERY = {
    "label_propagation": LabelPropagation,
    "epnet": lambda: LabelPropagation(**EPNET),
    "tpn": lambda: tpn(k=5),
    "wdae": lambda: used(WDAE(DIM, k=2)),
}


@pytest.mark.parametrize("name", EVERY)
def test_classes_and_nodes_may_be_renamed(name: str) -> None:
    """New class columns move the columns of the scores, new places in the graph its rows; no role
    has a place.
    """
    episode, _ = features_and_target(way=4)
    head: Head = EVERY[name]()
    found = head.score(episode)
    columns, nodes = torch.tensor([2, 0, 3, 1]), torch.randperm(episode.x.shape[1])
    torch.testing.assert_close(
        head.score(episode.replace(w=episode.w[..., columns])), found[..., columns]
    )
    moved = episode.replace(x=episode.x[:, nodes], w=episode.w[:, nodes])
    torch.testing.assert_close(head.score(moved), found[:, nodes])
