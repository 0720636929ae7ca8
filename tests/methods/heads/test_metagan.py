"""The class of fakes: its probabilities, its loss by hand, and who learns from which term."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.methods.heads.metagan import MetaGAN, is_fake, not_fake
from graphfsl.testing import DIM
from tests.support.episodes import features, features_and_target


def head(**options: float) -> MetaGAN:
    torch.manual_seed(0)
    return MetaGAN(DIM, **options).double()  # type: ignore[arg-type]


def test_a_sample_is_real_or_fake() -> None:
    logits = torch.randn(7, 4, dtype=torch.float64)
    torch.testing.assert_close(
        (-not_fake(logits)).exp() + (-is_fake(logits)).exp(), torch.ones(7).double()
    )
    with_fake = torch.cat([logits, torch.zeros(7, 1).double()], -1)
    torch.testing.assert_close(-is_fake(logits), with_fake.log_softmax(-1)[:, -1])


def test_without_fakes_the_loss_is_the_cross_entropy_of_one_class_more() -> None:
    episode, target = features_and_target(unlabeled=2)
    part = head(fakes=0)
    scores = part.score(episode)
    queries = F.pad(scores[:, episode.query], (0, 1))
    expected = F.cross_entropy(queries.flatten(0, 1), target.query.flatten())
    torch.testing.assert_close(part.loss(episode, target), expected)


def test_the_loss_is_the_sum_of_a_loop_over_tasks_queries_pool_and_fakes() -> None:
    episode, target = features_and_target(unlabeled=2)
    part = head(fakes=3, weight=0.7)
    torch.manual_seed(1)
    found = part.loss(episode, target)

    torch.manual_seed(1)
    z = torch.randn(len(episode.x), 3, part.latent, dtype=torch.float64)
    g, b = part.log_scale.exp(), DIM * part.border
    terms: dict[str, list[Tensor]] = {"query": [], "pool": [], "fake": [], "pass": []}

    def log_p(x: Tensor, means: Tensor) -> Tensor:
        logits = g * (b - (x - means).square().sum(-1))
        return F.pad(logits, (0, 1)).log_softmax(0)

    for t in range(len(episode.x)):
        x, w = episode.x[t], episode.w[t]
        means = (w.T @ x) / w.sum(0)[:, None]
        s = means.mean(0)
        for node, y in zip(x[episode.query], target.query[t], strict=True):
            terms["query"].append(-log_p(node, means)[y])
        for node in x[episode.unlabeled]:
            terms["pool"].append(-log_p(node, means)[:-1].logsumexp(0))
        for noise in z[t]:
            fake = s + part.generate(torch.cat([s, noise]))
            terms["fake"].append(-log_p(fake, means)[-1])
            terms["pass"].append(-log_p(fake, means)[:-1].logsumexp(0))
    mean = {name: torch.stack(values).mean() for name, values in terms.items()}
    expected = mean["query"] + 0.7 * (mean["pool"] + mean["fake"] + mean["pass"])
    torch.testing.assert_close(found, expected)


def test_fakes_teach_the_generator_to_pass_and_the_others_to_detect() -> None:
    """G's gradient is that of L_G, and the features' that of L_D."""
    episode, target = features_and_target(unlabeled=2)
    x = episode.x.clone().requires_grad_()
    part = head(fakes=4, weight=1.0)
    real = episode.replace(x=x, w=episode.w, relabeled=False)
    torch.manual_seed(1)
    part.loss(real, target).backward()
    of_features, of_generator = x.grad, part.generate[0].weight.grad
    of_border = part.border.grad

    torch.manual_seed(1)
    z = torch.randn(len(x), 4, part.latent, dtype=torch.float64)
    c = part.means(episode)
    passing = not_fake(part.logits(part.drawn(c, episode.w, z), c)).mean()
    (alone,) = torch.autograd.grad(passing, part.generate[0].weight)
    torch.testing.assert_close(of_generator, alone)

    x = episode.x.clone().requires_grad_()
    real = episode.replace(x=x, w=episode.w, relabeled=False)
    c = part.means(real)
    fakes = part.drawn(c.detach(), episode.w, z).detach()
    scores = part.score(real)
    queries = F.pad(scores[:, episode.query], (0, 1)).flatten(0, 1)
    detecting = (
        F.cross_entropy(queries, target.query.flatten())
        + not_fake(scores[:, episode.unlabeled]).mean()
        + is_fake(part.logits(fakes, c)).mean()
    )
    by_hand = torch.autograd.grad(detecting, [x, part.border])
    torch.testing.assert_close(of_features, by_hand[0])
    torch.testing.assert_close(of_border, by_hand[1])


def test_answers_are_those_of_the_nearest_class_mean_whatever_the_pool() -> None:
    episode = features(unlabeled=2)
    part = head().eval()
    nearest = torch.cdist(episode.x[:, episode.query], part.means(episode)).argmin(-1)
    assert torch.equal(part(episode).argmax(-1), nearest)


def test_an_optimizer_moves_the_border_by_a_share_of_its_size() -> None:
    """As a distance of 64 it would need as many steps as it has thousandths."""
    part = MetaGAN(64)
    x, c = torch.zeros(1, 1, 64), torch.zeros(1, 2, 64)
    before = part.logits(x, c)
    assert torch.equal(before, torch.full_like(before, 64.0))
    part.border.data -= 0.002  # what Adam moves a parameter in a step
    torch.testing.assert_close(part.logits(x, c), before - 0.128)
