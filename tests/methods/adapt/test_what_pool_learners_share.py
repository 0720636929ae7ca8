"""What TransMatch, FlexMatch and fine-tuning share."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.objectives import support_cross_entropy
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.rules import Adam
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.fine_tuning import FineTuning
from graphfsl.methods.adapt.flexmatch import FlexMatch
from graphfsl.methods.adapt.transmatch import TransMatch
from graphfsl.methods.heads.imprinting import Imprinting
from graphfsl.testing import episodes
from tests.support.inner_loops import SHOT, WAY, episode, net, objective

METHODS = (TransMatch, FlexMatch, FineTuning)
every_method = pytest.mark.parametrize("method", METHODS)


def test_the_labeled_loss_is_a_mean_by_label_weights() -> None:
    """Twice the weights are the same loss, and a support node without weight is not there."""
    e, model = episode(unlabeled=0), net()
    weights = torch.linspace(0.2, 2, SHOT * WAY).double()
    weights[1] = 0
    e = e.replace(
        w=F.pad(e.w[:, e.support] * weights[:, None], (0, 0, 0, e.n_query)), relabeled=False
    )
    y = e.w[0, e.support].argmax(-1)
    each = F.cross_entropy(model.score(e)[0, e.support], y, reduction="none")
    expected = (weights * each).sum() / weights.sum()
    torch.testing.assert_close(support_cross_entropy(model.score, e, 0), expected)


@pytest.mark.parametrize("method", [FlexMatch, FineTuning])
def test_without_more_than_the_support_it_is_plain_fine_tuning(method: Any) -> None:
    e = episode(unlabeled=0)
    model = method(net(), 3, 1e-3, **({"entropy": 0.0} if method is FineTuning else {}))
    plain = Adapt(model.net, Adam(1e-3), 3, first_order=True)
    torch.testing.assert_close(model.score(e), plain.score(e))


@every_method
def test_an_absent_class_changes_no_inner_loss(method: Any) -> None:
    """As a batch with a task of more classes makes one: no loss is divided by a class that is not
    there.
    """
    e, model = episode(), method(net(), 3, 1e-3).double()
    wider = e.replace(w=F.pad(e.w, (0, 1)), relabeled=False)
    torch.testing.assert_close(objective(model, wider), objective(model, e))


@every_method
@pytest.mark.parametrize("task_chunk", [1, 2])
def test_evaluation_repeats_and_a_copy_agrees(method: Any, task_chunk: int) -> None:
    model, e = method(net(), 3, 1e-3, task_chunk=task_chunk).double().eval(), episode(batch=2)
    with torch.no_grad():
        first = model(e)
        assert torch.equal(first, model(e)) and torch.equal(first, copy.deepcopy(model)(e))
        model.task_chunk = 3 - task_chunk
        torch.testing.assert_close(model(e), first)
    assert not torch.allclose(first, model.net(e), atol=1e-4), "nothing was adapted"


@every_method
def test_only_the_named_parameters_move_also_of_a_frozen_encoder(method: Any) -> None:
    n, e = net(), episode()
    n.encoder.requires_grad_(False)
    model = method(n, 2, 1e-3, params=["head.*", "encoder.conv.weight"]).double()
    before = {k: v.clone() for k, v in n.state_dict().items()}
    adapted = model.adapt(e)
    assert set(adapted) == {"net.head.weight", "net.encoder.conv.weight"}
    assert (adapted["net.encoder.conv.weight"] - n.encoder.conv.weight).abs().max() > 1e-4
    assert all(torch.equal(v, before[k]) for k, v in n.state_dict().items())


@every_method
def test_the_weights_that_a_file_keeps_give_the_same_views(method: Any) -> None:
    one, two, e = method(net(), 3, 1e-3).double(), method(net(), 3, 1e-3).double(), episode()
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(e), two(e))


@pytest.mark.parametrize("method", [TransMatch, FlexMatch])
def test_the_pool_helps_where_it_shows_the_classes(method: Any) -> None:
    """Many unlabeled images near each class: tuning the class weights with them is better than the
    support alone.
    """
    e, target = episodes(batch=40, shot=1, query=8, unlabeled=12, noise=2.5)
    pixels = Pipeline(torch.nn.Flatten(), head=Imprinting(scale=30))
    model = method(pixels, 30, 3e-3, params="head.*", rotate=0.0, translate=0.0, scale=0.0).eval()
    with torch.no_grad():
        with_pool, without = (
            (m(e).argmax(-1) == target.query).float().mean() for m in (model, pixels)
        )
    assert with_pool > without + 0.015, f"{with_pool:.3f} with the pool, {without:.3f} without"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda n: TransMatch(n, views=0), "views must be 1 or more"),
        (lambda n: FlexMatch(n, threshold=1.0), r"threshold in \[0, 1\)"),
        (lambda n: FineTuning(n, entropy=-1.0), "entropy 0 or more"),
        (lambda n: FineTuning(n, params="haed.*"), "no parameter matches 'haed"),
    ],
)
def test_mistakes_are_one_line(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(net())
