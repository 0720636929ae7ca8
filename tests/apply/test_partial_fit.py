"""Classes that are added to a `FewShotClassifier`, a few at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphfsl.apply.estimator import FewShotClassifier
from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.teen import TEEN
from graphfsl.testing import TinyEncoder
from tests.support.refusal import refused


def samples(classes: int = 12, each: int = 5, dim: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(classes), each)
    x = 2 * rng.normal(size=(classes, dim))[y] + rng.normal(size=(len(y), dim))
    return x.astype(np.float32), y


@pytest.mark.parametrize("learner", ["protonet", TEEN(), {"head": "teen"}])
def test_portions_answer_as_one_fit_to_the_bit(learner: Any) -> None:
    x, y = samples()
    whole = FewShotClassifier(learner).fit(x, y)
    grown = FewShotClassifier(learner).fit(x[:20], y[:20])
    for first in range(20, 60, 10):
        grown.partial_fit(x[first : first + 10], y[first : first + 10])
    assert (grown.classes_ == whole.classes_).all()
    queries = np.random.default_rng(1).normal(size=(40, 7)).astype(np.float32)
    assert np.array_equal(grown.decision_function(queries), whole.decision_function(queries))


def test_samples_of_an_old_class_may_come_later_and_in_any_place() -> None:
    x, y = samples()
    first = np.arange(60) % 5 < 2
    grown = FewShotClassifier().partial_fit(x[first], y[first]).partial_fit(x[~first], y[~first])
    whole = FewShotClassifier().fit(x, y)
    assert np.array_equal(grown.predict_proba(x), whole.predict_proba(x))
    assert grown.fares_ == {}, "no class was new"


def test_answers_are_those_of_the_samples_and_none_of_them_are_kept() -> None:
    x, y = samples()
    weight = np.linspace(0.5, 2, len(y))
    found = FewShotClassifier().fit(x, y, weight)
    means = np.stack([np.average(x[y == c], axis=0, weights=weight[y == c]) for c in range(12)])
    expected = -((x[:, None] - means) ** 2).sum(-1)
    np.testing.assert_allclose(found.decision_function(x), expected, rtol=1e-4, atol=1e-4)
    kept = [v for v in vars(found).values() if hasattr(v, "shape") and len(v.shape)]
    assert max(v.shape[0] for v in kept) == 12


def test_images_are_added_as_features() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (18, 8, 8), dtype=np.uint8)
    y = np.repeat(list("abcdef"), 3)
    net = Pipeline(TinyEncoder().eval(), head=ProtoNet())
    grown = FewShotClassifier(net).fit(x[:9], y[:9]).partial_fit(x[9:], y[9:])
    whole = FewShotClassifier(net).fit(x, y)
    np.testing.assert_allclose(
        grown.decision_function(x), whole.decision_function(x), rtol=1e-5, atol=1e-6
    )


def test_it_says_how_old_classes_fare() -> None:
    x = np.array([[0.0, 0.0], [4.0, 0.0]], dtype=np.float64)
    found = FewShotClassifier().fit(x, ["a", "b"])
    found.partial_fit(np.array([[0.5, 0.0], [9.0, 9.0]]), ["near a", "far"])
    assert found.fares_["a"].rival == "near a"
    assert found.fares_["a"].before == pytest.approx(1 / (1 + np.exp(-16)))
    assert found.fares_["a"].after == pytest.approx(1 / (1 + np.exp(-0.25) + np.exp(-16)))
    assert found.fares_["b"].after == pytest.approx(found.fares_["b"].before, abs=1e-4)


def test_what_cannot_be_added_is_refused() -> None:
    x, y = samples()
    found = FewShotClassifier().fit(x, y)
    words = FewShotClassifier().fit(x, y.astype(str))
    with refused("words"):
        found.partial_fit(x[:2], ["one", "two"])
    with refused("not in classes"):
        found.partial_fit(x[:2], y[:2], classes=[1, 2])
    with refused("None or NaN"):
        words.partial_fit(x[:4], np.array(["c", None, "e", "f"], object))
    with refused("None or NaN"):
        words.partial_fit(x[:2], np.array(["a", None], object), classes=["a", "b"])
    with refused("classes holds None"):
        words.partial_fit(x[:2], ["a", "b"], classes=["a", "b", None])
    with refused("numbers and words"):
        words.partial_fit(x[:2], np.array(["a", 1], object))
    with refused("booleans and numbers"):
        FewShotClassifier().fit(x[:2], np.array([True, 2], object))
    for before, further in ((y < 3, [1, 2]), (y, [True, False]), (y.astype(str), [True, False])):
        with refused(f"labels such as [{further[0]}]", "of one kind"):
            FewShotClassifier().fit(x, before).partial_fit(x[:2], further)
    with pytest.raises(ValueError, match="features"):
        found.partial_fit(x[:, :3], y)
    assert not hasattr(FewShotClassifier("rfs"), "partial_fit"), "it reads more than means"
    assert not hasattr(FewShotClassifier({"head": "protonet", "refine": "lst"}), "partial_fit")
