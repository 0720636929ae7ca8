"""Facts of the metric heads: Matching and Relation Networks, SimpleShot, FEAT, Meta-Baseline."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import present, prototypes
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.feat import FEAT
from graphfsl.methods.heads.imprinting import Imprinting
from graphfsl.methods.heads.matchingnet import MatchingNet
from graphfsl.methods.heads.meta_baseline import MetaBaseline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.relationnet import RelationNet
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.methods.heads.wdae import WDAE
from tests.support.cases import DIM, WAY, TinyEncoder, episodes

MAPS = (5, 6, 6)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def features(**options: int) -> Episode:
    """An episode of features (B, n, DIM) in float64."""
    episode, _ = episodes(**options)
    return episode.replace(x=episode.x.flatten(2)[..., :DIM].double(), w=episode.w.double())


def maps(**options: int) -> Episode:
    episode, _ = episodes(**options)
    return episode.replace(x=torch.randn(*episode.x.shape[:2], *MAPS))


# Matching Networks


def test_matchingnet_equals_a_loop() -> None:
    episode, head = features(shot=2), MatchingNet(DIM, scale=7.0).double()
    found = head.score(episode)
    for b in range(2):
        for j in range(episode.x.shape[1]):
            p, total = [0.0] * WAY, 0.0
            for i in range(episode.n_support):
                cos = F.cosine_similarity(episode.x[b, j], episode.x[b, i], 0)
                p[int(episode.w[b, i].argmax())] += (a := math.exp(7.0 * cos))
                total += a
            expected = torch.tensor([math.log(v / total) for v in p], dtype=torch.float64)
            torch.testing.assert_close(found[b, j], expected, atol=1e-6, rtol=1e-6)


def test_matchingnet_averages_labels() -> None:
    """A node that is half of two classes gives each of them half of its attention."""
    episode = features(batch=1, shot=1)
    w = episode.w.clone()
    w[0, 0] = torch.tensor([0.5, 0.5, 0.0])
    p = MatchingNet(DIM).double().score(episode.replace(w=w)).exp()
    plain = MatchingNet(DIM).double().score(episode).exp()
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
    torch.testing.assert_close(p[..., 0], 0.5 * plain[..., 0])
    torch.testing.assert_close(p[..., 1], plain[..., 1] + 0.5 * plain[..., 0])


def test_matchingnet_of_weight_two_is_two_nodes() -> None:
    episode, head = features(shot=2), MatchingNet(DIM).double()
    w = episode.w.clone()
    w[:, 0] *= 2
    twice = Episode(
        torch.cat([episode.x[:, :1], episode.x], 1),
        torch.cat([episode.w[:, :1], episode.w], 1),
        episode.n_support + 1,
        episode.n_query,
    )
    torch.testing.assert_close(head.score(episode.replace(w=w)), head.score(twice)[:, 1:])


@pytest.mark.parametrize("train", [False, True])
def test_full_context_embeddings_equal_a_loop(train: bool) -> None:
    """g by torch's own bidirectional LSTM over each task's labeled nodes alone; f by a loop over
    the steps.
    """
    episode = features(shot=2)
    head = MatchingNet(DIM, fce=True, fce_steps=3).double().train(train)
    # One node less in the second task, in the middle of the support.
    w, mask = episode.w.clone(), episode.mask.clone()
    w[1, 2], mask[1, 2] = 0, False
    context = head.context
    assert context is not None
    torch.manual_seed(1)
    f, g = context(episode.x, episode.x, w.sum(-1) > 0)
    torch.manual_seed(1)
    place = torch.rand(w.shape[:2]) if train else torch.arange(w.shape[1]).expand(2, -1)
    both = nn.LSTM(DIM, DIM, bidirectional=True, batch_first=True).double()
    own = dict(context.forwards.named_parameters())
    own |= {f"{k}_reverse": v for k, v in context.backwards.named_parameters()}
    both.load_state_dict(own)
    for b in range(2):
        known = (w[b].sum(-1) > 0).nonzero().squeeze(1)
        order = known[place[b, known].argsort()]
        x = episode.x[b, order]
        expected = both(x[None])[0][0].view(-1, 2, DIM).sum(1) + x
        torch.testing.assert_close(g[b, order], expected)
        h, r = episode.x[b, -1], torch.zeros(DIM, dtype=torch.float64)
        c = torch.zeros(DIM, dtype=torch.float64)
        for _ in range(3):
            out, c = context.query(torch.cat([episode.x[b, -1], r]), (h, c))
            h = out + episode.x[b, -1]
            r = (g[b, order] @ h).softmax(0) @ g[b, order]
        torch.testing.assert_close(f[b, -1], h)


def test_full_context_embeddings_read_the_order_of_the_support() -> None:
    episode, head = features(), MatchingNet(DIM, fce=True).double().eval()
    order = torch.cat(
        [
            torch.arange(episode.n_support).flip(0),
            torch.arange(episode.n_support, episode.x.shape[1]),
        ]
    )
    turned = episode.replace(x=episode.x[:, order], w=episode.w[:, order])
    assert head.order_sensitive
    assert not torch.allclose(head(turned), head(episode), atol=1e-6)
    assert torch.allclose(MatchingNet(DIM).double()(turned), MatchingNet(DIM).double()(episode))


def test_a_query_in_full_context_is_answered_the_same_alone() -> None:
    episode, head = features(), MatchingNet(DIM, fce=True).double().eval()
    k = episode.n_support
    alone = Episode(episode.x[:, : k + 1], episode.w[:, : k + 1], k, 1)
    torch.testing.assert_close(head(alone), head(episode)[:, :1])


# Relation Networks


def test_relationnet_equals_convolution_of_concatenated_maps() -> None:
    """One convolution of [s; q] for each pair, as the paper draws it, with the sum (not the mean)
    over shots.
    """
    episode, head = maps(shot=2), RelationNet(MAPS).eval()
    for norm in head.norms:
        nn.init.uniform_(norm.running_mean)
    weight = torch.cat([head.support_conv.weight, head.query_conv.weight], 1)
    found = head.score(episode)
    for b in range(2):
        for i in (0, 5, -1):
            for c in range(WAY):
                s = sum(episode.x[b, j] for j in range(episode.n_support) if episode.w[b, j, c] > 0)
                r = F.conv2d(
                    torch.cat([s, episode.x[b, i]])[None], weight, head.support_conv.bias, padding=1
                )
                r = F.max_pool2d(F.relu(head.norms[0](r)), 2)
                r = F.max_pool2d(F.relu(head.norms[1](head.second_conv(r))), 2)
                torch.testing.assert_close(
                    found[b, i, c], head.linear(r.flatten(1))[0, 0], atol=1e-5, rtol=1e-4
                )


def test_relationnet_takes_sum_or_mean_over_shots() -> None:
    """Three equal shots are one shot to the mean, and thrice its map to the sum."""
    one, summed, mean = (
        maps(shot=1),
        RelationNet(MAPS).eval(),
        RelationNet(MAPS, shots="mean").eval(),
    )
    mean.load_state_dict(summed.state_dict())
    torch.testing.assert_close(mean.score(one), summed.score(one))
    k = one.n_support

    def thrice(t: torch.Tensor) -> torch.Tensor:
        return torch.cat([t[:, :k].repeat_interleave(3, 1), t[:, k:]], 1)

    three = Episode(thrice(one.x), thrice(one.w), 3 * k, one.n_query)
    torch.testing.assert_close(
        mean.score(three)[:, 3 * k :], mean.score(one)[:, k:], atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(summed.score(three)[:, 3 * k :], summed.score(one)[:, k:], atol=1e-3)


def test_relationnet_loss_is_the_mean_square_of_the_sigmoids() -> None:
    episode, (_, target) = maps(), episodes()
    head = RelationNet(MAPS).eval()
    r = head.score(episode)[:, episode.query].sigmoid()
    expected = (r - F.one_hot(target.query, WAY)).square().mean()
    torch.testing.assert_close(head.criterion(head.score(episode), target, episode), expected)
    ce = RelationNet(MAPS, loss="ce").eval()
    scores = ce.score(episode)
    expected = F.cross_entropy(scores[:, episode.query].flatten(0, 1), target.query.flatten())
    torch.testing.assert_close(ce.criterion(scores, target, episode), expected)


def test_relationnet_stores_statistics_of_queries_beside_classes() -> None:
    episode, head = maps(shot=2), RelationNet(MAPS).train()
    norm = head.norms[0]
    norm.momentum = 1.0
    head.score(episode)
    s = torch.einsum("bnc,bnijk->bcijk", episode.w, episode.x)
    q = episode.x[:, episode.query]
    pairs = head.support_conv(s.flatten(0, 1)).unflatten(0, (2, -1))[:, None] + head.query_conv(
        q.flatten(0, 1)
    ).unflatten(0, (2, -1)).unsqueeze(2)
    torch.testing.assert_close(norm.running_mean, pairs.mean((0, 1, 2, 4, 5)), atol=1e-5, rtol=1e-4)


def test_relationnet_apart_is_training_mode_on_the_query_pairs() -> None:
    """The authors never leave training mode: statistics of the support, of the queries and of the
    pairs of queries.
    """
    episode, _ = episodes(batch=1, unlabeled=0)
    model = Pipeline(TinyEncoder(), head=RelationNet((DIM, 2, 2)), batch_norm="apart").eval()
    found = model(episode)
    assert model.transductive
    encoder, head = model.encoder.train(), model.head
    support, query = (encoder(episode.x[0, part]) for part in (episode.support, episode.query))
    s = head.support_conv(torch.einsum("nc,nijk->cijk", episode.w[0, episode.support], support))
    r = (s[None] + head.query_conv(query)[:, None]).flatten(0, 1)
    first, second = (nn.BatchNorm2d(64).train() for _ in range(2))
    r = F.max_pool2d(F.relu(first(r)), 2)
    r = F.relu(second(head.second_conv(r)))
    torch.testing.assert_close(
        found[0].flatten(), head.linear(r.flatten(1)).flatten(), atol=1e-4, rtol=1e-4
    )


def test_relationnet_follows_the_policy_and_running_is_inductive() -> None:
    model = Pipeline(nn.Identity(), head=RelationNet(MAPS))
    assert not model.transductive
    model.set_batch_norm("joint")
    assert model.transductive and model.head.batch_norm == "joint"
    assert any(isinstance(m, BatchNorm) for m in model.head.modules())


def test_relationnet_refuses_another_loss() -> None:
    with pytest.raises(InputError, match="unknown loss 'mce'; did you mean"):
        RelationNet(MAPS, loss="mce")


# SimpleShot, Meta-Baseline, FEAT


def test_simple_shot_transforms() -> None:
    episode = features(shot=3)
    base = torch.randn(50, DIM, dtype=torch.float64) + 2
    y = torch.arange(5).repeat(10)
    torch.testing.assert_close(SimpleShot(DIM, "un").score(episode), ProtoNet().score(episode))
    unit = episode.replace(x=F.normalize(episode.x, dim=-1))
    torch.testing.assert_close(SimpleShot(DIM, "l2n").score(episode), ProtoNet().score(unit))
    head = SimpleShot(DIM, "cl2n").double()
    assert head.wants_base and not SimpleShot(DIM, "l2n").wants_base
    head.fit_base(base, y)
    centered = episode.replace(x=F.normalize(episode.x - base.mean(0), dim=-1))
    torch.testing.assert_close(head.score(episode), ProtoNet().score(centered))


def test_simple_shot_subtracts_the_mean_of_features() -> None:
    """Equation 3: over the images of the base classes, of which one class may have more than
    another.
    """
    head, base = SimpleShot(DIM).double(), torch.randn(20, DIM, dtype=torch.float64)
    y = torch.tensor([0] * 15 + [1] * 5)
    head.fit_base(base, y)
    torch.testing.assert_close(head.mean, base.sum(0) / 20)
    means = torch.stack([base[y == c].mean(0) for c in range(2)]).mean(0)
    assert (head.mean - means).abs().max() > 0.05


def test_meta_baseline_is_the_cosine_of_the_mean() -> None:
    episode, head = features(shot=2), MetaBaseline(scale=10.0).double()
    w = prototypes(episode.x, episode.w)
    expected = 10 * F.cosine_similarity(episode.x[:, :, None], w[:, None], -1)
    torch.testing.assert_close(head.score(episode), expected, atol=1e-6, rtol=1e-6)


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


def test_feat_transforms_the_set_of_means() -> None:
    episode, head = features(shot=2), FEAT(DIM, temperature=3.0).double().eval()
    p = prototypes(episode.x, episode.w)
    a = ((p @ head.q.weight.T) @ (p @ head.k.weight.T).mT / DIM**0.5).softmax(-1)
    psi = head.norm(p + head.fc(a @ (p @ head.v.weight.T)))
    expected = -(episode.x[:, :, None] - psi[:, None]).square().sum(-1) / 3.0
    torch.testing.assert_close(head.score(episode), expected)
    assert head.adapt(p, present(episode.w).unsqueeze(1)).shape == p.shape


def attention(head: FEAT, z: Tensor) -> Tensor:
    """The authors' set function on one set (m, d), without dropout."""
    alpha = ((z @ head.q.weight.T) @ (z @ head.k.weight.T).T / DIM**0.5).softmax(-1)
    return F.layer_norm(z + head.fc(alpha @ (z @ head.v.weight.T)), (DIM,))


@pytest.mark.parametrize("unequal", [False, True])
def test_feat_second_loss_is_that_of_the_authors(unequal: bool) -> None:
    """Equation 9: the set function within each class, over its support and queries; the means of
    what it gives.
    """
    options = {"temperature": 3.0, "temperature2": 2.0}
    plain, both = (FEAT(DIM, balance=b, **options).double().eval() for b in (0.0, 0.7))
    both.load_state_dict(plain.state_dict())
    episode, (_, target) = features(shot=2), episodes(shot=2)
    if unequal:  # padding, in support and queries
        mask = episode.mask.clone()
        mask[0, 0] = mask[1, episode.n_support] = False
        episode = episode.replace(w=episode.w * mask.unsqueeze(-1), mask=mask)
        target = dataclasses.replace(
            target, query=target.query.masked_fill(~mask[:, episode.query], -100)
        )
    losses = []
    for b in range(2):
        support = episode.w[b, episode.support]
        labels = [int(w.argmax()) if w.sum() else -1 for w in support] + target.query[b].tolist()
        y = torch.tensor(labels)
        x = episode.x[b, : len(y)]
        centres = torch.stack([attention(plain, x[y == c]).mean(0) for c in range(WAY)])
        for i in (y >= 0).nonzero().flatten():
            logits = -(x[i] - centres).square().sum(-1) / 2.0
            losses.append(F.cross_entropy(logits, y[i]))
    scores = plain.score(episode)
    difference = both.criterion(scores, target, episode) - plain.criterion(scores, target, episode)
    torch.testing.assert_close(difference, 0.7 * torch.stack(losses).mean())


def test_feat_dropout_is_of_the_weights_and_of_what_is_added() -> None:
    """What the first dropout keeps of alpha is scaled up, the second one leaves the set itself
    alone.
    """
    z, everyone = torch.randn(1, 4, DIM), torch.ones(1, 1, 4, dtype=torch.bool)
    weights = FEAT(DIM, dropout=0.0, attention_dropout=0.5)
    alpha = (weights.q(z) @ weights.k(z).mT / DIM**0.5).softmax(-1)
    torch.manual_seed(1)
    found = weights.adapt(z, everyone)
    torch.manual_seed(1)
    torch.testing.assert_close(
        found, weights.norm(z + weights.fc(F.dropout(alpha, 0.5) @ weights.v(z)))
    )
    added = FEAT(DIM, dropout=0.9, attention_dropout=0.0)
    torch.manual_seed(1)
    found = added.adapt(z, everyone)
    torch.manual_seed(1)
    alpha = (added.q(z) @ added.k(z).mT / DIM**0.5).softmax(-1)
    torch.testing.assert_close(found, added.norm(z + F.dropout(added.fc(alpha @ added.v(z)), 0.9)))


def test_feat_begins_as_the_authors_does() -> None:
    head = FEAT(256)
    for linear in (head.q, head.k, head.v, head.fc):
        assert float(linear.weight.detach().std()) == pytest.approx(
            (2 / (256 + 256)) ** 0.5, rel=0.02
        )
        assert float(linear.weight.detach().abs().max()) > 4 * 256**-0.5, "normal, not uniform"
    assert (head.temperature, head.temperature2, head.balance) == (64, 32, 0.1)
    assert (head.dropout.p, head.attention_dropout.p) == (0.5, 0.1)


@pytest.mark.parametrize(
    "options", [{"temperature2": 0.0}, {"attention_dropout": 1.0}, {"balance": -1.0}]
)
def test_options_of_feat(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="temperature2 must be above 0"):
        FEAT(DIM, **options)


def test_relationnet_answers_maps_that_were_encoded_once_the_same() -> None:
    from graphfsl.data import Split, Transform
    from graphfsl.experiment.builder import build
    from graphfsl.loops.evaluation import encode_once, evaluate

    y = torch.arange(6).repeat_interleave(8)
    split = Split(
        torch.randint(0, 256, (48, 1, 28, 28), dtype=torch.uint8), y, tuple("abcdef"), "noise/test"
    )
    model = build(
        {"encoder": {"name": "conv4_maps", "width": 4}, "head": "relationnet"}, split.shape, 5
    ).eval()
    on_maps, maps = encode_once(model, split, Transform(), 10**6)
    assert maps.x.shape == (48, 4 * 5 * 5)
    from graphfsl.data import Episodes

    episode, _ = Episodes(split, way=5, shot=1, query=2).batch([0, 1])
    encoded, _ = Episodes(maps, way=5, shot=1, query=2).batch([0, 1])
    with torch.no_grad():
        torch.testing.assert_close(on_maps(encoded), model(episode), atol=1e-5, rtol=1e-4)
    assert "inductive" in str(evaluate(model, split, way=5, shot=1, query=2, episodes=30))
