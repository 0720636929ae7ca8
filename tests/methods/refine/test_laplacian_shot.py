"""LaplacianShot against a loop and easyfsl."""

from __future__ import annotations

import itertools

import pytest
import torch
from easyfsl import methods as easyfsl
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.refine.laplacian_shot import LaplacianShot
from tests.support.transductive import COUNTS, HEAD, means, parts, refined, task, unit


def nearest(q: Tensor, k: int) -> list[list[int]]:
    return [
        sorted(
            (j for j in range(len(q)) if j != i),
            key=lambda j: -float(F.cosine_similarity(q[i], q[j], 0)),
        )[: k - 1]
        for i in range(len(q))
    ]


@COUNTS
@pytest.mark.parametrize("k", [2, 3, 50])
def test_laplacian_shot_equals_a_loop(counts: tuple[int, ...], k: int) -> None:
    episode, _ = task(counts)
    s, q, y = parts(episode)
    a = torch.cdist(q, means(s, y)).square()
    near, assignment = nearest(q, k), (-a).softmax(-1)
    for _ in range(20):
        pull = torch.stack(
            [sum((assignment[j] for j in near[i]), torch.zeros(3)) for i in range(len(q))]
        )
        assignment = (-a + 0.7 * pull).softmax(-1)
    found = refined(LaplacianShot(k=k), episode)
    torch.testing.assert_close(found[0, len(s) :].softmax(-1), assignment)
    torch.testing.assert_close(found[0, : len(s)], HEAD.score(episode)[0, : len(s)])


def test_laplacian_shot_is_that_of_easyfsl() -> None:
    """Its affinities and bound updates, on features of length one; it stops at a relative change of
    1e-6.
    """
    episode, _ = task((6, 3, 7), seed=3)
    s, q, y = parts(episode)
    s, q = unit(s), unit(q)
    theirs = easyfsl.LaplacianShot(torch.nn.Identity(), inference_steps=20)
    costs = torch.cdist(q, means(s, y)).square()
    expected = theirs.bound_updates(costs, theirs.compute_pairwise_affinities(q).double())
    found = refined(LaplacianShot(), episode.replace(x=torch.cat([s, q])[None]))[
        0, len(s) :
    ].softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_bound_updates_lower_the_energy() -> None:
    """With a symmetric W without negative eigenvalues, sum Y (a - lambda/2 W Y + log Y) never
    rises.
    """
    episode, _ = task((5, 5, 5))
    root = torch.rand(
        1, episode.n_query, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    w, a, energies = root @ root.mT, -HEAD.score(episode)[:, episode.query].mT, []
    for steps in range(1, 15):
        y = LaplacianShot(lam=1.5, steps=steps).updates(a, lambda y: y @ w)
        energies.append(float((y * (a - 1.5 / 2 * y @ w + y.log())).sum()))
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies)), energies
    assert energies[-1] < energies[0] - 0.1


def test_without_lambda_the_head_answers() -> None:
    episode, _ = task()
    assert torch.equal(refined(LaplacianShot(lam=0.0), episode), HEAD.score(episode))


def test_what_neighbours_pull_is_a_constant_for_the_gradient() -> None:
    """The scores of a refined query move with the features as those of the head do."""
    episode, _ = task()
    weights = torch.rand(
        1, episode.n_query, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    gradients = []
    for refine in (None, LaplacianShot()):
        x = episode.x.clone().requires_grad_()
        scores = Pipeline(head=HEAD, refine=refine)(episode.replace(x=x))
        gradients.append(torch.autograd.grad((weights * scores).sum(), x)[0])
    torch.testing.assert_close(*gradients)
