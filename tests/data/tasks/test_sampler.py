"""The sampler: episode i is a pure function of (split, setting, seed, i), and its parts are what
the setting says.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scipy import stats

from graphfsl.data import Episodes, Sampler, Setting, Split
from graphfsl.data.deck import label_split
from graphfsl.data.streams import choose, keys_of, uniform
from graphfsl.data.tasks._class_sampler import Draw
from graphfsl.io.errors import InputError
from tests.support import ROOT
from tests.support.sampling import PARTS, check, labels, make, parts


def draw(split: Split, i: Any, seed: int = 0, **setting: Any) -> Draw:
    return Sampler(split, Setting(**setting), seed).draw(i)


def equal(a: Draw, b: Draw) -> bool:
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in PARTS)


# ---- a pure function ----

SETTINGS: list[dict[str, Any]] = [
    {},
    {"way": 3, "shot": 2, "query": 4, "unlabeled": 5},
    {"way": 3, "query": 3, "unlabeled": 2, "distractors": 2},
    {"way": 4, "query": 4, "dirichlet": 1.0, "unlabeled": 1},
    {"way": 4, "query": 4, "shot": 1, "max_shot": 4, "unlabeled": 2},
    {"way": 3, "query": 2, "labeled_fraction": 0.4, "unlabeled": 3, "distractors": 1},
    {"way": 3, "query": 2, "groups": "within", "distractors": 1, "unlabeled": 2},
    {"way": 3, "query": 2, "groups": "across"},
    {
        "way": 2,
        "query": 1,
        "shot": 1,
        "max_shot": 3,
        "dirichlet": 0.3,
        "labeled_fraction": 0.5,
        "unlabeled": 4,
    },
]


UNEQUAL: list[dict[str, Any]] = [
    {"way": 3, "query": 3, "unlabeled": 4, "pool_dirichlet": 2.0, "distractors": 2},
    {"way": 4, "query": 4, "unlabeled": 3, "pool_dirichlet": 0.1, "dirichlet": 1.0, "max_shot": 3},
    {
        "way": 3,
        "query": 2,
        "labeled_fraction": 0.4,
        "unlabeled": 6,
        "pool_dirichlet": 0.5,
        "distractors": 1,
    },
    {"way": 3, "query": 2, "pool_dirichlet": 2.0},
]


@pytest.mark.parametrize("setting", SETTINGS + UNEQUAL, ids=str)
def test_draws_are_right_and_independent_of_their_batch(setting: dict[str, Any]) -> None:
    split = make()
    together = draw(split, np.arange(30), **setting)
    check(split, Setting(**setting), together)
    alone = draw(split, [7], **setting)
    some = draw(split, [3, 7, 9], **setting)
    assert equal(alone, Draw(some.ids[1:2], some.label[1:2], some.classes[1:2], 0, 0))
    assert equal(alone, Draw(together.ids[7:8], together.label[7:8], together.classes[7:8], 0, 0))
    assert equal(draw(split, np.array([7], dtype=np.int32), **setting), alone)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_another_number_seed_or_split_is_another_episode(setting: dict[str, Any]) -> None:
    base = draw(make(), np.arange(50), **setting)
    for other in (
        draw(make(), np.arange(50, 100), **setting),
        draw(make(), np.arange(50), seed=1, **setting),
        draw(make(name="fake/test"), np.arange(50), **setting),
    ):
        assert (base.ids != other.ids).any(1).all()


# Of the settings above under seed 5. If it changes, published results can no longer be repeated:
# streams of random numbers are appended to, never renumbered.
DIGEST = "57b6f5bdb930be916008b648b045a6fa568337b0b3cd6ce72ea58f748dd8804f"


def digest() -> str:
    draws = [draw(make(), range(20), seed=5, **setting) for setting in SETTINGS]
    return hashlib.sha256(
        b"".join(getattr(d, p).astype("<i8").tobytes() for d in draws for p in PARTS)
    ).hexdigest()


# Of every combination of these, as drawn before pools could be unequal.
AXES: dict[str, list[Any]] = {
    "unlabeled": [0, 3],
    "distractors": [0, 2],
    "dirichlet": [None, 0.3, 2.0],
    "max_shot": [None, 3],
    "labeled_fraction": [1.0, 0.5],
    "groups": ["any", "within", "across"],
}
WIDE = "2fb222038f898bb6dc0851a775f1ca0b5f174b42bc53dac11fb45670308298f5"


def test_old_settings_draw_the_very_same_episodes() -> None:
    splits = [
        make(classes=30, groups=6),
        make([18, 40, 23, 19, 57, 20, 31] * 5, groups=7),
        make(classes=30, free=30, groups=6, name="other/val"),
    ]
    found, count = hashlib.sha256(), 0
    for split, values in itertools.product(splits, itertools.product(*AXES.values())):
        setting = dict(zip(AXES, values, strict=True))
        if setting["distractors"] and (split.y < 0).any():
            continue  # refused
        d = draw(split, [0, 1, 2, 3, 10**6], seed=3, way=3, query=2, **setting)
        count += 1
        for part in PARTS:
            found.update(getattr(d, part).astype("<i8").tobytes())
    assert (count, found.hexdigest()) == (360, WIDE)


def test_the_same_episodes_in_every_process_and_version() -> None:
    env = os.environ | {"PYTHONHASHSEED": "12345"}
    code = "from tests.data.tasks.test_sampler import digest; print(digest())"
    command = [sys.executable, "-c", code]
    other = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert digest() == other == DIGEST


def test_large_and_far_numbers() -> None:
    split, setting = make(), Setting(way=3, query=2)
    check(split, setting, Sampler(split, setting).draw(np.array([0, 2**31, 2**40, 2**62])))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_setting_that_is_accepted_gives_right_episodes(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(9, 40), min_size=8, max_size=18), label="counts")
    free = data.draw(st.sampled_from([0, 40]), label="free")
    shot = data.draw(st.integers(1, 3))
    setting = Setting(
        way=data.draw(st.integers(2, 5)),
        shot=shot,
        query=data.draw(st.integers(1, 4)),
        unlabeled=data.draw(st.integers(0, 4)),
        distractors=0 if free else data.draw(st.integers(0, 3)),
        labeled_fraction=data.draw(st.sampled_from([1.0, 0.5, 0.3])),
        label_seed=data.draw(st.integers(0, 3)),
        dirichlet=data.draw(st.sampled_from([None, 1e-3, 0.1, 2.0, 1e6])),
        max_shot=data.draw(st.sampled_from([None, shot, shot + 2])),
        groups=data.draw(st.sampled_from(["any", "within", "across"])),
    )
    split = make(counts, free=free)
    try:
        sampler = Sampler(split, setting, data.draw(st.integers(0, 2**40)))
    except InputError as error:
        assert "\n" not in str(error)
        event("refused")
        return
    event("accepted")
    i = np.arange(8)
    check(split, setting, sampler.draw(i))
    assert equal(
        sampler.draw(i[3:4]),
        Draw(*(getattr(sampler.draw(i), p)[3:4] for p in PARTS), 0, 0),  # type: ignore[call-arg]
    )


# ---- prefixes: one thing more leaves the rest as it was ----


@pytest.mark.parametrize(
    "extra", [{}, {"dirichlet": 2.0}, {"max_shot": 3}, {"labeled_fraction": 0.6}], ids=str
)
def test_more_unlabeled_images_leave_support_and_queries_alone(extra: dict[str, Any]) -> None:
    split = make(40)
    draws = [draw(split, np.arange(20), way=4, query=3, unlabeled=u, **extra) for u in (0, 1, 6)]
    for d in draws[1:]:
        assert all(
            np.array_equal(a, b) for a, b in zip(parts(draws[0])[:2], parts(d)[:2], strict=True)
        )
        assert np.array_equal(draws[0].classes, d.classes)
    few, many = (parts(d)[2] for d in draws[1:])
    assert all(set(a) < set(b) for a, b in zip(few, many, strict=True))


def test_more_distractors_leave_the_rest_alone() -> None:
    split = make(30)
    draws = [
        draw(split, np.arange(20), way=4, query=3, unlabeled=3, distractors=n) for n in (0, 1, 4)
    ]
    for d in draws[1:]:
        assert all(
            np.array_equal(a, b) for a, b in zip(parts(draws[0])[:2], parts(d)[:2], strict=True)
        )
        assert all(set(a) < set(b) for a, b in zip(parts(draws[0])[2], parts(d)[2], strict=True))


def test_more_queries_leave_the_support_alone() -> None:
    few, many = (draw(make(30), np.arange(20), query=q) for q in (2, 9))
    assert np.array_equal(parts(few)[0], parts(many)[0])


# ---- order, shots, balance ----


def test_queries_and_pool_are_shuffled() -> None:
    d = draw(make(), np.arange(400), way=4, query=5, unlabeled=3)
    _, query, pool = labels(d)
    for part in (query, pool):
        assert not (np.diff(part) >= 0).all(1).any(), "in class order"
        assert len(np.unique(part, axis=0)) > 390
        # every place shows every class equally often
        share = np.stack([(part == c).mean(0) for c in range(4)])
        assert np.abs(share - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 400)


def test_shots_vary_within_their_bounds_and_the_rest_is_padding() -> None:
    split = make(30)
    episodes = Episodes(split, way=4, shot=2, max_shot=5, query=3, unlabeled=2)
    episode, target = episodes.batch(range(500))
    count = episode.w[:, episode.support].sum(1).long()
    assert set(count.unique().tolist()) == {2, 3, 4, 5}
    assert stats.chisquare(np.bincount(count.flatten())[2:]).pvalue > 1e-3
    assert torch.equal(episode.mask, target.ids >= 0) and episode.padded
    assert torch.equal(episode.mask.sum(1), count.sum(1) + 4 * (3 + 2))
    assert (episode.x[~episode.mask] == 0).all() and (episode.w[~episode.mask] == 0).all()
    assert episode.mask[:, episode.query].all() and episode.mask[:, episode.unlabeled].all()


def test_a_fixed_shot_has_no_mask() -> None:
    episode, _ = Episodes(make(), way=3, query=2).batch([0, 1])
    assert not episode.padded and episode.mask.all()


def test_a_batch_shows_the_images_and_hides_the_labels() -> None:
    split = make()
    episode, target = Episodes(split, way=3, query=2, unlabeled=2, distractors=1).batch([4, 2])
    assert episode.x.shape == (2, 3 + 6 + 8, 1, 2, 2) and episode.x.dtype == torch.float32
    # images show their id
    assert torch.equal((episode.x[..., 0, 0, 0] * 255).round().long(), target.ids)
    assert torch.equal(episode.w[:, episode.support].argmax(-1), torch.arange(3).expand(2, 3))
    assert (episode.w[:, 3:] == 0).all(), "a query or unlabeled node carries its label"
    columns = torch.cat([target.query, target.unlabeled], 1)
    y = split.y[target.ids[:, 3:]]
    assert torch.equal(
        y[columns >= 0], target.classes.gather(1, columns.clamp_min(0))[columns >= 0]
    )
    assert (target.unlabeled == -1).sum(1).tolist() == [2, 2]


def test_dirichlet_queries_are_unbalanced_as_the_distribution_says() -> None:
    way, query, alpha = 5, 15, 2.0
    d = draw(make(150), np.arange(4000), way=way, query=query, dirichlet=alpha)
    count = np.stack([(labels(d)[1] == c).sum(1) for c in range(way)], 1)
    assert (count.sum(1) == way * query).all() and len(np.unique(count)) > 40
    share = count / (way * query)
    variance = (1 / way) * (1 - 1 / way) / (way * alpha + 1)
    assert np.abs(share.mean(0) - 1 / way).max() < 5 * np.sqrt(variance / 4000)
    # rounding to whole images adds under 1%
    assert np.abs(share.var(0) / variance - 1).max() < 0.12


@pytest.mark.parametrize("alpha", [1e-4, 1e-2, 2.0, 1e5])
def test_dirichlet_respects_what_there_is(alpha: float) -> None:
    split = make([40, 8, 9, 7, 60, 12])
    setting = Setting(way=4, shot=2, query=4, unlabeled=1, dirichlet=alpha)
    d = Sampler(split, setting).draw(np.arange(300))
    check(split, setting, d)
    count = np.stack([(labels(d)[1] == c).sum(1) for c in range(4)], 1)
    room = split.counts[d.classes] - 2 - 1
    assert (count <= room).all() and (count.sum(1) == 16).all() and (count == room).any()


@pytest.mark.parametrize(
    "extra", [{}, {"labeled_fraction": 0.5}, {"dirichlet": 2.0}, {"max_shot": 4}], ids=str
)
def test_unequal_pools_leave_everything_else_alone(extra: dict[str, Any]) -> None:
    split, setting = make(60), {"way": 4, "query": 3, "unlabeled": 5, "distractors": 2, **extra}
    equal_pool, *others = (
        draw(split, np.arange(30), **setting, pool_dirichlet=a) for a in (None, 2.0, 0.1)
    )
    for d in others:
        assert np.array_equal(d.classes, equal_pool.classes)
        assert all(
            np.array_equal(a, b) for a, b in zip(parts(d)[:2], parts(equal_pool)[:2], strict=True)
        )
        foreign = [{*p[y == -1]} for p, y in zip(parts(d)[2], labels(d)[2], strict=True)]
        assert foreign == [
            {*p[y == -1]} for p, y in zip(parts(equal_pool)[2], labels(equal_pool)[2], strict=True)
        ]


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_unequal_pools_are_as_the_distribution_says(fraction: float) -> None:
    way, unlabeled, alpha = 5, 30, 2.0
    setting = {
        "way": way,
        "query": 2,
        "unlabeled": unlabeled,
        "pool_dirichlet": alpha,
        "labeled_fraction": fraction,
    }
    pool = labels(draw(make(400, classes=6), np.arange(2000), **setting))[2]
    count = np.stack([(pool == c).sum(1) for c in range(way)], 1)
    share = count / (way * unlabeled)
    variance = (1 / way) * (1 - 1 / way) / (way * alpha + 1)
    assert np.abs(share.mean(0) - 1 / way).max() < 5 * np.sqrt(variance / 2000)
    assert np.abs(share.var(0) / variance - 1).max() < 0.15
    # The pool's shares are numbers of their own: the queries' say nothing of them.
    both = draw(
        make(400, classes=6), np.arange(2000), **{**setting, "query": 30, "dirichlet": alpha}
    )
    asked, pooled = (np.stack([(part == 0).sum(1)], 1)[:, 0] for part in labels(both)[1:])
    assert abs(np.corrcoef(asked, pooled)[0, 1]) < 0.1


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("alpha", [1e-4, 2.0])
def test_unequal_pools_respect_what_there_is(alpha: float, fraction: float) -> None:
    split = make([40, 12, 14, 13, 60, 20])
    setting = Setting(
        way=4, query=2, unlabeled=3, pool_dirichlet=alpha, labeled_fraction=fraction, max_shot=2
    )
    d = Sampler(split, setting).draw(np.arange(300))
    check(split, setting, d)
    count = np.stack([(labels(d)[2] == c).sum(1) for c in range(4)], 1)
    shots = np.stack([(labels(d)[0] == c).sum(1) for c in range(4)], 1)
    have = split.counts[d.classes]
    room = have - shots - 2 if fraction == 1 else have - have // 2
    assert (count <= room).all() and ((count == room).any() or alpha == 2.0)


@pytest.mark.parametrize(
    "setting",
    [
        {"shot": 5, "query": 5, "unlabeled": 10, "pool_dirichlet": 2.0},
        {"shot": 5, "query": 15, "dirichlet": 2.0},
        {"shot": 2, "query": 5, "unlabeled": 10, "pool_dirichlet": 2.0, "labeled_fraction": 0.5},
    ],
)
def test_unequal_shares_that_leave_all_classes_equal_are_refused(setting: dict[str, Any]) -> None:
    """Of 20 images a class, 5 shots and 5 queries leave 10: pools of 10 a class are all equal."""
    option = "pool_dirichlet" if "pool_dirichlet" in setting else "dirichlet"
    with pytest.raises(InputError, match=rf"episode\.{option} 2 .* leaves every class as many"):
        Sampler(make(20), Setting(way=5, **setting))


def test_unequal_shares_that_are_cut_short_are_told() -> None:
    """Of the 50 images of a pool a class cannot give more than 14."""
    setting = Setting(way=5, shot=1, query=5, unlabeled=10, pool_dirichlet=2.0)
    with pytest.warns(UserWarning, match=r"cut short in (8|9)\d % of episodes"):
        tight = Sampler(make(20), setting)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roomy = Sampler(make(70), setting)
    count = [
        np.stack([(labels(s.draw(np.arange(200)))[2] == c).sum(1) for c in range(5)], 1)
        for s in (tight, roomy)
    ]
    assert count[0].max() == 14 < count[1].max()


def test_an_unequal_pool_may_take_all_that_few_shots_leave() -> None:
    """What a class can give is what it has, less the shots and queries drawn of it, not less the
    most shots.
    """
    setting = Setting(way=3, shot=1, max_shot=3, query=1, unlabeled=8, pool_dirichlet=1e-3)
    d = Sampler(make(12, 3), setting).draw(np.arange(200))
    count, shots = (
        np.stack([(labels(d)[part] == c).sum(1) for c in range(3)], 1) for part in (2, 0)
    )
    assert set(shots.flatten()) == {1, 2, 3}
    for k in (1, 2, 3):
        assert count[shots == k].max() == 12 - 1 - k


def test_images_without_labels_make_no_unequal_pool() -> None:
    with pytest.raises(InputError, match=r"episode\.pool_dirichlet must be null"):
        Sampler(make(free=30), Setting(way=3, query=2, unlabeled=2, pool_dirichlet=2.0))


def test_a_tiny_alpha_gives_nearly_one_class_and_a_huge_one_balance() -> None:
    tiny, huge = (
        np.stack(
            [
                (labels(draw(make(150), np.arange(500), dirichlet=a))[1] == c).sum(1)
                for c in range(5)
            ],
            1,
        )
        for a in (1e-4, 1e8)
    )
    assert (tiny.max(1) == 75).mean() > 0.99 and np.abs((tiny == 75).mean(0) - 0.2).max() < 0.09
    assert (huge == 15).all()


# ---- which labels may be seen ----


def test_labeled_fraction_fixes_what_may_be_seen_for_all_episodes() -> None:
    split = make(20)
    labeled, rest = label_split(split, 0.1, 0)
    assert (np.bincount(split.y[labeled]) == 2).all(), "10% of 20 are 2 in Ren et al."
    assert (np.bincount(split.y[rest]) == 18).all()
    assert not set(labeled) & set(rest) and len(labeled) + len(rest) == len(split.y)
    for i in (np.arange(100), np.arange(900, 1000)):
        support, query, pool = parts(
            draw(split, i, way=4, query=1, unlabeled=6, distractors=2, labeled_fraction=0.1)
        )
        assert set(support.flat) | set(query.flat) <= set(labeled) and set(pool.flat) <= set(rest)
    again = label_split(split, 0.1, 0)
    assert all(np.array_equal(a, b) for a, b in zip(again, (labeled, rest), strict=True))
    assert set(label_split(split, 0.1, 1)[0]) != set(labeled)
    seed5 = draw(split, np.arange(100), seed=5, query=1, unlabeled=6, labeled_fraction=0.1)
    assert set(parts(seed5)[0].flat) <= set(labeled), (
        "the episodes' seed must not change which labels are known"
    )


def test_a_split_with_its_own_unlabeled_images_draws_from_those() -> None:
    split = make(free=25)
    d = draw(split, np.arange(200), way=3, query=2, unlabeled=4)
    pool = parts(d)[2]
    assert (split.y.numpy()[pool] == -1).all() and pool.shape == (200, 12)
    assert set(pool.flat) == set(np.flatnonzero(split.y.numpy() < 0))
    _, target = Episodes(split, way=3, query=2, unlabeled=4).batch([0])
    assert (target.unlabeled == -1).all()


# ---- classes and superclasses ----


def test_distractors_are_other_classes() -> None:
    split = make()
    d = draw(split, np.arange(100), way=3, query=2, unlabeled=2, distractors=4)
    _, _, pool = parts(d)
    hidden = labels(d)[2]
    for ids, label, classes in zip(pool, hidden, d.classes, strict=True):
        others = split.y.numpy()[ids[label == -1]]
        assert (
            not set(others) & set(classes) and (np.bincount(others)[np.unique(others)] == 2).all()
        )
        assert len(set(others)) == 4


@pytest.mark.parametrize("kind", ["within", "across"])
def test_superclasses(kind: str) -> None:
    split = make(6, classes=13, groups=4)  # of 4, 3, 3 and 3 classes
    group = np.array([int(g[1:]) for g in split.groups or ()])
    d = draw(split, np.arange(600), way=3, query=2, groups=kind)
    used = [len(set(row)) for row in group[d.classes]]
    assert set(used) == ({1} if kind == "within" else {3})
    assert stats.chisquare(np.bincount(group[d.classes[:, 0]], minlength=4)).pvalue > 1e-3
    if kind == "within":
        wide = draw(split, np.arange(50), way=4, query=2, groups="within")
        assert (group[wide.classes] == 0).all(), "only the first superclass has 4 classes"


# ---- uniform ----


def test_classes_and_images_are_chosen_uniformly() -> None:
    split = make(9, classes=8)
    d = draw(split, np.arange(6000), way=3, shot=1, query=1, unlabeled=1, distractors=1)
    support, query, pool = parts(d)
    for place in d.classes.T:
        assert stats.chisquare(np.bincount(place, minlength=8)).pvalue > 1e-3
    pairs = d.classes[:, 0] * 8 + d.classes[:, 1]
    seen = np.bincount(pairs, minlength=64).reshape(8, 8)
    assert (np.diag(seen) == 0).all() and stats.chisquare(
        seen[~np.eye(8, dtype=bool)]
    ).pvalue > 1e-3
    for ids in (support, query, pool):
        assert stats.chisquare(np.bincount(ids.flatten(), minlength=72)).pvalue > 1e-3


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    u = uniform(keys_of("a/train", 0, np.arange(4000)), 1, 3, 4)
    assert u.min() > 0 and u.max() < 1
    assert stats.kstest(u.flatten(), "uniform").pvalue > 1e-3
    c = np.corrcoef(u.reshape(4000, 12).T) - np.eye(12)
    assert np.abs(c).max() < 5 / np.sqrt(4000)
    following = np.corrcoef(u[:-1, 0, 0], u[1:, 0, 0])[0, 1]  # episodes i and i + 1
    assert abs(following) < 5 / np.sqrt(4000)


def test_choose_is_fisher_and_yates() -> None:
    rng = np.random.default_rng(0)
    n = rng.integers(1, 12, (5, 4))
    u = rng.random((5, 4, 9))
    got = choose(n, u)
    assert got.shape == u.shape
    for b, r in np.ndindex(5, 4):
        deck = list(range(n[b, r]))
        for s in range(min(9, n[b, r])):  # type: ignore[call-overload]
            t = s + int(u[b, r, s] * (n[b, r] - s))
            deck[s], deck[t] = deck[t], deck[s]
        k = min(9, n[b, r])
        assert got[b, r, :k].tolist() == deck[:k]
    assert np.array_equal(choose(n, u[..., :3]), got[..., :3])


# ---- what cannot be ----


@pytest.mark.parametrize(
    ("setting", "split", "numbers"),
    [
        ({"way": 13}, {}, ("12", "13")),
        ({"way": 10, "distractors": 4}, {}, ("12", "14")),
        ({"shot": 6, "query": 15}, {}, ("20", "21")),
        ({"shot": 1, "max_shot": 6, "query": 15}, {}, ("20", "21")),
        ({"query": 15, "unlabeled": 5}, {}, ("20", "21")),
        ({"query": 15, "unlabeled": 5}, {"counts": [40, 40, 20, 40, 40]}, ("'c02'", "20", "21")),
        ({"query": 2, "labeled_fraction": 0.1}, {}, ("2", "3", "with labels")),
        (
            {"query": 1, "unlabeled": 19, "labeled_fraction": 0.1},
            {},
            ("18", "19", "without labels"),
        ),
        ({"query": 1, "labeled_fraction": 0.01}, {}, ("0", "2")),
        ({"way": 5, "query": 2, "groups": "within"}, {}, ("4", "5")),
        ({"way": 4, "query": 2, "groups": "across"}, {}, ("3", "4")),
        ({"query": 2, "unlabeled": 3}, {"free": 14}, ("14", "15")),
        ({"query": 2, "unlabeled": 1, "distractors": 1}, {"free": 14}, ("distractors", "0", "1")),
    ],
    ids=str,
)
def test_too_little_data_is_one_clear_line(
    setting: dict[str, Any], split: dict[str, Any], numbers: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as error:
        draw(make(**split), [0], **setting)
    message = str(error.value)
    assert (
        all(number in message for number in numbers)
        and "\n" not in message
        and "fake/train" in message
    )


def test_superclasses_that_a_split_lacks() -> None:
    with pytest.raises(InputError, match="no superclasses"):
        draw(dataclasses.replace(make(), groups=None), [0], groups="within")


@pytest.mark.parametrize(
    "setting",
    [
        {"way": 1},
        {"way": 2.5},
        {"way": True},
        {"shot": -1},
        {"query": 0},
        {"unlabeled": -1},
        {"distractors": -1},
        {"labeled_fraction": 0.0},
        {"labeled_fraction": 1.5},
        {"labeled_fraction": float("nan")},
        {"dirichlet": 0.0},
        {"dirichlet": float("inf")},
        {"dirichlet": float("nan")},
        {"pool_dirichlet": 0.0},
        {"pool_dirichlet": float("inf")},
        {"shot": 3, "max_shot": 2},
        {"groups": "some"},
    ],
    ids=str,
)
def test_settings_that_mean_nothing(setting: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=list(setting)[-1]):
        Setting(**setting)


def test_the_labeled_images_of_a_class_do_not_depend_on_other_classes() -> None:
    """Fixed per class and seed: the choice within a class stays when classes before it are taken
    away.
    """
    split = make()
    rest = split.subset(list(range(2, len(split.classes))), split.name)
    removed = int((split.y < 2).sum())
    first = {int(i) for i in label_split(split, 0.3, 7)[0] if split.y[i] >= 2}
    kept = (split.y >= 2).nonzero().squeeze(1)
    second = {int(kept[i]) for i in label_split(rest, 0.3, 7)[0]}
    assert removed > 0 and first == second
    assert first != {int(i) for i in label_split(split, 0.3, 8)[0] if split.y[i] >= 2}


# ---- wrong labels ----


def wrong_labels(split: Split, setting: Setting, count: int = 200) -> tuple[np.ndarray, Draw]:
    """True classes (B, way, shot) of the support images as columns, -1 for others, and the draw."""
    d = Sampler(split, setting, 0).draw(np.arange(count))
    true = split.y.numpy()[d.ids[:, : setting.way * setting.shot]]
    same = true[:, :, None] == d.classes[:, None, :]
    column = np.where(same.any(-1), same.argmax(-1), -1)
    return column.reshape(count, setting.way, setting.shot), d


@pytest.mark.parametrize("kind", ["symmetric", "paired", "outliers"])
@pytest.mark.parametrize(("noise", "shot"), [(1, 5), (2, 5), (3, 7)])
def test_so_many_images_of_each_class_are_of_another(kind: str, noise: int, shot: int) -> None:
    split = make(30)
    asked = Setting(way=5, shot=shot, query=3, unlabeled=2, noise=noise, noise_kind=kind)
    column, d = wrong_labels(split, asked)
    own = np.arange(5)[None, :, None]
    assert ((column != own).sum(-1) == noise).all()
    wrong = np.where(column != own, column, -2)
    for c in range(5):
        from_one = (wrong == c).sum(-1)
        assert (from_one < shot - noise).all(), "the right images are the most"
    if kind == "outliers":
        assert set(np.unique(wrong)) == {-2, -1}
    elif kind == "paired":
        givers = [{int(v) for v in row if v >= 0} for rows in wrong for row in rows]
        assert all(len(g) == 1 for g in givers)
    else:
        first = wrong[:, 0, :noise]
        counts = np.array([(first == c).sum() for c in range(1, 5)])
        assert stats.chisquare(counts).pvalue > 1e-4, "each other class as often"
    episode, target = Episodes(split, asked).batch([0])
    said = torch.arange(5).repeat_interleave(shot)
    assert torch.equal(episode.w[0, : 5 * shot].argmax(-1), said)
    true = torch.from_numpy(column[0]).flatten()
    assert torch.equal(target.support[0], true)
    assert torch.equal(target.right(episode)[0].sum(-1), (true == said).float())
    assert len(np.unique(d.ids[0])) == d.ids.shape[1], "no image is in an episode twice"


@pytest.mark.parametrize("kind", ["symmetric", "paired", "outliers"])
def test_queries_and_pool_are_those_of_an_episode_without_noise(kind: str) -> None:
    split = make(30)
    plain = {"way": 5, "shot": 5, "query": 3, "unlabeled": 2, "distractors": 1}
    clean = draw(split, np.arange(50), **plain)
    noisy = draw(split, np.arange(50), **plain, noise=2, noise_kind=kind)
    assert np.array_equal(clean.ids[:, 25:], noisy.ids[:, 25:])
    assert np.array_equal(clean.label, noisy.label)
    assert np.array_equal(clean.classes, noisy.classes)
    same_images = np.array_equal(np.sort(clean.ids[:, :25]), np.sort(noisy.ids[:, :25]))
    assert same_images == (kind != "outliers")
    assert equal(clean, draw(split, np.arange(50), **plain, noise=0, noise_kind=kind))


def test_noise_that_hides_the_truth_is_refused() -> None:
    for asked, says in (
        ({"shot": 2, "noise": 3}, "at most shot 2, not 3"),
        ({"shot": 5, "noise": 3, "noise_kind": "paired"}, "leaves 2 right images of a class"),
        ({"shot": 5, "noise": 4}, "leaves 1 right images of a class beside 1 of another"),
        ({"shot": 5, "noise": 1, "noise_kind": "swapped"}, "symmetric, paired or outliers"),
    ):
        with pytest.raises(InputError, match=says):
            Setting(way=5, **asked)  # type: ignore[arg-type]
    split = make(30, classes=6)
    with pytest.raises(InputError, match=r"way 5 \+ noise 2 of outliers needs 7"):
        Sampler(split, Setting(way=5, shot=5, query=3, noise=2, noise_kind="outliers"))


# ---- queries of no class, and the share of the pool that is foreign ----


def test_open_queries_are_of_classes_that_have_no_support_and_leave_the_others_as_they_were() -> (
    None
):
    split = make(30)
    plain = {"way": 3, "shot": 2, "query": 3, "unlabeled": 2, "distractors": 1}
    closed = draw(split, np.arange(50), **plain)
    d = draw(split, np.arange(50), **plain, open_classes=2, open_query=4)
    k, q = d.n_support, d.n_query
    assert q == 3 * 3 + 2 * 4
    truth = split.y.numpy()[d.ids]
    strange = d.label[:, k : k + q] == -1
    assert (strange.sum(1) == 8).all()
    for row in range(50):
        pool = truth[row, k + q :]
        open_classes, counts = np.unique(truth[row, k : k + q][strange[row]], return_counts=True)
        assert counts.tolist() == [4, 4]
        assert not set(open_classes) & (set(d.classes[row]) | set(pool))
        assert len(np.unique(d.ids[row])) == d.ids.shape[1]
    known = d.ids[:, k : k + q][~strange].reshape(50, -1)
    assert np.array_equal(np.sort(known), np.sort(closed.ids[:, k : k + 9]))
    for part in (slice(k), slice(-8, None)):  # support and pool
        assert np.array_equal(d.ids[:, part], closed.ids[:, part])
    first = strange[:, 0].mean()
    assert 0.2 < first < 0.8, "open queries stand among the others"
    assert equal(closed, draw(split, np.arange(50), **plain, open_classes=0, open_query=7))


@pytest.mark.parametrize("dirichlet", [None, 2.0])
@pytest.mark.parametrize("share", [0, 0.3, 0.5, 1])
def test_so_large_a_share_of_the_pool_is_foreign(share: float, dirichlet: float | None) -> None:
    split = make(60)
    asked = {"way": 3, "shot": 1, "query": 2, "unlabeled": 6, "distractors": 2}
    d = draw(split, np.arange(50), **asked, foreign_share=share, pool_dirichlet=dirichlet)
    pool = d.label[:, d.n_support + d.n_query :]
    foreign = round(share * 30)
    assert pool.shape[1] == 30 and ((pool == -1).sum(1) == foreign).all()
    of = split.y.numpy()[d.ids[:, d.n_support + d.n_query :]]
    for row in range(50):
        counts = np.unique(of[row][pool[row] == -1], return_counts=True)[1]
        assert np.ptp(counts) <= 1 if foreign else not len(counts)
    counts = np.stack([(pool == c).sum(1) for c in range(3)], 1)
    assert (counts.sum(1) == 30 - foreign).all()
    if dirichlet is None:
        assert (np.ptp(counts, axis=1) <= 1).all()
    elif share < 1:
        assert np.ptp(counts, axis=1).mean() > 2


def test_a_share_that_is_the_usual_one_changes_nothing() -> None:
    split = make(60)
    asked = {"way": 3, "query": 2, "unlabeled": 6, "distractors": 2}
    usual = draw(split, np.arange(20), **asked)
    assert equal(usual, draw(split, np.arange(20), **asked, foreign_share=2 / 5))


def test_what_open_episodes_cannot_have() -> None:
    for asked, says in (
        ({"foreign_share": 0.5}, "needs classes that the foreign images are of"),
        ({"foreign_share": 1.5, "distractors": 1}, r"must lie in \[0, 1\]"),
        ({"open_classes": -1}, "open_classes"),
        ({"open_query": 0}, "open_query"),
    ):
        with pytest.raises(InputError, match=says):
            Setting(way=3, **asked)  # type: ignore[arg-type]
    split = make(30, classes=6)
    tells = r"way 5 \+ open_classes 2 needs 7; lower episode.way or open_classes$"
    with pytest.raises(InputError, match=tells):
        Sampler(split, Setting(way=5, query=3, open_classes=2))
    with pytest.raises(InputError, match="for open classes, but open_query 500 needs 500"):
        Sampler(split, Setting(way=3, query=3, open_classes=2, open_query=500))
