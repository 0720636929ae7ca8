"""What heads share that fit a linear classifier to each support."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphfsl.io.errors import InputError
from graphfsl.methods.heads.baseline import Baseline, BaselinePlusPlus
from graphfsl.methods.heads.metaoptnet import MetaOptNet
from graphfsl.methods.heads.r2d2 import R2D2
from graphfsl.methods.heads.rfs import RFS
from graphfsl.testing import episodes, learner
from tests.support.linear_classifiers import linear_episode

HEADS = (RFS(), R2D2(), MetaOptNet(), Baseline(epochs=10), BaselinePlusPlus(epochs=10))


@pytest.mark.parametrize("head", HEADS, ids=lambda h: type(h).__name__)
def test_reading_the_support_alone_changes_nothing(head: Any) -> None:
    episode, head = linear_episode(), head.double()
    torch.testing.assert_close(
        head.score(episode), head.score(episode.replace(relabeled=False)), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize(
    "make",
    [lambda: RFS(C=0), lambda: R2D2(lamda=0), lambda: MetaOptNet(C=-1), lambda: Baseline(lr=0),
     lambda: BaselinePlusPlus(scale=0)],
)  # fmt: skip
def test_bad_options_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError, match="above 0"):
        make()


def test_meta_learned_heads_teach_the_encoder() -> None:
    for head in ("r2d2", "metaoptnet", "rfs"):
        model = learner(head=head).train()
        model.loss(*episodes()).backward()
        assert model.encoder.conv.weight.grad.abs().sum() > 0
