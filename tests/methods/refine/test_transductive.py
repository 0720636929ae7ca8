"""Transductive refiners against loops written from the papers' equations, autograd, easyfsl, and
what must hold.
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from easyfsl import methods as easyfsl
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.estimator import FewShotClassifier
from graphfsl.core import registry
from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Head, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Split
from graphfsl.functional.adam import adam
from graphfsl.functional.sinkhorn import balance, potentials
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.bd_cspn import BDCSPN
from graphfsl.methods.refine.laplacian_shot import LaplacianShot
from graphfsl.methods.refine.pt_map import PTMAP
from graphfsl.methods.refine.sinkhorn_balance import SinkhornBalance
from graphfsl.methods.refine.tim import TIM, AlphaTIM
from graphfsl.methods.refine.transductive_fine_tuning import TransductiveFineTuning
from tests.support.cases import part, sinkhorn

MINE = [
    "alpha_tim",
    "bd_cspn",
    "laplacian_shot",
    "pt_map",
    "sinkhorn_balance",
    "tim",
    "transductive_fine_tuning",
]
every_refiner = pytest.mark.parametrize("name", MINE)
HEAD = ProtoNet()


def task(
    counts: Any = (4, 4, 4), shot: int = 2, dim: int = 12, seed: int = 0, spread: float = 1.0
) -> tuple[Episode, Any]:
    """One task of positive float64 features around class means, counts[c] queries of class c,
    shuffled; its truth.
    """
    g = torch.Generator().manual_seed(seed)
    way = len(counts)
    mean = spread * torch.rand(way, dim, generator=g, dtype=torch.float64)
    truth = torch.arange(way).repeat_interleave(torch.tensor(counts))
    truth = truth[torch.randperm(len(truth), generator=g)]
    y = torch.cat([torch.arange(way).repeat_interleave(shot), truth])
    x = mean[y] + 0.5 * torch.rand(len(y), dim, generator=g, dtype=torch.float64)
    w = F.one_hot(y, way).double()
    w[way * shot :] = 0
    return Episode(x[None], w[None], way * shot, len(truth), relabeled=False), truth[None]


def batch(*tasks: tuple[Episode, Any]) -> Episode:
    return stack([episode for episode, _ in tasks])


def refined(refiner: Any, episode: Episode) -> Tensor:
    with torch.no_grad():
        out: Tensor = Pipeline(head=HEAD, refine=refiner).score(episode)
    return out


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def parts(episode: Episode) -> tuple[Tensor, Tensor, list[int]]:
    """Support, queries and labels of the first task."""
    k, m = episode.n_support, episode.n_support + episode.n_query
    return episode.x[0, :k], episode.x[0, k:m], episode.w[0, :k].argmax(-1).tolist()


def means(s: Tensor, y: list[int]) -> Tensor:
    return torch.stack(
        [torch.stack([s[i] for i in range(len(y)) if y[i] == c]).mean(0) for c in range(max(y) + 1)]
    )


COUNTS = pytest.mark.parametrize("counts", [(4, 4, 4), (9, 0, 2), (1, 1, 0)], ids=str)

# ------------------------------------------------------------------------------------------ BD-CSPN


@COUNTS
@pytest.mark.parametrize("most", [0, 2, 8, None])
@pytest.mark.parametrize("over", ["nodes", "classes"])
def test_bd_cspn_equals_a_loop(counts: tuple[int, ...], most: int | None, over: str) -> None:
    episode, _ = task(counts)
    s, q, y = parts(episode)
    s, q = unit(s), unit(q)
    q = q + (s.mean(0) - q.mean(0))
    p, eps = means(s, y), 3.0

    def cosines(x: Tensor) -> list[float]:
        return [float(F.cosine_similarity(x, c, 0)) for c in p]

    near = [max(range(3), key=cosines(x).__getitem__) for x in q]
    sure = [math.exp(max(cosines(x))) / sum(map(math.exp, cosines(x))) for x in q]
    rectified = []
    for c in range(3):
        joined = sorted((j for j in range(len(q)) if near[j] == c), key=lambda j: -sure[j])[:most]
        members = [s[i] for i in range(len(y)) if y[i] == c] + [q[j] for j in joined]
        weights = [math.exp(eps * cosines(x)[c]) for x in members]
        if over == "classes":
            weights = [
                w / sum(math.exp(eps * cos) for cos in cosines(x))
                for w, x in zip(weights, members, strict=True)
            ]
        rectified.append(sum(w * x for w, x in zip(weights, members, strict=True)) / sum(weights))
    expected = 10 * torch.stack(
        [torch.stack([F.cosine_similarity(x, r, 0) for r in rectified]) for x in q]
    )
    found = refined(BDCSPN(eps=eps, most=most, over=over), episode)
    torch.testing.assert_close(found[0, len(s) :], expected)
    assert torch.isfinite(found).all(), "a class without a query that is near keeps its support"


def test_one_shot_does_not_outweigh_the_queries_by_default() -> None:
    """A support node is its own prototype, at a cosine of 1; with eps 10 it weighs as much as
    dozens of queries.
    """
    g, y = torch.Generator().manual_seed(0), torch.arange(5).repeat(16)
    x = torch.randn(40, 5, 32, generator=g)[:, y] + 1.5 * torch.randn(40, 80, 32, generator=g)
    episode = Episode(
        x, F.pad(torch.eye(5), (0, 0, 0, 75)).expand(40, -1, -1), 5, 75, relabeled=False
    )

    def right(refiner: BDCSPN) -> float:
        return float((refined(refiner, episode)[:, 5:].argmax(-1) == y[5:]).double().mean())

    assert right(BDCSPN()) > right(BDCSPN(eps=10.0, most=None)) + 0.1


@pytest.mark.parametrize(
    "options", [{"eps": -1.0}, {"scale": 0.0}, {"most": -1}, {"over": "class"}], ids=str
)
def test_bd_cspn_refuses_what_is_no_option(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="bd_cspn"):
        BDCSPN(**options)


def test_a_query_far_from_all_classes_is_not_given_to_an_absent_one() -> None:
    """Its cosine with an absent class, at zero, would be the largest."""
    x = torch.tensor(
        [[1.0, 0.1], [0.1, 1], [1, 0.8], [0.9, 1], [1, 1.2], [-1, -0.8]], dtype=torch.float64
    )
    episode = Episode(
        x[None], F.pad(torch.eye(2), (0, 1, 0, 4)).double()[None], 2, 4, relabeled=False
    )
    two = episode.replace(w=episode.w[..., :2])
    torch.testing.assert_close(
        refined(BDCSPN(eps=1.0), episode)[..., :2], refined(BDCSPN(eps=1.0), two)
    )


def test_bd_cspn_rectifies_as_easyfsl_does_where_nothing_is_shifted() -> None:
    """With the support as queries xi is zero; easyfsl has eps 1 and a plain cosine."""
    episode, _ = task((3, 3, 3), shot=3)
    s, _, y = parts(episode)
    order = torch.randperm(len(s), generator=torch.Generator().manual_seed(0))
    s = unit(s)
    episode = episode.replace(x=torch.cat([s, s[order]])[None])
    theirs = easyfsl.BDCSPN(torch.nn.Identity())
    theirs.process_support_set(s, torch.tensor(y))
    ours = BDCSPN(eps=1.0, scale=1.0, most=None)
    torch.testing.assert_close(refined(ours, episode)[0, len(s) :], theirs(s[order]))


# ------------------------------------------------------------------------------------ LaplacianShot


def nearest(q: Tensor, k: int) -> list[list[int]]:
    return [
        sorted(
            (j for j in range(len(q)) if j != i),
            key=lambda j: -float(F.cosine_similarity(q[i], q[j], 0)),
        )[: k - 1]
        for i in range(len(q))
    ]


@COUNTS
@pytest.mark.parametrize("k", [2, 3, 50])
def test_laplacian_shot_equals_a_loop(counts: tuple[int, ...], k: int) -> None:
    episode, _ = task(counts)
    s, q, y = parts(episode)
    a = torch.cdist(q, means(s, y)).square()
    near, assignment = nearest(q, k), (-a).softmax(-1)
    for _ in range(20):
        pull = torch.stack(
            [sum((assignment[j] for j in near[i]), torch.zeros(3)) for i in range(len(q))]
        )
        assignment = (-a + 0.7 * pull).softmax(-1)
    found = refined(LaplacianShot(k=k), episode)
    torch.testing.assert_close(found[0, len(s) :].softmax(-1), assignment)
    torch.testing.assert_close(found[0, : len(s)], HEAD.score(episode)[0, : len(s)])


def test_laplacian_shot_is_that_of_easyfsl() -> None:
    """Its affinities and bound updates, on features of length one; it stops at a relative change of
    1e-6.
    """
    episode, _ = task((6, 3, 7), seed=3)
    s, q, y = parts(episode)
    s, q = unit(s), unit(q)
    theirs = easyfsl.LaplacianShot(torch.nn.Identity(), inference_steps=20)
    costs = torch.cdist(q, means(s, y)).square()
    expected = theirs.bound_updates(costs, theirs.compute_pairwise_affinities(q).double())
    found = refined(LaplacianShot(), episode.replace(x=torch.cat([s, q])[None]))[
        0, len(s) :
    ].softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_bound_updates_lower_the_energy() -> None:
    """With a symmetric W without negative eigenvalues, sum Y (a - lambda/2 W Y + log Y) never
    rises.
    """
    episode, _ = task((5, 5, 5))
    root = torch.rand(
        1, episode.n_query, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    w, a, energies = root @ root.mT, -HEAD.score(episode)[:, episode.query].mT, []
    for steps in range(1, 15):
        y = LaplacianShot(lam=1.5, steps=steps).updates(a, lambda y: y @ w)
        energies.append(float((y * (a - 1.5 / 2 * y @ w + y.log())).sum()))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies)), energies
    assert energies[-1] < energies[0] - 0.1


def test_without_lambda_the_head_answers() -> None:
    episode, _ = task()
    assert torch.equal(refined(LaplacianShot(lam=0.0), episode), HEAD.score(episode))


def test_what_neighbours_pull_is_a_constant_for_the_gradient() -> None:
    """The scores of a refined query move with the features as those of the head do."""
    episode, _ = task()
    weights = torch.rand(
        1, episode.n_query, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    gradients = []
    for refine in (None, LaplacianShot()):
        x = episode.x.clone().requires_grad_()
        scores = Pipeline(head=HEAD, refine=refine)(episode.replace(x=x))
        gradients.append(torch.autograd.grad((weights * scores).sum(), x)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    "refiner", [AlphaTIM(steps=5, lr=1e-2), TransductiveFineTuning(lr=1e-2), TIM(steps=3)]
)
def test_how_the_classifier_moved_is_a_constant_for_the_gradient(refiner: Refine) -> None:
    """It is added to the class means, or multiplies the nodes: these carry the gradient to the
    support.
    """
    episode, _ = task()
    x = episode.x.clone().requires_grad_()
    scores = Pipeline(head=HEAD, refine=refiner)(episode.replace(x=x))
    (gradient,) = torch.autograd.grad(scores.square().sum(), x)
    assert gradient[:, episode.support].abs().max() > 1e-3, "the support teaches the encoder"


# ------------------------------------------------------------------------------------------- PT-MAP


def pt_map(episode: Episode, steps: int, columns: Any) -> Tensor:
    """P (Q, C) of algorithm 1; columns(L) are the sums of P's columns for log-scores L, None for
    soft k-means.
    """
    s, q, y = parts(episode)
    s, q = (unit((x + 1e-6).sqrt()) for x in (s, q))
    s, q = (unit(x - x.mean(0)) for x in (s, q))
    mu, labels = means(s, y), F.one_hot(torch.tensor(y), 3).double()
    for step in range(steps + 1):
        log_p = -10 * torch.cdist(q, mu).square()
        p = (
            log_p.softmax(-1)
            if columns is None
            else sinkhorn(log_p, torch.ones(len(q)).double(), columns, 300)
        )
        if step < steps:
            for c in range(3):
                estimate = (labels[:, c] @ s + p[:, c] @ q) / (labels[:, c].sum() + p[:, c].sum())
                mu[c] = mu[c] + 0.2 * (estimate - mu[c])
    return p


@pytest.mark.parametrize("steps", [0, 1, 20])
def test_pt_map_equals_a_loop(steps: int) -> None:
    episode, _ = task((6, 3, 3), spread=0.3)
    q = episode.query
    p = pt_map(episode, steps, torch.full((3,), 4.0, dtype=torch.float64))
    found = refined(PTMAP(steps=steps), episode)[0, q].softmax(-1)
    torch.testing.assert_close(found, p, atol=1e-4, rtol=0)
    free = refined(PTMAP(steps=steps, share=0.0), episode)[0, q].softmax(-1)
    torch.testing.assert_close(free, pt_map(episode, steps, None), atol=1e-6, rtol=0)


def test_pt_map_gives_every_class_as_many_queries() -> None:
    episode = batch(task((8, 3, 1)), task((2, 2, 2), seed=1), task((3, 2), seed=2))
    p = (
        refined(PTMAP(), episode)[:, episode.query].softmax(-1)
        * episode.mask[:, episode.query, None]
    )
    torch.testing.assert_close(
        p.sum(1), torch.tensor([[4.0, 4, 4], [2, 2, 2], [2.5, 2.5, 0]]).double(), atol=1e-5, rtol=0
    )


def test_negative_features_are_refused_and_those_of_an_augmentation_count_as_zero() -> None:
    episode, _ = task()
    x = episode.x - 0.4
    assert (x < 0).any()
    assert torch.equal(
        refined(PTMAP(), episode.replace(x=x)), refined(PTMAP(), episode.replace(x=x.clamp_min(0)))
    )
    x = torch.rand(40, 6)
    split = Split(x, torch.arange(4).repeat_interleave(10), tuple("abcd"), "positive")
    model, setting = Pipeline(head=HEAD, refine=PTMAP()), {"way": 2, "query": 2, "episodes": 3}
    assert 0 <= evaluate(model, split, **setting).mean <= 1
    x[7, 3] = -0.5
    with pytest.raises(InputError, match=r"none below 0, but the smallest is -0\.5"):
        evaluate(model, split, **setting)
    assert 0 <= evaluate(Pipeline(head=HEAD, refine=TIM(steps=1)), split, **setting).mean <= 1
    with pytest.raises(InputError, match="none below 0"):
        FewShotClassifier({"head": "protonet", "refine": "pt_map"}).fit(x.numpy(), split.y.numpy())


# ---------------------------------------------------------------------------------------------- TIM


def tim_loss(
    scores: Tensor, y: list[int], weights: tuple[float, float, float], alpha: float = 1.0
) -> Tensor:
    """lambda CE - marginal H(mean) + conditional mean H, of scores (n, C), the first of which are
    the support's.
    """
    p = scores.softmax(-1)
    p_s, p_q = p[: len(y)], p[len(y) :]

    def entropy(p: Tensor) -> Tensor:
        if alpha == 1:
            return -(p * p.clamp_min(1e-300).log()).sum(-1)
        return (1 - (p.clamp_min(1e-300) ** alpha).sum(-1)) / (alpha - 1)

    ce = -torch.stack([p_s[i, y[i]].log() for i in range(len(y))]).mean()
    return weights[0] * ce - weights[1] * entropy(p_q.mean(0)) + weights[2] * entropy(p_q).mean()


@COUNTS
@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_tim_equals_a_loop(counts: tuple[int, ...], rate: float) -> None:
    """The authors' two updates, feature by feature, in place of coefficients of the nodes."""
    episode, _ = task(counts)
    s, q, y = parts(episode)
    s, q, labels = unit(s), unit(q), F.one_hot(torch.tensor(y), 3).double()
    w = means(s, y)
    a, b = 0.1 / 1.1, len(s) / len(q)
    for _ in range(25):
        p_s, p_q = ((-7.5 * torch.cdist(x, w).square()).softmax(-1) for x in (s, q))
        target = p_q**1.1 / (p_q**1.1).sum(0) ** 0.5
        target = target / target.sum(1, keepdim=True)
        for c in range(3):
            new = a * sum(labels[i, c] * s[i] + p_s[i, c] * (w[c] - s[i]) for i in range(len(s)))
            new = new + b * sum(
                target[j, c] * q[j] + p_q[j, c] * (w[c] - q[j]) for j in range(len(q))
            )
            new = new / (a * labels[:, c].sum() + b * target[:, c].sum())
            w = torch.cat([w[:c], (w[c] + rate * (new - w[c]))[None], w[c + 1 :]])
    found = refined(TIM(steps=25, rate=rate), episode)[0]
    torch.testing.assert_close(found, -7.5 * torch.cdist(unit(episode.x[0]), w).square())


def test_the_steps_of_tim_lower_its_loss() -> None:
    episode, _ = task((5, 5, 5), spread=0.5)
    y = parts(episode)[2]
    losses = [
        float(tim_loss(refined(TIM(steps=t), episode)[0], y, (0.1, 1, 0.1))) for t in range(40)
    ]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(losses)), losses
    assert losses[-1] < losses[0] - 0.05
    assert losses[-1] > -math.log(3), "no mutual information is more than log C"


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 7.0])
def test_the_gradient_of_alpha_tim_is_that_of_autograd(alpha: float) -> None:
    """In a batch with padding and an absent class."""
    tasks = [task((4, 4, 4)), task((1, 3), shot=1, seed=1)]
    episode, refiner = (
        batch(*tasks),
        AlphaTIM(alpha, cross_entropy=0.7, marginal=1.3, conditional=0.4),
    )
    k, z = episode.n_support, unit(episode.x.where(episode.mask[..., None], 1.0))
    w = z[:, :3].clone() + 0.1
    real = episode.mask[:, k:].unsqueeze(1).double()
    found = refiner.gradient(w, z, episode.w[:, :k].mT, real)
    for i, (alone, _) in enumerate(tasks):
        mine = w[i, : alone.way].clone().requires_grad_()
        scores = -7.5 * torch.cdist(unit(alone.x[0]), mine).square()
        tim_loss(scores, parts(alone)[2], (0.7, 1.3, 0.4), alpha).backward()
        torch.testing.assert_close(found[i, : alone.way], mine.grad)
        assert not found[i, alone.way :].any()


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_alpha_tim_is_adam_on_its_loss(alpha: float) -> None:
    episode, _ = task((7, 1, 4))
    s, _, y = parts(episode)
    z, w = unit(episode.x[0]), means(unit(s), y).requires_grad_()
    optimizer = torch.optim.Adam([w], lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        tim_loss(-7.5 * torch.cdist(z, w).square(), y, (1, 1, 1), alpha).backward()
        optimizer.step()
    found = refined(AlphaTIM(alpha, steps=30, lr=1e-3), episode)[0]
    torch.testing.assert_close(found, -7.5 * torch.cdist(z, w.detach()).square())


def test_adam_is_that_of_torch() -> None:
    target = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    x = torch.zeros(3, 4, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        (x - target).pow(4).sum().backward()
        optimizer.step()
    torch.testing.assert_close(
        adam(lambda x: 4 * (x - target) ** 3, torch.zeros(3, 4), 0.1, 50), x.detach()
    )


# -----------------------------------------------------------------------------------------
# transductive fine-tuning


@COUNTS
def test_transductive_fine_tuning_is_adam_on_a_linear_layer(counts: tuple[int, ...]) -> None:
    episode, _ = task(counts)
    s, _, y = parts(episode)
    z, layer = unit(episode.x[0]), torch.nn.Linear(12, 3).double()
    with torch.no_grad():
        layer.weight.copy_(unit(means(unit(s), y)))
        layer.bias.zero_()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        log_p = layer(z).log_softmax(-1)
        entropy = -(log_p.exp() * log_p)[len(s) :].sum(-1).mean()
        (F.nll_loss(log_p[: len(s)], torch.tensor(y)) + entropy).backward()
        optimizer.step()
    torch.testing.assert_close(
        refined(TransductiveFineTuning(lr=1e-2), episode)[0], layer(z).detach()
    )


# ----------------------------------------------------------------------------------------- Sinkhorn


def logits(scale: float, n: int = 12, way: int = 4) -> Tensor:
    return scale * torch.randn(
        3, n, way, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0, 1e3, 1e5])
def test_potentials_meet_any_columns(scale: float) -> None:
    log_p, rows = (
        logits(scale),
        torch.rand(3, 12, generator=torch.Generator().manual_seed(1)).double(),
    )
    columns = torch.tensor([[1.0, 2, 3, 4], [5, 1, 0, 3], [1, 1, 1, 1]]).double()
    columns = columns / columns.sum(1, keepdim=True) * rows.sum(1, keepdim=True)
    log_p[1, :, 2] = float("-inf")
    v = potentials(log_p, rows, columns)
    p = rows.unsqueeze(-1) * (log_p + v.unsqueeze(1)).softmax(-1)
    torch.testing.assert_close(p.sum(1), columns, atol=1e-6, rtol=0)
    torch.testing.assert_close(v.sum(1) / scale, torch.zeros(3).double(), atol=1e-9, rtol=0)
    assert v[1, 2] == 0
    torch.testing.assert_close(potentials(log_p, rows, columns, 12, v + 3.0), v, atol=1e-4, rtol=0)


def test_potentials_are_the_limit_of_sinkhorn() -> None:
    log_p, rows, columns = logits(2.0), torch.ones(3, 12).double(), torch.full((3, 4), 3.0).double()
    v = potentials(log_p, rows, columns, 20)
    torch.testing.assert_close(
        (log_p + v.unsqueeze(1)).softmax(-1),
        sinkhorn(log_p, rows, columns, 2000),
        atol=1e-5,
        rtol=0,
    )
    single = potentials(log_p.float(), rows.float(), columns.float(), 20)
    torch.testing.assert_close(single.double(), v, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squared_distances_of_raw_features_are_balanced(dtype: torch.dtype) -> None:
    """16-way, 15 queries a class: scores differ by a thousand, and all rows are sure."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(16).repeat(16)
    x = 4 * torch.rand(16, 100, generator=g)[y] + 8 * torch.rand(256, 100, generator=g)
    episode = Episode(x[None].to(dtype), F.one_hot(y, 16)[None].to(dtype), 16, 240)
    episode = episode.replace(w=episode.w * (torch.arange(256) < 16).unsqueeze(-1), relabeled=False)
    scores = HEAD.score(episode)[:, episode.query]
    assert (scores.amax(-1) - scores.amin(-1)).max() > 300
    own = F.one_hot(scores.argmax(-1), 16).sum(1)
    assert own.min() < 10 and own.max() > 20
    for refiner in (SinkhornBalance(), SinkhornBalance(temperature=0.01)):
        p = refined(refiner, episode)[:, episode.query].softmax(-1)
        torch.testing.assert_close(
            p.sum(1), torch.full((1, 16), 15.0, dtype=dtype), atol=2e-3, rtol=0
        )


@pytest.mark.parametrize(
    "columns", [[75.0, 0, 0], [25, 25, 25], [1e-3, 1e-3, 75 - 2e-3], [74, 0.5, 0.5]], ids=str
)
@pytest.mark.parametrize("margin", [1.0, 50.0, 800.0])
def test_rows_that_are_all_sure_of_one_column_are_spread(
    columns: list[float], margin: float
) -> None:
    log_p = torch.zeros(1, 75, 3, dtype=torch.float64)
    log_p[..., 0] = margin
    log_p += torch.rand(1, 75, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = torch.tensor([columns], dtype=torch.float64)
    v = potentials(log_p, torch.ones(1, 75).double(), sums)
    p = (log_p + v.unsqueeze(1)).masked_fill((sums == 0).unsqueeze(1), -1e30).softmax(-1)
    torch.testing.assert_close(p.sum(1), sums, atol=1e-6, rtol=0)


@pytest.mark.parametrize("lam", [10.0, 1000.0])
def test_pt_map_is_balanced_for_any_lambda(lam: float) -> None:
    p = refined(PTMAP(lam=lam), batch(task((8, 3, 1), spread=0.3)))[:, 6:].softmax(-1)
    torch.testing.assert_close(p.sum(1), torch.full((1, 3), 4.0).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_leads_from_the_own_columns_to_equal_ones(share: float) -> None:
    log_p, rows = logits(2.0), torch.ones(3, 12).double()
    rows[2, 1:] = 0
    log_p[1, :, 0] = float("-inf")
    v = balance(log_p, rows, share, 20)
    p = rows.unsqueeze(-1) * log_p.softmax(-1)
    found = rows.unsqueeze(-1) * (log_p + v.unsqueeze(1)).softmax(-1)
    equal = torch.tensor([[3.0, 3, 3, 3], [0, 4, 4, 4]]).double()
    torch.testing.assert_close(
        found[:2].sum(1), (1 - share) * p[:2].sum(1) + share * equal, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found[2], p[2])  # one row alone
    if share == 0:
        torch.testing.assert_close(found, p, atol=1e-5, rtol=0)


def test_sinkhorn_balance_balances_the_scores_of_its_head() -> None:
    episode = batch(task((8, 3, 1)), task((3, 2), seed=2))
    scores = HEAD.score(episode)[:, episode.query] / 0.5
    rows = episode.mask[:, episode.query].double()
    found = refined(SinkhornBalance(temperature=0.5), episode)[:, episode.query]
    p = rows.unsqueeze(-1) * found.softmax(-1)
    columns = torch.tensor([[4.0, 4, 4], [2.5, 2.5, 0]]).double()
    torch.testing.assert_close(p.sum(1), columns, atol=1e-4, rtol=0)
    torch.testing.assert_close(p, sinkhorn(scores, rows, columns, 3000), atol=1e-4, rtol=0)


# -------------------------------------------------------------------------------------- all of them


@every_refiner
def test_classes_are_named_by_nothing(name: str) -> None:
    episode, order = batch(task((5, 2, 3)), task((1, 4, 1), seed=1)), torch.tensor([2, 0, 1])
    refiner = part("refine", name)
    torch.testing.assert_close(
        refined(refiner, episode.replace(w=episode.w[..., order])),
        refined(refiner, episode)[..., order],
        atol=1e-6,
        rtol=1e-6,
    )


@every_refiner
def test_a_single_query_and_none(name: str) -> None:
    tasks = [task(counts, shot=3, spread=2.0) for counts in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    refiner, episode = part("refine", name), batch(*tasks)
    found = refined(refiner, episode)
    assert torch.isfinite(found).all()
    truth = torch.cat([truth for _, truth in tasks])
    assert torch.equal(found[:, episode.query].argmax(-1), truth), (
        "one query alone is nothing to balance or to shift"
    )
    assert torch.isfinite(refined(refiner, episode.parts(query=False))).all()


@every_refiner
def test_tasks_of_any_size_share_a_batch(name: str) -> None:
    """Of one and two queries, of two classes and three: what a task has more changes nothing in the
    others.
    """
    tasks = [
        task((5, 2, 3)),
        task((1, 1, 0), seed=1),
        task((0, 1), shot=1, seed=2),
        task((2, 1), seed=3),
    ]
    refiner, both = part("refine", name), batch(*tasks)
    both = both.replace(x=both.x.where(both.mask[..., None], 9.0), mask=both.mask)
    found = refined(refiner, both)
    for i, (alone, _) in enumerate(tasks):
        mine = found[i, both.mask[i], : alone.way]
        torch.testing.assert_close(mine, refined(refiner, alone)[0], atol=1e-6, rtol=1e-6)
        assert torch.isneginf(found[i, :, alone.way :]).all()


@pytest.mark.parametrize("name", MINE[:-1])
def test_company_helps(name: str) -> None:
    """Over 40 balanced tasks of overlapping classes; in none of the methods is it a matter of
    luck.
    """
    tasks = [task((10, 10, 10), shot=1, spread=0.6, seed=seed) for seed in range(40)]
    episode, truth = batch(*tasks), torch.cat([t for _, t in tasks])
    options = {
        "alpha_tim": {"steps": 200, "lr": 5e-4},
        "sinkhorn_balance": {"temperature": 0.1},
    }.get(name, {})
    found = refined(part("refine", name, **options), episode)[:, episode.query]
    right = [
        (s.argmax(-1) == truth).double().mean()
        for s in (found, HEAD.score(episode)[:, episode.query])
    ]
    assert right[0] > right[1] + 0.005, right


class Silent(Head):
    def score(self, episode: Episode) -> Tensor:
        raise AssertionError("the head was asked")


@pytest.mark.parametrize("name", registry.names("refine"))
def test_a_refiner_reads_scores_where_it_says_so(name: str) -> None:
    episode, _ = task()
    episode = Episode(episode.x, episode.w, episode.n_support, episode.n_query - 3)
    refiner = part("refine", name).double()
    if refiner.reads_scores:
        with pytest.raises(AssertionError, match="the head was asked"):
            Pipeline(head=Silent(), refine=refiner)(episode)
        return
    found = Pipeline(head=Silent(), refine=refiner)(episode)
    assert torch.equal(found, refined(refiner, episode)[:, episode.query])


def test_the_head_is_asked_where_a_later_refiner_alone_does_not_need_it() -> None:
    episode, _ = task()
    chain = refined([BDCSPN(scale=2.0), LaplacianShot()], episode)
    scores = refined(BDCSPN(scale=2.0), episode)
    assert torch.equal(chain, LaplacianShot()(episode, scores, HEAD))


UNBALANCED = Split(
    torch.rand(60, 6), torch.arange(4).repeat_interleave(15), tuple("abcd"), "unbalanced"
)


@pytest.mark.parametrize("cls", [BDCSPN, PTMAP, SinkhornBalance, TIM])
def test_who_assumes_balance_says_so(cls: Any) -> None:
    with pytest.raises(InputError, match=r"episode\.dirichlet=null"):
        evaluate(Pipeline(head=HEAD, refine=cls()), UNBALANCED, way=3, query=2, dirichlet=2.0)


@pytest.mark.parametrize(
    "free", [PTMAP(share=0.5), SinkhornBalance(share=0.5), TIM(marginal=0.0), AlphaTIM(steps=2)]
)
def test_who_is_free_of_it_takes_any_queries(free: Refine) -> None:
    learner = Pipeline(head=HEAD, refine=free)
    assert evaluate(learner, UNBALANCED, way=3, query=2, dirichlet=2.0, episodes=2).mean >= 0


def test_mistakes_are_told() -> None:
    for cls, options in (
        (BDCSPN, {"eps": -1.0}),
        (BDCSPN, {"scale": 0.0}),
        (LaplacianShot, {"k": 0}),
        (PTMAP, {"share": 1.1}),
        (PTMAP, {"alpha": 0.0}),
        (TIM, {"cross_entropy": 0.0}),
        (TIM, {"steps": -1}),
        (AlphaTIM, {"alpha": 0.0}),
        (SinkhornBalance, {"temperature": 0.0}),
        (TransductiveFineTuning, {"lr": 0.0}),
    ):
        with pytest.raises(InputError, match="must"):
            cls(**options)  # type: ignore[operator]


def test_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(MINE) <= set(registry.names("refine"))
    assert registry.get("refine", "tim") is TIM and registry.get("refine", "alpha_tim") is AlphaTIM
