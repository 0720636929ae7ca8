"""The refiner of a run: it reads labels and pool together, behind what propagation says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.apply.annotate.pool_model import Label, Predictions
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment import run as runs
from graphfsl.functional.held_out import REACHED, HeldOut, is_calibrated, temperature
from graphfsl.functional.layers import last_layer
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import InputError

MOST = 5000  # samples of a pool: a refiner holds all pairs of them
FOLDS = 5  # in which single answers are held out
LEAST_HELD_OUT = 10  # answers by which the two are compared


@dataclass(frozen=True)
class Refined:
    """What a refiner says of a pool, and how it compares with propagation.

    Attributes:
        predictions: None where propagation stays.
        words: which of the two is shown, and why.
    """

    predictions: Predictions | None
    words: str


@dataclass(frozen=True)
class _Known:
    """The m labels that are of a class.

    samples: (m,) which have them. column: (m,) their classes. single: (m,) bool, which came one by
    one. influence: (m, m) what each gives to each. classes: how many there are.
    """

    samples: np.ndarray
    column: np.ndarray
    single: np.ndarray
    influence: Tensor
    classes: int

    @classmethod
    def of(cls, found: Predictions, labels: Mapping[int, Label]) -> _Known:
        """Those on which predictions rest."""
        number = {name: i for i, name in enumerate(found.classes)}
        given = [labels[sample] for sample in found.support.tolist()]
        is_of_class = np.array([label.value in number for label in given])
        kept = [label for label in given if label.value in number]
        return cls(
            samples=found.support[is_of_class],
            column=np.array([number[label.value] for label in kept]),
            single=np.array([label.single for label in kept]),
            influence=found.influence[is_of_class][:, is_of_class],
            classes=len(number),
        )


class PoolRefiner:
    """Head and refiners of a learner, on the features of a pool.

    Args:
        learner: whose parts they are.
        name: what the refiners are called.
        x: (n, d) features of the pool.
    """

    def __init__(self, learner: Pipeline, name: str, x: np.ndarray) -> None:
        self._learner, self.name = learner.eval(), name
        self._x = torch.from_numpy(np.ascontiguousarray(x, np.float32))

    def refine(
        self,
        found: Predictions,
        labels: Mapping[int, Label],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Refined | None:
        """Predictions of the refiner, where it finds held-out answers as often as propagation.

        Single answers are held out in folds. Of each fold both say what they make of the others'
        labels. None of these stays as propagation says it.

        Args:
            found: what propagation says.
            labels: sample -> label, the same ones.
            is_wanted: asked now and then, since a large pool takes a minute.

        Returns:
            None where it is not wanted any more.
        """
        if len(found.classes) < 2:
            return Refined(None, f"{self.name} needs labels of two classes")
        known = _Known.of(found, labels)
        fold = folds(known.column, known.single)
        count = int((fold >= 0).sum())
        if count < LEAST_HELD_OUT:
            needed = f"{LEAST_HELD_OUT} single answers that can be held out"
            return Refined(None, f"{self.name} waits for {needed}, and there are {count}")

        try:
            return self._compared(found, known, fold, is_wanted)
        except InputError as error:  # of a part that cannot work on this pool
            return Refined(None, f"{self.name} cannot refine them ({error})")

    def _compared(
        self, found: Predictions, known: _Known, fold: np.ndarray, is_wanted: Callable[[], bool]
    ) -> Refined | None:
        """As `refine`, of labels with a fold each."""
        is_held = fold >= 0
        count = int(is_held.sum())
        p, by_propagation = self._held_out(known, fold, is_wanted)
        if not is_wanted():
            return None
        truth = known.column[is_held]
        refined = int((p.argmax(1).numpy() == known.column)[is_held].sum())
        propagated = int((by_propagation == known.column)[is_held].sum())
        words = (
            f"of {count} held-out answers {self.name} finds {refined} again, "
            f"propagation {propagated}"
        )
        if refined < propagated:
            return Refined(None, words)

        scores, group = p[torch.from_numpy(is_held)].clamp_min(REACHED), torch.from_numpy(truth)
        t = temperature(scores, group)
        every = self._scores(known.samples, known.column, known.classes).softmax(1)
        every = (every.clamp_min(REACHED).log() / t).softmax(1)
        whole = len(group.unique()) == known.classes
        reached = torch.ones(count, dtype=torch.bool)
        calibrated = is_calibrated(HeldOut(torch.arange(count), scores, group, reached, whole), t)
        borne_out = found.borne_out and not found.shows_foreign and calibrated
        return Refined(_with(found, every, borne_out), words)

    def _held_out(
        self, known: _Known, fold: np.ndarray, is_wanted: Callable[[], bool]
    ) -> tuple[Tensor, np.ndarray]:
        """What the labels outside a fold say of those in it.

        Args:
            known: the m labels.
            fold: (m,) the fold of each; the rows of those in none stay zero.
            is_wanted: where it is not, folds are left out.

        Returns:
            Probabilities (m, C) of the refiner, and the class (m,) by propagation.
        """
        p = torch.zeros(len(known.samples), known.classes)
        by_propagation = np.zeros(len(known.samples), np.int64)
        for number in range(FOLDS):
            out = fold == number
            if not out.any() or not is_wanted():
                continue
            of_others = self._scores(known.samples[~out], known.column[~out], known.classes)
            p[out] = of_others[known.samples[out]].softmax(1)
            given = known.influence[out][:, ~out]
            by_propagation[out] = propagated_class(given, known.column[~out], known.classes)
        return p, by_propagation

    @torch.no_grad()
    def _scores(self, support: np.ndarray, column: np.ndarray, classes: int) -> Tensor:
        """Scores (n, C) of all samples from labels of some, in the order of the samples."""
        z = self._x
        others = np.setdiff1d(np.arange(len(z)), support)
        order = torch.from_numpy(np.concatenate([support, others]))
        w = torch.zeros(1, len(z), classes)
        w[0, : len(support)] = F.one_hot(torch.from_numpy(column), classes).float()
        episode = Episode(z[order][None], w, len(support), 0)
        scores = last_layer(self._learner.score_features(episode))[0]
        return torch.empty_like(scores).index_copy_(0, order, scores)


def folds(column: np.ndarray, single: np.ndarray) -> np.ndarray:
    """Which fold holds each label out, -1 for none: classes keep a label, and bulk is never held.

    Args:
        column: (m,) the class of each label.
        single: (m,) bool, which came one by one.
    """
    fold = np.full(len(column), -1)
    for c in np.unique(column):
        own = np.flatnonzero((column == c) & single)
        if (column == c).sum() > 1:
            fold[own] = (np.arange(len(own)) + c) % FOLDS
    return fold


def propagated_class(influence: Tensor, column: np.ndarray, classes: int) -> np.ndarray:
    """The likeliest class (h,) by propagation: of m labels what each gives, a mean over its class.

    Args:
        influence: (h, m) what each label gives to each sample.
        column: (m,) their classes.
        classes: how many there are.
    """
    member = F.one_hot(torch.from_numpy(column), classes).float()
    best: np.ndarray = (influence @ (member / or_one(member.sum(0)))).argmax(1).numpy()
    return best


def refiner_of(run: Path | None, x: np.ndarray) -> tuple[PoolRefiner | None, str]:
    """The refiner that a run brings, or why none works here.

    Args:
        run: its directory; None where the page has none.
        x: (n, d) features of the pool.

    Returns:
        The refiner, or None; and what the page says of it.
    """
    if run is None:
        return None, "No refiner runs: it learns from base classes, which a run brings (--run)."
    trained = runs.load(run)
    net = trained.learner.innermost
    if not isinstance(net, Pipeline) or not net.refine or not net.uses_unlabeled:
        return None, f"No refiner runs: the learner of {run} has none that reads a pool."
    name = " + ".join(part.name for part in trained.experiment.learner.refine)
    if net.needs_balanced_pool:
        return None, f"{name} does not run: it needs as many samples of every class."
    if net.wants_maps or net.way is not None or net.shots is not None:
        return None, f"No refiner runs: the learner of {run} is tied to maps, ways or shots."
    if len(x) > MOST:
        return None, f"{name} does not run: it holds {MOST:,} samples at most."
    return PoolRefiner(net, name, x), ""


def _with(found: Predictions, p: Tensor, borne_out: bool) -> Predictions:
    """Predictions whose classes are those of p (n, C), where nothing is certain or none of them."""
    free = (found.answer >= 0) & ~found.certain
    score, best = (t.numpy() for t in p.max(1))
    return replace(
        found,
        best=np.where(free, best, found.best),
        answer=np.where(free, best, found.answer),
        score=np.where(free, score, found.score),
        borne_out=borne_out,
        refined=True,
    )
