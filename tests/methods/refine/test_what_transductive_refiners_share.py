"""What transductive refiners share: renamed classes, tasks of any size, assumptions told."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from graphfsl.core import registry
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Split
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.refine.bd_cspn import BDCSPN
from graphfsl.methods.refine.laplacian_shot import LaplacianShot
from graphfsl.methods.refine.pt_map import PTMAP
from graphfsl.methods.refine.sinkhorn_balance import SinkhornBalance
from graphfsl.methods.refine.tim import TIM, AlphaTIM
from graphfsl.methods.refine.transductive_fine_tuning import TransductiveFineTuning
from graphfsl.testing import part
from tests.support.transductive import HEAD, batch, refined, task

MINE = [
    "alpha_tim",
    "bd_cspn",
    "laplacian_shot",
    "pt_map",
    "sinkhorn_balance",
    "tim",
    "transductive_fine_tuning",
]
every_refiner = pytest.mark.parametrize("name", MINE)


@pytest.mark.parametrize(
    "refiner", [AlphaTIM(steps=5, lr=1e-2), TransductiveFineTuning(lr=1e-2), TIM(steps=3)]
)
def test_how_the_classifier_moved_is_a_constant_for_the_gradient(refiner: Refine) -> None:
    """It is added to the class means, or multiplies the nodes: these carry the gradient to the
    support.
    """
    episode, _ = task()
    x = episode.x.clone().requires_grad_()
    scores = Pipeline(head=HEAD, refine=refiner)(episode.replace(x=x))
    (gradient,) = torch.autograd.grad(scores.square().sum(), x)
    assert gradient[:, episode.support].abs().max() > 1e-3, "the support teaches the encoder"


@every_refiner
def test_classes_are_named_by_nothing(name: str) -> None:
    episode, order = batch(task((5, 2, 3)), task((1, 4, 1), seed=1)), torch.tensor([2, 0, 1])
    refiner = part("refine", name)
    torch.testing.assert_close(
        refined(refiner, episode.replace(w=episode.w[..., order])),
        refined(refiner, episode)[..., order],
        atol=1e-6,
        rtol=1e-6,
    )


@every_refiner
def test_a_support_node_of_weight_two_is_the_node_twice(name: str) -> None:
    """Also in the mean of the whole support, which generated nodes move by their weights alone."""
    episode, _ = task((5, 2, 3))
    x, one, there = episode.x[:, :1] + 0.4, episode.w[:, :1], episode.mask[:, :1]
    heavy = episode.add_support(x, 2 * one, there)
    twice = episode
    for _ in range(2):
        twice = twice.add_support(x, one, there)
    answers = [refined(part("refine", name), e)[:, e.query] for e in (heavy, twice)]
    torch.testing.assert_close(*answers, atol=1e-6, rtol=1e-6)


@every_refiner
def test_a_single_query_and_none(name: str) -> None:
    tasks = [task(counts, shot=3, spread=2.0) for counts in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    refiner, episode = part("refine", name), batch(*tasks)
    found = refined(refiner, episode)
    assert torch.isfinite(found).all()
    truth = torch.cat([truth for _, truth in tasks])
    assert torch.equal(found[:, episode.query].argmax(-1), truth), (
        "one query alone is nothing to balance or to shift"
    )
    assert torch.isfinite(refined(refiner, episode.parts(query=False))).all()


@every_refiner
def test_tasks_of_any_size_share_a_batch(name: str) -> None:
    """Of one and two queries, of two classes and three: what a task has more changes nothing in the
    others.
    """
    tasks = [
        task((5, 2, 3)),
        task((1, 1, 0), seed=1),
        task((0, 1), shot=1, seed=2),
        task((2, 1), seed=3),
    ]
    refiner, both = part("refine", name), batch(*tasks)
    both = both.replace(x=both.x.where(both.mask[..., None], 9.0), mask=both.mask)
    found = refined(refiner, both)
    for i, (alone, _) in enumerate(tasks):
        mine = found[i, both.mask[i], : alone.way]
        torch.testing.assert_close(mine, refined(refiner, alone)[0], atol=1e-6, rtol=1e-6)
        assert torch.isneginf(found[i, :, alone.way :]).all()


@pytest.mark.parametrize("name", MINE[:-1])
def test_company_helps(name: str) -> None:
    """Over 40 balanced tasks of overlapping classes; in none of the methods is it a matter of
    luck.
    """
    tasks = [task((10, 10, 10), shot=1, spread=0.6, seed=seed) for seed in range(40)]
    episode, truth = batch(*tasks), torch.cat([t for _, t in tasks])
    options = {
        "alpha_tim": {"steps": 200, "lr": 5e-4},
        "sinkhorn_balance": {"temperature": 0.1},
    }.get(name, {})
    found = refined(part("refine", name, **options), episode)[:, episode.query]
    right = [
        (s.argmax(-1) == truth).double().mean()
        for s in (found, HEAD.score(episode)[:, episode.query])
    ]
    assert right[0] > right[1] + 0.005, right


class Silent(Head):
    def score(self, episode: Episode) -> Tensor:
        raise AssertionError("the head was asked")


@pytest.mark.parametrize("name", registry.names("refine"))
def test_a_refiner_reads_scores_where_it_says_so(name: str) -> None:
    episode, _ = task()
    episode = Episode(episode.x, episode.w, episode.n_support, episode.n_query - 3)
    refiner = part("refine", name).double()
    if refiner.reads_scores:
        with pytest.raises(AssertionError, match="the head was asked"):
            Pipeline(head=Silent(), refine=refiner)(episode)
        return
    found = Pipeline(head=Silent(), refine=refiner)(episode)
    assert torch.equal(found, refined(refiner, episode)[:, episode.query])


def test_the_head_is_asked_where_a_later_refiner_alone_does_not_need_it() -> None:
    episode, _ = task()
    chain = refined([BDCSPN(scale=2.0), LaplacianShot()], episode)
    scores = refined(BDCSPN(scale=2.0), episode)
    assert torch.equal(chain, LaplacianShot()(episode, scores, HEAD))


UNBALANCED = Split(
    torch.rand(60, 6), torch.arange(4).repeat_interleave(15), tuple("abcd"), "unbalanced"
)


@pytest.mark.parametrize("cls", [BDCSPN, PTMAP, SinkhornBalance, TIM])
def test_who_assumes_balance_says_so(cls: Any) -> None:
    with pytest.raises(InputError, match=r"episode\.dirichlet=null"):
        evaluate(Pipeline(head=HEAD, refine=cls()), UNBALANCED, way=3, query=2, dirichlet=2.0)


@pytest.mark.parametrize(
    "free", [PTMAP(share=0.5), SinkhornBalance(share=0.5), TIM(marginal=0.0), AlphaTIM(steps=2)]
)
def test_who_is_free_of_it_takes_any_queries(free: Refine) -> None:
    learner = Pipeline(head=HEAD, refine=free)
    assert evaluate(learner, UNBALANCED, way=3, query=2, dirichlet=2.0, episodes=2).mean >= 0


def test_mistakes_are_told() -> None:
    for cls, options in (
        (BDCSPN, {"eps": -1.0}),
        (BDCSPN, {"scale": 0.0}),
        (LaplacianShot, {"k": 0}),
        (PTMAP, {"share": 1.1}),
        (PTMAP, {"alpha": 0.0}),
        (TIM, {"cross_entropy": 0.0}),
        (TIM, {"steps": -1}),
        (AlphaTIM, {"alpha": 0.0}),
        (SinkhornBalance, {"temperature": 0.0}),
        (TransductiveFineTuning, {"lr": 0.0}),
    ):
        with pytest.raises(InputError, match="must"):
            cls(**options)  # type: ignore[operator]


def test_names() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(MINE) <= set(registry.names("refine"))
    assert registry.get("refine", "tim") is TIM and registry.get("refine", "alpha_tim") is AlphaTIM
