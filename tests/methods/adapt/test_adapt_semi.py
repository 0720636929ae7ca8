"""Semi-supervised and transductive inner loops on images, against computations written from the
equations.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment, Graph
from graphfsl.core.objectives import support_cross_entropy
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import Adam, GradientDescent
from graphfsl.data import Split, Transform
from graphfsl.data.batches import Batches, partly_labeled
from graphfsl.data.deck import label_split
from graphfsl.data.tasks.classes import Sampler, Setting
from graphfsl.functional.affine import affine
from graphfsl.functional.cross_entropy import cross_entropy
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.fine_tuning import FineTuning
from graphfsl.methods.adapt.flexmatch import FlexMatch
from graphfsl.methods.adapt.transmatch import (
    TransMatch,
    guessed_loss,
    labeled_loss,
    mix,
    sharpen,
)
from graphfsl.methods.heads.imprinting import Imprinting
from graphfsl.methods.pretrain.consistency import Consistency
from graphfsl.nn.views import Views
from tests.support.cases import TinyEncoder, episodes, unlike_fresh

WAY, SHOT, POOL = 3, 2, 6
METHODS = (TransMatch, FlexMatch, FineTuning)
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


def net() -> Pipeline:
    return unlike_fresh(Pipeline(TinyEncoder(), head=Imprinting())).double().eval()  # type: ignore[return-value]


def episode(unlabeled: int = POOL // WAY, batch: int = 1) -> Episode:
    return episodes(batch=batch, shot=SHOT, unlabeled=unlabeled)[0].to(dtype=torch.float64)


def logits(net: Pipeline, x: Tensor, weight: Tensor) -> Tensor:
    """Of images (m, 1, 8, 8) with class weights (C, d), without the framework."""
    z = net.encoder.readout(net.encoder(x))
    return 10 * F.normalize(z, dim=-1) @ F.normalize(weight, dim=-1).T


def start(net: Pipeline, e: Episode) -> Tensor:
    """The imprinted weights (C, d) of the episode."""
    z = F.normalize(net.encoder.readout(net.encoder(e.x[0, e.support])), dim=-1)
    y = e.w[0, e.support].argmax(-1)
    return torch.stack([z[y == c].mean(0) for c in range(e.way)])


def objective(model: Adapt, e: Episode, step: int = 0) -> Tensor:
    """The inner loss at the network as it is, the class weights imprinted."""
    return model.objective(model.net.score, e, step)


def order(views: Views, x: Tensor, step: int) -> list[int]:
    """Images (m, 1, 8, 8) by their projection."""
    wave = torch.sin(views.phase[step] * torch.arange(1, 65)).double()
    return sorted(range(len(x)), key=lambda i: float(x[i].flatten().double() @ wave))


def moved(x: Tensor, views: Views, step: int, view: int, share: float = 1.0) -> Tensor:
    """Images (m, 1, 8, 8), one at a time, moved by the draw of their place."""
    out = x.clone()
    for place, i in enumerate(order(views, x, step)):
        u = share * views.draws[step, view, place].double()
        out[i] = affine(x[i : i + 1], u[:, None], views.rotate, views.translate, views.scale)[0]
    return out


# Shared parts


def test_cross_entropy_is_torchs_and_absent_classes_do_not_matter() -> None:
    scores, y = torch.randn(2, 5, 3), torch.randint(3, (2, 5))
    expected = F.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="none").view(2, 5)
    w = F.one_hot(y, 3).float()
    torch.testing.assert_close(cross_entropy(scores, w), expected)
    wide = F.pad(scores, (0, 1), value=float("-inf")).requires_grad_()
    loss = cross_entropy(wide, F.pad(w, (0, 1)))
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert wide.grad is not None and torch.isfinite(wide.grad).all()


def test_affine_is_the_transforms() -> None:
    x = torch.randint(0, 256, (4, 1, 9, 9), dtype=torch.uint8)
    u = torch.rand(4, 10)
    got = affine(x.float() / 255, 2 * u.T[:7] - 1, 20, 0.1, 0.2, 5, True)
    torch.testing.assert_close(
        got, Transform(rotate=20, translate=0.1, scale=0.2, shear=5, flip=True)(x, u)
    )


def test_adam_is_torchs() -> None:
    p = torch.randn(5, dtype=torch.float64)
    expected = p.clone().requires_grad_()
    optimizer, rule = torch.optim.Adam([expected], 0.01), Adam(0.01)
    params, state = {"p": p}, rule.init({"p": p})
    for step in range(4):
        expected.grad = expected.detach() ** 3 + step
        optimizer.step()
        params, state = rule.update(params, {"p": params["p"] ** 3 + step}, state, step)
    torch.testing.assert_close(params["p"], expected.detach())


def test_views_never_mirror_unless_asked() -> None:
    x, places = torch.rand(2, 3, 1, 8, 8), torch.arange(3).expand(2, 3)
    torch.testing.assert_close(Views(2, 2, 0, 0, 0, flip=False)(x, places, 1, 1), x)
    flips = Views(40, 1, 0, 0, 0, flip=True)
    found = torch.cat([flips(x, places, s, 0) for s in range(40)]).flatten(0, 1)
    plain = x.repeat(40, 1, 1, 1, 1).flatten(0, 1)
    mirrored = ((found - plain.flip(-1)).abs().amax((1, 2, 3)) < 1e-5).float().mean()
    assert 0.3 < mirrored < 0.7
    assert mirrored + ((found - plain).abs().amax((1, 2, 3)) < 1e-5).float().mean() == 1
    features = torch.randn(2, 3, 6)
    assert flips(features, places, 0, 0) is features
    with pytest.raises(InputError, match=r"rotate in \[0, 90\)"):
        Views(1, 1, 90, 0, 0, False)


def test_places_go_with_the_images_and_padding_comes_last() -> None:
    views, x = Views(1, 1, 5, 0, 0, False), torch.randn(1, 7, 1, 8, 8)
    everything = views.places(x, torch.ones(1, 7, dtype=torch.bool), 0)
    assert everything[0].argsort().tolist() == order(views, x[0], 0)
    shuffle = torch.randperm(7)
    assert torch.equal(
        views.places(x[:, shuffle], torch.ones(1, 7, dtype=torch.bool), 0), everything[:, shuffle]
    )
    real = torch.tensor([[True, False, True, True, False, True, True]])
    some = views.places(x, real, 0)
    assert some[~real].tolist() == [5, 6] and torch.equal(
        some[real], views.places(x[:, real[0]], real[:, real[0]], 0)[0]
    )


# The head


def test_imprinting_is_the_cosine_to_means_of_directions() -> None:
    model, e = net(), episode()
    expected = logits(model, e.x[0], start(model, e))
    torch.testing.assert_close(model.score(e)[0], expected)


def test_adaptation_starts_at_the_imprint_and_moves_it() -> None:
    model, e = net(), episode(batch=2)
    still = Adapt(model, GradientDescent(0.1), 0, params="head.*")
    torch.testing.assert_close(still.score(e), model.score(e))
    one = e.replace(x=e.x[:1], w=e.w[:1], mask=e.mask[:1])
    w0, y = start(model, one).detach().requires_grad_(), one.w[0, one.support].argmax(-1)
    loss = F.cross_entropy(logits(model, one.x[0, one.support], w0), y)
    expected = w0 - 0.1 * torch.autograd.grad(loss, w0)[0]
    adapted = Adapt(model, GradientDescent(0.1), 1, params="head.*").adapt(one)
    assert list(adapted) == ["net.head.weight"]
    torch.testing.assert_close(adapted["net.head.weight"][0], expected)
    assert model.head.weight is None


class Squared(Graph):
    """A layer that answers each node by itself."""

    def forward(self, episode: Episode) -> Episode:
        return episode.replace(x=episode.x.square())


class Moved(Augment):
    def forward(self, episode: Episode) -> Episode:
        return episode.replace(x=episode.x - 0.5)


@pytest.mark.parametrize(
    "layers", [{"graph": Squared()}, {"augment": Moved()}], ids=lambda d: next(iter(d))
)
def test_the_imprint_is_of_what_the_head_reads(layers: dict[str, Any]) -> None:
    """Features behind the augmentation and the graph of the pipeline, as without adaptation."""
    model, e = (
        Pipeline(net().encoder, head=Imprinting(), **layers).double().eval(),
        episode(batch=2),
    )
    still = Adapt(model, GradientDescent(0.1), 0, params="head.*")
    torch.testing.assert_close(still.score(e), model.score(e))
    assert not torch.allclose(
        model.score(e), Pipeline(model.encoder, head=Imprinting()).eval().score(e), atol=1e-3
    )


# TransMatch


def mixmatch(model: TransMatch, e: Episode, step: int) -> Tensor:
    """Algorithm 1 of MixMatch with lists."""
    n, pool, weight = model.net, e.x[0, e.unlabeled], start(model.net, e)  # type: ignore[arg-type]
    support, labels = e.x[0, e.support], e.w[0, e.support]
    views = [moved(pool, model.views, step, 1 + v) for v in range(2)]
    q = sum(logits(n, v, weight).softmax(-1) for v in views) / 2  # type: ignore[arg-type]
    q = q**2 / (q**2).sum(-1, keepdim=True)  # type: ignore[operator]
    x = [*moved(support, model.views, step, 0), *views[0], *views[1]]
    y = [*labels, *q.detach(), *q.detach()]
    ordered, terms = order(model.views, torch.stack(x), step), {}
    for place, i in enumerate(ordered):
        j, share = ordered[(place + 1) % len(x)], float(model.share[step, place])
        mixed, goal = share * x[i] + (1 - share) * x[j], share * y[i] + (1 - share) * y[j]
        p = logits(n, mixed[None], weight)[0].softmax(-1)
        terms[i] = -(goal * p.log()).sum() if i < len(support) else (goal - p).square().sum() / WAY
    k = len(support)
    rest = torch.stack([terms[i] for i in range(k, len(x))]).mean() if len(pool) else 0.0
    return torch.stack([terms[i] for i in range(k)]).mean() + 5 * (step + 1) / model.steps * rest


@pytest.mark.parametrize("unlabeled", [0, POOL // WAY])
def test_transmatch_is_mixmatch_on_imprinted_weights(unlabeled: int) -> None:
    model, e = TransMatch(net(), steps=4).double(), episode(unlabeled)
    for step in (0, 2):
        torch.testing.assert_close(objective(model, e, step), mixmatch(model, e, step))
    assert (model.share >= 0.5).all() and (model.share < 1).all()


def test_sharpened_probabilities_are_powers_that_sum_to_one() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(sharpen(p, 0.5)[0], p[0] ** 2 / 0.38)
    torch.testing.assert_close(sharpen(p, 1.0), p)
    assert torch.equal(sharpen(p, 0.5)[1], p[1])


def test_a_mixed_image_is_between_its_own_and_its_partners() -> None:
    x = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    partner = torch.tensor([[1, 2, 0], [2, 0, 1]])
    share = torch.tensor([[1.0, 0.75, 0.5], [0.9, 0.8, 0.7]])
    mixed = mix(x, partner, share)
    for b in range(2):
        for i in range(3):
            own, other = x[b, i], x[b, partner[b, i]]
            expected = share[b, i] * own + (1 - share[b, i]) * other
            torch.testing.assert_close(mixed[b, i], expected)


def test_the_two_losses_of_mixmatch_are_means_over_real_nodes() -> None:
    g = torch.Generator().manual_seed(0)
    scores, target = torch.randn(1, 4, 3, generator=g), torch.rand(1, 4, 3, generator=g).softmax(-1)
    mask, classes = torch.tensor([[True, True, True, False]]), torch.tensor([[True, True, False]])
    log_p = scores[0, :3].log_softmax(-1)
    torch.testing.assert_close(
        labeled_loss(scores, target, mask), -(target[0, :3] * log_p).sum(-1).mean()
    )
    brier = (log_p.exp() - target[0, :3]).square().sum(-1).mean()
    torch.testing.assert_close(guessed_loss(scores, target, mask, classes), brier / 2)
    assert guessed_loss(scores, target, mask & False, classes) == 0


def test_guessed_labels_are_constants_for_the_inner_gradient() -> None:
    model, e = TransMatch(net(), steps=4).double(), episode()
    weight = model.net.encoder.conv.weight
    found, expected = (
        torch.autograd.grad(loss(model, e, 2), weight)[0] for loss in (objective, mixmatch)
    )
    torch.testing.assert_close(found, expected)


# FlexMatch


def flexmatch(model: FlexMatch, e: Episode, step: int) -> Tensor:
    n, pool, weight = model.net, e.x[0, e.unlabeled], start(model.net, e)  # type: ignore[arg-type]
    y = e.w[0, e.support].argmax(-1)
    loss = F.cross_entropy(logits(n, e.x[0, e.support], weight), y)
    if not len(pool):
        return loss
    q = logits(n, moved(pool, model.views, step, 0, model.weak), weight).softmax(-1)
    best, label = q.max(-1)
    sigma = [
        sum(float(best[j] > model.threshold) for j in range(len(pool)) if label[j] == c)
        for c in range(WAY)
    ]
    terms = []
    for j, p in enumerate(logits(n, moved(pool, model.views, step, 1), weight).softmax(-1)):
        beta = sigma[int(label[j])] / max(*sigma, len(pool) - sum(sigma))
        tau = model.threshold * beta / (2 - beta) if model.flexible else model.threshold
        terms.append(-p[label[j]].log() if best[j] > tau else torch.zeros(()))
    return loss + model.weight * sum(terms) / len(pool)  # type: ignore[return-value]


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize("unlabeled", [0, 10])
def test_flexmatch_equals_a_loop(flexible: bool, unlabeled: int) -> None:
    model = FlexMatch(net(), steps=3, threshold=0.5, weight=0.7, flexible=flexible).double()
    e = episode(unlabeled)
    found = objective(model, e, 1)
    torch.testing.assert_close(found, flexmatch(model, e, 1))
    if unlabeled:
        model.flexible = not flexible
        assert not torch.allclose(objective(model, e, 1), found), (
            "the thresholds of the classes differ"
        )


def test_flexmatch_takes_the_mean_over_the_sure_and_the_unsure() -> None:
    """Equation 4: what is not sure adds nothing to the sum and counts in the number."""
    n, e = net(), episode(10)
    model = FlexMatch(n, steps=3, flexible=False).double()
    weak = moved(e.x[0, e.unlabeled], model.views, 1, 0, model.weak)
    # half of the pool is sure
    model.threshold = float(logits(n, weak, start(n, e)).softmax(-1).amax(-1).median())
    torch.testing.assert_close(objective(model, e, 1), flexmatch(model, e, 1))


def test_the_threshold_of_a_class_rises_with_what_is_sure_of_it() -> None:
    """Equations 5 to 10: sigma (4, 2, 0) of twelve real nodes and six that are sure of nothing;
    beta 4/6, tau 0.4.
    """
    top = torch.tensor(
        [0.9] * 4 + [0.45, 0.38] + [0.9] * 2 + [0.45] + [0.36] * 3 + [0.9] * 2
    ).double()
    best = torch.tensor([0] * 6 + [1] * 3 + [2] * 3 + [0, 1])
    q = ((1 - top) / 2)[:, None].expand(-1, 3).clone()
    q[torch.arange(14), best] = top
    mask = torch.arange(14) < 12
    found = FlexMatch(net(), threshold=0.8).sure(q[None], mask[None])[0]
    beta = [4 / 6, 2 / 6, 0.0]
    tau = [0.8 * b / (2 - b) for b in beta]
    assert tau[0] == pytest.approx(0.4)
    for j in range(14):
        for c in range(3):
            assert bool(found[j, c]) == bool(mask[j] and best[j] == c and top[j] > tau[c])
    assert found[4, 0] and not found[5, 0], "0.45 is sure, 0.38 is not"


def test_an_unsure_pool_teaches_nothing() -> None:
    model = FlexMatch(net(), threshold=0.9999999, flexible=False).double()
    plain = Adapt(model.net, Adam(1e-3), 20, first_order=True)
    e = episode()
    torch.testing.assert_close(model.score(e)[:, e.query], plain.score(e)[:, e.query])


# Fine-tuning


def test_the_labeled_loss_is_a_mean_by_label_weights() -> None:
    """Twice the weights are the same loss, and a support node without weight is not there."""
    e, model = episode(unlabeled=0), net()
    weights = torch.linspace(0.2, 2, SHOT * WAY).double()
    weights[1] = 0
    e = e.replace(
        w=F.pad(e.w[:, e.support] * weights[:, None], (0, 0, 0, e.n_query)), relabeled=False
    )
    y = e.w[0, e.support].argmax(-1)
    each = F.cross_entropy(model.score(e)[0, e.support], y, reduction="none")
    expected = (weights * each).sum() / weights.sum()
    torch.testing.assert_close(support_cross_entropy(model.score, e, 0), expected)


def test_fine_tuning_adds_the_entropy_of_the_queries() -> None:
    n, e = net(), episode()
    weight, y = start(n, e), e.w[0, e.support].argmax(-1)
    plain = F.cross_entropy(logits(n, e.x[0, e.support], weight), y)
    p = logits(n, e.x[0, e.query], weight).softmax(-1)
    expected = plain - 0.6 * (p * p.log()).sum(-1).mean()
    torch.testing.assert_close(objective(FineTuning(n, entropy=0.6), e), expected)
    inductive = FineTuning(n, entropy=0.0)
    torch.testing.assert_close(objective(inductive, e), plain)
    assert FineTuning(n).transductive and not inductive.transductive


def test_padding_has_no_part_in_the_mean_entropy() -> None:
    n, e = net(), episode()
    weight, y = start(n, e), e.w[0, e.support].argmax(-1)
    mask = e.mask.clone()
    mask[:, e.query.stop - 2 : e.query.stop] = False
    plain = F.cross_entropy(logits(n, e.x[0, e.support], weight), y)
    p = logits(n, e.x[0, e.query][:-2], weight).softmax(-1)
    expected = plain - (p * p.log()).sum(-1).mean()
    torch.testing.assert_close(objective(FineTuning(n), e.replace(mask=mask)), expected)


# All of them


@pytest.mark.parametrize("method", [FlexMatch, FineTuning])
def test_without_more_than_the_support_it_is_plain_fine_tuning(method: Any) -> None:
    e = episode(unlabeled=0)
    model = method(net(), 3, 1e-3, **({"entropy": 0.0} if method is FineTuning else {}))
    plain = Adapt(model.net, Adam(1e-3), 3, first_order=True)
    torch.testing.assert_close(model.score(e), plain.score(e))


@every_method
def test_an_absent_class_changes_no_inner_loss(method: Any) -> None:
    """As a batch with a task of more classes makes one: no loss is divided by a class that is not
    there.
    """
    e, model = episode(), method(net(), 3, 1e-3).double()
    wider = e.replace(w=F.pad(e.w, (0, 1)), relabeled=False)
    torch.testing.assert_close(objective(model, wider), objective(model, e))


@every_method
@pytest.mark.parametrize("task_chunk", [1, 2])
def test_evaluation_repeats_and_a_copy_agrees(method: Any, task_chunk: int) -> None:
    model, e = method(net(), 3, 1e-3, task_chunk=task_chunk).double().eval(), episode(batch=2)
    with torch.no_grad():
        first = model(e)
        assert torch.equal(first, model(e)) and torch.equal(first, copy.deepcopy(model)(e))
        model.task_chunk = 3 - task_chunk
        torch.testing.assert_close(model(e), first)
    assert not torch.allclose(first, model.net(e), atol=1e-4), "nothing was adapted"


@every_method
def test_only_the_named_parameters_move_also_of_a_frozen_encoder(method: Any) -> None:
    n, e = net(), episode()
    n.encoder.requires_grad_(False)
    model = method(n, 2, 1e-3, params=["head.*", "encoder.conv.weight"]).double()
    before = {k: v.clone() for k, v in n.state_dict().items()}
    adapted = model.adapt(e)
    assert set(adapted) == {"net.head.weight", "net.encoder.conv.weight"}
    assert (adapted["net.encoder.conv.weight"] - n.encoder.conv.weight).abs().max() > 1e-4
    assert all(torch.equal(v, before[k]) for k, v in n.state_dict().items())


@every_method
def test_the_weights_that_a_file_keeps_give_the_same_views(method: Any) -> None:
    one, two, e = method(net(), 3, 1e-3).double(), method(net(), 3, 1e-3).double(), episode()
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(e), two(e))


@pytest.mark.parametrize("method", [TransMatch, FlexMatch])
def test_the_pool_helps_where_it_shows_the_classes(method: Any) -> None:
    """Many unlabeled images near each class: tuning the class weights with them is better than the
    support alone.
    """
    e, target = episodes(batch=40, shot=1, query=8, unlabeled=12, noise=2.5)
    pixels = Pipeline(torch.nn.Flatten(), head=Imprinting(scale=30))
    model = method(pixels, 30, 3e-3, params="head.*", rotate=0.0, translate=0.0, scale=0.0).eval()
    with torch.no_grad():
        with_pool, without = (
            (m(e).argmax(-1) == target.query).float().mean() for m in (model, pixels)
        )
    assert with_pool > without + 0.015, f"{with_pool:.3f} with the pool, {without:.3f} without"


# Pretraining on partly labeled base classes


def base(each: int = 10) -> Split:
    y = torch.arange(WAY).repeat_interleave(each)
    x = torch.randint(0, 256, (len(y), 1, 8, 8), dtype=torch.uint8)
    return Split(x, y, tuple(f"c{i}" for i in range(WAY)), "patterns/train")


def test_pretraining_and_episodes_see_the_same_labels() -> None:
    for seed in (0, 1):
        _, target = Batches(base(), labeled_fraction=0.2, label_seed=seed).batch(range(30))
        ids, y = target.ids[0], target.query[0]
        assert sorted(ids.tolist()) == list(range(30)), "the others are shown too"
        assert torch.equal(y[y >= 0], base().y[ids][y >= 0]) and (y >= 0).sum() == 6
        draw = Sampler(base(), Setting(3, 1, 1, 2, labeled_fraction=0.2, label_seed=seed)).draw(
            list(range(50))
        )
        assert set(draw.ids[:, :6].flatten().tolist()) == set(ids[y >= 0].tolist())
    assert (Batches(base()).batch(range(30))[1].query >= 0).all()


def test_hidden_labels_never_reach_the_loss() -> None:
    split = base()
    target, hidden = (
        Batches(split, labeled_fraction=0.2).batch(range(30))[1],
        label_split(split, 0.2, 0)[1],
    )
    assert set(target.ids[target.query == -100].tolist()) == set(hidden.tolist())
    seen = partly_labeled(split, 0.2, 0).y
    assert set((seen < 0).nonzero().flatten().tolist()) == set(hidden.tolist())
    assert torch.equal(seen[seen >= 0], split.y[seen >= 0])


def encode(x: Tensor) -> Tensor:
    return x.flatten(1)[:, :6]


def test_consistency_equals_a_loop() -> None:
    part = Consistency(6, 3, threshold=0.4, weight=0.7)
    x, y = torch.rand(1, 12, 1, 8, 8), torch.tensor([[0, -100, 2, -100, 1, *[-100] * 7]])
    torch.manual_seed(5)
    found = part(encode, x, y)
    torch.manual_seed(5)
    u = 2 * torch.rand(7, 12) - 1
    labeled, free, used = [], [], 0
    for i in range(12):
        p = part.classifier(encode(x[:, i]))[0].softmax(-1)
        if y[0, i] >= 0:
            labeled.append(-p[y[0, i]].log())
            continue
        strong = affine(x[:, i], u[:, i : i + 1], part.rotate, part.translate, part.scale)
        sure = p.max() >= 0.4
        free.append(-part.classifier(encode(strong))[0].log_softmax(-1)[p.argmax()] * sure)
        used += int(sure)
    assert 0 < used < len(free)
    torch.testing.assert_close(found, torch.stack(labeled).mean() + 0.7 * torch.stack(free).mean())


@pytest.mark.parametrize("labels", [[0, 1, 2], [-100] * 3])
def test_consistency_of_a_batch_of_one_kind(labels: list[int]) -> None:
    part, x, y = Consistency(6, 3, threshold=0.0), torch.rand(1, 3, 1, 8, 8), torch.tensor([labels])
    plain = F.cross_entropy(part.classifier(encode(x[0])), y[0]) if labels[0] >= 0 else None
    loss = part(encode, x, y)
    assert torch.isfinite(loss) and (plain is None or torch.allclose(loss, plain))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda n: TransMatch(n, views=0), "views must be 1 or more"),
        (lambda n: FlexMatch(n, threshold=1.0), r"threshold in \[0, 1\)"),
        (lambda n: FineTuning(n, entropy=-1.0), "entropy 0 or more"),
        (lambda n: FineTuning(n, params="haed.*"), "no parameter matches 'haed"),
    ],
)
def test_mistakes_are_one_line(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(net())
