"""The pool's clusters among the support."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import prototypes
from graphfsl.methods.augment.pool_clusters import PoolClusters
from graphfsl.methods.augment.prototype_vae import PrototypeVAE
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.soft_kmeans import SoftKmeans
from graphfsl.testing import DIM
from tests.support.episodes import features, padded_features


@pytest.mark.parametrize("steps", [1, 3])
def test_with_nearest_class_means_the_answers_are_those_of_soft_k_means(steps: int) -> None:
    for episode in (features(unlabeled=3), padded_features()):
        ours = Pipeline(augment=PoolClusters(steps=steps), head=ProtoNet()).double().eval()
        refined = Pipeline(head=ProtoNet(), refine=SoftKmeans(steps=steps)).double().eval()
        torch.testing.assert_close(ours(episode), refined(episode))


def test_a_cluster_is_the_mean_of_a_loop_over_the_pool() -> None:
    episode, part = features(unlabeled=3), PoolClusters(temperature=0.5, weight=0.7)
    grown = part(episode)
    way, k = episode.way, episode.n_support
    for t in range(len(episode.x)):
        p = prototypes(episode.x[t], episode.w[t])
        pool = episode.x[t, episode.unlabeled]
        z = torch.stack([(-(h - p).square().sum(-1) / 0.5).softmax(0) for h in pool])
        for c in range(way):
            mean = sum(z[j, c] * pool[j] for j in range(len(pool))) / z[:, c].sum()
            torch.testing.assert_close(grown.x[t, k + c], mean)
            assert grown.w[t, k + c, c] == pytest.approx(0.7 * float(z[:, c].sum()))


def test_a_generator_behind_it_draws_from_support_and_pool_together() -> None:
    episode = features(unlabeled=3)
    torch.manual_seed(0)
    vae = PrototypeVAE(DIM, samples=2).double().eval()
    both = PoolClusters()(episode)
    mean = prototypes(both.x, both.w)
    drawn = vae(both).x[:, both.n_support : both.n_support + 2]
    expected = vae.draw(mean[:, :1], vae.fixed().expand(len(mean), 1, -1, -1))[:, 0]
    torch.testing.assert_close(drawn, expected)
    plain = vae(episode).x[:, episode.n_support : episode.n_support + 2]
    assert not torch.allclose(drawn, plain)


def test_absent_classes_have_no_cluster_and_no_pool_changes_nothing() -> None:
    episode = features(unlabeled=2)
    grown = PoolClusters()(episode.more_classes(1))
    assert not grown.mask[:, grown.n_support - 1].any()
    assert not grown.w[..., -1].any()
    empty = features(unlabeled=0)
    assert PoolClusters()(empty) is empty
    assert PoolClusters(weight=0)(episode) is episode
