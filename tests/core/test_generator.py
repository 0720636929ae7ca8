"""What all generators of support nodes share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.generator import Generator
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.testing import DIM, WAY
from tests.support.episodes import features, padded_features


class Around(Generator):
    """Adds its noise to the condition."""

    def __init__(self, samples: int = 3, weight: float = 0.5, averaged: bool = False) -> None:
        super().__init__((DIM,), samples, weight, averaged)

    def draw(self, condition: Tensor, noise: Tensor) -> Tensor:
        return condition.unsqueeze(2) + noise


class AroundSamples(Around):
    of_samples = True


def added(generator: Generator, episode: Episode) -> tuple[Tensor, Tensor, Tensor]:
    grown = generator(episode)
    new = slice(episode.n_support, grown.n_support)
    return grown.x[:, new], grown.w[:, new], grown.mask[:, new]


def test_without_samples_the_episode_is_the_same() -> None:
    episode = features()
    assert Around(samples=0)(episode) is episode


def test_nodes_are_drawn_from_class_means() -> None:
    episode, generator = features(shot=2), Around().double().eval()
    x, w, mask = added(generator, episode)
    means = prototypes(episode.x, episode.w)
    expected = [means[:, c] + generator.noise[j] for c in range(WAY) for j in range(3)]
    torch.testing.assert_close(x, torch.stack(expected, 1))
    labels = torch.eye(WAY).repeat_interleave(3, 0).double().expand(len(x), -1, -1)
    assert torch.equal(w, 0.5 * labels) and mask.all()


def test_nodes_are_drawn_from_samples_and_carry_their_labels() -> None:
    episode, generator = features(shot=2), AroundSamples().double().eval()
    soft = episode.w.clone()
    soft[:, 0] = torch.tensor([0.75, 0.25, 0.0])
    episode = episode.replace(w=soft, relabeled=False)
    x, w, _ = added(generator, episode)
    assert x.shape[1] == 3 * episode.n_support
    torch.testing.assert_close(x[:, 0], episode.x[:, 0] + generator.noise[0])
    torch.testing.assert_close(w[:, 0], 0.5 * soft[:, 0])


@pytest.mark.parametrize("kind", [Around, AroundSamples])
def test_averaged_draws_are_one_node_of_the_weight_of_all(kind: type[Around]) -> None:
    episode = features(shot=2)
    one, many = kind(averaged=True).double().eval(), kind(samples=64).double().eval()
    many.noise.copy_(one.noise)
    x, w, _ = added(one, episode)
    every = added(many, episode)[0].unflatten(1, (-1, 64))
    torch.testing.assert_close(x, every.mean(2))
    total = added(kind().double().eval(), episode)[1].sum(1)
    torch.testing.assert_close(w.sum(1), total)


@pytest.mark.parametrize("kind", [Around, AroundSamples])
def test_padding_and_absent_classes_get_nothing(kind: type[Around]) -> None:
    episode = padded_features()
    wider = episode.more_classes(1)
    _, w, mask = added(kind().double().eval(), wider)
    assert not w[..., -1].any()
    assert torch.equal(mask, w.sum(-1) > 0)
    real = wider.w[:, wider.support].sum((1, 2))
    assert torch.equal(w.sum((1, 2)) > 0, real > 0)
    if kind is AroundSamples:
        torch.testing.assert_close(w.sum((1, 2)), 3 * 0.5 * real)


def test_what_is_generated_holds_nothing_of_queries_or_pool() -> None:
    episode, generator = features(unlabeled=2), Around().double().eval()
    other = episode.x.clone()
    other[:, episode.n_support :] += 1
    changed = episode.replace(x=other, w=episode.w, relabeled=False)
    for a, b in zip(added(generator, episode), added(generator, changed), strict=True):
        assert torch.equal(a, b)


def test_evaluation_repeats_itself_whatever_the_batch_and_training_draws_anew() -> None:
    episode, generator = features(batch=3), Around().double().eval()
    alone = episode.with_tensors({n: t[1:2] for n, t in episode.tensors.items()})
    torch.testing.assert_close(added(generator, episode)[0][1:2], added(generator, alone)[0])
    first, second = (added(generator.train(), episode)[0] for _ in range(2))
    assert not torch.allclose(first, second)


def test_order_of_classes_changes_nothing() -> None:
    episode, generator = features(), Around().double().eval()
    order = torch.tensor([2, 0, 1])
    turned = episode.replace(w=episode.w[..., order], relabeled=False)
    x = added(generator, episode)[0].unflatten(1, (WAY, -1))
    torch.testing.assert_close(added(generator, turned)[0].unflatten(1, (WAY, -1)), x[:, order])


def test_options_below_zero_are_refused() -> None:
    with pytest.raises(InputError, match="samples must be 0 or more, not -1"):
        Around(samples=-1)
    with pytest.raises(InputError, match=r"weight must be 0 or more, not -0\.5"):
        Around(weight=-0.5)


def test_the_note_says_what_is_added() -> None:
    assert Around().note == "3 generated nodes a class, each 0.5 times the weight of a real one"
    assert AroundSamples(averaged=True).note == (
        "1 generated node a labeled sample, each 1.5 times the weight of a real one"
    )
    assert Around(samples=0).note == "" and Around(weight=0).note == "", "no mean rests on them"


def test_a_stored_generator_draws_another_number_of_samples() -> None:
    more = Around(samples=7)
    more.load_state_dict(Around(samples=3).state_dict())
    assert added(more.eval(), features())[0].shape[1] == 7 * WAY


def test_evaluation_noise_does_not_depend_on_the_seed() -> None:
    torch.manual_seed(1)
    one = Around().noise
    torch.manual_seed(2)
    assert torch.equal(one, Around().noise)
