"""Facts of Relay, our learner over typed episode graphs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.relay import Relay
from graphfsl.testing import DIM, WAY, episodes
from tests.support.episodes import features


def clusters(
    step: int, batch: int = 8, shot: int = 1, pool: int = 4
) -> tuple[Episode, Target, Tensor]:
    """5-d features around random centers; the pool holds `pool` nodes of each class and as many of
    two classes more.
    """
    g = torch.Generator().manual_seed(step)
    y = torch.cat(
        [torch.arange(WAY).repeat_interleave(k) for k in (shot, 3)]
        + [torch.arange(WAY + 2).repeat(pool)]
    )
    centers = 1.2 * torch.randn(batch, WAY + 2, DIM, generator=g)
    x = centers[:, y] + 0.7 * torch.randn(batch, len(y), DIM, generator=g)
    w = F.one_hot(y.clamp_max(WAY - 1), WAY).float().expand(batch, -1, -1).clone()
    w[:, WAY * shot :] = 0
    query = y[WAY * shot : WAY * (shot + 3)].expand(batch, -1)
    unlabeled = y[WAY * (shot + 3) :].where(y[WAY * (shot + 3) :] < WAY, -1).expand(batch, -1)
    ids, classes = torch.arange(len(y)).expand(batch, -1), torch.arange(WAY).expand(batch, -1)
    return Episode(x, w, WAY * shot, 3 * WAY), Target(query, unlabeled, ids, classes), centers


def trained(**options: bool) -> Relay:
    torch.manual_seed(0)
    head = Relay(DIM, **options).train()
    optimizer = torch.optim.Adam(head.parameters(), 2e-2)
    for step in range(150):
        episode, target, _ = clusters(step)
        optimizer.zero_grad()
        head.loss(episode, target).backward()
        optimizer.step()
    return head.eval()


def test_without_pool_moves_and_messages_it_is_a_prototypical_network() -> None:
    head, episode = Relay(DIM).double().eval(), features(unlabeled=0, shot=3)
    with torch.no_grad():
        head.eta.zero_()
        for move in head.moves:
            move.weight.zero_()  # type: ignore[union-attr, operator]
    torch.testing.assert_close(head.score(episode), ProtoNet().score(episode))


def test_one_layer_equals_a_loop() -> None:
    episode, head = features(batch=1), Relay(DIM, layers=1).double().eval()
    torch.nn.init.normal_(head.log_gamma, std=0.3)
    torch.nn.init.normal_(head.beta)
    h, w, n = episode.x[0], episode.w[0], episode.x.shape[1]
    kind = [0 if i < episode.n_support else 1 if i < episode.query.stop else 2 for i in range(n)]
    tau, gamma, beta = head.log_tau.exp(), head.log_gamma[0].exp(), head.beta[0]
    p = torch.stack([h[w[:, c] > 0].mean(0) for c in range(WAY)])
    a = torch.zeros(n, n).double()
    for i in range(n):
        others = [j for j in range(n) if j != i and kind[j] != 1]
        e = [
            -gamma[kind[i], kind[j]] * (h[i] - h[j]).square().sum() + beta[kind[i], kind[j]]
            for j in others
        ]
        a[i, others] = torch.stack(e).softmax(0)
    y = w.clone()
    pool = [i for i in range(n) if kind[i] == 2]
    near = torch.stack([(h[i] - p).square().sum(-1).min() for i in range(n)])
    for i in pool:
        messages = a[i] @ w
        s = -tau[0] * (h[i] - p).square().sum(-1) + head.eta[0] * (messages + 0.01).log()
        z = s.softmax(0)
        first, second = z.sort(descending=True).values[:2]
        facts = torch.stack([first, first - second, messages.sum(), near[i] / near[pool].mean()])
        assert head.gate is not None
        y[i] = head.gate(facts).sigmoid() * z
    h = h + (a @ h - h) @ head.moves[0].weight.T  # type: ignore[union-attr, operator]
    p = (y.T @ h) / y.sum(0)[:, None]
    expected = -tau[1] * torch.stack([(h[i] - p).square().sum(-1) for i in range(n)])
    torch.testing.assert_close(head.score(episode)[0], expected)


def test_classes_are_exchangeable_and_one_network_serves_any_way_shot_and_pool() -> None:
    head, order = Relay(DIM).double().eval(), torch.tensor([2, 0, 1])
    episode = features(shot=2)
    turned = head.score(episode.replace(w=episode.w[..., order]))
    torch.testing.assert_close(turned, head.score(episode)[..., order])
    for options in ({"way": 2}, {"way": 7, "shot": 1}, {"unlabeled": 9}, {"query": 1, "shot": 5}):
        assert torch.isfinite(head.score(features(**options))).all()


def test_the_labels_that_were_hidden_weigh_as_much_as_there_are() -> None:
    """Cross-entropy of the queries, and of all the support by the share of it whose labels are
    hidden.
    """
    episode, (_, target) = features(shot=2), episodes(shot=2)
    head = Relay(DIM, label_dropout=0.3).double().eval()
    scores = head.score(episode)
    queries = F.cross_entropy(scores[:, episode.query].flatten(0, 1), target.query.flatten())
    y = episode.w[:, episode.support].argmax(-1)
    support = F.cross_entropy(scores[:, episode.support].flatten(0, 1), y.flatten())
    torch.testing.assert_close(head.criterion(scores, target, episode), queries + 0.3 * support)


def test_a_node_far_from_everything_counts_as_ten_times_as_far_as_the_others() -> None:
    """No more, so that one outlier among many nodes cannot push the gate where it never was in
    training.
    """
    episode, head = features(unlabeled=8), Relay(DIM).double().eval()
    x = episode.x.clone()
    x[:, -1] = 1e3
    seen: list[Tensor] = []
    assert head.gate is not None
    head.gate.register_forward_hook(lambda module, args, out: seen.append(args[0][..., 3]))
    head.score(episode.replace(x=x))
    assert torch.equal(seen[0][:, -1], torch.full((2,), 10.0).double())
    assert seen[0][:, episode.unlabeled][:, :-1].max() < 1


def test_queries_send_messages_only_where_it_is_asked_for() -> None:
    episode = features()
    x = episode.x.clone()
    x[:, episode.n_support] += 1.0
    for queries in (False, True):
        model = Pipeline(head=Relay(DIM, queries=queries).double()).eval()
        assert model.transductive is queries
        same = torch.allclose(model(episode)[:, 1:], model(episode.replace(x=x))[:, 1:])
        assert same is not queries


def test_hidden_labels_leave_one_of_each_class() -> None:
    w = features(batch=50, shot=4).w
    w[3, :, 1] = 0  # an absent class
    left = Relay(DIM, label_dropout=0.9).drop_labels(w)
    assert torch.equal(left.sum(1) > 0, w.sum(1) > 0)
    assert 1 <= float(left.sum() / (w.sum(1) > 0).sum()) < 2, "of four labels about 1.3 stay"
    one = features(batch=50, shot=1).w
    assert torch.equal(Relay(DIM, label_dropout=0.9).drop_labels(one), one)


def test_it_learns_to_use_a_pool_with_distractors() -> None:
    """Above class means, and distractors are believed less than the rest of the pool."""
    head = trained()
    episode, target, _ = clusters(10_000, batch=300)
    with torch.no_grad():
        found = [
            float((m(episode).argmax(-1) == target.query).float().mean())
            for m in (ProtoNet(), head)
        ]
        assert found[1] > found[0] + 0.02, found
        seen = []
        head.gate.register_forward_hook(lambda module, args, out: seen.append(out.sigmoid()))  # type: ignore[union-attr]
        head(episode)
    belief = seen[0][:, episode.unlabeled, 0]
    assert belief[target.unlabeled >= 0].mean() > belief[target.unlabeled < 0].mean() + 0.05


def test_relay_answers_a_task_of_one_class() -> None:
    """As a scikit-learn classifier of one class does; there is no second-best class."""
    episode = Episode(torch.randn(2, 5, DIM), F.pad(torch.ones(2, 2, 1), (0, 0, 0, 3)), 2, 2)
    with torch.no_grad():
        assert Relay(DIM)(episode).isfinite().all()
