"""A training of seconds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting, Split, Transform
from graphfsl.io import distributed
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import TinyEncoder

SETTING = Setting(way=4, shot=1, query=3)


def patterns(name: str, seed: int, classes: int = 12) -> Split:
    """Images (N, 1, 8, 8) around a random pattern for each class."""
    g = torch.Generator().manual_seed(seed)
    pattern = torch.rand(classes, 1, 8, 8, generator=g)
    y = torch.arange(classes).repeat_interleave(10)
    x = (pattern[y] + 0.35 * torch.randn(len(y), 1, 8, 8, generator=g)).clamp(0, 1)
    return Split(
        (255 * x).to(torch.uint8), y, tuple(f"c{i}" for i in range(classes)), f"patterns/{name}"
    )


def pipeline(seed: int = 0) -> Pipeline:
    """A prototypical network on a tiny encoder."""
    torch.manual_seed(seed)
    return Pipeline(TinyEncoder(), head=ProtoNet())


class Steep(Pipeline):
    """A network with a loss or a gradient that is not finite, in the first process, at some steps.

    Args:
        steps: at which.
        total: of the training.
        loss: whether the loss is infinite; otherwise it stays, and the gradient is.
        flat: at these steps the gradient is zero instead, and the loss stays.
    """

    def __init__(
        self, steps: tuple[int, ...], total: int, loss: bool = False, flat: bool = False
    ) -> None:
        torch.manual_seed(0)
        super().__init__(TinyEncoder(), head=ProtoNet(), batch_norm="support")
        self.steps, self.total, self.infinite_loss, self.flat = steps, total, loss, flat

    def loss(self, episode: Episode, target: BaseTarget) -> Tensor:
        """The loss, spoilt at its steps."""
        loss = super().loss(episode, target)
        if round(self.progress * self.total) not in self.steps or distributed.rank():
            return loss
        if self.flat:
            return loss.detach() + 0 * loss
        if self.infinite_loss:
            return loss / 0
        return loss + (loss - loss.detach()).sqrt()  # zero, with an infinite gradient


def fit(
    run: Path | None = None, learner: Pipeline | None = None, **options: object
) -> tuple[Pipeline, list[dict]]:
    """A short training, and the lines of its metrics."""
    learner = learner or pipeline()
    trainer = Trainer(
        **{"steps": 60, "lr": 1e-2, "val_every": 20, "val_episodes": 40, "log_every": 10} | options
    )  # type: ignore[arg-type]
    train = Episodes(patterns("train", 0), SETTING, transform=Transform(rotate=5))
    metrics = trainer.fit(learner, train, Episodes(patterns("val", 1), SETTING), run)
    return learner, metrics
