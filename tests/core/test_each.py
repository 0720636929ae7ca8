"""The BatchNorm policy `each`: statistics of the support and one query, for each query anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.adapt.reptile import Reptile
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.relationnet import RelationNet
from graphfsl.methods.refine.sinkhorn_balance import SinkhornBalance
from graphfsl.testing import DIM, WAY, TinyEncoder, episodes


def made(kind: str, policy: str) -> Learner:
    torch.manual_seed(0)
    head = {
        "protonet": ProtoNet(),
        "relationnet": RelationNet((DIM, 2, 2)),
        "sinkhorn": ProtoNet(),
    }.get(kind, Linear(DIM, WAY))
    refine = SinkhornBalance() if kind == "sinkhorn" else None
    net = Pipeline(TinyEncoder(), head=head, refine=refine).double()
    model: Learner = {"maml": MAML, "reptile": Reptile}.get(kind, lambda net: net)(net)
    model.set_batch_norm(policy)
    return model.eval()


def alone(episode: Episode, query: int) -> Episode:
    """The task with this query only."""
    k = episode.n_support
    keep = [*range(k), k + query, *range(k + episode.n_query, episode.x.shape[1])]
    return episode.replace(
        x=episode.x[:, keep], w=episode.w[:, keep], mask=episode.mask[:, keep], n_query=1
    )


def one_by_one(model: Learner, episode: Episode) -> Tensor:
    return torch.cat([model(alone(episode, q)) for q in range(episode.n_query)], 1)


KINDS = ["protonet", "relationnet", "sinkhorn", "maml", "reptile"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_joint_of_the_support_and_each_query_alone(kind: str) -> None:
    episode = episodes(unlabeled=0)[0].to(dtype=torch.float64)
    wanted = one_by_one(made(kind, "joint"), episode)
    model = made(kind, "each")
    assert not model.transductive and not model.shares_statistics and model.per_query
    torch.testing.assert_close(model(episode), wanted, atol=1e-11, rtol=0)
    assert not torch.allclose(made(kind, "joint")(episode), wanted)
    assert not torch.allclose(made(kind, "support")(episode), wanted)


def test_the_pool_has_no_part_in_the_statistics() -> None:
    with_pool = episodes(unlabeled=2)[0].to(dtype=torch.float64)
    model = made("protonet", "each")
    without = with_pool.parts(unlabeled=False)
    torch.testing.assert_close(model(with_pool), model(without), atol=1e-12, rtol=0)


def test_padded_queries_have_no_part_in_it() -> None:
    small, large = (episodes(batch=1, query=q, seed=q)[0] for q in (1, 3))
    model = made("protonet", "each").float()
    both = model.score(stack([small, large]))
    real = stack([small, large]).mask[0]
    torch.testing.assert_close(both[0, real], model.score(small)[0], atol=1e-5, rtol=1e-5)


def test_the_loss_is_that_of_the_answers_and_its_gradient_is_theirs() -> None:
    episode, target = episodes()
    episode = episode.to(dtype=torch.float64)
    model, other = made("protonet", "each"), made("protonet", "joint")
    model.loss(episode, target).backward()
    answers = one_by_one(other, episode.parts(unlabeled=False))
    loss = torch.nn.functional.cross_entropy(answers.flatten(0, 1), target.query.flatten())
    loss.backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-11, rtol=1e-9)


def test_inner_steps_see_the_statistics_of_the_support_alone() -> None:
    episode = episodes(batch=1)[0].to(dtype=torch.float64)
    each, support = made("maml", "each"), made("maml", "support")
    assert isinstance(each, Adapt) and isinstance(support, Adapt)
    for name, p in each.adapt(episode).items():
        torch.testing.assert_close(p, support.adapt(episode)[name], atol=1e-12, rtol=0)


def test_another_policy_brings_queries_together_again() -> None:
    model = made("sinkhorn", "each")
    model.set_batch_norm("joint")
    assert model.transductive and not model.per_query
