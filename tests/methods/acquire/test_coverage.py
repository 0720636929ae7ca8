"""Coverage of the propagation matrix (METHODS 5.2-G)."""

from __future__ import annotations

import pytest
import torch

from graphfsl.io.errors import InputError
from graphfsl.methods.acquire.coverage import Coverage
from tests.support.pools_to_label import labeled, pool, two_clusters


def chosen(rule: Coverage, episode: object, count: int) -> list[list[int]]:
    free = episode.mask & (episode.w.sum(-1) == 0)  # type: ignore[attr-defined]
    return rule(episode, free, None, count).tolist()  # type: ignore[arg-type]


def test_the_kernel_is_its_equation() -> None:
    episode, _ = pool(batch=1)
    x, n = episode.x[0], 30
    z = x / x.norm(dim=1, keepdim=True)
    a = (z @ z.T).clamp_min(0) ** 3
    a.fill_diagonal_(0)
    w = torch.zeros_like(a)
    for i in range(n):
        for j in a[i].topk(10).indices.tolist():
            w[i, j], w[j, i] = a[i, j], a[j, i]
    d = w.sum(1).rsqrt()
    g = torch.linalg.inv(torch.eye(n, dtype=torch.float64) - 0.9 * d[:, None] * w * d)
    expected = g / g.diag().sqrt()[:, None] / g.diag().sqrt()
    torch.testing.assert_close(Coverage().kernel(episode.x, episode.mask)[0], expected)


def test_two_clusters_are_both_asked_for_at_their_densest_points() -> None:
    episode = two_clusters()
    assert sorted(chosen(Coverage(), episode, 2)[0]) == [0, 15]


def test_with_one_of_two_clusters_labeled_the_other_is_asked_for() -> None:
    episode = two_clusters()
    w = episode.w.clone()
    w[0, 0, 0] = 1
    assert chosen(Coverage(), episode.replace(w=w), 1) == [[15]]


def test_two_copies_of_an_image_are_not_both_asked_for() -> None:
    episode = two_clusters()
    x = episode.x.clone()
    x[:, 1:4] = x[:, :1]
    assert len({0, 1, 2, 3} & set(chosen(Coverage(), episode.replace(x=x, w=episode.w), 6)[0])) == 1


def test_asking_twice_is_asking_for_all_at_once() -> None:
    """The answers do not matter to it."""
    episode, y = pool()
    rule = Coverage()
    once = torch.tensor(chosen(rule, episode, 8))
    first = torch.tensor(chosen(rule, episode, 4))
    then = torch.tensor(chosen(rule, labeled(episode, y, first), 4))
    assert torch.equal(torch.cat([first, then], 1), once)


def test_options_that_are_none_are_refused() -> None:
    for options in ({"k": 0}, {"alpha": 1.0}, {"alpha": -0.1}):
        with pytest.raises(InputError, match="coverage takes k of 1 or more and alpha"):
            Coverage(**options)
