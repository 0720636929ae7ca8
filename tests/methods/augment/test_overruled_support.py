"""Support labels that propagation of the others overrules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.functional.propagation import left_out, propagate
from graphfsl.io.errors import InputError
from graphfsl.methods.augment.overruled_support import OverruledSupport
from tests.support.features import world


def shown_wrong(episode: Episode, *nodes: int) -> Episode:
    """The labels of these support nodes moved to the next class."""
    w = episode.w.clone()
    for i in nodes:
        w[:, i] = w[:, i].roll(1, -1)
    return episode.with_tensors({"w": w})


def weights(part: OverruledSupport, episode: Episode) -> Tensor:
    return part(episode).w[:, episode.support]


def test_what_is_left_out_is_the_solution_without_the_label() -> None:
    """For each node its own label taken away, the mean over the labels that are left."""
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 9, 9, generator=g, dtype=torch.float64)
    a = (a + a.mT).clamp_max(1) / 20
    y = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 0, 1, 1, 1, 2])].expand(2, -1, -1)
    found = left_out(a, y, 0.8)
    for i in range(6):
        rest = y.clone()
        rest[:, i] = 0
        count = rest.sum(1, keepdim=True)
        every = torch.cat([rest, torch.zeros(2, 3, 3, dtype=torch.float64)], 1)
        f = propagate(a, every, 0.8) / count.clamp_min(1)
        torch.testing.assert_close(found[:, i], f[:, i])
    assert (found[:, 5, 2] == 0).all(), "nothing else speaks for its class"


def test_labels_that_the_others_contradict_give_way() -> None:
    episode, _ = world(way=3, shot=5, spread=0.15, batch=4)
    wrong = shown_wrong(episode, 0, 6)
    found = weights(OverruledSupport(k=4), wrong)
    truth = episode.w[:, episode.support].argmax(-1)
    assert torch.equal(found.argmax(-1), truth)
    torch.testing.assert_close(found.sum(-1), torch.ones(4, 15))
    clean = weights(OverruledSupport(), episode)
    assert (clean.amax(-1) > 0.9).all() and torch.equal(clean.argmax(-1), truth)


def test_trust_is_the_prior_of_bayes_rule() -> None:
    episode, _ = world(way=3, shot=4, spread=0.8, batch=2)
    part = OverruledSupport(trust=0.8)
    f = part.others(episode)
    y = episode.w[:, episode.support]
    likely = f.clamp_min(1e-7) ** (1 / 0.7)
    joint = likely * torch.where(y > 0, 0.8, 0.1)
    torch.testing.assert_close(weights(part, episode), joint / joint.sum(-1, keepdim=True))
    certain = weights(OverruledSupport(trust=1), episode)
    torch.testing.assert_close(certain, y)


def test_one_label_a_class_stays_as_it_is() -> None:
    episode, _ = world(way=4, shot=1)
    assert torch.equal(OverruledSupport()(episode).w, episode.w)


def test_a_node_that_nothing_reaches_stays_as_it_is() -> None:
    """Its features are at right angles to all others."""
    episode, _ = world(way=2, shot=3, spread=0.1)
    x = torch.nn.functional.pad(episode.x, (0, 1))
    far = shown_wrong(episode, 0).with_tensors({"x": x})
    x[:, 0] = 0
    x[:, 0, -1] = 1.0
    found = weights(OverruledSupport(k=2), far)
    assert torch.equal(found[:, 0], far.w[:, 0])


def test_weights_scale_and_queries_are_not_read() -> None:
    episode, _ = world(way=3, shot=4, spread=0.6)
    part = OverruledSupport()
    once, twice = part(episode), part(episode.replace(w=2 * episode.w))
    torch.testing.assert_close(2 * once.w, twice.w)
    x = episode.x.clone()
    x[:, episode.query] = 7.0
    assert torch.equal(part(episode.with_tensors({"x": x})).w, once.w)


@pytest.mark.parametrize("options", [{"trust": 0}, {"trust": 1.1}, {"k": 0}, {"alpha": 1}])
def test_options_that_mean_nothing_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="overruled_support"):
        OverruledSupport(**options)  # type: ignore[arg-type]
