"""Facts of label, transductive and embedding propagation and of denoised class weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.episode import Episode, Target, stack
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.propagation import symmetric
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.graph.embedding_propagation import EmbeddingPropagation
from graphfsl.methods.heads.label_propagation import LabelPropagation
from graphfsl.methods.heads.tpn import TPN
from graphfsl.methods.heads.wdae import WDAE
from tests.support.cases import DIM, WAY, TinyEncoder, episodes

EPNET = {"scale": "std", "k": None, "alpha": 0.2, "log": True}


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def features(**options: Any) -> tuple[Episode, Target]:
    """Episodes of features (B, n, DIM) in float64, with their targets."""
    episode, target = episodes(**options)
    return episode.replace(
        x=episode.x.flatten(2)[..., :DIM].double(), w=episode.w.double(), relabeled=False
    ), target


def padded() -> Episode:
    """A task of 9 nodes beside one of 18: what stands in the padding is large."""
    both = stack([features(batch=1, shot=1, query=1, unlabeled=1)[0], features(batch=1, seed=1)[0]])
    return both.replace(x=both.x.where(both.mask.unsqueeze(-1), 50.0), mask=both.mask)


def used(head: Any) -> Any:
    """In float64 and evaluation, with BatchNorm that has seen something."""
    for module in head.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return head.double().eval()


def tpn(**options: float) -> TPN:
    """Around the sigma of a trained one, wide enough that features of length 1 meet, and not the
    same for all nodes.
    """
    head = used(TPN(DIM, **options))
    nn.init.uniform_(head.rest[-1].weight, 0.2, 0.6)
    nn.init.constant_(head.rest[-1].bias, 0.5)
    return head


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum())


def union_of_neighbors(w: Tensor, k: int) -> Tensor:
    """w_ij where j is among the k largest of row i, or i among those of row j."""
    n = len(w)
    best = [set(sorted(range(n), key=lambda j: -float(w[i, j]))[:k]) for i in range(n)]
    keep = [[j in best[i] or i in best[j] for j in range(n)] for i in range(n)]
    return w * torch.tensor(keep)


def inverse(w: Tensor, alpha: float, eps: float = 0.0) -> Tensor:
    """(I - alpha D^-1/2 W D^-1/2)^-1 of one graph."""
    degree = w.sum(1) + eps
    s = torch.stack([w[i] / (degree[i] * degree).sqrt() for i in range(len(w))])
    return torch.linalg.inv(torch.eye(len(w), dtype=w.dtype) - alpha * s)


def std_affinity(x: Tensor) -> Tensor:
    n = len(x)
    d = [[distance(x[i], x[j]) for j in range(n)] for i in range(n)]
    std = torch.tensor([d[i][j] for i in range(n) for j in range(n) if i != j], dtype=x.dtype).std()
    return torch.tensor(
        [[math.exp(-d[i][j] / std) * (i != j) for j in range(n)] for i in range(n)], dtype=x.dtype
    )


# Label propagation


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
    episode, _ = features()
    torch.manual_seed(1)
    complete = build(None).score(episode)
    for k, same in ((episode.x.shape[1], True), (100, True), (3, False)):
        torch.manual_seed(1)
        assert torch.allclose(build(k).score(episode), complete) is same


@pytest.mark.parametrize("build", [LabelPropagation, tpn], ids=["label_propagation", "tpn"])
def test_the_closed_form_is_the_limit_of_propagation(build) -> None:
    """F <- alpha S F + (1 - alpha) Y, 3000 times, is (1 - alpha) F: the same answers."""
    episode, _ = features()
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
    episode, _ = features(batch=20, shot=3, noise=0.2)
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
    episode, _ = features()
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


# TPN


def constant(head: TPN, sigma: float) -> None:
    """Make the scale network answer sigma for every node."""
    nn.init.zeros_(head.rest[-1].weight)
    nn.init.constant_(head.rest[-1].bias, math.log(math.expm1(sigma - 1e-3)))


def test_tpn_equals_a_loop() -> None:
    episode, head = padded(), tpn(k=4)
    found, sigma = head.score(episode), head.sigma(episode)
    assert (sigma > 0).all() and sigma[episode.mask].std() > 0.01
    for b in range(2):
        mask = episode.mask[b]
        z, y = episode.x[b, mask] / sigma[b, mask], episode.w[b, mask]
        n = len(z)
        w = [
            [math.exp(-float((z[i] - z[j]).detach().square().mean()) / 2) for j in range(n)]
            for i in range(n)
        ]
        expected = inverse(union_of_neighbors(torch.tensor(w, dtype=z.dtype), 4), 0.99) @ y
        torch.testing.assert_close(found[b, mask], expected)


def test_tpn_begins_with_a_small_scale() -> None:
    """Near 0.1, whatever the start of the other layers: at a large one all nodes look alike and
    nothing is learned.
    """
    episode, _ = features(batch=20)
    sigma = torch.cat([TPN(DIM).double().train().sigma(episode).flatten() for _ in range(10)])
    assert 0.05 < float(sigma.median()) < 0.2


def test_padding_enters_no_statistics_of_tpn() -> None:
    episode, head = padded(), TPN(DIM).double().train()
    head.norm.momentum = 1.0
    head.score(episode)
    real = head.first(episode.x[episode.mask])
    torch.testing.assert_close(head.norm.running_mean, real.mean(0))
    torch.testing.assert_close(head.norm.running_var, real.var(0))


def test_tpn_of_one_scale_is_label_propagation() -> None:
    """A constant sigma is the plain graph of scale sigma, the mean over d in place of the sum."""
    episode, _ = features(batch=1)
    head = tpn(k=5)
    constant(head, 0.4)
    d = torch.cdist(episode.x, episode.x)[0]
    median = d[~torch.eye(len(d), dtype=torch.bool)].median()
    plain = LabelPropagation(scale=float(0.4 * DIM**0.5 / median), k=5)
    torch.testing.assert_close(head.score(episode), plain.score(episode))


def test_tpn_learns_from_support_and_queries() -> None:
    small, target = features(batch=1, way=2, shot=1, query=1)
    large, other = features(batch=1)
    both, head = stack([small, large]), tpn()
    query = torch.cat([F.pad(target.query, (0, 4), value=-100), other.query])
    scores = head.score(both)
    found = head.criterion(scores, Target(query, *(torch.empty(2, 0),) * 3), both)
    total = []
    for b in range(2):
        for i in range(both.n_support + both.n_query):
            y = both.w[b, i].argmax() if i < both.n_support else query[b, i - both.n_support]
            if both.mask[b, i]:
                total.append(-scores[b, i].log_softmax(-1)[y])
    assert len(total) == 4 + 12
    torch.testing.assert_close(found, torch.stack(total).mean())
    found.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize(
    "build", [LabelPropagation, tpn, lambda **o: LabelPropagation(**EPNET | o)]
)
def test_gradients_pass_through_the_inverse(build) -> None:
    episode, _ = features(batch=1, shot=1, query=1, unlabeled=1)
    head = build(k=None, alpha=0.9)
    assert torch.autograd.gradcheck(
        lambda x: head.score(episode.replace(x=x)), episode.x.requires_grad_()
    )


def test_semi_supervised_tpn_answers_every_query_alone() -> None:
    episode, _ = episodes(unlabeled=4)
    model = Pipeline(TinyEncoder(), head=TPN(DIM), per_query=True).eval()
    assert not model.transductive and model.uses_unlabeled
    k = episode.n_support
    alone = episode.replace(
        x=torch.cat([episode.x[:, : k + 1], episode.x[:, episode.unlabeled]], 1),
        w=torch.cat([episode.w[:, : k + 1], episode.w[:, episode.unlabeled]], 1),
        mask=torch.cat([episode.mask[:, : k + 1], episode.mask[:, episode.unlabeled]], 1),
        n_query=1,
    )
    torch.testing.assert_close(model(alone)[:, 0], model(episode)[:, 0], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(model(episode.parts(unlabeled=False)), model(episode), atol=1e-2)


# Embedding propagation


def test_embedding_propagation_equals_a_loop() -> None:
    episode = padded()
    out = EmbeddingPropagation().forward(episode)
    assert (
        (out.w is episode.w)
        and out.n_support == episode.n_support
        and torch.equal(out.mask, episode.mask)
    )
    for b in range(2):
        x = episode.x[b, episode.mask[b]]
        p = inverse(std_affinity(x), 0.5, 1e-4)
        torch.testing.assert_close(p, p.mT)
        assert (p >= 0).all()
        torch.testing.assert_close(out.x[b, episode.mask[b]], p @ x)


def test_embedding_propagation_of_alpha_zero_is_the_identity() -> None:
    episode, _ = features()
    assert torch.equal(EmbeddingPropagation(0.0).forward(episode).x, episode.x)
    with pytest.raises(InputError, match="alpha"):
        EmbeddingPropagation(1.0)


def test_embedding_propagation_does_not_keep_a_shift() -> None:
    """The graph sees no shift, but rows of P do not sum to one: EP(z + c) = EP(z) + P 1 c."""
    episode, _ = features(batch=1)
    ep = EmbeddingPropagation()
    gained = ep.forward(episode.replace(x=episode.x + 3)).x - ep.forward(episode).x
    expected = 3 * inverse(std_affinity(episode.x[0]), 0.5, 1e-4).sum(1)
    torch.testing.assert_close(gained, expected[None, :, None].expand_as(gained))
    assert (gained > 4).all()


def test_one_query_alone_is_not_answered_as_in_company() -> None:
    episode, _ = features(unlabeled=0)
    k = episode.n_support
    alone = Episode(episode.x[:, : k + 1], episode.w[:, : k + 1], k, 1)
    z, company = EmbeddingPropagation().forward(alone).x, EmbeddingPropagation().forward(episode).x
    assert not torch.allclose(z, company[:, : k + 1], atol=1e-3)


# Denoised class weights


def class_means(episode: Episode) -> Tensor:
    return F.normalize(prototypes(F.normalize(episode.x, dim=-1), episode.w), dim=-1)


def test_wdae_without_a_residual_is_a_cosine_to_class_means() -> None:
    episode, _ = features()
    head = used(WDAE(DIM, scale=7.0))
    for parameter in head.last.parameters():
        nn.init.zeros_(parameter[:DIM])
    expected = 7 * F.cosine_similarity(
        episode.x.unsqueeze(2), class_means(episode).unsqueeze(1), dim=-1
    )
    torch.testing.assert_close(head.score(episode), expected)


def test_wdae_equals_a_loop() -> None:
    """Five classes with two neighbours each, one of a second task absent."""
    episode, _ = features(way=5)
    w = episode.w.clone()
    w[1, :, 3] = 0
    episode, head = episode.replace(w=w), used(WDAE(DIM, k=2))
    found, means = head.classifier(episode), class_means(episode)
    for b, there in enumerate([range(5), [0, 1, 2, 4]]):
        a = {}
        for i in there:
            near = sorted(
                (j for j in there if j != i), key=lambda j: -float(means[b, i] @ means[b, j])
            )[:2]
            e = {j: math.exp(5.0 * float(means[b, i] @ means[b, j])) for j in near}
            a[i] = {j: v / sum(e.values()) for j, v in e.items()}

        def message(layer: nn.Module, x: dict[int, Tensor], i: int, a=a) -> Tensor:
            terms = [
                v * F.leaky_relu(layer.norm(layer.linear(x[i] + x[j])[None])[0])
                for j, v in a[i].items()
            ]
            return torch.stack(terms).sum(0)

        x = {i: means[b, i] for i in there}
        h = {}
        for i in there:
            u = head.norm(head.update(torch.cat([x[i], message(head.messages[0], x, i)]))[None])[0]
            h[i] = torch.cat([x[i], F.normalize(F.leaky_relu(u), dim=0)]) / math.sqrt(2)
            torch.testing.assert_close(h[i].norm(), torch.tensor(1.0, dtype=torch.float64))
        for i in there:
            r, o = head.last(torch.cat([h[i], message(head.messages[1], h, i)])).chunk(2)
            torch.testing.assert_close(found[b, i], x[i] + o.sigmoid() * r / r.norm())


def test_wdae_draws_noise_while_it_trains() -> None:
    episode, _ = features()
    quiet = WDAE(DIM, noise=0.0, dropout=0.0).double().train()
    noisy = WDAE(DIM, noise=0.1, dropout=0.0).double().train()
    assert torch.equal(quiet.score(episode), quiet.score(episode))
    assert not torch.allclose(noisy.score(episode), noisy.score(episode), atol=1e-3)
    assert torch.equal(noisy.eval().score(episode), noisy.score(episode))


def test_neither_absent_classes_nor_pairs_that_are_not_neighbours_enter_the_statistics_of_wdae() -> (  # noqa: E501
    None
):
    episode, _ = features(way=5)
    w = episode.w.clone()
    w[1, :, 3] = 0
    episode, head = episode.replace(w=w), WDAE(DIM, k=2, noise=0.0, dropout=0.0).double().train()
    layer = head.messages[0]
    head.norm.momentum = layer.norm.momentum = 1.0
    head.score(episode)
    means, there = class_means(episode), present(w)
    near = head.neighbors(means, there)
    pairs = [layer.linear(means[b, i] + means[b, j]) for b, i, j in (near > 0).nonzero().tolist()]
    assert len(pairs) == 2 * 5 + 2 * 4
    torch.testing.assert_close(layer.norm.running_mean, torch.stack(pairs).mean(0))
    classes = head.update(torch.cat([means, layer(means, near)], -1))[there]
    assert len(classes) == 9
    torch.testing.assert_close(head.norm.running_mean, classes.mean(0))


def test_wdae_finds_neighbours_before_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    (episode, _), seen = features(), []
    head = WDAE(DIM, noise=0.5).double().train()
    neighbors = head.neighbors
    monkeypatch.setattr(head, "neighbors", lambda w, there: seen.append(w) or neighbors(w, there))
    noisy, again = head.score(episode), head.score(episode)
    assert not torch.allclose(noisy, again, atol=1e-3)
    for w in seen:
        torch.testing.assert_close(w, class_means(episode))


def test_wdae_reconstructs_the_means_of_support_and_queries() -> None:
    episode, target = features()
    head, plain = used(WDAE(DIM, reconstruction=0.5)), used(WDAE(DIM, reconstruction=0.0))
    plain.load_state_dict(head.state_dict())
    scores = head.score(episode)
    cross_entropy = F.cross_entropy(scores[:, episode.query].flatten(0, 1), target.query.flatten())
    torch.testing.assert_close(plain.criterion(scores, target, episode), cross_entropy)
    found, errors = head.classifier(episode), []
    y = torch.cat([episode.w[:, episode.support].argmax(-1), target.query], 1)
    for b in range(2):
        for c in range(WAY):
            own = [F.normalize(episode.x[b, i], dim=0) for i in range(y.shape[1]) if y[b, i] == c]
            assert len(own) == 4
            goal = torch.stack(own).mean(0)
            errors.append((found[b, c] / found[b, c].norm() - goal / goal.norm()).square().sum())
    torch.testing.assert_close(
        head.criterion(scores, target, episode), cross_entropy + 0.5 * torch.stack(errors).mean()
    )


def test_what_wdae_reconstructs_is_no_moving_target() -> None:
    """Queries are in it as constants: the second loss has no gradient there."""
    episode, target = features()
    head, plain = used(WDAE(DIM, reconstruction=5.0)), used(WDAE(DIM, reconstruction=0.0))
    plain.load_state_dict(head.state_dict())
    gradients = []
    for model in (head, plain):
        x = episode.x.clone().requires_grad_()
        here = episode.replace(x=x)
        gradients.append(
            torch.autograd.grad(model.criterion(model.score(here), target, here), x)[0]
        )
    torch.testing.assert_close(gradients[0][:, episode.query], gradients[1][:, episode.query])
    assert not torch.allclose(gradients[0][:, episode.support], gradients[1][:, episode.support])


@pytest.mark.parametrize("options", [{"k": 0}, {"noise": -1.0}, {"dropout": 1.0}, {"scale": 0.0}])
def test_options_of_wdae(options) -> None:
    with pytest.raises(InputError, match="wdae"):
        WDAE(DIM, **options)


# All of them

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
    episode, _ = features(way=4)
    head: Head = EVERY[name]()
    found = head.score(episode)
    columns, nodes = torch.tensor([2, 0, 3, 1]), torch.randperm(episode.x.shape[1])
    torch.testing.assert_close(
        head.score(episode.replace(w=episode.w[..., columns])), found[..., columns]
    )
    moved = episode.replace(x=episode.x[:, nodes], w=episode.w[:, nodes])
    torch.testing.assert_close(head.score(moved), found[:, nodes])
