"""Imprinted class weights: cosines to class means, and where an adaptation starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment, Graph
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import GradientDescent
from graphfsl.methods.heads.imprinting import Imprinting
from tests.support.inner_loops import episode, logits, net, start


def test_imprinting_is_the_cosine_to_means_of_directions() -> None:
    model, e = net(), episode()
    expected = logits(model, e.x[0], start(model, e))
    torch.testing.assert_close(model.score(e)[0], expected)


def test_adaptation_starts_at_the_imprint_and_moves_it() -> None:
    model, e = net(), episode(batch=2)
    still = Adapt(model, GradientDescent(0.1), 0, params="head.*")
    torch.testing.assert_close(still.score(e), model.score(e))
    one = e.replace(x=e.x[:1], w=e.w[:1], mask=e.mask[:1])
    w0, y = start(model, one).detach().requires_grad_(), one.w[0, one.support].argmax(-1)
    loss = F.cross_entropy(logits(model, one.x[0, one.support], w0), y)
    expected = w0 - 0.1 * torch.autograd.grad(loss, w0)[0]
    adapted = Adapt(model, GradientDescent(0.1), 1, params="head.*").adapt(one)
    assert list(adapted) == ["net.head.weight"]
    torch.testing.assert_close(adapted["net.head.weight"][0], expected)
    assert model.head.weight is None


class Squared(Graph):
    """A layer that answers each node by itself."""

    def forward(self, episode: Episode) -> Episode:
        return episode.replace(x=episode.x.square())


class Moved(Augment):
    def forward(self, episode: Episode) -> Episode:
        return episode.replace(x=episode.x - 0.5)


@pytest.mark.parametrize(
    "layers", [{"graph": Squared()}, {"augment": Moved()}], ids=lambda d: next(iter(d))
)
def test_the_imprint_is_of_what_the_head_reads(layers: dict[str, Any]) -> None:
    """Features behind the augmentation and the graph of the pipeline, as without adaptation."""
    model, e = (
        Pipeline(net().encoder, head=Imprinting(), **layers).double().eval(),
        episode(batch=2),
    )
    still = Adapt(model, GradientDescent(0.1), 0, params="head.*")
    torch.testing.assert_close(still.score(e), model.score(e))
    assert not torch.allclose(
        model.score(e), Pipeline(model.encoder, head=Imprinting()).eval().score(e), atol=1e-3
    )
