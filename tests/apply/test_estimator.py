"""`FewShotClassifier`: scikit-learn's habits hold, and the answers are those of the learner on the
episode by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor

from graphfsl.apply import estimator
from graphfsl.apply.estimator import FewShotClassifier
from graphfsl.apply.predict import Predictor, load
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.experiment import run
from graphfsl.experiment.builder import build
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import learner as cases_learner
from tests.support.command import EXPERIMENT, write_split

REFINED = {"head": "protonet", "refine": "soft_kmeans"}
MAML = {"head": "linear", "adapt": {"name": "maml", "steps": 5}}
GNN = {"head": {"name": "gnn", "hidden": 8}}


def expected_failures(model: FewShotClassifier) -> dict[str, str]:
    if model.learner == REFINED:
        return {
            "check_classifiers_classes": "names a class -1, which means unlabeled where the "
            "learner uses a pool"
        }
    return {}


@parametrize_with_checks(
    [FewShotClassifier(), FewShotClassifier(REFINED), FewShotClassifier(MAML)],
    expected_failed_checks=expected_failures,
)
def test_scikit_learns_own_checks(estimator: FewShotClassifier, check: Any) -> None:
    check(estimator)


def blobs(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 3)
    return rng.normal(size=(3, 5))[y] * 1.5 + rng.normal(size=(n, 5)), y


def by_hand(
    learner: Learner, support: Any, y: np.ndarray, query: Any, pool: Any = None
) -> np.ndarray:
    """(q, C) probabilities from an episode that is put together here."""
    parts = [support, query] + ([] if pool is None else [pool])
    x = torch.cat([torch.as_tensor(p) for p in parts])[None]
    w = torch.zeros(1, x.shape[1], y.max() + 1, dtype=x.dtype)
    w[0, range(len(y)), y] = 1
    with torch.no_grad():
        return learner.eval()(Episode(x, w, len(y), len(query)))[0].softmax(-1).numpy()


def test_it_is_the_nearest_class_mean() -> None:
    x, y = blobs()
    model = FewShotClassifier().fit(x[:12], y[:12])
    assert (model.predict(x[12:]) == NearestCentroid().fit(x[:12], y[:12]).predict(x[12:])).all()
    means = np.stack([x[:12][y[:12] == c].mean(0) for c in range(3)])
    p = np.exp(-((x[12:, None] - means) ** 2).sum(-1))
    assert np.allclose(model.predict_proba(x[12:]), p / p.sum(1, keepdims=True), rtol=1e-9)
    assert np.allclose(
        model.decision_function(x[12:]), -((x[12:, None] - means) ** 2).sum(-1), rtol=1e-9
    )
    assert model.n_features_in_ == 5 and model.score(x[12:], y[12:]) > 0.6


def test_labels_of_any_kind_come_back() -> None:
    x, y = blobs()
    names = np.array(["a-1", "b", "unlabeled"])
    for learner in ("protonet", REFINED):
        model = FewShotClassifier(learner).fit(x[:12], names[y[:12]])
        assert model.classes_.tolist() == names.tolist()
        expected = names[FewShotClassifier().fit(x[:12], y[:12]).predict(x)]
        assert (model.predict(x) == expected).all()
    signs = np.where(y[:12] == 0, -1, 1)
    model = FewShotClassifier().fit(x[:12], signs)
    assert model.classes_.tolist() == [-1, 1], "a learner without a pool takes -1 for a class"
    assert ((model.decision_function(x) > 0) == (model.predict(x) == 1)).all()
    texts = np.array(["-1", "", "b"])
    assert FewShotClassifier().fit(x[:12], texts[y[:12]]).classes_.tolist() == ["", "-1", "b"]


FOUR = (None, np.nan, "", -1)
MARKERS = {
    "int8": lambda y: y.astype(np.int8),
    "float16": lambda y: y.astype(np.float16),
    "NaN": lambda y: np.where(y < 0, np.nan, y),
    "None": lambda y: [None if c < 0 else int(c) for c in y],
    "None beside words": lambda y: [None if c < 0 else "abc"[c] for c in y],
    "blank": lambda y: ["" if c < 0 else "abc"[c] for c in y],
    "NaN beside words": lambda y: np.array([np.nan if c < 0 else "abc"[c] for c in y], object),
    "-1.0 beside words": lambda y: np.array(
        [np.float32(-1) if c < 0 else "abc"[c] for c in y], object
    ),
    "all of them": lambda y: np.array(
        [FOUR[i % 4] if c < 0 else "abc"[c] for i, c in enumerate(y)], object
    ),
}


@pytest.mark.parametrize("marker", MARKERS)
def test_every_mark_of_an_unlabeled_sample_is_one(marker: str) -> None:
    x, y = blobs()
    labels = np.where(np.arange(60) < 6, y, -1)
    expected = FewShotClassifier(REFINED).fit(x, labels)
    model = FewShotClassifier(REFINED).fit(x, MARKERS[marker](labels))
    assert model.classes_.tolist() in ([0, 1, 2], ["a", "b", "c"])
    assert np.array_equal(model.predict_proba(x), expected.predict_proba(x))


def test_every_mark_of_pandas_is_one() -> None:
    pd = pytest.importorskip("pandas")
    x, y = blobs()
    labels = np.where(np.arange(60) < 6, y, -1)
    expected = FewShotClassifier(REFINED).fit(x, labels).predict_proba(x)
    numbers = [pd.NA if c < 0 else int(c) for c in labels]
    words = [pd.NA if c < 0 else "abc"[c] for c in labels]
    for values, dtype in (
        (numbers, "Int64"),
        (numbers, object),
        (words, "string"),
        (words, object),
        (words, "category"),
    ):
        model = FewShotClassifier(REFINED).fit(x, pd.Series(values, dtype=dtype))
        assert np.array_equal(model.predict_proba(x), expected), dtype


def test_a_blank_text_is_no_class_beside_a_pool() -> None:
    x, y = np.random.default_rng(0).random((9, 4)), ["a", "b", " "] * 3
    with pytest.raises(InputError, match="the blank text ' '; mark unlabeled"):
        FewShotClassifier({"head": "protonet", "refine": "soft_kmeans"}).fit(x, y)
    assert FewShotClassifier().fit(x, y).classes_.tolist() == [" ", "a", "b"]


@pytest.mark.parametrize(
    "y", [["a", "b", -1] * 20, ["a", "b", float("nan")] * 20, np.array(["a", "b", "-1"] * 20)]
)
def test_what_numpy_makes_of_a_mixed_list_is_refused(y: Any) -> None:
    with pytest.raises(
        InputError,
        match=r"y holds the text '(-1|nan)', which numpy makes of a "
        r"list",
    ) as error:
        FewShotClassifier(REFINED).fit(blobs()[0], y)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_a_learner_without_a_pool_refuses_samples_without_a_label(nothing: Any) -> None:
    with pytest.raises(InputError, match="uses no unlabeled samples; leave them out"):
        FewShotClassifier().fit(blobs()[0], np.array(["a", "b", nothing] * 20, object))


def test_sparse_features_of_texts() -> None:
    texts = ["red apple", "green apple", "old car", "fast car"] * 3
    x = TfidfVectorizer().fit_transform(texts)
    for learner in ("protonet", REFINED):
        model = FewShotClassifier(learner).fit(x, ["fruit", "fruit", "car", "car"] * 3)
        assert np.array_equal(model.predict_proba(x), model.predict_proba(x.toarray()))
        assert model.predict(x).tolist() == ["fruit", "fruit", "car", "car"] * 3


def test_the_pool_is_used_as_on_an_episode_by_hand() -> None:
    x, y = blobs()
    labels = np.where(np.arange(40) < 6, y[:40], -1)
    labels[[5, 20]] = labels[[20, 5]]  # unlabeled samples may stand anywhere
    y[20] = labels[20]
    known = labels >= 0
    expected = by_hand(
        build(REFINED, (5,), 3), x[:40][known], labels[known], x[40:], x[:40][~known]
    )
    model = FewShotClassifier(REFINED).fit(x[:40], labels)
    assert np.allclose(model.predict_proba(x[40:]), expected, rtol=1e-9)
    without = FewShotClassifier(REFINED).fit(x[:40][known], labels[known])
    assert not np.allclose(without.predict_proba(x[40:]), expected, rtol=1e-2)
    mixed = np.array([-1 if c < 0 else "abc"[c] for c in labels], object)
    assert np.array_equal(
        FewShotClassifier(REFINED).fit(x[:40], mixed).predict_proba(x[40:]),
        model.predict_proba(x[40:]),
    )


def test_weights_of_samples() -> None:
    x, y = blobs()
    weight = np.random.default_rng(1).uniform(0.5, 2, 12)
    means = np.stack([np.average(x[:12][y[:12] == c], 0, weight[y[:12] == c]) for c in range(3)])
    scores = FewShotClassifier().fit(x[:12], y[:12], weight).decision_function(x)
    assert np.allclose(scores, -((x[:, None] - means) ** 2).sum(-1), rtol=1e-9)
    labels = np.where(np.arange(30) < 6, y[:30], -1)
    keep = np.arange(30) % 5 != 4  # leaves out labeled and unlabeled samples, no class as a whole
    model = FewShotClassifier(REFINED).fit(x[:30], labels, keep.astype(float))
    expected = FewShotClassifier(REFINED).fit(x[:30][keep], labels[keep]).predict_proba(x)
    assert np.array_equal(model.predict_proba(x), expected)


class Company(ProtoNet):
    """Transductive: it centres on the queries."""

    transductive = True

    def score(self, episode: Episode) -> Tensor:
        x = episode.x - episode.x[:, episode.query].mean(1, keepdim=True)
        return super().score(episode) + x.sum(-1, keepdim=True) * torch.arange(episode.way)


class Limited(ProtoNet):
    max_queries_per_class = 2

    def score(self, episode: Episode) -> Tensor:
        assert episode.n_query <= 2
        return super().score(episode)


@pytest.mark.parametrize("learner", ["protonet", "nearest_neighbor", REFINED, MAML, GNN])
def test_an_inductive_answer_does_not_depend_on_company(
    learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = blobs(20)
    model = FewShotClassifier(learner).fit(x[:6], np.arange(6) % 3)
    together = model.predict_proba(x)
    assert np.allclose(
        np.concatenate([model.predict_proba(x[i : i + 1]) for i in range(20)]), together, atol=1e-7
    )
    monkeypatch.setattr(estimator, "QUERIES_AT_ONCE", 1)
    monkeypatch.setattr(estimator, "NODES_AT_ONCE", 1)
    assert np.allclose(model.predict_proba(x), together, atol=1e-7)


def test_a_transductive_learner_sees_all_queries_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimator, "QUERIES_AT_ONCE", 1)
    x, y = blobs()
    learner = Pipeline(head=Company())
    model = FewShotClassifier(learner).fit(x[:12], y[:12])
    assert np.allclose(model.predict_proba(x), by_hand(learner, x[:12], y[:12], x), rtol=1e-9)
    limited = FewShotClassifier(Pipeline(head=Limited())).fit(x[:12], y[:12])
    assert np.allclose(
        limited.predict_proba(x), FewShotClassifier().fit(x[:12], y[:12]).predict_proba(x)
    )


def test_maml_adapts_on_features_and_repeats() -> None:
    x, y = blobs()
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first, again = (FewShotClassifier(MAML).fit(x[:30], y[:30]) for _ in range(2))
    assert np.array_equal(first.predict_proba(x), again.predict_proba(x))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are his"
    expected = by_hand(first.learner_, x[:30], y[:30], x)
    assert np.allclose(first.predict_proba(x), expected, atol=1e-9)
    net = first.learner_.net  # type: ignore[attr-defined]
    untaught = (x @ net.head.linear.weight.detach().numpy().T).argmax(1)
    assert first.score(x[30:], y[30:]) > (untaught[30:] == y[30:]).mean() + 0.2
    other = FewShotClassifier(MAML, random_state=1).fit(x[:30], y[:30])
    assert not np.allclose(other.predict_proba(x), expected, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit_keeps_a_copy_and_changes_nothing_of_its_callers(dtype: type) -> None:
    x, y = (a.copy() for a in blobs())
    x = x.astype(dtype)
    learner = build(GNN, (5,), 3).train()
    before_x, before_y = x.copy(), y.copy()
    before = {k: v.clone() for k, v in learner.state_dict().items()}
    model = FewShotClassifier(learner).fit(x[:9], y[:9])
    answer = model.predict_proba(x)
    assert np.array_equal(x, before_x) and np.array_equal(y, before_y) and learner.training
    assert all(
        torch.equal(v, before[k]) and v.dtype == before[k].dtype
        for k, v in learner.state_dict().items()
    )
    assert model.learner_.head.convs[0].linear.weight.dtype == torch.as_tensor(x).dtype  # type: ignore
    x[:9] = 0
    assert np.array_equal(model.predict_proba(before_x), answer)


def test_pipelines_cross_validation_and_grid_search() -> None:
    x, y = load_iris(return_X_y=True)
    x = x * [1, 1, 1, 1000]
    model = make_pipeline(StandardScaler(), FewShotClassifier())
    reference = make_pipeline(StandardScaler(), NearestCentroid())
    scores = cross_val_score(model, x, y, cv=4)
    assert scores.tolist() == cross_val_score(reference, x, y, cv=4).tolist()
    grid = GridSearchCV(
        model, {"fewshotclassifier__learner": ["protonet", "nearest_neighbor", REFINED]}, cv=4
    ).fit(x, y)
    means = grid.cv_results_["mean_test_score"]
    assert (
        means[0] == pytest.approx(scores.mean()) and grid.best_score_ == means.max() > means.min()
    )


@pytest.mark.parametrize("learner", [MAML, Pipeline(head=ProtoNet())], ids=["mapping", "object"])
def test_cross_validation_in_other_processes(learner: Any) -> None:
    x, y = load_iris(return_X_y=True)
    model = clone(FewShotClassifier(learner))
    here, there = (
        cross_val_predict(model, x, y, cv=2, n_jobs=n, method="predict_proba") for n in (1, 2)
    )
    assert np.allclose(here, there, atol=1e-7)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with a pool, hardly trained."""
    root = tmp_path_factory.mktemp("trained")
    for seed, split in enumerate(("train", "val", "test")):
        write_split(root / f"{split}.npz", seed)
    (root / "my.yaml").write_text(EXPERIMENT.replace("DATA", str(root)))
    changes = [
        "learner.refine=soft_kmeans",
        "trainer.steps=4",
        "trainer.val_every=4",
        "trainer.val_episodes=4",
    ]
    run.train(*run.prepare(Experiment.read(root / "my.yaml", changes), root / "run"))
    return root / "run"


def test_a_run_answers_as_its_predictor_does(trained: Path) -> None:
    with np.load(trained.parent / "test.npz") as file:
        images, labels = file["images"], file["labels"]
    at = [np.flatnonzero(labels == c) for c in range(3)]
    support, query, pool = (
        np.concatenate([a[s] for a in at]) for s in (slice(2), slice(2, 6), slice(6, 12))
    )
    large = [Image.fromarray(i).resize((40, 40)) for i in images]
    names = {c: f"class {c}" for c in range(3)}
    y = [names[c] for c in labels[support]] + [-1] * len(pool)
    predictor = load(trained)
    for picture in (images, large):
        for u in (pool, pool[:0]):
            given = {n: [picture[i] for i in support if labels[i] == c] for c, n in names.items()}
            answers = predictor.predict(given, [picture[i] for i in query], [picture[i] for i in u])
            expected = [[a.probabilities[n] for n in names.values()] for a in answers]
            for learner in (trained, str(trained), predictor):
                model = FewShotClassifier(learner)
                model.fit(
                    [picture[i] for i in (*support, *u)],
                    np.array(y[: len(support) + len(u)], object),
                )
                found = [picture[i] for i in query]
                assert np.allclose(model.predict_proba(found), expected, atol=1e-5)
                assert model.predict(found).tolist() == [a.label for a in answers]
    assert cross_val_score(FewShotClassifier(predictor), images, labels, cv=2).shape == (2,)
    with pytest.raises(InputError, match=r"uint8, uint16 or floats"):
        FewShotClassifier(predictor).fit(np.zeros((4, 5)), [0, 0, 1, 1])
    with pytest.raises(InputError, match=r"nowhere\.png cannot be read"):
        FewShotClassifier(predictor).fit(["nowhere.png"] * 2, [0, 1])


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("policy", ["running", "support"])
def test_images_without_a_run(color: bool, policy: str) -> None:
    section = {"encoder": {"name": "conv4", "width": 4}, "head": "protonet", "batch_norm": policy}
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (20, 16, 16, 3) if color else (20, 16, 16)).astype(np.uint8)
    y = np.arange(20) % 4
    model = FewShotClassifier(section).fit(x[:12], y[:12])
    channels_first = (
        torch.from_numpy(x).permute(0, 3, 1, 2) if color else torch.from_numpy(x)[:, None]
    )
    expected = by_hand(model.learner_, channels_first[:12] / 255, y[:12], channels_first[12:] / 255)
    assert np.allclose(model.predict_proba(x[12:]), expected, atol=1e-5)
    with pytest.raises(InputError, match="but X holds"):
        model.predict(x[12:, :8])
    with pytest.raises(InputError, match=r"images must be uint8"):
        model.predict(x[12:] / 255)


def test_an_encoder_that_names_its_normalisation_gets_it() -> None:
    learner = cases_learner()
    assert isinstance(learner, Pipeline)
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    y = np.arange(6) % 3
    learner.encoder.mean, learner.encoder.std = (0.4,), (0.2,)  # type: ignore[assignment]
    normalised = ((torch.from_numpy(x) / 255 - 0.4) / 0.2)[:, None]
    expected = by_hand(learner, normalised[:6], y, normalised[6:])
    assert np.allclose(
        FewShotClassifier(learner).fit(x[:6], y).predict_proba(x[6:]), expected, atol=1e-5
    )


def test_an_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = cases_learner()
    assert isinstance(learner, Pipeline)
    seen = []
    learner.encoder.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    monkeypatch.setattr(estimator, "QUERIES_AT_ONCE", 2)
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 8)).astype(np.uint8)
    FewShotClassifier(learner).fit(x[:6], np.arange(6) % 3).predict(x[6:])
    assert sum(seen) == 20


@pytest.mark.parametrize(
    ("learner", "x", "y", "message"),
    [
        ("protonett", None, None, "did you mean 'protonet'"),
        (Path("no/such/run"), None, None, "unknown head or run directory"),
        (3, None, None, "learner must be the name of a head"),
        ({"heads": "protonet"}, None, None, "did you mean 'head'"),
        ("linear", None, None, r"learner\.adapt=maml"),
        ({"encoder": "conv4", "head": "protonet"}, None, None, "features already"),
        (Pipeline(head=Linear(5, 2)), None, None, "tied to 2 classes at most, but y holds 3"),
        (Pipeline(head=Linear(6, 3)), None, None, r"fails on features of shape \(5,\)"),
        (cases_learner(), None, None, r"fails on samples of shape \(5,\)"),
        (REFINED, None, np.full(60, -1), "label at least one sample"),
        (REFINED, None, np.where(np.arange(60) < 30, -1, 1), "one class beside -1"),
        ("protonet", np.zeros((60, 8, 8)), None, "images must be uint8"),
        ("protonet", np.zeros((60, 8, 8, 4), np.uint8), None, "images must be uint8"),
        ("protonet", np.zeros((59, 8, 8), np.uint8), None, "inconsistent numbers of samples"),
        ("protonet", None, np.arange(59), "inconsistent numbers of samples"),
        ("protonet", None, np.linspace(0, 1, 60), "Unknown label type"),
    ],
)
def test_bad_input_is_one_clear_line(learner: Any, x: Any, y: Any, message: str) -> None:
    features, labels = blobs()
    with pytest.raises(ValueError, match=message) as error:
        FewShotClassifier(learner).fit(features if x is None else x, labels if y is None else y)
    assert "\n" not in str(error.value)


def test_bad_weights() -> None:
    x, y = blobs()
    for weight in (np.ones(59), np.full(60, -1.0), np.full(60, np.nan), np.ones((60, 1))):
        with pytest.raises(InputError, match="must be 60 numbers of 0 or more"):
            FewShotClassifier().fit(x, y, weight)
    with pytest.raises(InputError, match="is zero"):
        FewShotClassifier().fit(x, y, np.zeros(60))


def test_a_run_on_features_takes_no_other_samples(trained: Path) -> None:
    predictor = load(trained)
    predictor.run.shape, predictor.run.learner = (5,), Pipeline(head=ProtoNet())
    predictor = Predictor(predictor.run)
    x, y = blobs()
    assert (
        FewShotClassifier(predictor).fit(x[:9], y[:9]).predict(x)
        == FewShotClassifier().fit(x[:9], y[:9]).predict(x)
    ).all()
    with pytest.raises(InputError, match=r"takes samples of shape \(5,\), but X holds \(4,\)"):
        FewShotClassifier(predictor).fit(x[:, :4], y)
