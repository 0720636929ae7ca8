"""Whether a learner may be asked a task, and what kind of result that gives."""

from __future__ import annotations

from torch import Tensor

from graphfsl.core.learner import Learner
from graphfsl.core.task import Task
from graphfsl.io.errors import InputError, require


def check_protocol(learner: Learner, task: Task, unbalanced: bool = False) -> None:
    """Refuse a task that a trait of the learner forbids.

    Raises:
        InputError: names the trait; with `unbalanced`, its balance is no reason.
    """
    asked = task.demands
    require(
        learner.answers == asked.answers,
        f"this learner answers with {learner.answers}, but the task asks for {asked.answers}; "
        "choose another learner.head",
    )
    _check_budget(learner, asked.budget)
    require(
        not asked.side_loss or learner.learns_from_queries,
        "this learner learns without queries, and the task's own loss is of answers to them: it "
        "would change nothing; set episode.hierarchy=0",
    )
    require(
        not asked.keeps_features or getattr(learner, "fixed", not learner.adapts),
        "of old classes the task keeps features and no samples, so that each sample must be "
        "encoded once, by itself; set learner.batch_norm=running and learner.adapt=null",
    )
    require(
        learner.way is None or asked.way <= learner.way,
        f"this learner is tied to {learner.way}-way episodes at most; set "
        f"episode.way={learner.way}",
    )
    require(
        learner.shots is None or asked.shots is not None,
        f"this learner is tied to {learner.shots} shots of every class, which the task does "
        "not promise; choose another learner.head",
    )
    require(
        learner.shots is None or asked.shots == learner.shots,
        f"this learner is tied to {learner.shots}-shot episodes; set episode.shot={learner.shots}",
    )
    require(
        asked.support or asked.budget or learner.uses_class_names,
        "without a labeled sample only names tell the classes apart; set episode.shot=1, or take a "
        "learner that knows classes by their names, such as learner.augment=class_graph",
    )
    balanced = asked.queries_per_class is not None
    require(
        not learner.needs_balance or balanced or unbalanced,
        "this learner assumes as many queries of every class; set episode.dirichlet=null, or "
        "evaluation.unbalanced=true to see what the assumption costs",
    )
    require(
        not learner.needs_balanced_pool or not asked.pool or asked.balanced_pool or unbalanced,
        "this learner assumes as many unlabeled images of every class; set "
        "episode.pool_dirichlet=null, or "
        "evaluation.unbalanced=true to see what the assumption costs",
    )
    most = learner.max_queries_per_class
    if most is None:
        return
    if asked.queries_per_class is None:
        raise InputError(
            f"this learner takes at most {most} queries per class; set episode.dirichlet=null"
        )
    if asked.queries_per_class > most:
        raise InputError(
            f"this learner takes at most {most} queries per class; set episode.query={most}"
        )


def _check_budget(learner: Learner, budget: int) -> None:
    """Refuse a budget that nobody spends, and a rule without one: a row would say they matter.

    Raises:
        InputError: says which.
    """
    require(
        not budget or learner.spends_budget,
        f"the task gives {budget} labels to a learner that asks, but this one asks for none; set "
        "learner.acquire, such as learner.acquire=coverage, or episode.budget=0",
    )
    require(
        budget or not learner.spends_budget,
        "learner.acquire asks for labels, but the task gives none; set episode.task=labeling and "
        "episode.budget, or learner.acquire=null",
    )


def check_classes(learner: Learner) -> None:
    """Refuse a learner that does not answer with classes, or asks for labels that nobody has.

    Raises:
        InputError: for such a learner.
    """
    require(
        learner.answers == "classes",
        f"this learner answers with {learner.answers}, and classes are asked for here",
    )
    require(
        not learner.spends_budget,
        "this learner asks for labels, and nobody answers it here; leave learner.acquire out",
    )


def check_features(learner: Learner, x: Tensor) -> None:
    """Refuse negative features (n, d) where the learner takes none; images pass.

    Raises:
        InputError: for such features.
    """
    if learner.needs_nonnegative and x.ndim == 2 and len(x) and (least := float(x.min())) < 0:
        raise InputError(
            f"this learner takes features as behind a ReLU, none below 0, but the "
            f"smallest is {least:.3g}"
        )


def kind_of(learner: Learner, task: Task) -> str:
    """The table that a result belongs to.

    Inductive, transductive, semi-supervised or active, or two of them; with class names or without.
    """
    pool = "active" if learner.asks else "semi-supervised"
    has_pool = learner.uses_unlabeled and (task.demands.pool or task.demands.budget > 0)
    kinds = [k for k, yes in ((pool, has_pool), ("transductive", learner.transductive)) if yes]
    kinds = kinds or ["inductive"]
    if learner.uses_class_names:
        kinds.append("class names")
    return " + ".join(kinds)
