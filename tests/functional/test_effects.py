"""Main effects and interactions of a grid against loops over its cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import pytest
import scipy.stats
import torch
from torch import Tensor

from graphfsl.functional.comparison import (
    contrasts,
    holm,
    paired_difference,
    permutation_test,
    student,
    unpaired_difference,
)
from graphfsl.functional.effects import corrected, interactions, main_effects
from graphfsl.io.errors import InputError
from tests.support.grids import AXES, GRID, answers, difficulty, generator, pair, simulated


def loop(
    signs: dict[int, float], accuracies: Tensor, keys: Sequence[Hashable]
) -> tuple[float, float]:
    """Difference and its standard error: episode by episode within a key, then over the independent
    keys.
    """
    difference = variance = 0.0
    n = accuracies.shape[1]
    for key in set(keys):
        x = [
            sum(s * float(accuracies[c, i]) for c, s in signs.items() if keys[c] == key)
            for i in range(n)
        ]
        mean = sum(x) / n
        difference += mean
        variance += sum((v - mean) ** 2 for v in x) / (n - 1) / n
    return difference, math.sqrt(variance)


def matched(
    cells: Sequence[dict[str, Hashable]], axis: str, first: Hashable, second: Hashable
) -> dict[int, float]:
    pairs = [
        (i, j)
        for (i, c), (j, d) in itertools.permutations(enumerate(cells), 2)
        if c[axis] == first and d[axis] == second and all(c[a] == d[a] for a in c if a != axis)
    ]
    return {c: sign / len(pairs) for ij in pairs for c, sign in zip(ij, (1, -1), strict=True)}


@pytest.mark.parametrize("missing", [[], [0], [4, 7, 10]], ids=str)
def test_main_effects_are_those_of_a_loop(missing: list[int]) -> None:
    cells = [c for i, c in enumerate(GRID) if i not in missing]
    accuracies, keys = simulated(cells, 60)
    effects = {e.axis: e for e in main_effects(cells, accuracies, keys)}
    assert list(effects) == list(AXES) and not any(e.incomparable for e in effects.values())
    for axis, levels in AXES.items():
        found = {(c.first, c.second): c.contrast for c in effects[axis].comparisons}
        assert set(map(frozenset, found)) == set(map(frozenset, itertools.combinations(levels, 2)))
        for (first, second), contrast in found.items():
            signs = matched(cells, axis, first, second)
            difference, error = loop(signs, accuracies, keys)
            assert contrast.difference == pytest.approx(difference, abs=1e-12)
            assert contrast.t == pytest.approx(difference / error)
            assert contrast.matched == len(signs) / 2 and contrast.paired == (axis != "shot")
            assert contrast.episodes == 60 * len({keys[c] for c in signs})
            assert 1.98 < contrast.half / error < 2.01  # t of 59 to 118 degrees of freedom
        rest = {
            level: [tuple(c[a] for a in AXES if a != axis) for c in cells if c[axis] == level]
            for level in levels
        }
        means = effects[axis].means
        assert set(means) == set(levels)
        for level in levels:  # over the combinations that all levels have
            of_level = accuracies[torch.tensor([c[axis] == level for c in cells])].mean(-1).tolist()
            common = [
                a
                for a, r in zip(of_level, rest[level], strict=True)
                if all(r in rest[v] for v in levels)
            ]
            assert means[level] == pytest.approx(sum(common) / len(common))


def test_equal_keys_give_the_paired_comparison_and_different_ones_give_welch() -> None:
    cells: list[dict[str, Hashable]] = [{"head": "a"}, {"head": "b"}]
    accuracies = torch.stack(pair(200)).double()
    (same,), (apart,) = (
        main_effects(cells, accuracies, keys)[0].comparisons for keys in ("xx", "xy")
    )
    for contrast, function in (
        (same.contrast, paired_difference),
        (apart.contrast, unpaired_difference),
    ):
        assert [contrast.difference, contrast.half] == pytest.approx(
            [float(x) for x in function(*accuracies)]
        )
    assert same.contrast.p == float(permutation_test(*accuracies)) and (
        same.contrast.episodes,
        same.contrast.paired,
    ) == (200, True)
    assert apart.contrast.p == pytest.approx(
        scipy.stats.ttest_ind(*accuracies.numpy(), equal_var=False).pvalue
    )
    assert (apart.contrast.episodes, apart.contrast.paired) == (400, False)


def test_keys_of_which_only_some_are_paired_are_no_paired_comparison() -> None:
    """One key holds both sides and two hold one each: signs may not be flipped, the p is
    Student's.
    """
    accuracies = torch.cat([torch.stack(pair(60, seed=s)) for s in range(2)]).double()
    weights = torch.tensor([[0.5, -0.5, 0.5, -0.5]], dtype=torch.float64)
    (found,) = contrasts(weights, accuracies, ["x", "x", "y", "z"], [2])
    parts = [0.5 * (accuracies[0] - accuracies[1]), 0.5 * accuracies[2], -0.5 * accuracies[3]]
    variance = torch.stack([x.var() / 60 for x in parts])
    _, p = student(sum(x.mean() for x in parts), variance, torch.full((3,), 59.0))
    assert not found.paired and found.episodes == 180
    assert found.p == pytest.approx(float(p))


def test_the_variance_of_an_average_over_keys_is_the_sum_of_theirs_over_their_number_squared() -> (
    None
):
    cells: list[dict[str, Hashable]] = [{"head": h, "seed": s} for s in range(3) for h in "ab"]
    accuracies = torch.cat([torch.stack(pair(100, seed=s)) for s in range(3)]).double()
    contrast = (
        main_effects(cells, accuracies, [c["seed"] for c in cells])[0].comparisons[0].contrast
    )
    d = accuracies[::2] - accuracies[1::2]
    assert contrast.difference == pytest.approx(float(d.mean()))
    assert contrast.difference / contrast.t == pytest.approx(
        math.sqrt(float((d.var(-1) / 100).sum()) / 9)
    )
    assert contrast.episodes == 300 and contrast.matched == 3
    assert contrast.p == float(permutation_test(accuracies[::2].mean(0), accuracies[1::2].mean(0)))


def test_only_what_matches_is_compared() -> None:
    # gnn has a distance of its own
    cells = [*GRID, {"head": "gnn", "distance": "learned", "shot": 1}]
    accuracies, keys = simulated(cells, 30)
    effects = {e.axis: e for e in main_effects(cells, accuracies, keys)}
    assert effects["head"].incomparable == ("gnn",) and effects["distance"].incomparable == (
        "learned",
    )
    full = main_effects(GRID, accuracies[:12], keys[:12])
    assert [e.comparisons for e in effects.values()] == [e.comparisons for e in full], (
        "the odd cell changes nothing"
    )
    assert [e.means for e in effects.values()] == [e.means for e in full]
    found = interactions(cells, accuracies, keys)
    assert found == interactions(GRID, accuracies[:12], keys[:12])
    alone = main_effects(cells[-1:], accuracies[-1:], keys[-1:])
    assert all(not e.comparisons and not e.means for e in alone)
    assert {i.contrast for i in interactions(cells[-1:], accuracies[-1:], keys[-1:])} == {None}
    # a chain: x and y, y and z share a combination, but no combination has all three
    chain: list[dict[str, Hashable]] = [
        {"a": a, "b": b} for a, b in (("x", 0), ("y", 0), ("y", 1), ("z", 1))
    ]
    first = main_effects(chain, accuracies[:4], ["k"] * 4)[0]
    assert [(c.first, c.second) for c in first.comparisons] == [
        ("x", "y"),
        ("y", "z"),
    ] and first.means == {}


def test_interactions_are_those_of_a_loop() -> None:
    accuracies, keys = simulated(GRID, 60)
    found = {i.axes: i for i in interactions(GRID, accuracies, keys)}
    assert list(found) == list(itertools.combinations(AXES, 2))
    for (one, two), interaction in found.items():
        naive = {}
        for (a1, a2), (b1, b2) in itertools.product(
            *(itertools.combinations(AXES[x], 2) for x in (one, two))
        ):
            sign = {(a1, b1): 1, (a2, b2): 1, (a1, b2): -1, (a2, b1): -1}
            signs = {i: sign.get((c[one], c[two]), 0) for i, c in enumerate(GRID)}
            count = sum(s > 0 for s in signs.values()) / 2
            difference, error = loop(
                {i: s / count for i, s in signs.items() if s}, accuracies, keys
            )
            naive[(a1, a2), (b1, b2)] = difference, difference / error, count
        contrast = interaction.contrast
        assert (
            contrast is not None
            and interaction.levels is not None
            and interaction.contrasts == len(naive)
        )
        largest = max(naive, key=lambda k: abs(naive[k][1]))
        assert interaction.levels == largest
        assert (contrast.difference, contrast.t, contrast.matched) == pytest.approx(naive[largest])
        assert (
            contrast.corrected is not None
            and contrast.p <= contrast.corrected <= len(naive) * contrast.p
        )
    largest_effect = found["head", "shot"].contrast
    assert largest_effect is not None and largest_effect.corrected is not None
    # (proto - lp) at 1, at 5
    assert largest_effect.corrected < 0.001 and abs(largest_effect.difference + 0.05) < 0.03


def test_the_share_of_an_interaction_is_that_of_an_analysis_of_variance() -> None:
    """Of a full grid main effects and interactions of all orders add up to the whole."""
    accuracies, keys = simulated(GRID, 20)
    y = accuracies.mean(-1).reshape(2, 3, 2)
    total, shares = float((y - y.mean()).square().sum()), {}
    for size in (1, 2, 3):  # inclusion and exclusion of the margins
        for axes in itertools.combinations(range(3), size):
            effect = torch.zeros_like(y)
            for kept in itertools.chain.from_iterable(
                itertools.combinations(axes, k) for k in range(size + 1)
            ):
                drop = [d for d in range(3) if d not in kept]
                effect += (-1) ** (size - len(kept)) * (y.mean(drop, keepdim=True) if drop else y)
            shares[axes] = float(effect.square().sum()) / total
    assert sum(shares.values()) == pytest.approx(1)
    for i in interactions(GRID, accuracies, keys):
        assert i.share == pytest.approx(shares[tuple(list(AXES).index(a) for a in i.axes)])
    flat = torch.full((12, 20), 0.5)
    assert all(
        i.share == 0 and i.contrast and i.contrast.p == 1 for i in interactions(GRID, flat, keys)
    )
    assert all(
        c.contrast.p == 1 and c.contrast.half == 0
        for e in main_effects(GRID, flat, keys)
        for c in e.comparisons
    )


def test_the_correction_is_over_all_axes() -> None:
    accuracies, keys = simulated(GRID, 60)
    raw = main_effects(GRID, accuracies, keys)
    p = torch.tensor([c.contrast.p for e in raw for c in e.comparisons], dtype=torch.float64)
    assert [c.contrast.corrected for e in corrected(raw) for c in e.comparisons] == holm(p).tolist()
    assert all(c.contrast.corrected is None for e in raw for c in e.comparisons) and len(p) == 5


def test_a_malformed_grid_is_refused() -> None:
    accuracies, keys = simulated(GRID, 5)
    with pytest.raises(
        InputError, match="12 cells need as many accuracies and keys, not 11 and 12"
    ):
        main_effects(GRID, accuracies[1:], keys)
    with pytest.raises(InputError, match="same axes"):
        interactions([*GRID[1:], {"head": "proto"}], accuracies, keys)
    with pytest.raises(InputError, match=r"two cells are .*'shot': 5.* must be an axis"):
        main_effects([*GRID[1:], GRID[1]], accuracies, keys)
    with pytest.raises(InputError, match="not finite"):
        main_effects(GRID, accuracies.log() * 0 / 0, keys)


def test_contrasts_over_keys_hold_their_level_where_every_key_has_an_effect() -> None:
    """2,000 grids of two heads, 8 points apart, and two shots, 6 points apart: no interaction,
    known main effects.
    """
    n, grids, random = 100, 200, generator()
    head, shot = torch.tensor([0, 0.08, 0, 0.08]), torch.tensor([0, 0, 0.06, 0.06])
    wanted = {
        "head": [-0.5, 0.5, -0.5, 0.5],
        "shot": [-0.5, -0.5, 0.5, 0.5],
        "both": [1.0, -1, -1, 1],
    }
    truth = {"head": 0.08, "shot": 0.06, "both": 0.0}
    covered, rejected = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for _ in range(10):
        episodes = difficulty(grids, 2, n, random=random).repeat_interleave(2, 1).clamp(0.2, 0.8)
        accuracies = answers(episodes + (head + shot)[:, None], random).flatten(0, 1)
        for name, row in wanted.items():
            weights = torch.kron(torch.eye(grids), torch.tensor(row))
            found = contrasts(
                weights, accuracies, [0, 0, 1, 1] * grids, [1] * grids, permutations=999
            )
            assert {c.paired for c in found} == {name != "shot"}
            covered[name] += sum(abs(c.difference - truth[name]) <= c.half for c in found)
            rejected[name] += sum(c.p <= 0.05 for c in found)
    assert all(0.94 < hits / 2000 < 0.96 for hits in covered.values()), covered
    assert (
        0.04 < rejected["both"] / 2000 < 0.06 and min(rejected["head"], rejected["shot"]) > 1900
    ), rejected
