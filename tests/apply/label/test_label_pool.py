"""A pool labeled from a handful: the closed form, the same answer in any pieces, honest doubt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphfsl.apply.label import label_pool as pools
from graphfsl.apply.label.label_pool import label_pool
from graphfsl.apply.label.pool_arguments import PRIORS
from graphfsl.functional import neighbors
from graphfsl.functional.distinct_neighbors import distinct_neighbors
from graphfsl.io.errors import InputError
from tests.support.pools import clusters, dense, few


def test_labels_and_what_spoke_for_them_are_the_closed_form() -> None:
    x, y = clusters(4, 30, spread=0.6)
    support, label = few(y, 3, 4)
    found = label_pool(x, support, label, neighbors=5, alpha=0.8)
    g = dense(x, 5, 0.8)[:, support]
    score = torch.stack([g[:, label == c].mean(1) for c in range(4)], 1)
    rest = ~found.given
    assert np.array_equal(found.best[rest], score.argmax(1).numpy()[rest])
    p = (score.log() / found.facts["temperature"]).softmax(1).amax(1).numpy()
    np.testing.assert_allclose(found.score[rest], p[rest], atol=1e-4)
    for i in np.flatnonzero(rest):
        own = np.flatnonzero(label == found.best[i])
        said = g[i, own] / g[i, own].sum()
        order = said.argsort(descending=True)
        np.testing.assert_array_equal(found.support[i], own[order.numpy()])
        np.testing.assert_allclose(found.share[i], said[order], atol=1e-4)
    assert np.array_equal(found.label[support], label) and (found.score[support] == 1).all()
    assert np.isnan(found.confidence).all(), "of twelve labels too few are held out"
    assert np.array_equal(np.flatnonzero(found.given), np.sort(support))


def test_what_is_held_out_is_what_others_say() -> None:
    x, y = clusters(3, 30, spread=0.9)
    support, label = few(y, 4, 3)
    g = dense(x, 5, 0.8)
    pool = g[np.setdiff1d(np.arange(len(x)), support)]

    def score(i: int, own: list[int], prior: str) -> float:
        said, mass = float(g[i, own].sum()), float(pool[:, own].sum())
        return {"none": said / len(own), "uniform": said / mass, "labels": said * len(own) / mass}[
            prior
        ]

    for prior in PRIORS:
        found = label_pool(x, support, label, neighbors=5, alpha=0.8, prior=prior)
        right = []
        for i, c in zip(support, label, strict=True):
            others = [[s for s in support if s != i and y[s] == k] for k in range(3)]
            right.append(int(np.argmax([score(i, own, prior) for own in others])) == c)
        assert found.facts["held out"] == 12 and found.facts["right"] == pytest.approx(
            np.mean(right)
        )


@pytest.mark.parametrize("prior", ["uniform", "labels"])
def test_priors_balance_the_mass_of_classes(prior: str) -> None:
    x, y = clusters(3, 40, spread=1.0)
    support = np.concatenate([np.flatnonzero(y == c)[:n] for c, n in ((0, 1), (1, 2), (2, 5))])
    g = dense(x, 10, 0.9)[:, support]
    rest = np.setdiff1d(np.arange(len(x)), support)
    score = torch.stack([g[:, y[support] == c].sum(1) for c in range(3)], 1)
    share = torch.tensor([1.0, 1, 1] if prior == "uniform" else [1.0, 2, 5], dtype=torch.float64)
    score = score * share / score[rest].sum(0)
    torch.testing.assert_close(score[rest].sum(0), share)
    found = label_pool(x, support, y[support], prior=prior)
    assert np.array_equal(found.best[rest], score.argmax(1).numpy()[rest])


@pytest.mark.parametrize("cell", [False, True])
def test_the_answer_is_the_same_for_any_chunk(cell: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if cell:
        pytest.importorskip("faiss")
        monkeypatch.setattr(neighbors, "EXACT", 100)
        monkeypatch.setattr(neighbors, "CELL", 64)
    x, y = clusters(6, 100, spread=0.8)
    support, label = few(y, 3, 5)
    label[-2:] = -1
    whole = label_pool(x, support, label)
    for chunk, numbers in ((1, 15), (4, 1000), (1000, 37 * 15)):
        monkeypatch.setattr(pools, "NUMBERS", numbers)
        found = label_pool(x, support, label, chunk=chunk)
        for name in ("label", "best", "support", "given"):
            assert np.array_equal(getattr(found, name), getattr(whole, name)), name
        for name in ("score", "none", "share"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), atol=1e-6)


def test_distractors_are_found_and_a_clean_pool_is_left_alone() -> None:
    x, y = clusters(10, 60, spread=0.5)
    support, label = few(y, 15, 6)
    found, rest = label_pool(x, support, label), np.setdiff1d(np.arange(len(x)), support)
    own, foreign = rest[y[rest] < 6], rest[y[rest] >= 6]
    assert (found.label[foreign] == -1).mean() > 0.95 and (found.label[own] == y[own]).mean() > 0.75
    assert len(np.unique(found.none)) > 300, "a score, not a few steps"
    clean = np.flatnonzero(y < 6)
    again = label_pool(x[clean], np.searchsorted(clean, support), label)
    assert (again.label == -1).mean() < 0.02 and (again.label == y[clean]).mean() > 0.97
    assert again.facts["tells"] is False and found.facts["tells"] is True
    never = label_pool(x, support, label, none=1)
    assert np.array_equal(never.label, never.best) and np.array_equal(never.best, found.best)


def test_with_one_label_samples_of_none_tell_what_is_none() -> None:
    x, y = clusters(8, 40, spread=0.5)
    support, label = few(y, 1, 8)
    label[label >= 5] = -1
    found = label_pool(x, support, label)
    assert found.facts["held out"] == 0 and found.facts["temperature"] == pytest.approx(
        0.7, abs=0.02
    )
    expected = np.where(y < 5, y, -1)
    assert (found.label == expected).mean() > 0.95
    assert (found.label[support] == label).all() and (found.none[support[label < 0]] == 1).all()


def test_what_no_label_reaches_is_none() -> None:
    x, y = clusters(2, 30, dim=8)
    away = np.zeros((40, 16), np.float32)
    away[:, 8:] = clusters(1, 40, dim=8)[0]
    x = np.concatenate([np.pad(x, ((0, 0), (0, 8))), away])
    support, label = few(y, 2, 2)
    found = label_pool(x, support, label, none=1)
    assert (
        (found.label[60:] == -1).all()
        and (found.best[60:] == -1).all()
        and (found.none[60:] == 1).all()
    )
    assert (found.score[60:] == 0).all() and (found.support[60:] == -1).all()
    assert np.array_equal(found.reached, np.arange(100) < 60) and np.array_equal(
        found.of(-2), np.arange(60, 100)
    )
    assert not len(found.of(-1))
    assert (found.best[:60] == y).all()


def test_confidence_is_calibrated_on_held_out_labels() -> None:
    x, y = clusters(5, 300, spread=1.6, seed=3)
    support, label = few(y, 20, 5)
    found = label_pool(x, support, label)
    rest = ~found.given
    right = (found.best == y)[rest]
    assert 0.4 < right.mean() < 0.95, "neither easy nor hopeless"
    assert found.confidence[rest].mean() == pytest.approx(right.mean(), abs=0.07)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"neighbors": 0}, "neighbors must lie between 1"),
        ({"alpha": 1.0}, "alpha must lie between 0 and 0.999"),
        ({"none": -0.1}, "none must lie between"),
        ({"chunk": 0}, "chunk must be a whole number of at least 1"),
        ({"prior": "unifrom"}, "did you mean 'uniform'"),
        ({"label": np.array([0, 0])}, "has 1 class"),
        ({"label": np.array([-1, -1])}, "has 0 class"),
        ({"label": np.array([0, 2])}, r"numbered 0 \.\. C - 1.*there are \[0, 2\]"),
        ({"support": np.array([1, 1])}, "sample 1 stands in the support twice"),
        ({"support": np.array([0, 99])}, "sample 99 of the support is none of the pool's"),
        ({"x": np.full((20, 4), np.nan, np.float32)}, "sample 0 of the pool holds NaN"),
        ({}, r"2 labels in a pool of 20 need 0\.0 GB"),
    ],
)
def test_options_that_cannot_be_used(
    options: dict[str, object], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not options:
        monkeypatch.setattr("graphfsl.apply.label.pool_arguments.os.sysconf", lambda name: 1)
    given = {
        "x": clusters(2, 10)[0],
        "support": np.array([0, 1]),
        "label": np.array([0, 1]),
        **options,
    }
    with pytest.raises(InputError, match=line):
        label_pool(**given)  # type: ignore[arg-type]


def test_held_out_labels_that_nothing_reaches_are_not_found_again() -> None:
    x = np.zeros((500, 40), np.float32)
    for c, pair in enumerate(np.random.default_rng(0).random((500, 2)).reshape(20, 25, 2)):
        x[25 * c : 25 * c + 25, 2 * c : 2 * c + 2] = pair  # at right angles to all others
    support, label = np.arange(20) * 25, np.arange(20) % 5
    for prior in PRIORS:
        found = label_pool(x, support, label, prior=prior)
        assert (found.facts["held out"], found.facts["reached"], found.facts["right"]) == (
            20,
            0,
            0.0,
        )
        assert not found.facts["borne out"] and np.isnan(found.confidence).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_a_class_that_reaches_nothing_wins_nothing(prior: str) -> None:
    x, y = clusters(2, 40, dim=8)
    x = np.pad(x, ((0, 1), (0, 1)))
    x[-1] = np.eye(9)[-1]  # alone at right angles to all
    support, label = few(y, 3, 2)
    found = label_pool(x, np.append(support, 80), np.append(label, 2), prior=prior)
    assert (found.best[:80] == y).all()


def test_where_labels_cannot_tell_nothing_is_called_none() -> None:
    for draw in range(8):
        x, y = clusters(2, 60, spread=1.0, seed=draw)
        support, label = few(y, 2, 2, seed=draw)
        found = label_pool(x, support, label)
        assert not found.facts["tells"] and (found.label >= 0).all()
        assert not found.facts["borne out"], "four labels bear nothing out"
        asked = label_pool(x, support, label, none=0.4)
        assert np.array_equal(asked.label < 0, asked.none > 0.4), "unless one asks for it"


@pytest.mark.parametrize("each", [(50, 1, 1), (50, 2, 2), (10, 10, 10)])
def test_classes_of_unequal_labels_or_sizes_are_not_foreign(each: tuple[int, ...]) -> None:
    for draw in range(4):
        x, y = clusters(3, 300, spread=0.9, dim=24, seed=draw)
        if each == (10, 10, 10):
            kept = np.concatenate(
                [np.flatnonzero(y == c)[:size] for c, size in enumerate((300, 40, 40))]
            )
            x, y = x[kept], y[kept]
        support = np.concatenate([np.flatnonzero(y == c)[:k] for c, k in enumerate(each)])
        found = label_pool(x, support, y[support])
        assert (found.label >= 0).all() and not found.facts["tells"]
        assert not (1 in each and found.facts["borne out"]), "of two classes nothing is held out"


def test_none_ranks_by_propagated_mass_over_the_root_of_degree() -> None:
    x, y = clusters(6, 30, spread=0.8)
    support, label = few(y, 3, 3)
    found = label_pool(x, support, label, neighbors=5, alpha=0.8)
    g = dense(x, 5, 0.8)[:, support]
    z = torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1)
    cos = (z @ z.T).fill_diagonal_(-1)
    a = torch.zeros_like(cos).scatter(1, cos.topk(5).indices, 1.0) * cos.clamp_min(0) ** 3
    mass = (
        torch.stack([g[:, label == c].mean(1) for c in range(3)], 1).amax(1)
        / (a + a.T).sum(1).sqrt()
    )
    rest = np.flatnonzero(~found.given)
    rest = rest[found.reached[rest]]
    by_mass = rest[mass.numpy()[rest].argsort()]
    assert (np.diff(found.none[by_mass]) <= 1e-5).all()
    own, foreign = found.none[rest[y[rest] < 3]], found.none[rest[y[rest] >= 3]]
    assert (own[:, None] < foreign).mean() > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.05])
def test_neighbours_are_chosen_among_distinct_samples(noise: float) -> None:
    x, y = clusters(3, 40)
    support, label = few(y, 2, 3)
    alone = label_pool(x, support, label)
    copies = x.repeat(12, 0) + noise * np.random.default_rng(0).standard_normal((1440, 16)).astype(
        np.float32
    )
    found = label_pool(copies, 12 * support, label)
    assert found.reached.all() and (found.best == y.repeat(12)).mean() > 0.97
    if noise == 0:
        assert found.facts["distinct"] == 120
        np.testing.assert_array_equal(found.best[::12], alone.best)


def test_equal_features_are_one_sample() -> None:
    x, y = clusters(3, 40, spread=1.0)
    support, label = few(y, 2, 3)
    alone = label_pool(x, support, label)
    found = label_pool(np.concatenate([x, x[:50], x[:50]]), support, label)
    rest = ~alone.given
    np.testing.assert_array_equal(found.best[:120][rest], alone.best[rest])
    np.testing.assert_array_equal(found.best[120:170], found.best[170:])
    same = label_pool(np.ones((30, 4), np.float32), np.array([0, 1]), np.array([0, 1]))
    assert same.reached.all()


def test_a_chain_of_frames_is_no_copy_of_its_first() -> None:
    ends, step = np.random.default_rng(0).standard_normal((2, 32)), np.linspace(0, 1, 500)[:, None]
    pan = (1 - step) * ends[0] + step * ends[1]  # from a labeled class to what has no label
    x = np.concatenate([pan, clusters(1, 40, dim=32, seed=1)[0]]).astype(np.float32)
    support, label = np.array([0, 9, 500, 501]), np.array([0, 0, 1, 1])
    own = distinct_neighbors(x, 10, support, label).group
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    copies = [i for i in range(1, 540) if own[i] in own[support] and i not in support]
    assert copies and (1 - (z[copies] @ z[support].T).max(1) < 1e-3).all(), (
        "a copy looks like what it copies"
    )
    assert label_pool(x, support, label).facts["held out"] == 4, "labels far apart are two samples"


def test_a_wrong_label_is_doubted_and_the_ones_that_contradict_it_are_named() -> None:
    x, y = clusters(3, 40, spread=0.5)
    support, label = few(y, 5, 3)
    wrong = label.copy()
    wrong[[0, 7]] = [1, 2]  # of classes 0 and 1
    found = label_pool(x, support, wrong)
    assert sorted(found.doubted) == [0, 7]
    assert found.said[[0, 7]].tolist() == [0, 1]
    for s, true in ((0, 0), (7, 1)):
        assert (wrong[found.against[s]] == true).all() and s not in found.against[s]
    right = np.setdiff1d(np.arange(15), [0, 7])
    assert found.doubt[right].max() < found.doubt[[0, 7]].min()
    clean = label_pool(x, support, label)
    assert not len(clean.doubted) and (clean.against == -1).all()
    assert np.array_equal(clean.said, label)


def test_a_doubt_is_what_the_other_labels_say() -> None:
    """The closed form of the row without its own column, by the temperature of all, times the
    prior that a label is right as often as the others find one again.
    """
    x, y = clusters(3, 30, spread=1.2)
    support, label = few(y, 4, 3)
    found = label_pool(x, support, label, neighbors=5, alpha=0.8)
    g = dense(x, 5, 0.8)[support][:, support].fill_diagonal_(0)
    member = torch.eye(3, dtype=torch.float64)[label]
    count = member.sum(0) - member  # labels of each class without the row's own
    likely = ((g @ member / count).log() / found.facts["temperature"]).softmax(1)
    trust = min(max(found.facts["right"], 0.5), 0.95)
    p = likely * (trust * member + (1 - trust) / 2 * (1 - member))
    p = p / p.sum(1, keepdim=True)
    own = p[torch.arange(12), torch.from_numpy(label)]
    np.testing.assert_allclose(found.doubt, 1 - own, atol=1e-3)
    assert np.array_equal(found.said, p.argmax(1))


def test_a_label_without_another_of_its_class_is_not_doubted() -> None:
    x, y = clusters(3, 30, spread=1.0)
    support, label = few(y, 1, 3)
    found = label_pool(x, support, label)
    assert np.isnan(found.doubt).all() and not len(found.doubted)
