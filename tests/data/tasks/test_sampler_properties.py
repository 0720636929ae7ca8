"""Properties of the sampler that hold of any input (hypothesis)."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graphfsl.data import Sampler, Setting, Split
from graphfsl.data.deck import label_split
from graphfsl.data.streams import choose, keys_of
from graphfsl.data.tasks._class_sampler import Draw
from graphfsl.io.errors import InputError
from tests.support.sampling import PARTS, check, labels, make, parts

many = settings(max_examples=100)


@st.composite
def worlds(draw: st.DrawFn, tight: bool = False) -> tuple[Split, Setting]:
    """A setting and a split that has what it needs or a little more; where `tight`, often a little
    less.
    """
    shot, free = draw(st.integers(1, 3)), draw(st.sampled_from([0, 0, 1]))
    setting = Setting(
        way=draw(st.integers(2, 4)),
        shot=shot,
        query=draw(st.integers(1, 4)),
        unlabeled=draw(st.integers(0, 4)),
        distractors=0 if free and not (tight and draw(st.booleans())) else draw(st.integers(0, 2)),
        labeled_fraction=draw(st.sampled_from([100, 100, *range(5, 100, 7)])) / 100,
        label_seed=draw(st.integers(0, 2**32)),
        dirichlet=draw(
            st.none() | st.sampled_from([2.0, 0.2, 1e-4, 1e-300]) | st.floats(1e-300, 1e9)
        ),
        max_shot=draw(st.none() | st.integers(shot, shot + 2)),
        groups=draw(st.sampled_from(["any", "within", "across"])),
        pool_dirichlet=None
        if free and not tight
        else draw(st.sampled_from([None, None, 2.0, 0.2, 1e-300, 1e9])),
    )
    few, slack = [-1, 0, 0] if tight else [0], st.sampled_from([-1, 0, 2] if tight else [0, 2, 9])
    spent, pool, labeled = (
        setting.most_shots + setting.query,
        setting.unlabeled,
        setting.labeled_fraction,
    )
    least = (
        math.ceil(max(spent / labeled, pool / (1 - labeled)))
        if labeled < 1
        else spent + pool * (1 - free)
    )
    classes = (setting.way + setting.distractors) * (2 if setting.groups == "within" else 1)
    classes += draw(st.sampled_from([*few, 1, 4]))
    at_least = max(1, least + draw(slack))
    counts = draw(st.lists(st.integers(at_least, at_least + 9), min_size=classes, max_size=classes))
    split = make(counts, free=free * max(1, setting.way * pool + draw(st.sampled_from([*few, 5]))))
    # Two superclasses, one of which then has enough classes; or every class is one of its own.
    of = (
        draw(st.lists(st.integers(0, 1), min_size=classes, max_size=classes))
        if setting.groups == "within"
        else None
    )
    groups = (
        None
        if tight and draw(st.integers(0, 9)) == 0
        else tuple(f"g{g}" for g in of or range(classes))
    )
    return dataclasses.replace(split, groups=groups), setting


def enough(split: Split, s: Setting) -> bool:
    """Whether the split can serve the setting, in exact arithmetic."""
    needed, sizes, free = s.way + s.distractors, split.counts.tolist(), int((split.y < 0).sum())
    groups = Counter(split.groups or ())
    have = {"any": len(sizes), "within": max(groups.values(), default=0), "across": len(groups)}[
        s.groups
    ]
    labeled = [math.floor(Fraction(str(s.labeled_fraction)) * n) for n in sizes]
    rest = [n - k for n, k in zip(sizes, labeled, strict=True)]
    spent = s.most_shots + s.query
    if free:
        images = min(labeled) >= spent and free >= s.way * s.unlabeled and not s.distractors
        images &= s.pool_dirichlet is None or not s.unlabeled
    elif s.labeled_fraction < 1:
        images = min(labeled) >= spent and min(rest) >= s.unlabeled
    else:
        images = min(sizes) >= spent + s.unlabeled
    return have >= needed and images


def accepted(split: Split, setting: Setting, seed: int = 0) -> Sampler:
    try:
        sampler = Sampler(split, setting, seed)
    except InputError:
        assume(False)
    return sampler


def rows(d: Draw, index: Any) -> list[np.ndarray]:
    return [getattr(d, part)[index] for part in PARTS]


@settings(max_examples=300)
@given(worlds(tight=True), st.integers(0, 2**64))
def test_a_split_serves_a_setting_exactly_where_it_has_enough(
    world: tuple[Split, Setting], seed: int
) -> None:
    split, s = world
    try:
        d = Sampler(split, s, seed).draw(np.arange(6))
    except InputError as error:
        equal = "leaves every class as many" in str(error) and (s.dirichlet or s.pool_dirichlet)
        assert equal or not enough(split, s)
        assert "\n" not in str(error) and split.name in str(error)
        event("refused")
        return
    event("accepted")
    assert enough(split, s)
    check(split, s, d)
    free, y = bool((split.y < 0).any()), split.y.numpy()
    (support, query, pool), hidden = parts(d), labels(d)[2]
    if s.labeled_fraction < 1:
        seen, _ = label_split(split, s.labeled_fraction, s.label_seed)
        assert np.isin(support[support >= 0], seen).all() and np.isin(query, seen).all()
        assert not np.isin(pool, seen).any()
    for own, ids, label in zip(d.classes, pool, hidden, strict=True):
        strangers = Counter(y[ids[label == -1]].tolist()) if not free else Counter()
        assert sorted(strangers.values()) == [s.unlabeled] * (
            0 if free or not s.unlabeled else s.distractors
        )
        groups = Counter((split.groups or y)[c] for c in (*own, *strangers))
        assert s.groups != "within" or len(groups) == 1
        assert s.groups != "across" or max(groups.values()) == 1


@many
@given(
    worlds(),
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6),
    st.integers(0, 2**64),
    st.randoms(),
)
def test_an_episode_does_not_depend_on_its_company(
    world: Any, numbers: list[int], seed: int, random: Any
) -> None:
    sampler = accepted(*world, seed)  # type: ignore[call-arg]
    together = sampler.draw(numbers)
    shuffled = random.choices(range(len(numbers)), k=5)  # in any order, some twice, some not at all
    again = accepted(*world, seed).draw([numbers[k] for k in shuffled])  # type: ignore[call-arg]
    for a, b in zip(rows(together, shuffled), rows(again, slice(None)), strict=True):
        assert np.array_equal(a, b)
    for k, number in enumerate(numbers):
        alone = sampler.draw([number])
        assert all(
            np.array_equal(a, b) for a, b in zip(rows(together, [k]), rows(alone, [0]), strict=True)
        )


@many
@given(worlds(), st.integers(1, 4), st.sampled_from(["unlabeled", "distractors", "query", "shot"]))
def test_more_of_one_thing_leaves_the_rest(
    world: tuple[Split, Setting], more: int, what: str
) -> None:
    split, s = world
    # Which superclasses are large enough changes with the distractors; support changes with the
    # range of shots.
    assume(
        not (what == "distractors" and s.groups == "within") and not (what == "shot" and s.max_shot)
    )
    larger = dataclasses.replace(s, **{what: getattr(s, what) + more})
    few, many = (accepted(split, t).draw(np.arange(6)) for t in (s, larger))
    (support, query, pool), (support_, query_, pool_) = parts(few), parts(many)
    assert np.array_equal(few.classes, many.classes)
    if what == "shot":
        of, of_ = (p.reshape(6, s.way, -1) for p in (support, support_))
        assert np.array_equal(of, of_[..., : s.shot])
        return
    assert np.array_equal(support, support_)
    # Unbalanced queries may take what a pool of the same images does not need.
    own_pool = s.labeled_fraction < 1 or bool((split.y < 0).any())
    if what != "query" and (s.dirichlet is None or own_pool or what == "distractors"):
        assert np.array_equal(query, query_)
        # The shares of a larger pool round to other numbers.
        assert s.pool_dirichlet or all(set(a) <= set(b) for a, b in zip(pool, pool_, strict=True))
        assert pool_.shape[1] > pool.shape[1] or not s.unlabeled


@many
@example([50, 3], 58, 20, 0, [1, 0])  # 0.58 * 50 is 28.999999999999996
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.integers(1, 99),
    st.integers(1, 99),
    st.integers(0, 2**64),
    st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True),
)
def test_the_label_split_of_a_class_is_its_own(
    counts: list[int], percent: int, other: int, seed: int, chosen: list[int]
) -> None:
    split = make(counts, free=3)
    seen, rest = label_split(split, percent / 100, seed)
    y = split.y.numpy()
    assert np.array_equal(np.sort(np.concatenate([seen, rest])), np.flatnonzero(y >= 0)), (
        "a partition"
    )
    assert np.bincount(y[seen], minlength=len(counts)).tolist() == [
        n * percent // 100 for n in counts
    ]
    nested, _ = label_split(split, other / 100, seed)
    assert set(nested) <= set(seen) or set(seen) <= set(nested), "more labels are more, not others"
    # Without some classes, the rest in another order and under other numbers: the same images of
    # each.
    chosen = [c for c in chosen if c < len(counts)] or [0]
    kept = np.flatnonzero(np.isin(y, chosen))
    ids = kept[label_split(split.subset(chosen, split.name), percent / 100, seed)[0]]
    assert set(ids) == {i for i in seen if y[i] in chosen}


@many
@example([("a", 10), ("a1", 0)])
@given(
    st.lists(
        st.tuples(st.text("ab/01", max_size=3), st.integers(0, 120)),
        min_size=2,
        max_size=4,
        unique=True,
    )
)
def test_no_two_splits_or_seeds_share_an_episode(pairs: list[tuple[str, int]]) -> None:
    keys = np.concatenate([keys_of(name, seed, np.arange(200)) for name, seed in pairs])
    assert len(np.unique(keys)) == 200 * len(pairs)


@many
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 9), st.data())
def test_choices_are_without_replacement_for_any_uniforms(
    n: list[int], k: int, data: st.DataObject
) -> None:
    # both ends included
    u = data.draw(arrays(np.float64, (2, len(n), k), elements=st.floats(0, 1)))
    for line in choose(np.array([n, n]), u):
        for size, chosen in zip(n, line, strict=True):
            real = chosen[: min(size, k)].tolist()
            assert len(set(real)) == len(real) and set(real) <= set(range(size))
