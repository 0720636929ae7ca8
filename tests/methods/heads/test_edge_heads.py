"""EGNN and DPGN against loops written from their equations, and what their graphs promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target, stack
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_protocol
from graphfsl.data.tasks.classes import Setting
from graphfsl.functional.edges import (
    class_means,
    differences,
    edge_loss,
    mirrored,
    reweighted,
    upper,
)
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.dpgn import DPGN
from graphfsl.methods.heads.egnn import EGNN
from graphfsl.methods.refine.soft_kmeans import SoftKmeans
from graphfsl.nn.perceptron import Perceptron
from tests.support.cases import DIM, WAY, episodes, unlike_fresh


def features(**options: int) -> tuple[Episode, Target]:
    """An episode of features (B, n, DIM) in float64."""
    episode, target = episodes(**options)
    return episode.replace(x=episode.x.flatten(2)[..., :DIM].double(), w=episode.w.double()), target


def head(cls: type[Head], **options: object) -> Head:
    """Of weights so large that every part shows in the answer."""
    torch.manual_seed(0)
    net = unlike_fresh(cls(DIM, hidden=8, **options)).double().eval()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.weight.data *= 3
    return net


def dpgn(**options: object) -> Head:
    return head(DPGN, way=WAY, **{"shot": 2, **options})


def perceptron(net: Perceptron, x: Tensor) -> Tensor:
    """One row, with the stored statistics."""
    for linear, norm in zip(net.linears, net.norms, strict=True):
        y = linear.weight @ x
        y = (y - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        x = torch.where(y > 0, y, 0.01 * y)
    return net.last(x)


def reorder(episode: Episode, order: Tensor) -> Episode:
    return episode.replace(
        x=episode.x[:, order], w=episode.w[:, order], mask=episode.mask[:, order]
    )


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


# Edges


@pytest.mark.parametrize("n", [1, 2, 5])
def test_pairs_are_read_once_and_mirrored(n: int) -> None:
    x = torch.randn(2, n, 3)
    d = differences(x)
    above = [(i, j) for i in range(n) for j in range(i + 1, n)]
    assert d.shape == (2, len(above), 3)
    full = mirrored(d[..., 0], n)
    for p, (i, j) in enumerate(above):
        assert torch.equal(d[:, p], x[:, i] - x[:, j])
        assert torch.equal(full[:, i, j], d[:, p, 0]) and torch.equal(full[:, j, i], d[:, p, 0])
    assert not full.diagonal(dim1=-2, dim2=-1).any()
    assert upper(full != 0).shape == d.shape[:2] and upper(full != 0).all()
    assert not upper(torch.eye(n, dtype=torch.bool)).any()


def test_reweighted_rows_keep_their_sums() -> None:
    e, s = torch.rand(2, 4, 4).double(), torch.rand(2, 4, 4).double()
    e[0, 1] = 0
    found = reweighted(e, s)
    close(found.sum(-1), e.sum(-1))
    close(found[1, 2, 3] / found[1, 2, 0], s[1, 2, 3] * e[1, 2, 3] / (s[1, 2, 0] * e[1, 2, 0]))
    close(reweighted(e, 7 * s), found)


def test_class_means_go_both_ways_and_leave_the_unlabeled_out() -> None:
    e, w = (
        torch.rand(1, 4, 4).double(),
        torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]]).double(),
    )
    found = class_means(e, w)
    assert found[0, 3, 0].item() == pytest.approx(
        float(e[0, 3, :2].mean() + e[0, :2, 3].mean()) / 2
    )
    assert found[0, 0, 1].item() == pytest.approx(float(e[0, 0, 2] + e[0, 2, 0]) / 2)
    assert not found[..., 2].any()


def test_edge_loss_is_two_means_of_binary_cross_entropies() -> None:
    # of 3 layers, 2 tasks, 4 queries and a node for each class
    e = torch.rand(3, 2, 4, WAY).double()
    y = torch.tensor([[0, 1, 2, 1], [1, 0, -100, 0]])
    there = torch.tensor([[True, True, True], [True, True, False]])
    found = edge_loss(e.log(), (1 - e).log(), y, there)
    for layer in range(3):
        kinds: dict[bool, list[Tensor]] = {True: [], False: []}
        for b, q, c in torch.cartesian_prod(
            torch.arange(2), torch.arange(4), torch.arange(WAY)
        ).tolist():
            if y[b, q] >= 0 and there[b, c]:
                alike = bool(y[b, q] == c)
                kinds[alike].append(
                    F.binary_cross_entropy(e[layer, b, q, c], torch.tensor(float(alike)).double())
                )
        close(found[layer], sum(torch.stack(k).mean() for k in kinds.values()))


# EGNN


def egnn_loop(net: EGNN, episode: Episode, b: int) -> list[Tensor]:
    """The edges of each layer of task b, node by node."""
    v, w = list(episode.x[b]), episode.w[b]
    n = len(v)
    e = torch.full((n, n, 2), 0.5).double()
    for i in range(n):
        for j in range(n):
            if w[i].any() and w[j].any():
                e[i, j] = torch.tensor([1.0, 0.0] if w[i].argmax() == w[j].argmax() else [0.0, 1.0])
    out = []
    for f_v, f_e in zip(net.f_v, net.f_e, strict=True):
        others = [[j for j in range(n) if j != i] for i in range(n)]
        mass = [sum(e[i, j] for j in others[i]) for i in range(n)]
        sums = [
            [sum(e[i, j, d] / mass[i][d] * v[j] for j in others[i]) for d in range(2)]
            for i in range(n)
        ]
        v = [perceptron(f_v, torch.cat([v[i], *sums[i]])) for i in range(n)]
        new = torch.zeros(n, n, 2).double()
        for i in range(n):
            s = {j: torch.sigmoid(perceptron(f_e, (v[i] - v[j]).abs())) for j in others[i]}
            raw = {j: torch.cat([s[j], 1 - s[j]]) * e[i, j] for j in others[i]}
            total = sum(raw.values())
            for j in others[i]:
                new[i, j] = raw[j] / total * mass[i]
            new[i, i, 0] = 1
        new = new + 1e-6
        e = new / new.sum(-1, keepdim=True)
        out.append(e.permute(2, 0, 1))
    return out


@torch.no_grad()
def test_egnn_equals_a_loop() -> None:
    (episode, _), net = features(query=1, unlabeled=1), head(EGNN, layers=2)
    found = net.edges(episode)
    for b in range(2):
        expected = egnn_loop(net, episode, b)
        close(torch.stack([layer[b] for layer in found]), torch.stack(expected))
        last, labeled = expected[-1][0], range(episode.n_support)
        vote = [
            [sum(row[j] for j in labeled if episode.w[b, j, c] > 0) for c in range(WAY)]
            for row in last
        ]
        close(net.score(episode)[-1, b].exp(), torch.tensor(vote).double())


@torch.no_grad()
def test_egnn_edges_are_distributions_and_not_symmetric() -> None:
    (episode, _), net = features(), head(EGNN)
    for e in net.edges(episode):
        close(e.sum(1), torch.ones_like(e[:, 0]))
        close(
            e[:, 0].diagonal(dim1=-2, dim2=-1),
            torch.ones(e.shape[0], e.shape[-1]).double() * (1 + 1e-6) / (1 + 2e-6),
        )
        assert (e[:, 0] - e[:, 0].mT).abs().max() > 1e-3


@pytest.mark.parametrize("shot", [1, 3])
def test_egnn_loss_is_that_of_single_edges(shot: int) -> None:
    """From votes per class comes the binary cross-entropy of every edge between a query and a
    labeled node.
    """
    (episode, target), net = features(shot=shot), head(EGNN)
    total = 0.0
    for weight, e in zip((0.5, 0.5, 1.0), net.edges(episode), strict=True):
        # (B, Q, NK)
        truth = target.query.unsqueeze(-1) == episode.w[:, episode.support].argmax(-1).unsqueeze(-2)
        there, back = (
            e[:, 0, episode.query, episode.support],
            e[:, 0, episode.support, episode.query].mT,
        )
        both, same = torch.stack([there, back]), torch.stack([truth, truth])
        losses = F.binary_cross_entropy(both, same.double(), reduction="none")
        total += weight * (losses[same].mean() + losses[~same].mean())
    # 1 - e_1 is e_2 but for rounding.
    torch.testing.assert_close(net.loss(episode, target), total, atol=1e-7, rtol=1e-7)


def test_after_a_refinement_the_loss_is_cross_entropy() -> None:
    for net in (head(EGNN), dpgn()):
        (episode, target), model = features(), Pipeline(head=net, refine=SoftKmeans())
        queries = model(episode)
        close(
            model.loss(episode, target),
            F.cross_entropy(queries.flatten(0, 1), target.query.flatten()),
        )


@torch.no_grad()
def test_egnn_is_equivariant_to_nodes_and_classes() -> None:
    (episode, _), net = features(), head(EGNN)
    expected = net.score(episode)
    order = torch.randperm(episode.x.shape[1])
    close(net.score(reorder(episode, order)), expected[:, :, order])
    classes = torch.tensor([2, 0, 1])
    close(net.score(episode.replace(w=episode.w[..., classes])), expected[..., classes])


# Both


@torch.no_grad()
def test_a_node_without_label_weight_has_no_vote_wherever_it_stands() -> None:
    """EGNN's published code votes with the hidden labels of unlabeled support nodes; here weight is
    all that counts.
    """
    episode, _ = features(shot=3, query=1, unlabeled=1)
    hidden = episode.w.clone()
    hidden[:, 2 : episode.n_support : 3] = 0  # the last of three shots of each class
    n, k = episode.x.shape[1], episode.n_support
    moved = list(range(2, k, 3))
    kept = [i for i in range(k) if i not in moved]
    order = torch.tensor([*kept, *range(k, n), *moved])
    within = episode.replace(w=hidden)
    beyond = reorder(within, order).replace(n_support=k - len(moved))
    net = head(EGNN)
    close(net.score(within)[:, :, order], net.score(beyond))
    for model in (net, dpgn(shot=3)):
        e = (
            model.edges(within)[-1][:, 0]
            if isinstance(model, EGNN)
            else model.generations(within)[-1][0]
        )
        votes = torch.stack(
            [e[..., torch.tensor([3 * c, 3 * c + 1])].sum(-1) for c in range(WAY)], -1
        )
        close(model.score(within)[-1].exp(), votes)


def with_a_skew(episode: Episode) -> Episode:
    """The first four queries only: of few classes, in any number."""
    keep = torch.tensor(
        [*range(episode.n_support + 4), *range(episode.unlabeled.start, episode.x.shape[1])]
    )
    return reorder(episode, keep).replace(n_query=4)


@pytest.mark.parametrize("cls", [EGNN, DPGN])
@torch.no_grad()
def test_a_joint_graph_takes_any_number_of_queries_of_a_class_in_any_order(cls: type[Head]) -> None:
    net = head(EGNN) if cls is EGNN else dpgn()
    joint, alone = Pipeline(head=net, per_query=False), Pipeline(head=net)
    assert joint.transductive and not alone.transductive
    episode, target = features(query=3)
    episode = with_a_skew(episode)
    assert (F.one_hot(target.query[:, :4], WAY).sum(1) > 1).any(), "two queries of one class"
    order = torch.tensor([2, 0, 3, 1])
    nodes = torch.arange(episode.x.shape[1])
    nodes[episode.query] = episode.n_support + order
    found = joint(episode)
    assert torch.isfinite(found).all()
    close(joint(reorder(episode, nodes)), found[:, order])
    close(alone(reorder(episode, nodes)), alone(episode)[:, order])
    assert (found - alone(episode)).abs().max() > 1e-4, "the other queries take part"


@pytest.mark.parametrize("cls", [EGNN, DPGN])
@torch.no_grad()
def test_padding_enters_no_statistics_of_nodes_and_pairs(cls: type[Head]) -> None:
    """In training, beside a task of more queries and a larger pool: the same scores and the same
    averages.
    """
    (small, _), (large, _) = (
        features(batch=1, query=1, unlabeled=0),
        features(batch=1, query=2, unlabeled=1, seed=1),
    )
    both = stack([small, large])
    x = both.x.where(both.mask.unsqueeze(-1), 50.0)
    rows = Episode(x[:1], both.w[:1], both.n_support, both.n_query, both.mask[:1])
    alone, padded = ((head(EGNN) if cls is EGNN else dpgn()).train() for _ in range(2))
    close(padded.score(rows)[:, rows.mask], alone.score(small).flatten(1, 2))
    for a, b in zip(alone.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-9)


# DPGN


def dpgn_loop(net: DPGN, episode: Episode, b: int) -> list[Tensor]:
    """The point edges of each generation of task b, node by node."""
    v, w = list(episode.x[b]), episode.w[b]
    n, k = len(v), episode.n_support
    e = torch.zeros(n, n).double()
    for i in range(n):
        for j in range(n):
            if i < k and j < k:
                e[i, j] = float(w[i].argmax() == w[j].argmax())
            elif i < k or j < k:
                e[i, j] = 1 / k
    size = net.metric

    def update(f: nn.Module, e: Tensor, v: list[Tensor]) -> Tensor:
        new = torch.eye(n).double() + 1e-6
        for i in range(n):
            others = [j for j in range(n) if j != i]
            raw = {j: torch.sigmoid(perceptron(f, size(v[i] - v[j])))[0] * e[i, j] for j in others}
            for j in others:
                new[i, j] += raw[j] / sum(raw.values()) * sum(e[i, m] for m in others)
        return new / new.sum(-1, keepdim=True)

    d, e_d, out = [e[i, :k] for i in range(n)], e, []
    e = update(net.point_edges[0], e, v)
    for g, f in enumerate(net.point_edges[1:]):
        e = update(f, e, v)
        out.append(e)
        if g == len(net.points):
            break
        d = [F.leaky_relu(net.distributions[g](torch.cat([e[i, :k], d[i]]))) for i in range(n)]
        e_d = update(net.distribution_edges[g], e_d, d)
        mass = [sum(e_d[i, j] for j in range(n) if j != i) for i in range(n)]
        seen = [sum(e_d[i, j] / mass[i] * v[j] for j in range(n) if j != i) for i in range(n)]
        v = [perceptron(net.points[g], torch.cat([v[i], seen[i]])) for i in range(n)]
    return out


@pytest.mark.parametrize("metric", ["l1", "l2"])
@torch.no_grad()
def test_dpgn_equals_a_loop(metric: str) -> None:
    (episode, _), net = features(query=1, unlabeled=1), dpgn(generations=3, metric=metric)
    found = net.generations(episode)
    for b in range(2):
        close(torch.stack([e[b] for e, _ in found]), torch.stack(dpgn_loop(net, episode, b)))
    x = episode.x
    apart = (x.unsqueeze(2) - x.unsqueeze(1)).abs() ** int(metric[1])
    close(found[0][1], apart.sum(-1))
    close(net.score(episode)[-1].exp(), found[-1][0] @ episode.w)


@torch.no_grad()
def test_dpgn_rows_sum_to_one_and_a_querys_edges_fade_as_one_over_the_generation() -> None:
    """From mass m of a row's edges comes m / (1 + m): 1, 1/2, 1/3, …; nothing but 1e-6 joins two
    queries.
    """
    (episode, _), net = features(unlabeled=0), dpgn(generations=4)
    for g, (e, _) in enumerate(net.generations(episode)):
        close(e.sum(-1), torch.ones_like(e[..., 0]))
        assert (e >= 0).all()
        rows = e[:, episode.query]
        torch.testing.assert_close(
            rows[..., episode.support].sum(-1),
            torch.full_like(rows[..., 0], 1 / (g + 3)),
            atol=1e-4,
            rtol=0,
        )
        between = rows[..., episode.query] * (1 - torch.eye(episode.n_query))
        assert between.max() < 1e-5


@torch.no_grad()
def test_the_first_edges_of_a_dpgn_query_sum_to_one_whatever_shots_there_are() -> None:
    """1/NK to each of the NK nodes that are labeled: with padding among the shots as without."""
    (episode, _), net = features(unlabeled=0), dpgn(generations=3)
    mask, w = episode.mask.clone(), episode.w.clone()
    mask[:, [1, 4]], w[:, [1, 4]] = False, 0
    for g, (e, _) in enumerate(net.generations(episode.replace(mask=mask, w=w))):
        reached = e[:, episode.query, episode.support].sum(-1)
        torch.testing.assert_close(
            reached, torch.full_like(reached, 1 / (g + 3)), atol=1e-4, rtol=0
        )


def test_dpgn_loss_is_that_of_single_edges_and_of_distances() -> None:
    (episode, target), net = features(shot=2), dpgn(generations=4)
    total = 0.0
    for g, (e, distance) in enumerate(net.generations(episode)):
        truth = target.query.unsqueeze(-1) == episode.w[:, episode.support].argmax(-1).unsqueeze(-2)
        both = torch.stack(
            [e[:, episode.query, episode.support], e[:, episode.support, episode.query].mT]
        )
        same = torch.stack([truth, truth])
        losses = F.binary_cross_entropy(both, same.double(), reduction="none")
        logits = -(distance[:, episode.query, episode.support] @ episode.w[:, episode.support])
        entropy = F.cross_entropy(logits.flatten(0, 1), target.query.flatten())
        weight = {0: 0.5, 1: 0.5, 3: 1.0}.get(g, 0.0)
        total += weight / 3 * (losses[same].mean() + losses[~same].mean() + 0.1 * entropy)
    torch.testing.assert_close(net.loss(episode, target), total, atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_dpgn_is_equivariant_to_classes_queries_and_to_the_support_with_its_columns() -> None:
    """W reads one column for each support node: another order of the support is a network of
    permuted columns.
    """
    (episode, _), net = features(), dpgn()
    expected = net.score(episode)
    classes = torch.tensor([2, 0, 1])
    close(net.score(episode.replace(w=episode.w[..., classes])), expected[..., classes])
    k, n = episode.n_support, episode.x.shape[1]
    support = torch.tensor([3, 5, 0, 2, 1, 4])
    order = torch.cat([support, torch.arange(k, n)])
    other = net.score(reorder(episode, order))
    assert (other - expected[:, :, order]).abs().max() > 1e-4
    for g, linear in enumerate(net.distributions):
        linear.weight[:, :k] = linear.weight[:, support]
        if g == 0:  # later v^d are outputs of W, which have no order of the support
            linear.weight[:, k:] = linear.weight[:, k + support]
    close(net.score(reorder(episode, order)), expected[:, :, order])


@torch.no_grad()
def test_dpgn_refuses_another_number_of_shots_but_takes_padding_within_its_own() -> None:
    model = Pipeline(head=dpgn())
    with pytest.raises(
        InputError, match="tied to 2-shot episodes, but this one has 9 support nodes"
    ):
        model(features(shot=3)[0])
    check_protocol(model, Setting(way=WAY, shot=1, max_shot=2))
    with pytest.raises(InputError, match=r"tied to 2-shot episodes; set episode.shot=2"):
        check_protocol(model, Setting(way=WAY, shot=1))
    episode, _ = features()
    mask, w = episode.mask.clone(), episode.w.clone()
    mask[:, [1, 4]], w[:, [1, 4]] = False, 0
    x = episode.x.clone()
    x[:, [1, 4]] = 100.0
    found = model(episode.replace(mask=mask, w=w))
    assert torch.isfinite(found).all()
    close(model(episode.replace(x=x, mask=mask, w=w)), found)


def test_options_that_make_no_network_are_refused() -> None:
    for cls, options, words in (
        (EGNN, {"layers": 0}, "at least one layer"),
        (DPGN, {"way": 3, "generations": 1}, "at least two generations"),
        (DPGN, {"way": 3, "metric": "l3"}, "metric"),
    ):
        with pytest.raises(InputError, match=words):
            cls(DIM, **options)
