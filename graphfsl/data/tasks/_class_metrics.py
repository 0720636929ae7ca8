"""How well episodes of classes are answered: accuracy, calibration error and macro-F1."""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Metric
from graphfsl.functional.episode_metrics import calibration_error, calibration_sums, macro_f1
from graphfsl.functional.statistics import accuracy


def _accuracy(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return accuracy(scores, target.query)


def _calibration(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return calibration_sums(scores.float().softmax(-1), target.query)


def _macro_f1(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return macro_f1(scores, target.query)


METRICS = {
    "accuracy": Metric(_accuracy),
    "calibration error": Metric(_calibration, more_is_better=False, ratio=calibration_error),
    "macro-F1": Metric(_macro_f1),
}
