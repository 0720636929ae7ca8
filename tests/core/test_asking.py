"""Labels that were asked for become support, for all parts alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode, Target, stack
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.testing import Method, part
from tests.support.episodes import features_and_target
from tests.support.pools_to_label import C, pool


def told_pool(budget: int) -> tuple[Episode, Tensor]:
    """Pools that were asked for some labels at random, and the nodes (B, budget) of these."""
    episode, y = pool()
    truth = torch.nn.functional.one_hot(y, C).double()
    model = Pipeline(head=part("head", "protonet"), acquire=part("acquire", "random"))
    told = model.ask(episode.replace(oracle=truth, budget=budget))
    nodes = (told.w.sum(-1) > 0).nonzero()[:, 1].view(len(y), budget)
    return told, nodes


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("head", "protonet"),
        ("head", "label_propagation"),
        ("head", "matchingnet"),
        ("refine", "alpha_tim"),
        ("refine", "transductive_fine_tuning"),
        ("augment", "robust_support"),
    ],
)
def test_an_answer_is_that_of_an_episode_with_these_nodes_as_support(slot: str, name: str) -> None:
    """By hand: support first, then what was not asked for."""
    told, nodes = told_pool(9)
    own = {slot: part(slot, name)}
    model = Pipeline(head=own.pop("head", part("head", "protonet")), **own).double().eval()
    found = model.score(told)
    for b in range(len(told.x)):
        asked = nodes[b].tolist()
        order = asked + [i for i in range(30) if i not in asked]
        by_hand = Episode(told.x[b : b + 1, order], told.w[b : b + 1, order], 9, 21)
        torch.testing.assert_close(found[b, order], model.score(by_hand)[0])


def test_a_query_alone_is_answered_beside_what_was_asked_for() -> None:
    told, _ = told_pool(9)
    together = Pipeline(head=part("head", "protonet")).double().eval()
    alone = Pipeline(head=part("head", "protonet"), per_query=True).double().eval()
    rest = told.w.sum(-1) == 0
    torch.testing.assert_close(alone(told)[rest], together(told)[rest])


def test_nodes_come_back_in_their_order_and_pool_labels_become_support() -> None:
    episode, target = features_and_target(unlabeled=2)
    asked = Target.told(target, episode).replace(budget=3)
    model = Pipeline(head=part("head", "protonet"), acquire=part("acquire", "coverage"))
    told = model.ask(asked)
    assert told.asked == 3 and told.budget == 0 and told.oracle is None
    moved, order = told.asked_first()
    assert moved.n_support == told.n_support + 3 and moved.n_query == told.n_query
    assert moved.n_unlabeled == told.n_unlabeled - 3 and moved.asked == 0
    assert torch.equal(moved.x, told.x.gather(1, order.unsqueeze(-1).expand_as(told.x)))
    assert (moved.w[:, moved.support].sum(-1) > 0).all() and not moved.w[:, moved.query].any()
    assert torch.equal(order[:, : told.n_support], torch.arange(6).expand(2, -1))


def test_what_the_oracle_does_not_know_is_spent_and_gives_no_label() -> None:
    episode, target = features_and_target(unlabeled=2)
    nobody = target.with_tensors({"unlabeled": torch.full_like(target.unlabeled, -1)})
    model = Pipeline(head=part("head", "protonet"), acquire=part("acquire", "random"))
    told = model.ask(nobody.told(episode).replace(budget=3))
    assert torch.equal(told.w, episode.w) and told.asked == 3
    plain = Pipeline(head=part("head", "protonet"))
    torch.testing.assert_close(plain(told), plain(episode))


def test_an_oracle_travels_with_the_parts_that_it_speaks_of() -> None:
    episode, y = pool()
    truth = torch.nn.functional.one_hot(y, C).double()
    told = episode.replace(oracle=truth, budget=4)
    assert told.asks_queries and told.parts(support=False).oracle is truth
    assert told.parts(query=False).budget == 0
    each = told.one_query_each()
    assert each.oracle is not None and each.budget == 1
    assert torch.equal(each.oracle[:, 0], truth.flatten(0, 1))
    both = stack([told, told])
    assert both.budget == 4 and both.oracle is not None and both.oracle.shape == (8, 30, C)
    with pytest.raises(InputError, match="different budgets"):
        stack([told, told.replace(budget=5)])
    with pytest.raises(InputError, match="an oracle speaks of"):
        episode.replace(oracle=truth[:, 1:])
    with pytest.raises(InputError, match="an oracle must be"):
        episode.replace(oracle=truth[..., 1:])
    assert "budget" in repr(told)


def test_budgets_are_spent_in_rounds_of_the_rule() -> None:
    method = Method("acquire", type(part("acquire", "margin")), {"batch": 2})
    episode, _ = method.episodes(unlabeled=3)
    rounds: list[int] = []
    model = method.learner().eval()
    assert isinstance(model, Pipeline)
    model.acquire[0].register_forward_pre_hook(lambda _, given: rounds.append(given[3]))
    model(episode.replace(budget=5))
    assert rounds == [2, 2, 1]
