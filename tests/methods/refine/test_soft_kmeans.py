"""Ren et al. 2018: soft k-means, with a cluster for distractors, and with a mask."""

from __future__ import annotations

import itertools
import math

import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core import registry
from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Head, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.soft_kmeans import (
    MaskedSoftKmeans,
    SoftKmeans,
    SoftKmeansCluster,
    average,
    summary,
)
from graphfsl.testing import DIM, WAY, episodes
from tests.support.episodes import features


def test_soft_kmeans_equals_a_loop() -> None:
    episode = features(unlabeled=3)
    head = ProtoNet()
    found = SoftKmeans()(episode, head.score(episode), head)
    for b in range(2):
        p = prototypes(episode.x, episode.w)[b]
        h, s = episode.x[b], episode.n_support
        top, bottom = torch.zeros(WAY, DIM).double(), torch.zeros(WAY).double()
        for i in range(s):
            top, bottom = top + episode.w[b, i, :, None] * h[i], bottom + episode.w[b, i]
        for j in range(episode.unlabeled.start, len(h)):
            z = torch.softmax(torch.stack([-((h[j] - p[c]) ** 2).sum() for c in range(WAY)]), 0)
            top, bottom = top + z[:, None] * h[j], bottom + z
        refined = top / bottom[:, None]
        expected = -((h[:, None] - refined) ** 2).sum(-1)
        torch.testing.assert_close(found[b], expected, atol=1e-8, rtol=1e-8)


def test_soft_kmeans_with_an_empty_pool_is_its_head() -> None:
    episode = features(unlabeled=0)
    head = ProtoNet()
    scores = head.score(episode)
    assert torch.equal(SoftKmeans()(episode, scores, head), scores)


def test_soft_kmeans_with_hard_labels_is_the_class_mean() -> None:
    """Where the head is certain, the refined prototype is the mean of labeled and assigned
    nodes.
    """
    episode = features(unlabeled=2)
    truth = torch.arange(WAY).repeat_interleave(2)
    certain = torch.zeros(2, episode.x.shape[1], WAY).double()
    certain[:, episode.unlabeled] = 1e4 * F.one_hot(truth, WAY).double()
    found = SoftKmeans()(episode, certain, ProtoNet())
    w = episode.w.clone()
    w[:, episode.unlabeled] = F.one_hot(truth, WAY).double()
    torch.testing.assert_close(found, ProtoNet().score(episode.replace(w=w)))


def test_soft_kmeans_does_not_depend_on_the_order_of_the_pool_and_helps_on_clusters() -> None:
    episode, target = episodes(batch=200, shot=1, query=5, unlabeled=10, noise=1.6, seed=3)
    episode = episode.replace(x=episode.x.flatten(2))
    plain, refined = Pipeline(head=ProtoNet()), Pipeline(head=ProtoNet(), refine=SoftKmeans())
    accuracy = [
        float((m(episode).argmax(-1) == target.query).float().mean()) for m in (plain, refined)
    ]
    assert accuracy[1] > accuracy[0] + 0.02, accuracy


CLASSES, LENGTH, QUERY, POOL = 4, 8, 3, 6


def with_distractors(
    batch: int = 2,
    distractors: int = 0,
    pool: int = POOL,
    shot: int = 2,
    noise: float = 0.5,
    seed: int = 0,
) -> tuple[Episode, Tensor, Tensor]:
    """Features around class means; the pool ends with `pool` nodes of each distractor class.

    Returns the episode, the classes (Q,) of its queries, and whether each node (U,) of the pool is
    of its classes.
    """
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(batch, CLASSES + distractors, LENGTH, generator=g).double()
    own = [torch.arange(CLASSES).repeat_interleave(k) for k in (shot, QUERY)]
    y = torch.cat([*own, torch.arange(CLASSES + distractors).repeat_interleave(pool)])
    x = means[:, y] + noise * torch.randn(batch, len(y), LENGTH, generator=g)
    w = torch.zeros(batch, len(y), CLASSES).double()
    support = torch.arange(CLASSES * shot)
    w[:, support, y[support]] = 1
    start = CLASSES * (shot + QUERY)
    return (
        Episode(x, w, CLASSES * shot, CLASSES * QUERY),
        y[CLASSES * shot : start],
        y[start:] < CLASSES,
    )


def masked(beta: float | None = None, gamma: float = 1.0, **options: int) -> MaskedSoftKmeans:
    """With an MLP that is not constant, or one that says this beta and gamma of every class."""
    torch.manual_seed(1)
    out = MaskedSoftKmeans(**options).double()
    for p in out.parameters():
        torch.nn.init.normal_(p, std=0.5 if beta is None else 0.0)
    if beta is not None:
        out.mlp[2].bias.data = torch.tensor([beta, gamma]).double().log()
    return out


def refined(refine: Refine, episode: Episode, head: Head | None = None) -> Tensor:
    head = head or ProtoNet()
    return refine(episode, head.score(episode), head)


def mask_of(refine: MaskedSoftKmeans, episode: Episode) -> Tensor:
    pool = episode.unlabeled
    return refine.keep(
        ProtoNet().score(episode)[:, pool], episode.mask[:, pool], present(episode.w)
    )


def squared_distances(episode: Episode, b: int, weights: Tensor) -> Tensor:
    """-||h_i - p~_c||^2 of all nodes, p~ the means of the support and of the pool with these
    weights (U, N).
    """
    h, y = episode.x[b], episode.w[b]
    refined = []
    for c in range(CLASSES):
        top, bottom = torch.zeros(LENGTH).double(), torch.zeros(()).double()
        for i in range(episode.n_support):
            top, bottom = top + y[i, c] * h[i], bottom + y[i, c]
        for j, node in enumerate(h[episode.unlabeled]):
            top, bottom = top + weights[j, c] * node, bottom + weights[j, c]
        refined.append(top / bottom)
    return torch.stack([torch.stack([-((node - p) ** 2).sum() for p in refined]) for node in h])


def test_the_three_variants_are_found_by_their_own_names() -> None:
    found = {name: registry.get("refine", name) for name in registry.names("refine")}
    for cls in (SoftKmeans, SoftKmeansCluster, MaskedSoftKmeans):
        assert found[registry.snake(cls.__name__)] is cls
    assert {"soft_kmeans", "soft_kmeans_cluster", "masked_soft_kmeans"} <= set(found)


@pytest.mark.parametrize("radius", [0.7, 3.0, 100.0])
def test_the_cluster_equals_a_loop(radius: float) -> None:
    episode, _, _ = with_distractors(distractors=2)
    found = refined(SoftKmeansCluster(radius=radius).double(), episode)
    radii = [*[1.0] * CLASSES, radius]
    for b in range(2):
        p = [*prototypes(episode.x, episode.w)[b], torch.zeros(LENGTH).double()]
        z = []
        for h in episode.x[b, episode.unlabeled]:
            normalizers = [0.5 * math.log(2 * math.pi) + math.log(r) for r in radii]
            densities = [
                math.exp(-float(((h - q) ** 2).sum()) / r**2 - a)
                for q, r, a in zip(p, radii, normalizers, strict=True)
            ]
            z.append([density / sum(densities) for density in densities[:CLASSES]])
        expected = squared_distances(episode, b, torch.tensor(z, dtype=torch.float64))
        # the radius is kept in single precision
        torch.testing.assert_close(found[b], expected, atol=1e-6, rtol=1e-6)


def test_the_mask_equals_a_loop() -> None:
    episode, _, _ = with_distractors(distractors=2)
    refine = masked()
    found = refined(refine, episode)
    for b in range(2):
        p, h = prototypes(episode.x, episode.w)[b], episode.x[b, episode.unlabeled]
        d = torch.stack([torch.stack([((node - q) ** 2).sum() for q in p]) for node in h])
        weights = (-d).softmax(1)
        for c in range(CLASSES):
            ratio = d[:, c] / d[:, c].mean()
            facts = [
                float(ratio.min()),
                float(ratio.max()),
                float(ratio.var(unbiased=False)),
                *moments(ratio),
            ]
            with torch.no_grad():
                beta, gamma = refine.mlp(torch.tensor(facts, dtype=torch.float64)).exp()
            for j in range(len(h)):
                weights[j, c] *= 1 / (1 + math.exp(float(gamma * (ratio[j] - beta))))
        torch.testing.assert_close(
            found[b], squared_distances(episode, b, weights), atol=1e-8, rtol=1e-8
        )


def moments(x: Tensor) -> tuple[float, float]:
    return float(scipy.stats.skew(x)), float(scipy.stats.kurtosis(x))


def test_the_shape_of_distances_is_that_of_scipy() -> None:
    g = torch.Generator().manual_seed(0)
    d = torch.rand(1, 30, 2, generator=g).double() ** 3
    here = torch.rand(1, 30, 2, generator=g) < 0.6
    found = summary(d * here, here)
    assert found.shape == (1, 1, 2, 5)
    for c in range(2):
        x = d[0, here[0, :, c], c]
        facts = [float(x.min()), float(x.max()), float(x.var(unbiased=False)), *moments(x)]
        torch.testing.assert_close(found[0, 0, c], torch.tensor(facts, dtype=torch.float64))
        torch.testing.assert_close(average(d, here)[0, 0, c], x.mean())


@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_equal_distances_have_no_shape_but_no_error_either(constant: float) -> None:
    d, here = torch.full((1, 5, 1), constant), torch.ones(1, 5, 1, dtype=torch.bool)
    assert summary(d, here).flatten().tolist() == [constant, constant, 0, 0, -3]


@pytest.mark.parametrize("refine", [SoftKmeansCluster(), MaskedSoftKmeans()])
def test_an_empty_pool_is_its_head(refine: Refine) -> None:
    episode, _, _ = with_distractors(pool=0)
    scores = ProtoNet().score(episode)
    assert torch.equal(refine(episode, scores, ProtoNet()), scores)


@pytest.mark.parametrize(
    "refine", [SoftKmeansCluster(radius=3.0).double(), masked(), masked(steps=3)]
)
def test_the_order_of_the_pool_does_not_matter(refine: Refine) -> None:
    episode, _, _ = with_distractors(distractors=2)
    k, n = episode.unlabeled.start, episode.x.shape[1]
    order = torch.cat(
        [torch.arange(k), k + torch.randperm(n - k, generator=torch.Generator().manual_seed(0))]
    )
    turned = refined(refine, episode.replace(x=episode.x[:, order]))
    torch.testing.assert_close(turned, refined(refine, episode)[:, order])


def kept(radius: float, episode: Episode) -> Tensor:
    """The share (B, U) of each node of the pool that the classes get."""
    refine = SoftKmeansCluster(radius=radius).double()
    return refine.assign(episode, ProtoNet().score(episode)[:, episode.unlabeled]).sum(-1)


def test_the_share_of_the_cluster_rises_up_to_sqrt_2_times_the_length_of_a_node_and_falls_beyond() -> (  # noqa: E501
    None
):
    """-||h||^2 / r^2 - log r is largest at r^2 = 2 ||h||^2."""
    episode, _, _ = with_distractors(distractors=2)
    lengths = episode.x[:, episode.unlabeled].norm(dim=-1)
    low, high = float(lengths.min()) * 2**0.5, float(lengths.max()) * 2**0.5
    below = [kept(low * f, episode) for f in (0.25, 0.5, 1.0)]
    beyond = [kept(high * f, episode) for f in (1.0, 4.0, 16.0)]
    assert all((b <= a).all() and (b < a).any() for a, b in itertools.pairwise(below))
    assert all((b >= a).all() and (b > a).any() for a, b in itertools.pairwise(beyond))


def test_a_large_radius_leaves_the_cluster_the_logit_minus_log_r() -> None:
    episode, _, _ = with_distractors()
    share = 1 - kept(1e4, episode)
    mass = ProtoNet().score(episode)[:, episode.unlabeled].exp().sum(-1)
    torch.testing.assert_close(share, 1 / (1 + 1e4 * mass), atol=1e-6, rtol=1e-4)


def test_without_a_cluster_and_without_a_mask_both_are_soft_kmeans() -> None:
    episode, _, _ = with_distractors(distractors=1)
    plain = refined(SoftKmeans(), episode)
    torch.testing.assert_close(refined(SoftKmeansCluster(radius=1e30).double(), episode), plain)
    torch.testing.assert_close(refined(masked(1e3), episode), plain)


def test_the_mask_lies_between_0_and_1_is_half_at_beta_and_drops_far_nodes() -> None:
    episode, _, _ = with_distractors(distractors=2)
    pool = episode.unlabeled
    m = mask_of(masked(), episode)
    assert ((m > 0) & (m < 1)).all()
    d = squared_euclidean(episode.x, prototypes(episode.x, episode.w))[:, pool]
    ratio = d / d.mean(1, keepdim=True)
    m = mask_of(masked(0.8, 5.0), episode)
    torch.testing.assert_close(m, torch.sigmoid(5 * (0.8 - ratio)))
    assert ((m > 0.5) == (ratio < 0.8)).all() and 0 < (m > 0.5).double().mean() < 1
    far = episode.x.clone()
    far[:, -1] += 50
    assert (mask_of(masked(0.8, 5.0), episode.replace(x=far))[:, -1] < 1e-6).all()


def test_a_fresh_mask_has_beta_and_gamma_one() -> None:
    episode, _, _ = with_distractors(distractors=2)
    torch.manual_seed(0)
    fresh = mask_of(MaskedSoftKmeans().double(), episode)
    torch.testing.assert_close(fresh, mask_of(masked(1.0), episode), atol=0.02, rtol=0)


def test_only_the_plain_assignments_are_constants_for_the_gradient() -> None:
    episode, _, _ = with_distractors(distractors=1)
    for refine, constant in (
        (SoftKmeans(), True),
        (SoftKmeansCluster().double(), False),
        (masked(), False),
    ):
        scores = ProtoNet().score(episode).requires_grad_()
        refine(episode, scores, ProtoNet()).sum().backward() if not constant else None
        assert (scores.grad is None) is constant
        assert refine.assign(episode, scores[:, episode.unlabeled]).requires_grad is not constant


def test_scores_above_zero_count_from_the_best_one() -> None:
    """A head of any scores: only differences matter as soon as one is positive; below zero -score
    is the distance.
    """
    s, real, there = (
        torch.randn(2, 9, 3).double(),
        torch.ones(2, 9, dtype=torch.bool),
        torch.ones(2, 3).bool(),
    )
    refine = masked()
    torch.testing.assert_close(refine.keep(s + 5, real, there), refine.keep(s + 50, real, there))
    below = s - s.amax()
    assert not torch.allclose(refine.keep(below - 1, real, there), refine.keep(below, real, there))
    nothing = refine.keep(torch.zeros_like(s), real, there)
    assert torch.isfinite(nothing).all()


def test_a_task_without_a_pool_beside_one_with_it_gives_finite_gradients() -> None:
    one, other = (with_distractors(batch=1, pool=k, seed=k)[0] for k in (0, 5))
    both = stack([one, other])
    for refine in (SoftKmeansCluster().double(), masked()):
        refined(refine, both)[:, both.query].sum().backward()
        assert all(
            torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in refine.parameters()
        )


def test_an_absent_class_gets_no_weight_and_has_no_part_in_the_mask() -> None:
    episode, _, _ = with_distractors(distractors=1)
    w = torch.cat([episode.w, torch.zeros_like(episode.w[..., :1])], -1)
    for refine in (SoftKmeansCluster().double(), masked()):
        found = refined(refine, episode.replace(w=w))
        torch.testing.assert_close(found[..., :-1], refined(refine, episode))
        assert torch.isneginf(found[..., -1]).all()


class Scaled(Head):
    """A head whose scores are no distances: dot products."""

    def score(self, episode: Episode) -> Tensor:
        return hide_absent(episode.x @ prototypes(episode.x, episode.w).mT, episode.w)


@pytest.mark.parametrize("refine", [SoftKmeansCluster().double(), masked()])
def test_any_head_that_reads_weights_is_refined(refine: Refine) -> None:
    episode, _, _ = with_distractors(distractors=1)
    found, plain = refined(refine, episode, Scaled()), Scaled().score(episode)
    assert torch.isfinite(found).all() and not torch.allclose(found, plain, atol=1e-3)


def test_mask_and_cluster_find_the_distractors() -> None:
    episode, _, own = with_distractors(batch=50, distractors=CLASSES)
    truth = own.expand(50, -1).flatten()
    with torch.no_grad():
        m, share = mask_of(masked(0.5, 4.0), episode).amax(-1), kept(100.0, episode)
    assert roc_auc_score(truth, m.flatten()) > 0.8
    assert roc_auc_score(truth, share.flatten()) > 0.8


def accuracy(refine: Refine | None, episode: Episode, y: Tensor) -> float:
    scores = refined(refine, episode) if refine else ProtoNet().score(episode)
    return float((scores[:, episode.query].argmax(-1) == y).double().mean())


def test_distractors_hurt_less_under_mask_and_cluster_that_have_learned() -> None:
    """The features are fixed: only the radius and the MLP learn."""
    torch.manual_seed(0)
    cluster, mask = SoftKmeansCluster().double(), MaskedSoftKmeans().double()
    groups = [{"params": cluster.parameters(), "lr": 0.2}, {"params": mask.parameters()}]
    optimizer = torch.optim.Adam(groups, 0.03)
    for step in range(50):
        episode, y, _ = with_distractors(
            batch=16, distractors=CLASSES, shot=1, noise=0.7, seed=step
        )
        losses = []
        for refine in (cluster, mask):
            scores = refined(refine, episode)[:, episode.query]
            losses.append(torch.nn.functional.cross_entropy(scores.flatten(0, 1), y.repeat(16)))
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
    episode, y, own = with_distractors(
        batch=200, distractors=CLASSES, shot=1, noise=0.7, seed=10_000
    )
    with torch.no_grad():
        plain = accuracy(SoftKmeans(), episode, y)
        assert accuracy(mask, episode, y) > plain + 0.005
        assert accuracy(cluster, episode, y) > plain + 0.005
        m = mask_of(mask, episode).amax(-1)
    assert roc_auc_score(own.expand(200, -1).flatten(), m.flatten()) > 0.8


def test_options_are_checked() -> None:
    with pytest.raises(InputError, match="radius must be above 0"):
        SoftKmeansCluster(radius=0.0)
    with pytest.raises(InputError, match="at least one step"):
        MaskedSoftKmeans(steps=0)
