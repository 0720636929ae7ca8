"""Whether a learner may be asked in a setting, and what kind of result that gives."""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.learner import Learner
from graphfsl.data.sampler import Setting
from graphfsl.io.errors import InputError


def check_protocol(learner: Learner, setting: Setting, unbalanced: bool = False) -> None:
    """InputError where a trait of the learner forbids the setting; unbalanced: but not balance."""
    if learner.way is not None and setting.way > learner.way:
        raise InputError(
            f"this learner is tied to {learner.way}-way episodes at most; set "
            f"episode.way={learner.way}"
        )
    if learner.shots is not None and setting.most_shots != learner.shots:
        raise InputError(
            f"this learner is tied to {learner.shots}-shot episodes; set "
            f"episode.shot={learner.shots}"
        )
    if learner.needs_balance and setting.dirichlet is not None and not unbalanced:
        raise InputError(
            "this learner assumes as many queries of every class; set episode.dirichlet=null, or "
            "evaluation.unbalanced=true to see what the assumption costs"
        )
    if (
        learner.needs_balanced_pool
        and setting.unlabeled
        and setting.pool_dirichlet is not None
        and not unbalanced
    ):
        raise InputError(
            "this learner assumes as many unlabeled images of every class; set "
            "episode.pool_dirichlet=null, or "
            "evaluation.unbalanced=true to see what the assumption costs"
        )
    most = learner.max_queries_per_class
    if most is not None and setting.dirichlet is not None:
        raise InputError(
            f"this learner takes at most {most} queries per class; set episode.dirichlet=null"
        )
    if most is not None and setting.query > most:
        raise InputError(
            f"this learner takes at most {most} queries per class; set episode.query={most}"
        )


def check_features(learner: Learner, x: Tensor) -> None:
    """InputError where features (n, d) are negative and the learner takes no such ones; images
    pass.
    """
    if learner.needs_nonnegative and x.ndim == 2 and len(x) and (least := float(x.min())) < 0:
        raise InputError(
            f"this learner takes features as behind a ReLU, none below 0, but the "
            f"smallest is {least:.3g}"
        )


def kind_of(learner: Learner, setting: Setting) -> str:
    """The table that a result belongs to: inductive, transductive, semi-supervised or active, or
    two of them.
    """
    semi = learner.uses_unlabeled and setting.unlabeled > 0
    pool = "active" if learner.asks else "semi-supervised"
    kinds = [k for k, yes in ((pool, semi), ("transductive", learner.transductive)) if yes]
    return " + ".join(kinds) or "inductive"


def nodes(setting: Setting) -> int:
    """How many nodes an episode has."""
    s = setting
    return s.way * (s.most_shots + s.query + s.unlabeled) + s.distractors * s.unlabeled
