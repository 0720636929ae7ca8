"""FixMatch on features."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.fixmatch import FixMatch
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features
from tests.support.pool_refiners import clusters, refined


def test_fixmatch_has_no_weights_so_that_any_trained_run_takes_it() -> None:
    assert not FixMatch(DIM).state_dict()
    assert torch.equal(FixMatch(DIM).keep, FixMatch(DIM).keep)


def test_fixmatch_equals_a_loop() -> None:
    torch.manual_seed(0)
    episode, head = features(unlabeled=4), ProtoNet()
    refine = FixMatch(DIM, steps=3, drop=0.5, weight=0.7).double().eval()
    found = refined(refine, episode)
    pool, u, k = episode.unlabeled.start, episode.n_unlabeled, episode.n_support
    for b in range(2):
        one = episode.replace(
            x=episode.x[b : b + 1], w=episode.w[b : b + 1], mask=episode.mask[b : b + 1]
        )
        scores = head.score(one)
        for view in refine.keep:
            q = scores[0, pool:].softmax(-1)
            often, sure = q.mean(0), q.amax(-1).mean()
            picked = [[j for j in range(u) if q[j].argmax() == c] for c in range(WAY)]
            picked = [
                [j for j in own if q[j, c] >= often[c] / often.max() * sure]
                for c, own in enumerate(picked)
            ]
            total, nodes, weights = sum(map(len, picked)), [], []
            for c, own in enumerate(picked):
                for j in own:
                    nodes.append(view * one.x[0, pool + j])
                    weights.append(0.7 * total / WAY / len(own) * torch.eye(WAY).double()[c])
            more = one.add_support(
                torch.stack(nodes)[None], torch.stack(weights)[None], torch.ones(1, total).bool()
            )
            scores = head.score(more)
            scores = torch.cat([scores[:, :k], scores[:, k + total :]], 1)
        torch.testing.assert_close(found[b], scores[0])


def test_fixmatch_views_keep_the_same_number_of_dimensions_and_their_mean() -> None:
    torch.manual_seed(0)
    keep = FixMatch(100, steps=4, drop=0.3).keep
    assert torch.equal((keep > 0).sum(-1), torch.full((4,), 70))
    torch.testing.assert_close(keep.mean(-1), torch.ones(4))
    assert len({tuple(row) for row in keep.tolist()}) == 4
    assert torch.equal(FixMatch(6, drop=0.0).keep, torch.ones(5, 6))


def test_fixmatch_draws_views_in_training_only() -> None:
    torch.manual_seed(0)
    episode, refine = features(unlabeled=4), FixMatch(DIM, drop=0.5).double()
    assert not torch.equal(refined(refine.train(), episode), refined(refine, episode))
    assert torch.equal(refined(refine.eval(), episode), refined(refine, episode))


def test_fixmatch_above_the_fixed_threshold_only() -> None:
    episode = features(unlabeled=4)
    flat = ProtoNet("cosine", scale=0.01).double()  # no class reaches 0.5
    torch.testing.assert_close(
        refined(FixMatch(DIM, threshold=0.5).eval(), episode, flat), flat.score(episode)
    )


@pytest.mark.parametrize("distance", ["sqeuclidean", "cosine"])
def test_fixmatch_helps_by_default_whatever_the_distance(distance: str) -> None:
    """A view without half of the dimensions misplaces class means, of wide features by more than
    classes differ.
    """
    episode, target = clusters(10)
    episode = episode.replace(x=2 + episode.x)
    plain = Pipeline(head=ProtoNet(distance))
    found = Pipeline(head=ProtoNet(distance), refine=FixMatch(episode.x.shape[-1])).eval()
    right = [
        float((model(episode).argmax(-1) == target).float().mean()) for model in (plain, found)
    ]
    assert right[1] > right[0] + 0.02, right
