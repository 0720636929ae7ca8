"""`FewShotClassifier`: any learner behind scikit-learn's `fit`, `predict` and `predict_proba`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from graphfsl.apply.estimator_input import Parameter, dense, seeded, weights_of
from graphfsl.apply.predict import Predictor, answer_inductively, changed, inductive_note, open_run
from graphfsl.apply.unlabeled_targets import (
    kinds_of,
    labels_of,
    missing,
    none_unlabeled,
    unlabeled,
    with_stand_in,
)
from graphfsl.core import registry
from graphfsl.core.arguments import as_samples, image_bytes, real_number
from graphfsl.core.class_names import name_keys
from graphfsl.core.encoder import block_size
from graphfsl.core.episode import Episode
from graphfsl.core.invalid_scores import check_answered
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_classes, check_features
from graphfsl.core.saving import known_normalisation
from graphfsl.data import Transform
from graphfsl.experiment.builder import build_learner, warn_of_drawn
from graphfsl.experiment.learner_spec import LearnerSpec
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.loops.encode import check_alone, encode

# What an inductive learner answers at once; its answers do not depend on it.
QUERIES_AT_ONCE = 1024
NODES_AT_ONCE = 1280  # where every query has a copy of the episode
FLOATS = (np.float64, np.float32)
Source = LearnerSpec | Learner | Predictor


@dataclass(frozen=True)
class Fare:
    """How an old class fares beside new ones, as its own mean is answered.

    Args:
        before, after: the probability of the class at its mean, without the new classes and with
            them.
        rival: the new class that is likeliest there.
    """

    before: float
    after: float
    rival: Any


def _keeps_means(classifier: FewShotClassifier) -> bool:
    """Whether the learner answers from class means, so that new classes may be added to it."""
    learner = classifier.learner
    if isinstance(learner, Predictor):
        learner = learner.learner
    if isinstance(learner, Learner):
        return learner.reads_means
    if isinstance(learner, Mapping):
        return build_learner(LearnerSpec.of(learner), (3, 84, 84), 5, device="meta").reads_means
    if learner in registry.names("head"):
        return bool(registry.get("head", str(learner)).reads_means)
    return Path(str(learner)).is_dir() and open_run(str(learner)).learner.reads_means


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """A few-shot learner as a classifier of scikit-learn.

    The labeled samples of `fit` are the support of one episode, whose queries are what `predict` is
    given. `fit` trains nothing: it stores the support; a learner such as MAML adapts in `predict`.

    A transductive learner sees all samples of one `predict` together, so its answers depend on
    their company; one that `needs_balance` takes them for as many of every class. A learner with
    `max_queries_per_class` gets so many at once.

    Args:
        learner: the name of a head ("protonet"); a mapping as in YAML's `learner` section; a
            `Learner`; a trained run, as its directory or a `Predictor`. A name or a mapping is
            built for the samples and the number of classes of `fit`, with untrained weights, of
            which there is a warning where they are drawn at random. A learner or a predictor is
            copied, and answers where its weights lie.
        random_state: seeds untrained weights, and what a learner draws by itself.
        batch_norm: the BatchNorm policy (`graphfsl.core.batchnorm`). None takes the learner's own;
            in place of one under which an answer depends on the other queries, `support`, with a
            warning. A `Predictor` has decided that already.
        transform: the normalisation of images. None takes what the learner was trained with by
            `Trainer` or, without that, what its encoder says; a run and a `Predictor` have their
            own.
        none: the `novelty` above which a sample is of none of the classes; None asks for no such
            answer. `graphfsl evaluate RUN episode.open_classes=5` finds one on validation classes,
            for as many shots and, where the learner is transductive, as many samples at once.

    A learner that `reads_means`, such as ProtoNet, keeps of each class the sum of its features and
    their number, and no samples; to such a one `partial_fit` adds classes, and samples of old ones.

    Attributes:
        classes_: (C,) the sorted labels.
        fares_: label -> `Fare`, how the old classes fare beside those that the last `partial_fit`
            added; empty where it added none.
        n_features_in_: d, or the number of an image's values.
        learner_: what answers.
    """

    transform = Parameter()
    _support: Tensor  # class means where `_sums` are kept
    _sums: Tensor
    _counts: Tensor
    fares_: dict[Any, Fare]

    def __init__(
        self,
        learner: str | Path | Mapping[str, Any] | Learner | Predictor = "protonet",
        random_state: int | np.random.RandomState | None = 0,
        batch_norm: str | None = None,
        transform: Transform | None = None,
        none: float | None = None,
    ) -> None:
        self.learner = learner
        self.random_state = random_state
        self.batch_norm = batch_norm
        self.transform = transform
        self.none = none

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, as scikit-learn asks for them."""
        return {
            name: vars(self)[name]
            for name in ("learner", "random_state", "batch_norm", "transform", "none")
        }

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Store the support and the unlabeled pool.

        Args:
            X: features (n, d), sparse ones are made dense; uint8 images (n, H, W) or (n, H, W, 3);
                for a run on images a sequence of whatever `Predictor` reads, paths and PIL images
                too. Features are computed with in float64 unless they are float32, as in
                scikit-learn, whose checks ask for 1e-7 where float32 gives 1e-6.
            y: labels of any kind. Where the learner uses a pool (`uses_unlabeled`), these are never
                a class but mark unlabeled samples: None, NaN, pandas' NA, "" and the number -1 of
                any type, beside string labels too (an array of dtype object). The text "-1", which
                numpy makes of a list of words and numbers, is refused. For any other learner -1,
                "-1" and "" are classes like others, and None, NaN and NA are refused.
            sample_weight: the weights of the labels; 0 leaves a sample out, an unlabeled one too.
                What other weights do is the learner's affair: ProtoNet takes the weighted mean.

        Raises:
            InputError: for an unknown learner, one that is tied to fewer classes or does not take
                such samples, for images that cannot be read, for bad weights, and where no sample
                has a label.
            ValueError: for what scikit-learn rejects.
        """
        source = self._source()
        self._predictor = source if isinstance(source, Predictor) else None
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        X, x = self._images(X)
        if x is None:
            if y is not None:
                y = column_or_1d(y, warn=True)
            checked = y if y is None else with_stand_in(y, missing(y))
            x = dense(validate_data(self, X, checked, accept_sparse="csr", dtype=FLOATS)[0])
        else:
            y = column_or_1d(y, warn=True)
            check_consistent_length(x, y)
            self.n_features_in_ = x[0].numel()
        self._shape = tuple(x.shape[1:])
        if self._predictor and self._predictor.run.shape != self._shape:
            raise InputError(
                f"the run takes samples of shape {self._predictor.run.shape}, but X "
                f"holds {self._shape}"
            )
        weight = weights_of(sample_weight, len(y))
        x, y, weight = x[torch.from_numpy(weight > 0)], y[weight > 0], weight[weight > 0]

        hidden = self._hidden(y, source)
        labels = labels_of(y[~hidden])
        check_classification_targets(labels)
        self.classes_, column = np.unique(labels, return_inverse=True)
        require(
            not hidden.any() or len(self.classes_) != 1,
            "y holds one class beside -1, which means unlabeled for this learner; rename class -1",
        )
        self.learner_ = (
            self._learner(source).eval().to(x.dtype if x.is_floating_point() else torch.float32)
        )
        self._w = torch.eye(len(self.classes_), dtype=torch.float64)[column] * torch.from_numpy(
            weight[~hidden, None]
        )
        self._transform = self._normalisation()
        try:
            self._store(x, torch.from_numpy(hidden))
            if isinstance(source, Learner):
                self._answer(self._support[:1])
            self._keep_means()
        except RuntimeError as error:  # torch's, for a module that was made for other samples
            if not isinstance(source, Learner):
                raise
            reason = str(error).splitlines()[0]
            raise InputError(
                f"this learner fails on samples of shape {self._shape}: {reason}"
            ) from None
        return self

    @available_if(_keeps_means)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Add classes, and samples of old ones, to what the sums of features and counts hold.

        Whatever is added in whatever portions, the answers are those of one `fit` with all samples
        in the same order, to the bit where each sample's features are. Only a learner that
        `reads_means` has this method.

        Args:
            X: as in `fit`.
            y: labels; new ones become further classes.
            classes: labels that may come, as scikit-learn's convention has it: another one in y is
                refused. None lets all come.
            sample_weight: as in `fit`.

        Raises:
            InputError: as `fit`; for a label that is not in `classes`, and for labels of another
                kind than before, such as words beside numbers, or 1 beside True.
        """
        if classes is not None:
            known = column_or_1d(classes)
            require(
                not missing(known).any(),
                "classes holds None or NaN, which is no label; leave it out",
            )
            strange = np.setdiff1d(labels_of(_all_labeled(y)), labels_of(known))
            require(
                not len(strange),
                f"y holds the label {strange[:1].tolist()}, which is not in classes",
            )
        if not hasattr(self, "_sums"):
            return self.fit(X, y, sample_weight)
        x, labels, weight = self._further(X, y, sample_weight)
        old, means = self.classes_, self._support
        before = self._answer(means).softmax(-1).diagonal()
        self._add(x, labels, weight)
        after = self._answer(means).softmax(-1)
        self.fares_ = self._fares(old, before, after)
        return self

    def _further(self, X: Any, y: Any, sample_weight: Any) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Features of further samples, with their labels and weights."""
        X, x = self._images(X)
        y = _all_labeled(y)
        if x is None:
            X, y = validate_data(self, X, y, reset=False, accept_sparse="csr", dtype=FLOATS)
            x = dense(X)
        check_consistent_length(x, y)
        require(
            tuple(x.shape[1:]) == self._shape,
            f"fit was given samples of shape {self._shape}, but X holds {tuple(x.shape[1:])}",
        )
        labels = labels_of(y)
        check_classification_targets(labels)
        require(
            kinds_of(labels) == kinds_of(self.classes_),
            f"y holds labels such as {labels[:1].tolist()}, but the classes so far are such as "
            f"{self.classes_[:1].tolist()}; labels are all of one kind, such as numbers or words",
        )
        weight = weights_of(sample_weight, len(labels))
        kept = weight > 0
        return self._encode(x)[torch.from_numpy(kept)], labels[kept], weight[kept]

    def _keep_means(self) -> None:
        """Keep sums and counts in place of the support, where the learner answers from means."""
        self.fares_ = {}
        self.__dict__.pop("_sums", None)
        if not self.learner_.reads_means or self._support.ndim != 2:
            return
        x, labels = self._support, self.classes_[self._w.argmax(-1).numpy()]
        weight = self._w.sum(-1).numpy()
        self.classes_ = self.classes_[:0]
        self._sums = torch.zeros(0, x.shape[1], dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.float64)
        self._add(x, labels, weight)

    def _add(self, x: Tensor, labels: np.ndarray, weight: np.ndarray) -> None:
        """Add features (n, d) to the sums of their classes, one after another."""
        known = np.concatenate([self.classes_, labels]) if len(self.classes_) else labels
        classes = np.unique(known)
        place = torch.from_numpy(np.searchsorted(classes, self.classes_))
        column = torch.from_numpy(np.searchsorted(classes, labels))
        each = torch.from_numpy(weight).double()
        sums = self._sums.new_zeros(len(classes), x.shape[1]).index_copy(0, place, self._sums)
        counts = self._counts.new_zeros(len(classes)).index_copy(0, place, self._counts)
        self._sums = sums.index_add(0, column, each[:, None] * x.double())
        self._counts = counts.index_add(0, column, each)
        self.classes_ = classes
        self._support = (self._sums / self._counts[:, None]).to(x.dtype)
        self._w = torch.diag(self._counts)

    def _fares(self, old: np.ndarray, before: Tensor, after: Tensor) -> dict[Any, Fare]:
        """How each old class fares: (C,) before, (C, C') after, at the old means."""
        is_new = ~np.isin(self.classes_, old)
        if not is_new.any():
            return {}
        own = np.searchsorted(self.classes_, old)
        rivals = self.classes_[is_new][after[:, torch.from_numpy(is_new)].argmax(-1).numpy()]
        found = {}
        for i, label in enumerate(old.tolist()):
            rival = rivals[i].item() if isinstance(rivals[i], np.generic) else rivals[i]
            found[label] = Fare(float(before[i]), float(after[i, own[i]]), rival)
        return found

    def predict(self, X: Any) -> np.ndarray:
        """The class of the highest score of each sample: (n,).

        Where `none` is given these are objects, None for a sample of none of the classes.
        """
        if self.none is None:
            best = self._scores(X).argmax(-1)
            labels: np.ndarray = self.classes_[best.numpy()]
            return labels
        bound = real_number(self.none, "none")
        answers = self._scores(X, novelty=True)
        found: np.ndarray = self.classes_[answers[:, :-1].argmax(-1).numpy()].astype(object)
        found[(answers[:, -1] > bound).numpy()] = None
        return found

    def novelty(self, X: Any) -> np.ndarray:
        """How foreign each sample is to all classes: (n,), the larger the more.

        The learner's part in the slot `novelty` says it; one without takes minus the largest
        probability.
        """
        novelty: np.ndarray = self._scores(X, novelty=True)[:, -1].numpy()
        return novelty

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probabilities (n, C), a softmax of the scores; columns as in `classes_`."""
        return self._scores(X).softmax(-1).numpy()

    def decision_function(self, X: Any) -> np.ndarray:
        """The scores (n, C); for two classes (n,), how much higher the second's is."""
        scores = self._scores(X).numpy()
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy on the samples that have a label.

        What marks an unlabeled one in `fit` is no class here either.
        """
        predicted, y = self.predict(X), column_or_1d(y)
        shown = ~unlabeled(y) if self.learner_.uses_unlabeled else np.ones(len(y), bool)
        require(shown.any(), "y holds no label to compare answers with; label at least one sample")
        weight = None if sample_weight is None else np.asarray(sample_weight)[shown]
        labels, predicted = labels_of(y[shown]), predicted[shown]
        if self.none is not None:  # None, which is no label, is never right
            labels, predicted = np.ones(len(labels), bool), predicted == labels
        return float(accuracy_score(labels, predicted, sample_weight=weight))

    def _source(self) -> Source:
        """What `learner` stands for, as the estimator's own copy."""
        learner = self.learner
        policy = [] if self.batch_norm is None else [f"learner.batch_norm={self.batch_norm}"]
        if isinstance(learner, Predictor):
            check_classes(learner.learner)
            learner = copy.deepcopy(learner)
            return (
                Predictor(changed(learner.run, policy), range=learner.range) if policy else learner
            )
        if isinstance(learner, Learner):
            check_classes(learner)
            return copy.deepcopy(learner)
        if isinstance(learner, Mapping):
            spec = LearnerSpec.of(learner)
            check_classes(build_learner(spec, (3, 84, 84), 5, device="meta"))
            return spec
        if not isinstance(learner, (str, Path)):
            raise InputError(
                "learner must be the name of a head, a mapping such as {'head': 'protonet'}, a "
                "Learner, a Predictor or "
                f"the directory of a run, not {learner!r}"
            )
        if learner in registry.names("head"):
            check_classes(registry.get("head", str(learner)))
            return LearnerSpec.of({"head": learner})
        if Path(learner).is_dir():
            predictor = open_run(learner, policy)
            check_classes(predictor.learner)
            self._say(predictor.replaced)
            return predictor
        raise unknown("head or run directory", str(learner), registry.names("head"))

    def _hidden(self, y: np.ndarray, source: Source) -> np.ndarray:
        """(n,) true where y says that the sample is unlabeled."""
        if isinstance(source, LearnerSpec):
            uses = build_learner(source, self._shape, 2, device="meta").uses_unlabeled
        else:
            uses = (source.learner if isinstance(source, Predictor) else source).uses_unlabeled
        hidden = unlabeled(y) if uses else none_unlabeled(_all_labeled(y))
        require(
            not hidden.all(),
            "y holds no class: -1 means unlabeled for this learner; label at least one sample",
        )
        return hidden

    def _learner(self, source: Source) -> Learner:
        """The learner for the samples and classes of `fit`."""
        way = len(self.classes_)
        if isinstance(source, LearnerSpec):
            with seeded(self._seed, torch.device("cpu")):
                built = self._with_policy(build_learner(source, self._shape, way))
            warn_of_drawn(source, built)
            return built
        learner = source.learner if isinstance(source, Predictor) else self._with_policy(source)
        require(
            learner.way is None or way <= learner.way,
            f"this learner is tied to {learner.way} classes at most, but y holds {way}",
        )
        return learner

    def _with_policy(self, learner: Learner) -> Learner:
        """The learner with the BatchNorm policy that is asked for, or with an inductive one."""
        if self.batch_norm is not None:
            learner.set_batch_norm(self.batch_norm)
        else:
            self._say(answer_inductively(learner))
        return learner

    def _normalisation(self) -> Transform:
        """What images are normalised with."""
        given: Transform | None = vars(self)["transform"]
        if self._predictor is not None:
            require(
                given is None, "a run brings its own normalisation of images; leave transform out"
            )
            return self._predictor.run.transform.plain()
        return (
            given.plain() if given is not None else Transform(*known_normalisation(self.learner_))
        )

    def _say(self, replaced: str | None) -> None:
        if replaced:
            warnings.warn(inductive_note(replaced, f"batch_norm={replaced!r}"), stacklevel=5)

    def _images(self, X: Any) -> tuple[Any, Tensor | None]:
        """What was given, as NumPy takes it, and images as bytes.

        Images are (n, C, H, W), None where X must be features.
        """
        if self._predictor and len(self._predictor.run.shape) == 3:
            require(not issparse(X), "this run takes images, and X is a sparse matrix")
            require(len(X), "X holds no image")
            return X, torch.stack([self._predictor.image(image) for image in X])
        X = as_samples(X)
        features = issparse(X) or getattr(X, "ndim", 2) not in (3, 4)
        return X, None if features else image_bytes(np.asarray(X))

    def _store(self, x: Tensor, hidden: Tensor) -> None:
        nodes = self._encode(x)
        self._support, self._pool, self._answering = nodes[~hidden], nodes[hidden], self.learner_
        if nodes is not x and isinstance(self.learner_, Pipeline):
            self._answering = self.learner_.on_features()

    def _encode(self, x: Tensor) -> Tensor:
        """Images (n, C, H, W) -> features (n, d) where they do not depend on the episode.

        All else stays as it is.
        """
        learner, device = self.learner_, _device(self.learner_)
        if x.ndim > 2 and isinstance(learner, Pipeline) and learner.fixed:
            check_alone(learner.encoder)
            size = block_size(learner.encoder, self._shape, device)
            x = torch.cat(
                [encode(learner, images, self._transform, device) for images in x.split(size)]
            )
        check_features(learner, x)
        return x

    @torch.no_grad()
    def _answer(self, query: Tensor, novelty: bool = False) -> Tensor:
        """(q, C) float64 scores of these queries in one episode, or (q, C + 1) with novelty."""
        x = self._transform(torch.cat([self._support, query, self._pool]))
        w = x.new_zeros(1, len(x), len(self.classes_))
        w[0, : len(self._w)] = self._w
        named = self.learner_.uses_class_names
        known = name_keys(map(str, self.classes_))[None] if named else None
        episode = Episode(x[None], w, len(self._w), len(query), classes=known)
        episode = episode.to(_device(self.learner_))
        answering = self._answering
        scores = answering.answer_open(episode) if novelty else answering(episode)
        check_answered(answering, episode, scores[..., : len(self.classes_)])
        return scores[0].double().cpu()

    def _scores(self, X: Any, novelty: bool = False) -> Tensor:
        """(n, C) float64 scores, or (n, C + 1) with novelty."""
        check_is_fitted(self)
        X, x = self._images(X)
        if x is None:
            x = dense(validate_data(self, X, reset=False, accept_sparse="csr", dtype=FLOATS))
        if tuple(x.shape[1:]) != self._shape:
            raise InputError(
                f"fit was given samples of shape {self._shape}, but X holds {tuple(x.shape[1:])}"
            )
        x = self._encode(x).to(self._support.dtype)
        with seeded(self._seed, _device(self.learner_)):
            queries = x.split(self._at_once(len(x)))
            return torch.cat([self._answer(query, novelty) for query in queries])

    def _at_once(self, n: int) -> int:
        """How many of n queries stand in one episode."""
        learner, others = self.learner_, len(self._support) + len(self._pool)
        if not learner.transductive:
            n = (
                max(1, NODES_AT_ONCE // (others + 1))
                if learner.per_query
                else max(QUERIES_AT_ONCE, others)
            )
        return min(n, learner.max_queries_per_class or n)


def _all_labeled(y: Any) -> np.ndarray:
    """y (n,) for a learner without a pool, whose samples all have a label."""
    given: np.ndarray = column_or_1d(y, warn=True)
    require(
        not missing(given).any(),
        "y holds None or NaN, but this learner uses no unlabeled samples; leave them out",
    )
    return given


def _device(learner: Learner) -> torch.device:
    return next((p.device for p in learner.parameters()), torch.device("cpu"))
