"""Expected error reduction on the graph (Zhu 2003)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Acquire
from graphfsl.functional.knn import cosine_neighbors
from graphfsl.io.errors import InputError
from graphfsl.methods.acquire.expected_error import WEAK, ExpectedError
from graphfsl.methods.acquire.random import Random
from tests.support.pools_to_label import C, labeled, pool


def chosen(rule: Acquire, episode: Episode, count: int, scores: Tensor | None = None) -> Tensor:
    return rule(episode, episode.mask & (episode.w.sum(-1) == 0), scores, count)


def test_expected_error_equals_refitting_for_each_sample_and_class() -> None:
    """R(i) by solving anew with the label (i, c) added, for 10 nodes."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1, 10, 4, generator=g, dtype=torch.float64)
    w = torch.zeros(1, 10, C, dtype=torch.float64)
    w[0, [0, 1, 2], [0, 1, 2]] = 1
    episode = Episode(x, w, 3, 7, relabeled=False)
    rule = ExpectedError(k=3, among=None)

    edges = cosine_neighbors(x, episode.mask, 3)[0]
    edges = edges + WEAK * edges.sum(1).mean() / 10 * (1 - torch.eye(10, dtype=torch.float64))

    def harmonic(labels: dict[int, int]) -> Tensor:
        """The mean of the neighbours at each node without a label."""
        f = torch.zeros(10, C, dtype=torch.float64)
        for i, c in labels.items():
            f[i, c] = 1
        free = [i for i in range(10) if i not in labels]
        laplacian = torch.diag(edges.sum(1)) - edges
        known = list(labels)
        f[free] = torch.linalg.solve(laplacian[free][:, free], edges[free][:, known] @ f[known])
        return f

    labels = {0: 0, 1: 1, 2: 2}
    f = harmonic(labels)
    torch.testing.assert_close(rule.harmonic(episode, episode.mask)[0][0], f)
    risks = {}
    for i in range(3, 10):
        risks[i] = sum(
            float(f[i, c]) * float((1 - harmonic({**labels, i: c}).amax(1)).sum()) for c in range(C)
        )
    rows = torch.arange(3, 10)[None]
    expected = torch.tensor([list(risks.values())], dtype=torch.float64)
    torch.testing.assert_close(rule.risk(episode, episode.mask, rows), expected)
    assert chosen(rule, episode, 1).item() == min(risks, key=lambda i: risks[i])


@pytest.mark.parametrize("rule", [ExpectedError()], ids=repr)
def test_until_each_class_is_seen_samples_are_drawn_at_random(rule: Acquire) -> None:
    episode, y = pool(batch=1)
    at_random = chosen(Random(), episode, 1)
    assert torch.equal(chosen(rule, episode, 1), at_random)
    one_class = labeled(episode, y, torch.tensor([[0]]))
    scores = torch.randn(1, 30, C, dtype=torch.float64)
    assert torch.equal(chosen(rule, one_class, 1, scores), chosen(Random(), one_class, 1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ExpectedError(among=0), "of 1 or more"),
    ],
)
def test_options_that_are_none_are_refused(make: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()  # type: ignore[operator]
