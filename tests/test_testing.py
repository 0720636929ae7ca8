"""Example of a method from elsewhere. Author 2024, https://example.org"""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

import graphfsl
from graphfsl.core import Episode, Head, InputError, Refine
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.testing import check_method, checks
from tests.support import ROOT


class Means(Head):
    """s_ic = -scale |x_i - c|^2.

    scale: of the distances.
    score: features (B, n, d), label weights (B, n, C) -> scores (B, n, C).
    Source: nowhere.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def score(self, episode: Episode) -> Tensor:
        means = prototypes(episode.x, episode.w)
        return hide_absent(-self.scale * squared_euclidean(episode.x, means), episode.w)


class Narrow(Means):
    def score(self, episode: Episode) -> Tensor:
        return super().score(episode)[..., :-1]


class AcrossTasks(Means):
    def score(self, episode: Episode) -> Tensor:
        return super().score(episode) * (1 + episode.x.mean())


class SeesPadding(Means):
    def score(self, episode: Episode) -> Tensor:
        return super().score(episode) + episode.x.sum((1, 2), keepdim=True)


class AbsentClassesScore(Means):
    def score(self, episode: Episode) -> Tensor:
        return super().score(episode).clamp_min(-1e4)


class SinglePrecision(Means):
    def score(self, episode: Episode) -> Tensor:
        return super().score(episode).float()


class ByOrder(Means):
    def score(self, episode: Episode) -> Tensor:
        last = episode.x[:, episode.n_support - 1]
        return super().score(episode) * (2 + last.tanh().mean(1)[:, None, None])


class ByPlace(Means):
    def score(self, episode: Episode) -> Tensor:
        scores = super().score(episode)
        return scores * torch.arange(1, 1 + scores.shape[1]).to(scores)[:, None]


class SeesQueries(Means):
    def score(self, episode: Episode) -> Tensor:
        middle = episode.x[:, episode.query].mean((1, 2))
        return super().score(episode) * (2 + middle.tanh())[:, None, None]


class SaysItSeesThePool(Means):
    uses_unlabeled = True


class NeedsAPool(Means):
    def score(self, episode: Episode) -> Tensor:
        return super().score(episode) + 0 * episode.x[:, episode.unlabeled].mean()


class Silent(Means):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class Counts(Means):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def score(self, episode: Episode) -> Tensor:
        self.calls += 1  # type: ignore[assignment]
        return super().score(episode)


class Opposite(Means):
    def __init__(self) -> None:
        super().__init__(-1.0)

    def loss(self, episode: Episode, target: object) -> Tensor:
        return 0 * self.score(episode)[:, episode.query].sum()


class NotSaved(Means):
    def __init__(self) -> None:
        super().__init__()
        self.own = torch.rand(()) + 1

    def score(self, episode: Episode) -> Tensor:
        return self.own * super().score(episode)


class Reads(Means):
    def score(self, episode: Episode) -> Tensor:
        return super().score(episode) * (1 if float(episode.x.max()) > -1e9 else 2)


class Undocumented(Means):
    """Scores."""


class SilentlyBalanced(Refine):
    """Scores are shifted until every class has as much of the pool."""

    uses_unlabeled = True

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        share = scores[:, episode.unlabeled].softmax(-1).mean(1, keepdim=True)
        return scores - 5 * (share + 1e-3).log()


@pytest.mark.parametrize("check", checks(Means), ids=str)
def test_a_method_that_keeps_the_contract_passes(check) -> None:
    check()


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (Narrow, "scores_have_the_shape_and_are_finite"),
        (AcrossTasks, "batched_equals_one_by_one[running]"),
        (SeesPadding, "padding_changes_nothing[running]"),
        (AbsentClassesScore, "tasks_of_different_way_share_a_batch"),
        (SinglePrecision, "float64_agrees"),
        (ByOrder, "order_of_the_support_matters_only_where_declared"),
        (ByPlace, "order_of_queries_and_pool_does_not_matter"),
        (SeesQueries, "a_query_is_answered_the_same_alone_unless_declared[running]"),
        (SaysItSeesThePool, "the_pool_matters_only_where_declared[running]"),
        (NeedsAPool, "an_empty_pool_is_fine"),
        (Silent, "gradients_reach_every_parameter[running]"),
        (Counts, "gradients_reach_every_parameter[running]"),
        (Opposite, "learns_above_chance"),
        (NotSaved, "weights_make_a_round_trip_through_a_file"),
        (Reads, "runs_on_fake_cuda_or_meta"),
        (Undocumented, "documentation_names_source_and_shapes"),
        (SilentlyBalanced, "balance_of_the_pool_matters_only_where_declared"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_method_that_breaks_the_contract_fails(cls: type, name: str) -> None:
    (check,) = [c for c in checks(cls) if c.name == name]
    with pytest.raises(AssertionError) as error:
        check()
    line = str(error.value)
    assert line.startswith(f"{cls.__name__}: {name}: ") and len(line) > len(cls.__name__ + name) + 8


def test_check_method_names_the_first_check_that_fails_and_leaves_out_what_it_is_told() -> None:
    state = torch.get_rng_state()
    with pytest.raises(AssertionError, match=r"^Narrow: scores_have_the_shape"):
        check_method(Narrow)
    assert torch.equal(torch.get_rng_state(), state), "a caller's random numbers go on"
    every = [c.name for c in checks(Narrow)]
    check_method(Narrow, skip=every)
    with pytest.raises(InputError, match="did you mean 'float64_agrees'"):
        check_method(Means, skip=["float64_agree"])
    with pytest.raises(InputError, match="a class below one of Head, Graph"):
        check_method(nn.Linear)


def test_options_and_idle_parameters_are_told() -> None:
    shape, *_ = checks(Means, options={"scale": 2.0})
    assert shape.method.learner().head.scale == 2.0
    (reached,) = [
        c for c in checks(Silent, idle=r"head\.weight") if c.name.startswith("gradients")
    ][:1]
    reached()


def test_neither_pytest_nor_a_room_above_the_contract_is_imported() -> None:
    code = (
        "import sys, graphfsl\n"
        "graphfsl.testing.check_method\n"
        "rooms = ('pytest', 'graphfsl.loops', 'graphfsl.experiment', 'graphfsl.data')\n"
        "print([m for m in rooms if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert graphfsl.testing.check_method is check_method
