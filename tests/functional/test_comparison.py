"""Comparisons of cells: against scipy, by hand, against a loop over cells, and in thousands of
simulated grids.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence

import pytest
import scipy.stats
import torch
from torch import Tensor

from graphfsl.functional import comparison
from graphfsl.functional.comparison import (
    Contrast,
    contrasts,
    holm,
    paired_difference,
    permutation_test,
    student,
    unpaired_difference,
)
from graphfsl.functional.effects import (
    Comparison,
    MainEffect,
    corrected,
    interactions,
    main_effects,
)
from graphfsl.io.errors import InputError
from graphfsl.study.sentences import sentence

QUERIES = 75


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def difficulty(*shape: int, random: torch.Generator) -> Tensor:
    """Chance of a right answer, episode by episode: 60% with a standard deviation of 10 points."""
    return (0.6 + 0.1 * torch.randn(shape, generator=random)).clamp(0.05, 0.95)


def answers(chance: Tensor, random: torch.Generator) -> Tensor:
    """Accuracies over 75 queries, float32 as an evaluation gives them."""
    return torch.binomial(torch.full_like(chance, QUERIES), chance, generator=random) / QUERIES


def pair(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = generator(seed)
    chance = difficulty(*shape, random=random)
    return answers(chance, random), answers(chance, random)


# ---- intervals ----


@pytest.mark.parametrize("n", [2, 3, 10, 600])
def test_the_intervals_are_those_of_scipy(n: int) -> None:
    a, b = pair(4, n)
    c = pair(4, n + 3, seed=1)[0]
    expected = scipy.stats.ttest_rel(
        a.double().numpy(), b.double().numpy(), axis=-1
    ).confidence_interval()
    mean, half = paired_difference(a, b)
    torch.testing.assert_close(mean - half, torch.tensor(expected.low))
    torch.testing.assert_close(mean + half, torch.tensor(expected.high))
    test = scipy.stats.ttest_ind(a.double().numpy(), c.double().numpy(), axis=-1, equal_var=False)
    mean, half = unpaired_difference(a, c)
    torch.testing.assert_close(mean - half, torch.tensor(test.confidence_interval().low))
    torch.testing.assert_close(mean + half, torch.tensor(test.confidence_interval().high))
    variance = torch.stack([x.double().var(-1) / x.shape[-1] for x in (a, c)], -1)
    half_again, p = student(mean, variance, torch.tensor([n - 1.0, n + 2.0]))
    torch.testing.assert_close(p, torch.tensor(test.pvalue))
    torch.testing.assert_close(half_again, half)
    one_by_one = [unpaired_difference(x, y) for x, y in zip(a, c, strict=True)]
    torch.testing.assert_close(torch.stack([m for m, _ in one_by_one]), mean)


def test_what_does_not_vary() -> None:
    same = pair(9)[0]
    assert [float(x) for x in paired_difference(same, same)] == [0, 0]
    assert float(permutation_test(same, same)) == 1
    assert float(permutation_test(pair(600)[0], pair(600)[0])) == 1, "sampled, not enumerated"
    _, p = student(torch.tensor([0.0, 0.1]), torch.zeros(2, 1), torch.tensor([4.0]))
    assert p.tolist() == [1, 0]


@pytest.mark.parametrize("function", [paired_difference, permutation_test])
def test_what_cannot_be_compared_is_refused(function: object) -> None:
    a = pair(9)[0]
    with pytest.raises(InputError, match="same episodes, not 9 and 8"):
        function(a, a[:8])  # type: ignore[operator]
    with pytest.raises(InputError, match="at least 2 episodes"):
        function(a[:1], a[:1])  # type: ignore[operator]
    with pytest.raises(InputError, match="not finite"):
        function(a, torch.where(a == a[3], math.nan, a))  # type: ignore[operator]


# ---- the permutation test ----


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([3, 3, 3], 2 / 8),  # +++ and --- of 8 patterns
        ([3, -3], 1),  # every |T*| >= 0
        ([2, 1, 0], 4 / 8),  # 3 or -3, whatever the sign of 0
        ([3, 2, 1], 2 / 8),
        ([3, -2, 1], 6 / 8),  # T = 2; |T*| are 6, 4, 2, 0, twice each
        ([0, 0, 0, 0], 1),
        ([5, 4], 2 / 4),
    ],
)
def test_few_episodes_are_enumerated(differences: list[int], p: float) -> None:
    b = torch.arange(len(differences)) + 20
    assert float(permutation_test((b + torch.tensor(differences)) / QUERIES, b / QUERIES)) == p


def test_the_exact_p_is_that_of_scipy_and_the_sampled_one_is_near_it() -> None:
    a, b = pair(5, 11)
    exact = permutation_test(a, b)
    whole = (a * QUERIES).round(), (b * QUERIES).round()  # sums of integers have no rounding
    for i in range(5):
        expected = scipy.stats.permutation_test(
            (whole[0][i].numpy(), whole[1][i].numpy()),
            lambda x, y, axis: (x - y).sum(axis),
            permutation_type="samples",
            vectorized=True,
        )
        assert float(exact[i]) == pytest.approx(expected.pvalue, abs=1e-12)
    sampled = permutation_test(a, b, permutations=2**11 - 1)
    error = (exact * (1 - exact) / 2**11).sqrt()
    assert not torch.equal(sampled, exact) and ((sampled - exact).abs() < 4 * error + 1e-3).all()


def test_p_of_many_episodes_is_near_that_of_student_and_never_zero() -> None:
    a, b = pair(50, 400)
    _, p = student((a - b).mean(-1), (a - b).var(-1, keepdim=True) / 400, torch.tensor([399.0]))
    assert (permutation_test(a, b) - p).abs().max() < 0.03
    assert 0 < float(permutation_test(a.double()[0] + 1, b[0], 999)) < 1e-80
    assert 0 < float(permutation_test(torch.ones(2000), torch.zeros(2000), 999)) < 1e-300
    with pytest.raises(InputError, match="at least 1 permutation"):
        permutation_test(a, b, 0)


@pytest.mark.parametrize("n", [14, 18])
def test_a_p_below_what_permutations_can_say_is_not_below_the_exact_one(n: int) -> None:
    """Of differences as skewed, sparse or equal as one likes; all 2^n sign patterns are the exact
    test.
    """
    random = generator(3)
    d = torch.cat([
        torch.rand(20, n, generator=random) + 0.3,
        torch.rand(20, n, generator=random).pow(6),
        torch.randn(20, n, generator=random).abs() * (torch.rand(20, n, generator=random) < 0.7),
        torch.ones(1, n),
    ]).double()  # fmt: skip
    exact = permutation_test(d, torch.zeros_like(d), 2**n)
    told = permutation_test(d, torch.zeros_like(d), 50)
    assert (told < 1 / 51).sum() > 20, "the bound is of use"
    assert (told[told < 1 / 51] >= exact[told < 1 / 51]).all()
    assert (told[told >= 1 / 51] * 51 % 1 - 0.5).abs().min() > 0.49, (
        "all others are shares of the permutations"
    )


def test_of_600_comparisons_the_true_ones_are_found_and_no_other() -> None:
    random, true = generator(5), torch.arange(600) % 20 == 0
    chance = difficulty(300, random=random)
    a = answers((chance + 0.05 * true[:, None]).clamp_max(1), random)
    b = answers(chance.expand(600, 300), random)
    significant = holm(permutation_test(a, b)) < 0.05
    assert torch.equal(significant, true)


def test_signs_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(2, 3, 100)
    p = permutation_test(a, b, 999)
    assert p.shape == (2, 3) and not torch.equal(p, permutation_test(a, b, 999, seed=1))
    assert float(permutation_test(a[1, 2], b[1, 2], 999)) == float(p[1, 2]), (
        "one by one as in a batch"
    )
    assert float(permutation_test(a[1, 2], b[1, 2], 999)) == float(
        permutation_test(b[1, 2], a[1, 2], 999)
    )
    monkeypatch.setattr(comparison, "BLOCK", 100 * 7)
    assert torch.equal(p, permutation_test(a, b, 999)), "in blocks of 7 permutations"


def test_a_block_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def seen(*arguments: int) -> Iterator[Tensor]:
        for block in flips(*arguments):
            sizes.append(tuple(block.shape))
            yield block

    flips = comparison._kept_signs
    monkeypatch.setattr(comparison, "_kept_signs", seen)
    permutation_test(*pair(10_000), 1000)
    assert sum(rows for rows, _ in sizes) == 1000 and all(
        rows * n <= comparison.BLOCK for rows, n in sizes
    )


@pytest.mark.parametrize("n", [10, 40])
def test_rounding_parts_no_ties(n: int) -> None:
    """T is a multiple of 1/75 and often met exactly; six decimals, or float32, must count it as the
    integers do.
    """
    a, b = ((x * QUERIES).round() for x in pair(200, n))
    expected = permutation_test(a, b, 2000)
    decimals = [(x.double() / QUERIES).mul(1e6).round() / 1e6 for x in (a, b)]
    assert torch.equal(permutation_test(*decimals, 2000), expected)  # type: ignore[call-arg]
    assert torch.equal(permutation_test(a / QUERIES, b / QUERIES, 2000), expected)


def test_holm() -> None:
    # (1 + 3) 0.005, 3 * 0.01, 2 * 0.03, then 1 * 0.04 raised to the one before it
    p = torch.tensor([0.01, 0.04, 0.03, 0.005], dtype=torch.float64)
    torch.testing.assert_close(holm(p), torch.tensor([0.03, 0.06, 0.06, 0.02], dtype=torch.float64))
    assert holm(torch.tensor([0.5, 0.4, 0.9])).tolist() == [1, 1, 1]
    assert torch.equal(holm(p.repeat(2, 3, 1).flip(-1)), holm(p).flip(-1).expand(2, 3, 4))
    assert holm(torch.tensor([])).shape == (0,) and holm(torch.tensor([0.25])).tolist() == [0.25]


# ---- effects over a grid ----

AXES: dict[str, list[Hashable]] = {
    "head": ["proto", "lp"],
    "distance": ["l2", "cos", "dot"],
    "shot": [1, 5],
}
GRID = [dict(zip(AXES, levels, strict=True)) for levels in itertools.product(*AXES.values())]


def simulated(
    cells: Sequence[dict[str, Hashable]], n: int, seed: int = 0
) -> tuple[Tensor, list[Hashable]]:
    """Cells of one shot share their episodes; lp is better with one shot only, cos is worse."""
    random = generator(seed)
    shared = {shot: difficulty(n, random=random) for shot in (1, 5)}
    gain = [
        0.05 * (c["head"] == "lp" and c["shot"] == 1)
        - 0.02 * (c["distance"] == "cos")
        + 0.1 * (c["shot"] == 5)
        for c in cells
    ]
    chance = [(shared[c["shot"]] + g).clamp(0, 1) for c, g in zip(cells, gain, strict=True)]
    return answers(torch.stack(chance), random).double(), [c["shot"] for c in cells]


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


# ---- sentences ----


def effect(*differences: tuple[str, str, float, float, float], **changes: object) -> MainEffect:
    """(first, second, difference, half-width, p) of each comparison, in points."""
    values = {"matched": 4, "episodes": 600, "paired": True} | changes
    incomparable = values.pop("incomparable", ())
    comparisons = [
        Comparison(u, v, Contrast(difference=d / 100, half=h / 100, t=2 * d / h, p=p, **values))  # type: ignore[arg-type]
        for u, v, d, h, p in differences
    ]
    return MainEffect("distance", tuple(comparisons), {}, incomparable)  # type: ignore[arg-type]


OVER = ", averaged over 4 matched pairs of cells"
THREE = (("a", "c", 2.0, 0.2, 0.001), ("b", "c", 3.0, 0.2, 0.001))
SENTENCES = [
    (
        effect(("cosine", "sqeuclidean", -1.8, 0.3, 0.0004), corrected=0.001),
        f"sqeuclidean is 1.8 points better than cosine (95% interval 1.5 to 2.1, corrected p = "
        f"0.001){OVER}.",
    ),
    (
        effect(("sqeuclidean", "cosine", 0.1, 0.3, 0.52), matched=1, episodes=1200, paired=False),
        "sqeuclidean instead of cosine makes no difference that 1,200 episodes can show: 0.1 "
        "points "
        "(95% interval −0.2 to 0.4, p = 0.52), averaged over 1 matched pair of cells with "
        "different episodes.",
    ),
    (
        effect(("a", "b", 0.04, 0.03, 0.0002), corrected=0.0003),
        f"a is 0.04 points better than b (95% interval 0.01 to 0.07, corrected p < 0.001){OVER}.",
    ),
    (
        effect(("a", "b", 0.5, 0.4, 0.02), corrected=0.12),
        f"a is 0.5 points better than b, which may be chance (95% interval 0.1 to 0.9, corrected "
        f"p = 0.12){OVER}.",
    ),
    (
        effect(("a", "b", -1.0, 0.2, 0.001), *THREE, incomparable=(None,)),
        f"b is the best of 3 levels, 1.0 points better than a, the next (95% interval 0.8 to "
        f"1.2, p = 0.001){OVER}; "
        "the range is 3.0 points, from c up to b (95% interval 2.8 to 3.2, p = 0.001); "
        "none could not be compared, for it shares no combination of the other axes with another "
        "level.",
    ),
    (
        effect(("a", "b", -0.1, 0.2, 0.3), *THREE, incomparable=("d", True)),
        "of 3 levels the best two, b and a, make no difference that 600 episodes can show: 0.1 "
        "points "
        f"(95% interval −0.1 to 0.3, p = 0.30){OVER}; "
        "the range is 3.0 points, from c up to b (95% interval 2.8 to 3.2, p = 0.001); "
        "d and true could not be compared, for they share no combination of the other axes with "
        "another level.",
    ),
    (effect(incomparable=("a",)), "a is the only level, so there is nothing to compare."),
    (
        effect(incomparable=("a", "b", 3)),
        "a, b and 3 cannot be compared, for no two of them share a combination of the other axes.",
    ),
]


@pytest.mark.parametrize(("given", "expected"), SENTENCES)
def test_sentence(given: MainEffect, expected: str) -> None:
    assert sentence(given) == f"`distance`: {expected}"


def test_a_sentence_of_a_grid_agrees_with_its_numbers() -> None:
    accuracies, keys = simulated(GRID, 600)
    for e in corrected(main_effects(GRID, accuracies, keys)):
        best = max(e.means, key=lambda level: e.means[level])
        assert f"{best} is " in sentence(e) or f" {best} " in sentence(e)
        gap = 100 * (e.means[best] - sorted(e.means.values())[-2])
        assert f" {gap:.1f} points" in sentence(e)


# ---- simulations: at least 2,000 comparisons each; more where they are cheap, so that chance stays
# small ----


@pytest.mark.parametrize(("n", "count"), [(10, 12_000), (100, 4_000), (300, 2_000), (600, 2_000)])
def test_false_positives_are_5_percent_and_intervals_cover_95(n: int, count: int) -> None:
    random = generator(n)
    shared, other = difficulty(count, n, random=random), difficulty(count, n, random=random)
    a, b, c = answers(shared, random), answers(shared, random), answers(other, random)
    assert 0.04 < float((permutation_test(a, b, 999) <= 0.05).double().mean()) < 0.06
    for mean, half in (paired_difference(a, b), unpaired_difference(a, c)):
        assert 0.94 < float((mean.abs() <= half).double().mean()) < 0.96
    assert float((unpaired_difference(a, b)[1] / paired_difference(a, b)[1]).mean()) > 2, (
        "pairing is worth it"
    )


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
