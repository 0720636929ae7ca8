"""FlexMatch: thresholds of classes, written as a loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.rules import Adam
from graphfsl.methods.adapt.flexmatch import FlexMatch
from tests.support.inner_loops import WAY, episode, logits, moved, net, objective, start


def flexmatch(model: FlexMatch, e: Episode, step: int) -> Tensor:
    n, pool, weight = model.net, e.x[0, e.unlabeled], start(model.net, e)  # type: ignore[arg-type]
    y = e.w[0, e.support].argmax(-1)
    loss = F.cross_entropy(logits(n, e.x[0, e.support], weight), y)
    if not len(pool):
        return loss
    q = logits(n, moved(pool, model.views, step, 0, model.weak), weight).softmax(-1)
    best, label = q.max(-1)
    sigma = [
        sum(float(best[j] > model.threshold) for j in range(len(pool)) if label[j] == c)
        for c in range(WAY)
    ]
    terms = []
    for j, p in enumerate(logits(n, moved(pool, model.views, step, 1), weight).softmax(-1)):
        beta = sigma[int(label[j])] / max(*sigma, len(pool) - sum(sigma))
        tau = model.threshold * beta / (2 - beta) if model.flexible else model.threshold
        terms.append(-p[label[j]].log() if best[j] > tau else torch.zeros(()))
    return loss + model.weight * sum(terms) / len(pool)  # type: ignore[return-value]


@pytest.mark.parametrize("flexible", [False, True])
@pytest.mark.parametrize("unlabeled", [0, 10])
def test_flexmatch_equals_a_loop(flexible: bool, unlabeled: int) -> None:
    model = FlexMatch(net(), steps=3, threshold=0.5, weight=0.7, flexible=flexible).double()
    e = episode(unlabeled)
    found = objective(model, e, 1)
    torch.testing.assert_close(found, flexmatch(model, e, 1))
    if unlabeled:
        model.flexible = not flexible
        assert not torch.allclose(objective(model, e, 1), found), (
            "the thresholds of the classes differ"
        )


def test_flexmatch_takes_the_mean_over_the_sure_and_the_unsure() -> None:
    """Equation 4: what is not sure adds nothing to the sum and counts in the number."""
    n, e = net(), episode(10)
    model = FlexMatch(n, steps=3, flexible=False).double()
    weak = moved(e.x[0, e.unlabeled], model.views, 1, 0, model.weak)
    # half of the pool is sure
    model.threshold = float(logits(n, weak, start(n, e)).softmax(-1).amax(-1).median())
    torch.testing.assert_close(objective(model, e, 1), flexmatch(model, e, 1))


def test_the_threshold_of_a_class_rises_with_what_is_sure_of_it() -> None:
    """Equations 5 to 10: sigma (4, 2, 0) of twelve real nodes and six that are sure of nothing;
    beta 4/6, tau 0.4.
    """
    top = torch.tensor(
        [0.9] * 4 + [0.45, 0.38] + [0.9] * 2 + [0.45] + [0.36] * 3 + [0.9] * 2
    ).double()
    best = torch.tensor([0] * 6 + [1] * 3 + [2] * 3 + [0, 1])
    q = ((1 - top) / 2)[:, None].expand(-1, 3).clone()
    q[torch.arange(14), best] = top
    mask = torch.arange(14) < 12
    found = FlexMatch(net(), threshold=0.8).sure(q[None], mask[None])[0]
    beta = [4 / 6, 2 / 6, 0.0]
    tau = [0.8 * b / (2 - b) for b in beta]
    assert tau[0] == pytest.approx(0.4)
    for j in range(14):
        for c in range(3):
            assert bool(found[j, c]) == bool(mask[j] and best[j] == c and top[j] > tau[c])
    assert found[4, 0] and not found[5, 0], "0.45 is sure, 0.38 is not"


def test_an_unsure_pool_teaches_nothing() -> None:
    model = FlexMatch(net(), threshold=0.9999999, flexible=False).double()
    plain = Adapt(model.net, Adam(1e-3), 20, first_order=True)
    e = episode()
    torch.testing.assert_close(model.score(e)[:, e.query], plain.score(e)[:, e.query])
