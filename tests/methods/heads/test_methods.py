"""Facts of single methods: closed forms and the identities that their papers state."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.graph import complete_edges, from_pyg, similarity, to_networkx, to_pyg
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.prototype_vae import PrototypeVAE
from graphfsl.methods.heads.gnn import GNN
from graphfsl.methods.heads.nearest_neighbor import NearestNeighbor
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.refine.soft_kmeans import SoftKmeans
from tests.support.cases import DIM, WAY, episodes, learner


def features(**options: int) -> Episode:
    """An episode of features (B, n, DIM) in float64."""
    episode, _ = episodes(**options)
    return episode.replace(x=episode.x.flatten(2)[..., :DIM].double(), w=episode.w.double())


# ProtoNet


def test_protonet_equals_a_loop() -> None:
    episode = features(shot=3)
    found = ProtoNet().score(episode)
    for b in range(2):
        for i in range(episode.x.shape[1]):
            for k in range(WAY):
                own = [episode.x[b, s] for s in range(episode.n_support) if episode.w[b, s, k] > 0]
                center = sum(own) / len(own)
                assert torch.isclose(
                    found[b, i, k], -((episode.x[b, i] - center) ** 2).sum(), atol=1e-9
                )


def test_protonet_does_not_see_a_common_shift() -> None:
    episode = features()
    shifted = ProtoNet().score(episode.replace(x=episode.x + 3.0))
    torch.testing.assert_close(shifted, ProtoNet().score(episode), atol=1e-9, rtol=1e-9)


def test_protonet_gradient_by_prototype() -> None:
    q, c = (
        torch.randn(1, 1, 4, dtype=torch.float64),
        torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True),
    )
    (g,) = torch.autograd.grad(ProtoNet().logits(q, c)[0, 0, 1], c)
    torch.testing.assert_close(g[0, 1], 2 * (q - c)[0, 1])
    assert not g[0, 0].any()


def test_protonet_is_equivariant_to_classes() -> None:
    episode, order = features(), torch.tensor([2, 0, 1])
    for distance in ("sqeuclidean", "cosine"):
        head = ProtoNet(distance).double()
        turned = head.score(episode.replace(w=episode.w[..., order]))
        torch.testing.assert_close(turned, head.score(episode)[..., order])


def test_one_shot_protonet_is_the_nearest_neighbor() -> None:
    episode = features(shot=1)
    torch.testing.assert_close(
        ProtoNet().score(episode), NearestNeighbor().score(episode), atol=1e-9, rtol=1e-9
    )


def test_the_nearest_neighbor_counts_for_the_class_of_its_largest_weight() -> None:
    """A soft label of 0.7 and 0.3 is one of the first class; of 0.5 and 0.5, of both."""
    episode = features(batch=1, shot=1)
    w = episode.w.clone()
    w[0, 0], w[0, 1] = torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.0, 0.5, 0.5])
    d = -(episode.x[0, :, None] - episode.x[0, None, :3]).square().sum(-1)
    expected = torch.stack([d[:, 0], d[:, 1], torch.maximum(d[:, 1], d[:, 2])], -1)
    torch.testing.assert_close(NearestNeighbor().score(episode.replace(w=w))[0], expected)


def test_cosine_ignores_length_and_starts_at_its_scale() -> None:
    episode = features(shot=1)
    head = ProtoNet("cosine", scale=7.0).double()
    torch.testing.assert_close(head.score(episode.replace(x=5 * episode.x)), head.score(episode))
    expected = 7 * F.cosine_similarity(episode.x[0, -1], episode.x[0, 0], dim=0)
    assert torch.isclose(head.score(episode)[0, -1, 0], expected, atol=1e-6)
    with pytest.raises(InputError, match="did you mean 'cosine'"):
        ProtoNet("cosin")


# Soft k-means


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


# GNN


def gnn() -> GNN:
    torch.manual_seed(0)
    return GNN(DIM, WAY, hidden=8).double().eval()


def dense_gnn(head: GNN, episode: Episode) -> Tensor:
    """The same network with dense (n, n) adjacency, written from the equations."""
    out = []
    for b in range(len(episode.x)):
        x = torch.cat([episode.x[b], episode.w[b]], -1)
        for i, (edge, conv) in enumerate(zip(head.adjacency, head.convs, strict=True)):
            psi = (x[:, None] - x[None]).abs()
            for linear, norm in zip(edge.linears, edge.norms, strict=True):
                y = psi @ linear.weight.T
                y = (y - norm.running_mean) / (
                    norm.running_var + norm.eps
                ).sqrt() * norm.weight + norm.bias
                psi = F.leaky_relu(y, 0.01)
            a = (psi @ edge.last.weight.T + edge.last.bias)[..., 0]
            a = torch.softmax(a - 1e8 * torch.eye(len(x)), -1)
            assert torch.allclose(a.sum(-1), torch.ones(len(x)).double()) and not a.diagonal().any()
            y = torch.cat([x, a @ x], -1) @ conv.linear.weight.T
            n = conv.norm
            y = (y - n.running_mean) / (n.running_var + n.eps).sqrt() * n.weight + n.bias
            x = torch.cat([x, F.leaky_relu(y, 0.01)], -1) if i < 2 else y
        out.append(x)
    return torch.stack(out)


def test_gnn_equals_dense_equations() -> None:
    head, episode = gnn(), features(query=1)
    torch.testing.assert_close(head.score(episode), dense_gnn(head, episode), atol=1e-9, rtol=1e-9)


def test_gnn_is_equivariant_to_node_order() -> None:
    head, episode = gnn(), features()
    order = torch.randperm(episode.x.shape[1], generator=torch.Generator().manual_seed(1))
    turned = episode.replace(x=episode.x[:, order], w=episode.w[:, order])
    torch.testing.assert_close(
        head.score(turned), head.score(episode)[:, order], atol=1e-9, rtol=1e-9
    )


def test_gnn_pipeline_uses_one_graph_per_query() -> None:
    model = learner(head="gnn").eval()
    assert model.per_query and not model.transductive
    shared = Pipeline(model.encoder, head=model.head, per_query=False)
    assert shared.transductive
    assert GNN(DIM, WAY).convs[0].linear.in_features == 2 * (DIM + WAY)
    assert [c.linear.out_features for c in GNN(DIM, WAY).convs] == [48, 48, WAY]
    with pytest.raises(InputError, match="tied to 3-way"):
        model(episodes(way=4)[0])


# Prototype VAE


def test_vae_without_samples_adds_nothing() -> None:
    episode = features()
    assert PrototypeVAE(DIM, samples=0)(episode) is episode


def test_vae_appends_weighted_nodes_of_every_class() -> None:
    episode = features()
    grown = PrototypeVAE(DIM, samples=4, weight=0.5).double().eval()(episode)
    assert grown.n_support == episode.n_support + 4 * WAY and grown.n_query == episode.n_query
    added = grown.w[:, episode.n_support : grown.n_support]
    assert torch.equal(added.sum(1), torch.full((2, WAY), 4 * 0.5).double())
    assert torch.equal(grown.x[:, grown.query], episode.x[:, episode.query])


def test_vae_generates_around_the_class_means() -> None:
    """A generator that gives nothing, g = 0, leaves p; one that gives b, p + b."""
    episode, vae = features(), PrototypeVAE(DIM, samples=2).double().eval()
    nn.init.zeros_(vae.generate[-1].weight)
    nn.init.constant_(vae.generate[-1].bias, 0.25)
    grown = vae(episode)
    added = grown.x[:, episode.n_support : grown.n_support]
    p = prototypes(episode.x, episode.w).repeat_interleave(2, 1)
    torch.testing.assert_close(added, p + 0.25)


def test_vae_loss_equals_a_loop() -> None:
    """||x - p - g||^2 / (2 s^2) + KL, g and q constants; s^2 a tenth of the variance within
    classes.
    """
    episode, vae = features(shot=3), PrototypeVAE(DIM, latent=2).double()
    for layers, bias in ((vae.generate, [0.25] * DIM), (vae.infer, [0.5, -0.3, 0.2, -0.4])):
        nn.init.zeros_(layers[-1].weight)
        layers[-1].bias.data = torch.tensor(bias).double()
    x = episode.x[:, episode.support]
    y = episode.w[:, episode.support].argmax(-1)
    p = torch.stack([torch.stack([x[b][y[b] == c].mean(0) for c in y[b]]) for b in range(2)])
    variance = 0.1 * (x - p).square().mean() + 1e-3 * x.square().mean()
    error = (x - p - 0.25).square().sum(-1).mean() / (2 * variance)
    kl = sum(0.5 * (m**2 + math.exp(v) - 1 - v) for m, v in ((0.5, 0.2), (-0.3, -0.4)))
    torch.testing.assert_close(vae.aux_loss(episode), error + kl)


def test_vae_draws_z_with_the_deviation_that_it_infers() -> None:
    """q = N(mu, sigma^2), log sigma^2 being what the network gives; a decoder that hands z on shows
    it.
    """
    episode, vae = features(shot=3), PrototypeVAE(DIM, latent=2).double()
    nn.init.zeros_(vae.infer[-1].weight)
    mu, log_var = torch.tensor([0.5, -0.3]).double(), torch.tensor([1.5, -2.0]).double()
    vae.infer[-1].bias.data = torch.cat([mu, log_var])
    vae.generate = nn.Linear(2 + DIM, DIM, bias=False).double()
    vae.generate.weight.data = F.pad(torch.eye(DIM, 2), (0, DIM)).double()
    x = episode.x[:, episode.support]
    p = (episode.w @ prototypes(episode.x, episode.w))[:, episode.support]
    variance = 0.1 * (x - p).square().mean() + 1e-3 * x.square().mean()
    kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum()
    torch.manual_seed(3)
    found = vae.aux_loss(episode)
    torch.manual_seed(3)
    z = mu + log_var.exp().sqrt() * torch.randn(*x.shape[:2], 2, dtype=torch.float64)
    error = (x - p - F.pad(z, (0, DIM - 2))).square().sum(-1).mean() / (2 * variance)
    torch.testing.assert_close(found, error + kl)


def test_the_vae_does_not_teach_the_encoder() -> None:
    """A generator must not win by features that are easy to generate: they are constants of its
    loss.
    """
    episode, vae = features(shot=3), PrototypeVAE(DIM).double()
    x = episode.x.clone().requires_grad_()
    loss = vae.aux_loss(episode.replace(x=x))
    (gradient,) = torch.autograd.grad(loss + 0 * x.sum(), x)
    assert not gradient.any()


def test_vae_dreams_anew_in_training_and_repeats_itself_afterwards() -> None:
    episode, vae = features(), PrototypeVAE(DIM, samples=2).double()
    first, second = (vae.train()(episode).x for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)
    first, second = (vae.eval()(episode).x for _ in range(2))
    assert torch.equal(first, second)


def test_vae_learns_the_spread_of_base_classes() -> None:
    """After `fit_base`, samples spread like real features (ratio 0.5 to 1.5), and beat the class
    mean at reconstruction."""
    g = torch.Generator().manual_seed(0)
    means, y = 3 * torch.randn(20, DIM, generator=g), torch.arange(20).repeat(50)
    x = means[y] + torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1, 0.1]) * torch.randn(
        1000, DIM, generator=g
    )
    torch.manual_seed(0)
    vae = PrototypeVAE(DIM, samples=200, base_steps=1500)
    episode = Episode(means[None, :5], torch.eye(5)[None], 5, 0)
    assert not vae.eval()(episode).w[:, 5:].any(), "before fit_base it adds nothing"
    vae.fit_base(x, y)
    samples = vae(episode).x[0, 5:].view(5, 200, DIM)
    ratio = samples.var(1).mean(0).sum() / (x - means[y]).var(0).sum()
    assert 0.5 < ratio < 1.5
    assert samples.var(1).mean(0)[:3].min() > 5 * samples.var(1).mean(0)[3:].max(), (
        "directions are learned"
    )
    p = means[y]
    mu = vae.infer(torch.cat([x, p], -1)).chunk(2, -1)[0]
    assert (x - p - vae.generate(torch.cat([mu, p], -1))).square().mean() < (x - p).square().mean()


def test_vae_adds_nothing_to_any_head_before_fit_base() -> None:
    vae, head = PrototypeVAE(DIM, base_steps=5).double().eval(), gnn()
    episode = features(query=1)
    plain = head.score(episode)
    kept = [*range(episode.n_support), *range(-episode.n_query - episode.n_unlabeled, 0)]
    torch.testing.assert_close(head.score(vae(episode))[:, kept], plain, atol=1e-9, rtol=1e-9)


# Graphs


def test_complete_edges_equal_a_loop() -> None:
    edges = complete_edges(2, 4, torch.device("cpu"))
    expected = [
        (4 * b + j, 4 * b + i) for b in range(2) for i in range(4) for j in range(4) if i != j
    ]
    assert list(map(tuple, edges.T.tolist())) == expected


def test_pyg_round_trip() -> None:
    episode = features()
    a = similarity(episode.x)
    batch = to_pyg(episode, a)
    assert torch.equal(from_pyg(batch, episode).x, episode.x)
    assert batch.num_graphs == 2 and batch.ptr.tolist() == [0, 18, 36]
    j, i = batch.edge_index
    graph, local_i, local_j = i // 18, i % 18, j % 18
    assert torch.equal(batch.edge_weight, a[graph, local_i, local_j])
    assert batch.role.view(2, -1)[0].tolist() == [0] * 6 + [1] * 6 + [2] * 6


def test_networkx_shows_what_the_episode_holds() -> None:
    episode, target = episodes()
    episode = episode.replace(x=episode.x.flatten(2))
    a, scores = similarity(episode.x), Pipeline(head=ProtoNet()).score(episode)
    truth = torch.cat([episode.w[:, episode.support].argmax(-1), target.query, target.unlabeled], 1)
    graph = to_networkx(episode, a, 1, scores, truth)
    assert len(graph) == episode.x.shape[1]
    assert [graph.nodes[v]["role"] for v in (0, 6, 12)] == ["support", "query", "unlabeled"]
    assert graph.nodes[0]["label"] == 0 and graph.nodes[6]["label"] is None
    assert graph.nodes[7]["prediction"] == int(scores[1, 7].argmax())
    assert graph.nodes[7]["truth"] == int(target.query[1, 1])
    assert graph.edges[2, 9]["weight"] == pytest.approx(float(a[1, 9, 2]))
    assert not any(u == v for u, v in graph.edges)
