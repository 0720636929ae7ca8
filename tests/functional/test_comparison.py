"""Comparisons of cells: against scipy, by hand, and in thousands of simulated grids."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import scipy.stats
import torch
from torch import Tensor

from graphfsl.functional import comparison
from graphfsl.functional.comparison import (
    holm,
    paired_difference,
    permutation_test,
    student,
    unpaired_difference,
)
from graphfsl.io.errors import InputError
from tests.support.grids import QUERIES, answers, difficulty, generator, pair


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
    sizes: list[tuple[int, int]] = []

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
