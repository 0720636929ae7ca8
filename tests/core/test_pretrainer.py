"""An encoder with an objective is trained before episodes."""

from __future__ import annotations

import torch

from graphfsl.core.pretrainer import Pretrainer
from graphfsl.data.batches import Batches
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.pretrain.cross_entropy import CrossEntropy
from graphfsl.testing import DIM, TinyEncoder
from tests.support.pretraining import CLASSES, split


def test_the_trainer_pretrains() -> None:
    torch.manual_seed(0)
    model = Pretrainer(TinyEncoder(), CrossEntropy(DIM, CLASSES))
    trainer = Trainer(steps=80, batch=20, lr=0.02, log_every=20)
    metrics = trainer.fit(model, Batches(split()))
    assert metrics[-1]["loss"] < 0.7 * metrics[0]["loss"]
