"""The options of the sections `evaluation` and `pretrain` as a file names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphfsl.io.errors import InputError


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of the `evaluation` section.

    Args:
        episodes: how many are evaluated.
        split: of which they are drawn.
        settings: what differs from `episode` in each setting that is evaluated.
        seed: of the episodes.
        block: episodes at once; None takes as many as fit.
        unbalanced: measure a learner that assumes as many queries, or unlabeled images, of every
            class on Dirichlet episodes, too.
        untrained_rule: measure an inner loop that learns its rule with the rule as it was before
            the training, from the trained weights of the network.
        target_statistics: normalise by BatchNorm averages of the images of the split that is
            evaluated, which is transductive.
    """

    episodes: int = 600
    split: str = "test"
    settings: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    seed: int = 0
    block: int | None = None
    unbalanced: bool = False
    untrained_rule: bool = False
    target_statistics: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 1 or (self.block is not None and self.block < 1):
            raise InputError(
                f"evaluation.episodes and block must be 1 or more, not {self.episodes} and "
                f"{self.block}"
            )
        if not self.settings:
            raise InputError(
                "evaluation.settings is empty; list at least one setting, or leave it out"
            )


@dataclass(frozen=True)
class PretrainingOptions:
    """The options of the `pretrain` section.

    Args:
        objective: a name of the slot `pretrain`, or a mapping with its options.
        generations: how often it is trained, each time with the one before as teacher
            (`distillation`).
        trainer: options of `Trainer`; its `batch` counts images, 128 where it is not given, and
            device, precision and logger are those of the run.
        augment: in place of data.augment.
    """

    objective: str | Mapping[str, Any]
    generations: int = 1
    trainer: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise InputError(f"pretrain.generations must be 1 or more, not {self.generations}")
