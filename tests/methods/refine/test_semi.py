"""Refiners that learn from a pool of unlabeled nodes: against loops, by identities, and no leak."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Head, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.centring import centred
from graphfsl.functional.group_lasso import leaving, shrink
from graphfsl.functional.selection import log_odds, quota, top_per_class
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.fixmatch import FixMatch
from graphfsl.methods.refine.ici import ICI
from graphfsl.methods.refine.ilpc import ILPC
from graphfsl.methods.refine.logit_propagation import LogitPropagation, connected
from graphfsl.methods.refine.lst import LST
from graphfsl.methods.refine.plcm import PLCM
from graphfsl.methods.refine.pseudo_label import PseudoLabel
from tests.support.cases import DIM, WAY, episodes

torch.manual_seed(0)  # LST starts from random weights
REFINERS: dict[str, Refine] = {
    "pseudo_label": PseudoLabel(),
    "fixmatch": FixMatch(DIM).eval(),
    "ici": ICI(),
    "ilpc": ILPC(),
    "logit_propagation": LogitPropagation(),
    "lst": LST(DIM),
    "plcm": PLCM(WAY),
    "poisson": LogitPropagation("poisson"),
}
each = pytest.mark.parametrize("name", REFINERS)


def features(**options: int) -> Episode:
    """An episode of features (B, n, DIM) in float64."""
    episode, _ = episodes(**options)
    return episode.replace(
        x=episode.x.flatten(2)[..., :DIM].double(), w=episode.w.double(), relabeled=False
    )


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
    if isinstance(refine, (FixMatch, LST)):
        torch.manual_seed(0)
        refine = type(refine)(episode.x.shape[-1])
    refine = refine.float() if refine is not None else None
    scores = Pipeline(head=ProtoNet("cosine"), refine=refine).eval()(episode)
    assert torch.isfinite(scores).all()
    return float((scores.argmax(-1) == target).float().mean())


def refined(refine: Refine, episode: Episode, head: Head | None = None) -> Tensor:
    head = head or ProtoNet()
    return refine.to(episode.x.dtype)(episode, head.score(episode), head)


# What all of them share


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


# Selection


def test_log_odds_equals_its_definition_and_does_not_saturate() -> None:
    scores = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = scores.softmax(-1).amax(-1)
    torch.testing.assert_close(log_odds(scores), (p / (1 - p)).log())
    far = torch.tensor([[[0.0, -200.0, -300.0], [0.0, -100.0, -300.0]]])
    assert log_odds(far)[0].tolist() == pytest.approx([200.0, 100.0])


def test_top_per_class_equals_a_loop() -> None:
    g = torch.Generator().manual_seed(1)
    confidence, candidate = torch.randn(3, 9, generator=g), torch.rand(3, 9, 4, generator=g) < 0.6
    most = torch.tensor([[[2.0, 0.0, 3.0, 99.0]]])
    found = top_per_class(confidence, candidate, most)
    for b in range(3):
        for c in range(4):
            order = sorted(
                (i for i in range(9) if candidate[b, i, c]), key=lambda i: -float(confidence[b, i])
            )
            expected = set(order[: int(most[0, 0, c])])
            assert {i for i in range(9) if found[b, i, c]} == expected


def test_quota_counts_real_nodes_and_present_classes() -> None:
    mask = torch.tensor([[True] * 30, [True] * 10 + [False] * 20])
    way = torch.tensor([[True, True, True], [True, True, False]])
    for share in (0.1, 0.3, 0.5, 1.0):
        found = quota(mask, way, share).flatten().tolist()
        assert found == [math.ceil(round(share * 10, 6)), math.ceil(round(share * 5, 6))]


@pytest.mark.parametrize(
    ("nodes", "way", "share", "each"), [(25, 3, 0.6, 5), (50, 2, 0.6, 15), (45, 3, 0.6, 9)]
)
def test_a_quota_that_is_whole_is_not_rounded_up(
    nodes: int, way: int, share: float, each: int
) -> None:
    """In single precision 0.6 * 25 / 3 is more than 5."""
    found = quota(
        torch.ones(1, nodes, dtype=torch.bool), torch.ones(1, way, dtype=torch.bool), share
    )
    assert found.item() == each


def test_centred_features_have_length_one_and_see_only_the_mask() -> None:
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    found = centred(x, mask)
    unit = x[1] / x[1].norm(dim=-1, keepdim=True)
    v = unit - unit[:4].mean(0)
    torch.testing.assert_close(found[1], v / v.norm(dim=-1, keepdim=True))
    x[1, 4:] = 100.0
    torch.testing.assert_close(centred(x, mask)[1, :4], found[1, :4])


# Pseudo-label


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
                    (j for j in range(u) if p[j].argmax() == c), key=lambda j, c=c: -float(p[j, c])
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
                key=lambda j, b=b, c=c: -float(p[b, j, c]),
            )
            for j in own[:2]:  # half of an equal part of the pool
                w[b, j] = p[b, j]
    assert (w.sum(-1) == 0).any()
    found = refined(PseudoLabel(steps=1, share=0.5, soft=True), episode)
    torch.testing.assert_close(found, ProtoNet().score(episode.label_pool(w)))


# iLPC


def pool_of(episode: Episode) -> tuple[Episode, Tensor]:
    """The episode without queries, and which of its nodes are in the pool."""
    graph = episode.parts(query=False)
    return graph, (torch.arange(graph.x.shape[1]) >= graph.n_support).expand(len(graph.x), -1)


def test_ilpc_balance_meets_the_columns() -> None:
    """Rows sum to one, columns to what each class has left, and nodes that are not free are
    zero.
    """
    z = torch.rand(2, 9, WAY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    free = torch.tensor([[False] * 3 + [True] * 6, [False] * 4 + [True] * 5])
    left = torch.tensor([[[3.0, 2.0, 1.0]], [[0.0, 2.0, 3.0]]], dtype=torch.float64)
    p = ILPC().balanced(z, free, torch.ones(2, WAY, dtype=torch.bool), left)
    torch.testing.assert_close(p.sum(-1), free.double())
    torch.testing.assert_close(p.sum(1), left.squeeze(1), atol=1e-3, rtol=0.0)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_ilpc_labels_every_node_once_and_the_support_grows(stages: int) -> None:
    episode, pool = pool_of(features(unlabeled=5))
    grown = []

    class Watched(ILPC):
        def loss(self, v: Tensor, y: Tensor, guess: Tensor) -> Tensor:
            grown.append((y.clone(), guess.clone()))
            return super().loss(v, y, guess)

    y = Watched(stages=stages).labels(episode)
    assert torch.equal(y[:, : episode.n_support], episode.w[:, : episode.n_support])
    assert torch.equal(y.sum(-1)[pool], torch.ones_like(y.sum(-1)[pool])) and y[pool].max() == 1
    states = [*(s for s, _ in grown), y]
    assert len(grown) == stages
    for before, after in itertools.pairwise(states):
        # what is picked stays, and is picked once
        assert (after >= before).all() and (after.sum(-1) <= 1).all()
        if after is not y:
            assert ((after - before).sum(1) <= math.ceil(5 * len(grown) / stages)).all()


def test_ilpc_picks_at_most_its_part_of_each_class_a_stage() -> None:
    episode, _ = pool_of(features(unlabeled=6))
    for stages, part in ((6, 1), (3, 2), (2, 3)):
        states: list[Tensor] = []

        class Watched(ILPC):
            def loss(
                self, v: Tensor, y: Tensor, guess: Tensor, states: list[Tensor] = states
            ) -> Tensor:
                states.append(y.clone())
                return super().loss(v, y, guess)

        Watched(stages=stages).labels(episode)
        for t, y in enumerate(states):
            assert (y[:, episode.n_support :].sum(1) <= t * part).all()


def test_ilpc_columns_are_what_each_class_has_left() -> None:
    """An equal part of the pool for each class, less what it took in the stages before."""
    episode, pool = pool_of(features(unlabeled=6))
    seen = []

    class Watched(ILPC):
        def balanced(self, z: Tensor, free: Tensor, way: Tensor, left: Tensor) -> Tensor:
            seen.append((free, left))
            return super().balanced(z, free, way, left)

        def loss(self, v: Tensor, y: Tensor, guess: Tensor) -> Tensor:
            taken = (y * pool.unsqueeze(-1)).sum(1, keepdim=True)
            torch.testing.assert_close(seen[-1][1], 6 - taken)
            assert torch.equal(seen[-1][0], pool & (y.sum(-1) == 0))
            return super().loss(v, y, guess)

    Watched(stages=3).labels(episode)
    assert seen[-1][1].max() < 6


def test_ilpc_loss_is_that_of_torchs_descent() -> None:
    episode, _ = pool_of(features(unlabeled=2))
    v = centred(episode.x, episode.mask)
    guess = F.one_hot(torch.arange(3).repeat(2).expand(2, -1), WAY).double()
    guess = torch.cat([torch.zeros(2, episode.n_support, WAY).double(), guess], 1)
    method = ILPC(epochs=7, lr=0.5)
    found = method.loss(v, episode.w, guess)
    for b in range(2):
        target = (episode.w + guess)[b].argmax(-1)
        k = episode.n_support
        means = torch.stack([v[b, :k][target[:k] == c].mean(0) for c in range(WAY)])
        weight = F.normalize(means, dim=-1).requires_grad_()
        optimizer = torch.optim.SGD([weight], 0.5, momentum=0.9, weight_decay=5e-4)
        total = torch.zeros(len(target)).double()
        for _ in range(7):
            loss = F.cross_entropy(v[b] @ weight.T, target, reduction="none")
            total += loss.detach()
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        torch.testing.assert_close(found[b], total / 7)


def test_ilpc_graph_is_that_of_its_authors() -> None:
    """One stage without balance and cleaning: argmax of (I - alpha W)^-1 Y, W from a loop over
    neighbours.
    """
    episode, pool = pool_of(features(unlabeled=5))
    y = ILPC(k=3, stages=1, balance=False).labels(episode)
    v = centred(episode.x, episode.mask)
    for b in range(2):
        n = len(v[b])
        cos = v[b] @ v[b].T
        a = torch.zeros(n, n).double()
        for i in range(n):
            near = sorted((j for j in range(n) if j != i), key=lambda j, i=i: -float(cos[i, j]))[:3]
            for j in near:
                a[i, j] = max(float(cos[i, j]), 0.0) ** 3
        a = a + a.T
        d = a.sum(-1).clamp_min(1e-12).rsqrt()
        z = torch.linalg.solve(torch.eye(n).double() - 0.8 * d[:, None] * a * d, episode.w[b])
        sure = pool[b] & (z.amax(-1) > 1e-9)
        assert sure.sum() > 8
        assert torch.equal(y[b, sure].argmax(-1), z[sure].argmax(-1))


def test_ilpc_with_a_share_leaves_the_rest_unlabeled() -> None:
    episode, pool = pool_of(features(unlabeled=6))
    y = ILPC(share=0.5).labels(episode)
    assert (y[:, episode.n_support :].sum(1) <= 3).all()
    assert (y.sum(-1)[pool] <= 1).all() and y[:, episode.n_support :].sum() > 0


def test_ilpc_in_a_batch_of_several_ways() -> None:
    two, three = features(batch=1, way=2, unlabeled=4), features(batch=1, unlabeled=5, seed=1)
    both = stack([two, three])
    found = ILPC().labels(both.parts(query=False))
    alone = ILPC().labels(two.parts(query=False))
    real = both.parts(query=False).mask[0]
    assert torch.equal(found[0, real, :2], alone[0]) and not found[0, :, 2].any()


# Propagation of scores


def test_propagation_with_all_neighbours_equals_the_equation() -> None:
    """k = n and trust 0: F = (I - alpha S)^-1 Y on support and pool; a query is one more step from
    them.
    """
    episode = features(unlabeled=3, query=1)
    found = refined(LogitPropagation(k=99, trust=0.0, alpha=0.7), episode)
    s, q, u = episode.support, episode.query, episode.unlabeled
    keep = [*range(s.stop), *range(u.start, episode.x.shape[1])]
    mask = torch.ones(2, episode.x.shape[1], dtype=torch.bool)
    mask[:, q] = False
    v = centred(episode.x, mask)
    for b in range(2):
        z = v[b, keep]
        a = (z @ z.T).clamp_min(0) ** 3
        a = a - a.diag().diag()
        d = a.sum(-1)
        d = d.where(d > 0, 1)
        f = (
            torch.linalg.inv(torch.eye(len(z)).double() - 0.7 * a / (d[:, None] * d).sqrt())
            @ episode.w[b, keep]
        )
        torch.testing.assert_close(found[b, keep], f.clamp_min(1e-12).log())
        for i in range(q.start, q.stop):
            near = (z @ v[b, i]).clamp_min(0) ** 3
            reach = near.sum().where(near.sum() > 0, 1)
            own = 0.7 * sum(near[j] / (reach * d[j]).sqrt() * f[j] for j in range(len(z)))
            torch.testing.assert_close(found[b, i], own.clamp_min(1e-12).log())


def test_propagation_without_a_step_is_the_head() -> None:
    episode = features(unlabeled=3)
    scores = ProtoNet("cosine").double().score(episode)
    found = LogitPropagation(alpha=0.0, trust=1.0)(episode, scores, ProtoNet())
    rest = slice(episode.n_support, None)
    torch.testing.assert_close(found[:, rest].softmax(-1), scores[:, rest].softmax(-1))
    with pytest.raises(InputError, match="did you mean 'closed'"):
        LogitPropagation("close")


@pytest.mark.parametrize("trust", [1.0, 0.4])
def test_propagation_gives_the_pool_as_much_weight_as_the_labels(trust: float) -> None:
    """The sources of the pool have `trust` times the sum of the labels, whatever the pool's
    size.
    """
    seen: list[Tensor] = []

    class Watched(LogitPropagation):
        def closed(self, a: Tensor, near: Tensor, y: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(y)
            return super().closed(a, near, y, own)

    for unlabeled in (1, 4):
        episode = features(unlabeled=unlabeled)
        refined(Watched(trust=trust), episode)
        k = episode.n_support
        torch.testing.assert_close(trust * seen[-1][:, :k].sum((1, 2)), seen[-1][:, k:].sum((1, 2)))
        p = ProtoNet().score(episode)[:, episode.unlabeled].softmax(-1)
        torch.testing.assert_close(seen[-1][:, k:] * unlabeled * WAY / k, trust * p)


def test_poisson_solves_its_equation() -> None:
    """L F = Y - r y-, up to the share 0.001 of the diagonal that makes it regular."""
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 8, 8, generator=g, dtype=torch.float64)
    a = (a + a.mT) * (1 - torch.eye(8))
    y = torch.zeros(2, 8, WAY).double()
    y[:, range(WAY), range(WAY)] = 1
    f, _ = LogitPropagation("poisson").poisson(a, a[:, :1], y, y[:, :1])
    degree = a.sum(-1).diag_embed()
    b = y - y.sum(-1, keepdim=True) / WAY
    torch.testing.assert_close((degree - 0.999 * a) @ f, b)
    assert torch.allclose(f.sum(-1), torch.zeros(2, 8).double(), atol=1e-8)


def test_weak_edges_weigh_together_a_third_of_one_edge() -> None:
    """Every real node is joined to every other one; all these edges of a node have 0.3 times the
    mean weight.
    """
    g = torch.Generator().manual_seed(0)
    a = torch.rand(1, 5, 5, generator=g, dtype=torch.float64)
    a = (a + a.mT) * (1 - torch.eye(5)) * (torch.rand(1, 5, 5, generator=g) < 0.7)
    a = torch.minimum(a, a.mT)
    mask = torch.tensor([[True, True, True, True, False]])
    a = a * (mask.unsqueeze(-1) & mask.unsqueeze(-2))
    near = a[:, :2]
    found, reached = connected(a, near, mask)
    weights = [float(v) for v in a.flatten() if v > 0]
    assert 0 < len(weights) < 12
    weak = 0.3 * sum(weights) / len(weights) / 4
    for i in range(5):
        for j in range(5):
            expected = float(a[0, i, j]) + weak * (i != j and max(i, j) < 4)
            assert float(found[0, i, j]) == pytest.approx(expected)
    torch.testing.assert_close(reached, near + weak * mask)


@pytest.mark.parametrize("unlabeled", [1, 2, 4])
@pytest.mark.parametrize("method", ["closed", "poisson"])
def test_propagation_does_not_lose_on_a_small_pool(method: str, unlabeled: int) -> None:
    """Where a graph of few nodes falls apart, Poisson's potentials are those of its smallest
    component.
    """
    episode, target = clusters(unlabeled)
    plain, found = (
        accuracy(None, episode, target),
        accuracy(LogitPropagation(method), episode, target),
    )
    assert found > plain - 0.03, (plain, found)


# ICI


def basis(n: int = 14, r: int = 3) -> Tensor:
    """Orthonormal columns (2, n, r)."""
    x = torch.randn(2, n, r, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.linalg.qr(x)[0]


def test_ici_projection_takes_its_features_away() -> None:
    """(I - H) X = 0 and H is a projection onto the principal components."""
    episode, _ = pool_of(features(unlabeled=4))
    u = ICI(components=3).basis(episode)
    v = F.normalize(episode.x, dim=-1)
    v = v - v.mean(1, keepdim=True)
    for b in range(2):
        _, _, right = torch.linalg.svd(v[b], full_matrices=False)
        x = v[b] @ right[:3].T
        torch.testing.assert_close(u[b] @ (u[b].T @ x), x)
        torch.testing.assert_close(u[b].T @ u[b], torch.eye(3).double())


def test_ici_basis_ends_with_the_rank() -> None:
    """Four nodes around their mean span three dimensions; padding adds none."""
    episode, _ = pool_of(features(batch=1, shot=1, unlabeled=1))
    mask = torch.tensor([[True] * 4 + [False] * 2])
    u = ICI(components=5).basis(episode.replace(mask=mask))
    assert torch.equal((u.abs().sum(1) > 0).sum(-1), torch.tensor([3]))
    assert not u[:, 4:].abs().gt(1e-7).any()


def test_errors_leave_zero_in_the_order_of_scikit_learn() -> None:
    """The path of gamma is that of MultiTaskLasso on (I - H)."""
    from sklearn.linear_model import MultiTaskLasso

    u, g = basis(), torch.Generator().manual_seed(6)
    y = F.one_hot(torch.randint(3, (2, 14), generator=g), 3).double()
    found = leaving(u, y, penalties=12, smallest=1e-2, steps=200)
    for b in range(2):
        x = torch.eye(14).double() - u[b] @ u[b].T
        free = x @ y[b]
        most = float(free.norm(dim=-1).max())
        count = torch.zeros(14)
        for k in range(12):
            penalty = most * 1e-2 ** ((k + 1) / 12)
            lasso = MultiTaskLasso(
                alpha=penalty / 14, fit_intercept=False, max_iter=50_000, tol=1e-12
            )
            gamma = torch.from_numpy(lasso.fit(x.numpy(), free.numpy()).coef_.T)
            count += gamma.norm(dim=-1) > 1e-6
        assert count.min() < count.max()
        # the first to leave has k and all of lambda
        assert torch.equal((found[b] - 1e-6).floor().float(), count)


def test_the_path_is_that_of_fista() -> None:
    """Beck and Teboulle 2009, equations 4.1 to 4.3, node by node; without its momentum ten steps
    end elsewhere.
    """
    u, g = basis(20, 5), torch.Generator().manual_seed(7)
    y = F.one_hot(torch.randint(3, (2, 20), generator=g), 3).double()
    found = leaving(u, y, penalties=8, smallest=1e-3, steps=4)
    for b in range(2):
        hat = u[b] @ u[b].T
        free = y[b] - hat @ y[b]
        most = max(float(row.norm()) for row in free)
        x = torch.zeros(20, 3).double()
        count, last = [0] * 20, [float(row.norm()) / most for row in free]
        for k in range(8):
            penalty = most * 1e-3 ** ((k + 1) / 8)
            z, t = x, 1.0
            for _ in range(4):
                step = [max(0.0, 1 - penalty / float(row.norm())) * row for row in free + hat @ z]
                new, s = torch.stack(step), (1 + math.sqrt(1 + 4 * t**2)) / 2
                z, x, t = new + (t - 1) / s * (new - x), new, s
            for i, row in enumerate(free + hat @ x):
                reach = float(row.norm()) / penalty
                count[i] += reach > 1
                last[i] = reach if reach <= 1 else last[i]
        expected = torch.tensor(
            [c + v for c, v in zip(count, last, strict=True)], dtype=torch.float64
        )
        torch.testing.assert_close(found[b], expected)


def test_few_steps_of_the_path_give_its_order() -> None:
    u, g = basis(40, 5), torch.Generator().manual_seed(7)
    y = F.one_hot(torch.randint(3, (2, 40), generator=g), 3).double()
    few, many = leaving(u, y), leaving(u, y, steps=300)
    assert (few.floor() - many.floor()).abs().sum() <= 2
    # no ties, which the order of the pool would decide
    assert all(few[b].unique().numel() == 40 for b in range(2))


def test_shrinking_is_the_proximal_map() -> None:
    z = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = shrink(z, torch.full((1, 1, 1), 1.2, dtype=torch.float64))[0]
    for i in range(5):
        x = z[0, i].clone().mul(0.5).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [x], max_iter=100, line_search_fn="strong_wolfe", tolerance_change=1e-14
        )

        def closure(
            x: Tensor = x, i: int = i, optimizer: torch.optim.Optimizer = optimizer
        ) -> Tensor:
            optimizer.zero_grad()
            value = 0.5 * (x - z[0, i]).square().sum() + 1.2 * (x.square().sum() + 1e-16).sqrt()
            value.backward()
            return value

        optimizer.step(closure)
        torch.testing.assert_close(found[i], x.detach(), atol=1e-4, rtol=1e-4)


def test_ici_equals_a_loop() -> None:
    episode, head, stages = features(unlabeled=4), ProtoNet(), 2
    found = refined(ICI(components=3, stages=stages), episode)
    pool, u = episode.unlabeled.start, episode.n_unlabeled
    for b in range(2):
        one = episode.replace(
            x=episode.x[b : b + 1], w=episode.w[b : b + 1], mask=episode.mask[b : b + 1]
        )
        x, scores, added = (
            ICI(components=3).basis(one.parts(query=False)),
            head.score(one),
            set[int](),
        )
        for t in range(1, stages + 1):
            label = scores[0, pool:].argmax(-1)
            doubt = leaving(
                x, torch.cat([one.w[:, : one.n_support], F.one_hot(label, WAY)[None]], 1).double()
            )
            for c in range(WAY):
                room = math.ceil(t / stages * u / WAY) - sum(int(label[j]) == c for j in added)
                own = [j for j in range(u) if label[j] == c and j not in added]
                added |= set(
                    sorted(own, key=lambda j, s=doubt[0]: float(s[one.n_support + j]))[
                        : max(room, 0)
                    ]
                )
            w = one.w.clone()
            for j in added:
                w[0, pool + j, label[j]] = 1
            scores = head.score(one.replace(w=w))
        torch.testing.assert_close(found[b], scores[0])


# LST


def test_lst_equals_a_loop() -> None:
    torch.manual_seed(0)
    episode, head = features(unlabeled=4), ProtoNet()
    refine = LST(DIM, hidden=8, stages=2, share=0.5, anchor=3.0).double()
    found = refined(refine, episode)
    pool, u = episode.unlabeled.start, episode.n_unlabeled
    for b in range(2):
        one = episode.replace(
            x=episode.x[b : b + 1], w=episode.w[b : b + 1], mask=episode.mask[b : b + 1]
        )
        z = DIM**0.5 * F.normalize(one.x[0], dim=-1)
        means = torch.stack(
            [z[: one.n_support][one.w[0, : one.n_support, c] > 0].mean(0) for c in range(WAY)]
        )
        scores = head.score(one)
        for support in (1.0, 1.0, 3.0):
            p, w = scores[0, pool:].detach().softmax(-1), one.w.clone()
            for c in range(WAY):
                own = sorted(
                    (j for j in range(u) if p[j].argmax() == c), key=lambda j, c=c: -float(p[j, c])
                )
                for j in own[: math.ceil(0.5 * u / WAY)]:
                    f = torch.stack([refine.weigh((z[pool + j] - m).abs())[0] for m in means])
                    w[0, pool + j, c] = f.softmax(0)[c]
            w[0, :pool] *= support
            scores = head.score(one.replace(w=w))
        torch.testing.assert_close(found[b], scores[0])


def test_lst_that_trusts_the_support_alone_is_the_head() -> None:
    episode = features(unlabeled=4)
    torch.manual_seed(0)
    found = refined(LST(DIM, anchor=1e9), episode)
    torch.testing.assert_close(found, ProtoNet().score(episode), atol=1e-6, rtol=1e-6)


def test_lst_learns_to_weigh() -> None:
    """On clusters with distractors the soft weighting network lowers the loss of the queries."""
    episode, target = episodes(batch=60, shot=1, query=5, unlabeled=8, noise=1.6, seed=5)
    x = episode.x.flatten(2)
    other = 3 * torch.randn(60, 16, 64, generator=torch.Generator().manual_seed(6))
    episode = Episode(
        torch.cat([x, other], 1), torch.cat([episode.w, torch.zeros(60, 16, WAY)], 1), 3, 15
    )
    torch.manual_seed(0)
    model = Pipeline(head=ProtoNet("cosine"), refine=LST(64))
    optimizer = torch.optim.Adam(model.refine.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(episode).flatten(0, 1), target.query.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02, losses[::10]


# PLCM


def base_classes() -> tuple[Tensor, Tensor]:
    """40 classes of 50 nodes in 32 dimensions, not in order."""
    g = torch.Generator().manual_seed(8)
    labels = torch.arange(40).repeat(50)
    return 0.5 * torch.randn(40, 32, generator=g)[labels] + 0.7 * torch.randn(
        2000, 32, generator=g
    ), labels


def test_plcm_mixture_is_that_of_its_members() -> None:
    """`calibrate` keeps share, mean and variance of each cell, and the odds are those of the normal
    densities.
    """
    g, method = torch.Generator().manual_seed(9), PLCM(5).double()
    loss = torch.rand(4, 50, generator=g, dtype=torch.float64)
    old, clean = torch.rand(4, 50, generator=g) < 0.4, torch.rand(4, 50, generator=g) < 0.7
    method.calibrate(2, loss, old, clean)
    for s in (False, True):
        cells = [loss[(old == s) & (clean == k)] for k in (False, True)]
        for k in (0, 1):
            assert float(method.mean[2, int(s), k]) == pytest.approx(float(cells[k].mean()))
            assert float(method.variance[2, int(s), k]) == pytest.approx(
                float(cells[k].var(correction=0))
            )
        p = [len(c) + 1 for c in cells]
        normals = [torch.distributions.Normal(c.mean(), c.std(correction=0)) for c in cells]
        odds = normals[1].log_prob(loss) - normals[0].log_prob(loss) + math.log(p[1] / p[0])
        where = old == s
        torch.testing.assert_close(method.log_odds(2, loss, old)[where], odds[where])
    assert torch.equal(method.prior[1], torch.full((2, 2), 0.5).double())


def test_plcm_keeps_both_components_where_one_has_too_few_members() -> None:
    """A narrow clean component beside the wide default of a noisy one would rank the smallest
    losses last.
    """
    method, fresh = PLCM(5).double(), PLCM(5).double()
    loss = torch.linspace(0.05, 0.15, 40).double()[None]
    clean = torch.ones(1, 40, dtype=torch.bool)
    clean[0, :5] = False
    method.calibrate(0, loss, torch.zeros(1, 40, dtype=torch.bool), clean)
    for name, value in method.state_dict().items():
        torch.testing.assert_close(value, fresh.state_dict()[name])


def test_plcm_is_calibrated_on_base_classes() -> None:
    """Right pseudo-labels have the smaller loss, and posteriors agree with how often labels are
    right on new tasks.
    """
    torch.manual_seed(0)
    method, (x, y) = PLCM(5, steps=2, unlabeled=15), base_classes()
    method.fit_base(x[y < 30], y[y < 30])
    assert (method.mean[..., 1] < method.mean[..., 0]).all()
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(PLCM):
        def calibrate(self, t: int, loss: Tensor, old: Tensor, clean: Tensor) -> None:
            if t == 0:
                seen.append((self.log_odds(t, loss, old).sigmoid(), clean))

    other = Watched(5, steps=1, unlabeled=15)
    other.load_state_dict({k: v[:1] for k, v in method.state_dict().items()})
    other.fit_base(x[y >= 30], y[y >= 30] - 30)
    (p, clean), *_ = seen
    assert abs(float(p.mean() - clean.float().mean())) < 0.1
    sure, unsure = p > p.median(), p <= p.median()
    assert clean[sure].float().mean() > clean[unsure].float().mean() + 0.1


def test_plcm_draws_disjoint_support_and_pool() -> None:
    torch.manual_seed(0)
    x, y = base_classes()
    drawn: list[Episode] = []

    class Watched(PLCM):
        def labels(self, episode: Episode, truth: Tensor | None = None) -> Tensor:
            assert truth is not None
            drawn.append(episode)
            # which sample each node shows
            own = (episode.x[:, :, None, 0] == x[:, 0]).float().argmax(-1)
            assert all(len(set(row)) == len(row) for row in own.tolist())
            k = episode.n_support
            classes, columns = y[own], episode.w[:, :k].argmax(-1)
            for b in range(len(own)):
                column_of = dict(zip(classes[b, :k].tolist(), columns[b].tolist(), strict=True))
                assert [column_of[int(c)] for c in classes[b, k:]] == truth.tolist()
            return super().labels(episode, truth)

    Watched(5, steps=1, shot=1, unlabeled=10).fit_base(x, y)
    assert drawn[0].x.shape == (64, 5 + 50, 32) and drawn[0].n_unlabeled == 50


def test_plcm_divides_losses_by_the_logarithm_of_the_ways() -> None:
    """So that a mixture fitted on episodes of one way serves tasks of another: a loss of 1 is a
    guess.
    """
    episode, _ = pool_of(features(unlabeled=4))
    seen: list[Tensor] = []

    class Watched(PLCM):
        def log_odds(self, t: int, loss: Tensor, old: Tensor) -> Tensor:
            seen.append(loss)
            return super().log_odds(t, loss, old)

    Watched(WAY).double().labels(episode)
    for b in range(2):
        z, k = F.normalize(episode.x[b], dim=-1).numpy(), episode.n_support
        theirs = LogisticRegression(C=10.0, tol=1e-10, max_iter=10_000)
        theirs.fit(z[:k], episode.w[b, :k].argmax(-1).numpy())
        best = torch.from_numpy(theirs.predict_log_proba(z[k:])).amax(-1)
        torch.testing.assert_close(seen[0][b], -best / math.log(WAY), atol=1e-3, rtol=0)


def test_plcm_chooses_more_of_each_class_every_step() -> None:
    """In step t of T at most share t / T of the pool, an equal part of each class."""
    episode, _ = pool_of(features(unlabeled=6))
    counts: list[Tensor] = []

    class Watched(PLCM):
        def log_odds(self, t: int, loss: Tensor, old: Tensor) -> Tensor:
            counts.append(old.sum(-1))  # chosen in the step before
            return super().log_odds(t, loss, old)

    method = Watched(WAY, steps=3, share=0.5).double()
    last = method.labels(episode)
    assert (last.sum(1) <= 3).all() and (last.sum(-1) <= 1).all()
    counts.append(last.sum((1, 2)))
    assert [int(c.max()) <= t * WAY for t, c in enumerate(counts)] == [True] * 4
    assert (counts[1] > 0).all() and (counts[2] > counts[1]).all() and (counts[3] > counts[2]).all()


def test_plcm_takes_small_losses_first_where_all_pseudo_labels_are_right() -> None:
    g = torch.Generator().manual_seed(1)
    labels, method = torch.arange(20).repeat_interleave(40), PLCM(5, steps=2)
    method.fit_base(3 * torch.eye(20)[labels] + 0.1 * torch.randn(800, 20, generator=g), labels)
    loss = torch.linspace(0, 0.5, 6).expand(1, -1)
    for t in range(2):
        for old in (False, True):
            odds = method.log_odds(t, loss, torch.full_like(loss, old, dtype=torch.bool))
            assert (odds.diff() < 0).all(), "a larger loss is less surely right"


def test_plcm_calibrates_on_what_small_classes_have() -> None:
    torch.manual_seed(0)
    x, y = base_classes()
    keep = torch.arange(len(y)) < 4 * 40  # four of each class
    drawn: list[int] = []

    class Watched(PLCM):
        def labels(self, episode: Episode, truth: Tensor | None = None) -> Tensor:
            own = (episode.x[:, :, None, 0] == x[:, 0]).float().argmax(-1)
            assert all(len(set(row)) == len(row) for row in own.tolist())
            drawn.append(episode.n_unlabeled)
            return super().labels(episode, truth)

    Watched(5, steps=1, shot=1, unlabeled=30).fit_base(x[keep], y[keep])
    assert drawn == [5 * 3]
    with pytest.raises(InputError, match="without another labeled image"):
        PLCM(5, shot=4).fit_base(x[keep], y[keep])


# FixMatch


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
