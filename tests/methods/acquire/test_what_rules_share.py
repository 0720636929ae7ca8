"""What every rule of the slot `acquire` keeps: no label twice, none that it did not ask for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core import registry
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.label_propagation import LabelPropagation
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import part
from tests.support.pools_to_label import C, labeled, pool

NAMES = registry.names("acquire")
FIXED = [n for n in NAMES if not registry.get("acquire", n).by_place]
every_rule = pytest.mark.parametrize("name", NAMES)


def chosen(name: str, episode: Episode, count: int, scores: Tensor | None = None) -> Tensor:
    """The nodes (B, count) that a rule names; those with a label are no candidates."""
    rule: Acquire = part("acquire", name)
    free = episode.mask & (episode.w.sum(-1) == 0)
    if scores is None and rule.reads_scores and bool((episode.w > 0).any()):
        scores = ProtoNet().double().score(episode)
    return rule(episode, free, scores, count)


@every_rule
@pytest.mark.parametrize("given", [0, 2])
def test_neither_a_labeled_sample_is_named_nor_one_twice(name: str, given: int) -> None:
    episode, y = pool()
    if given:
        episode = labeled(episode, y, torch.arange(given).expand(len(y), -1))
    n = episode.x.shape[1]
    for count in (1, 5, n - given):
        found = chosen(name, episode, count)
        assert found.shape == (len(y), count)
        for b in range(len(y)):
            assert len(set(found[b].tolist())) == count and int(found[b].min()) >= given


@every_rule
def test_a_pool_without_candidates_left_keeps_its_labels(name: str) -> None:
    """In a batch whose other tasks have some: what is named then is of no account."""
    episode, y = pool()
    mask = episode.mask.clone()
    mask[0, 6:] = False
    y0 = torch.nn.functional.one_hot(y, C).double()
    asked = episode.replace(mask=mask, w=episode.w, oracle=y0 * mask[..., None], budget=12)
    told = Pipeline(head=ProtoNet().double(), acquire=part("acquire", name)).ask(asked)
    assert torch.equal(told.w[0], y0[0] * mask[0, :, None])
    assert (told.w[1:].sum((1, 2)) == 12).all()


@pytest.mark.parametrize("name", FIXED)
def test_a_permuted_pool_has_the_same_samples_named(name: str) -> None:
    episode, y = pool(each=30, seed=2)  # few choices are equally good, where the order decides
    episode = labeled(episode, y, torch.tensor([[0, 7]]).expand(len(y), -1))
    order = torch.randperm(episode.x.shape[1], generator=torch.Generator().manual_seed(5))
    moved = episode.replace(x=episode.x[:, order], w=episode.w[:, order])
    assert torch.equal(order[chosen(name, moved, 3)], chosen(name, episode, 3))


@every_rule
def test_one_pool_by_itself_and_in_single_precision_has_the_same_samples_named(name: str) -> None:
    episode, y = pool(each=30)
    episode = labeled(episode, y, torch.tensor([[0, 7]]).expand(len(y), -1))
    together = chosen(name, episode, 4)
    for b in range(len(y)):
        own = episode.replace(
            x=episode.x[b : b + 1], w=episode.w[b : b + 1], mask=episode.mask[b : b + 1]
        )
        assert torch.equal(chosen(name, own, 4)[0], together[b])
    scores = ProtoNet().double().score(episode).float()
    single = episode.replace(x=episode.x.float(), w=episode.w.float())
    assert torch.equal(chosen(name, single, 4, scores), together)


@every_rule
def test_what_was_not_asked_for_changes_nothing(name: str) -> None:
    """The leak test: true labels of other nodes are turned, and not one bit moves."""
    episode, y = pool()
    model = Pipeline(head=LabelPropagation().double(), acquire=part("acquire", name)).eval()
    truth = torch.nn.functional.one_hot(y, C).double()
    told = model.ask(episode.replace(oracle=truth, budget=8))
    assert told.oracle is None and told.budget == 0
    asked = told.w.sum(-1) > 0
    assert (asked.sum(-1) == 8).all() and torch.equal(told.w[asked], truth[asked])

    others = truth.roll(1, -1).where(~asked.unsqueeze(-1), truth)
    assert not torch.equal(others, truth)
    again = episode.replace(oracle=others, budget=8)
    assert torch.equal(model.ask(again).w, told.w)
    assert torch.equal(model(again), model(told))


@every_rule
def test_the_rule_is_not_shown_the_oracle(name: str) -> None:
    episode, y = pool()
    rule, seen = part("acquire", name), []
    rule.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    truth = torch.nn.functional.one_hot(y, C).double()
    Pipeline(head=ProtoNet().double(), acquire=rule).ask(episode.replace(oracle=truth, budget=5))
    assert seen and all(e.oracle is None and e.budget == 0 for e in seen)


@every_rule
def test_equal_samples_give_a_choice_all_the_same(name: str) -> None:
    episode, _ = pool()
    same = episode.replace(x=torch.ones_like(episode.x), w=episode.w)
    found = chosen(name, same, 5)
    assert all(len(set(row)) == 5 for row in found.tolist())


def test_a_budget_above_the_pool_and_two_rules_are_refused() -> None:
    episode, y = pool()
    truth = torch.nn.functional.one_hot(y, C).double()
    with pytest.raises(InputError, match="a budget of 100 labels is above the 30 nodes"):
        episode.replace(oracle=truth, budget=100)
    with pytest.raises(InputError, match="takes one rule"):
        Pipeline(head=ProtoNet(), acquire=[part("acquire", "random"), part("acquire", "coverage")])
    model = Pipeline(head=ProtoNet(), acquire=part("acquire", "random"))
    with pytest.raises(InputError, match="has no oracle"):
        model(episode.replace(budget=2))
    with pytest.raises(InputError, match="a pool of its own"):
        model.set_batch_norm("each")
