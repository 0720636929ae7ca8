"""How well episodes of classes are answered, and told from queries of no class."""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Metric
from graphfsl.functional.episode_metrics import calibration_error, calibration_sums, macro_f1
from graphfsl.functional.open_set import accepted_at, auroc, average_precision, open_accuracy
from graphfsl.functional.statistics import accuracy


def _accuracy(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return accuracy(_of_classes(scores, episode), target.query)


def _calibration(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return calibration_sums(_of_classes(scores, episode).float().softmax(-1), target.query)


def _macro_f1(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return macro_f1(_of_classes(scores, episode), target.query)


def _of_classes(scores: Tensor, episode: Episode) -> Tensor:
    """The scores without the column of novelty, if there is one."""
    return scores[..., : episode.way]


def _auroc(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return auroc(scores[..., -1], target.query >= 0, target.query == -1)


def _average_precision(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return average_precision(scores[..., -1], target.query >= 0, target.query == -1)


def _accepted(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return accepted_at(scores[..., -1], target.query >= 0, target.query == -1)


def _open_accuracy(scores: Tensor, target: Target, episode: Episode) -> Tensor:
    return open_accuracy(_of_classes(scores, episode), scores[..., -1], target.query)


METRICS = {
    "accuracy": Metric(_accuracy),
    "calibration error": Metric(_calibration, more_is_better=False, ratio=calibration_error),
    "macro-F1": Metric(_macro_f1),
}
# of episodes some of whose queries are of no class; accuracy is that of the others
OPEN_METRICS = {
    "AUROC": Metric(_auroc),
    "AUPR": Metric(_average_precision),
    "FPR@95": Metric(_accepted, more_is_better=False),
    "accuracy with rejection": Metric(_open_accuracy, needs_bound=True),
    **METRICS,
}
