"""What stands beside neural processes is what it is called, by loops and by scikit-learn."""

from __future__ import annotations

import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

import graphfsl as gf
from benchmarks import processes
from graphfsl.core.episode import Episode
from graphfsl.data.sets.gaussian_process import GaussianProcess

KNOWN = 6


@pytest.fixture(scope="module")
def drawn() -> Episode:
    split = gf.load_data("gaussian_process", "test")
    asked = {"task": "functions", "shot": KNOWN, "query": 20, "query_points": "grid"}
    return gf.Episodes(split, asked).batch(range(200))[0]


def known_points(drawn: Episode, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    assert drawn.values is not None
    return drawn.x[number, : drawn.n_support, 0], drawn.values[number, : drawn.n_support, 0]


def test_the_nearest_point_and_the_smoother_by_loops(drawn: Episode) -> None:
    nearest = processes.NearestPoint().score(drawn)
    smooth = processes.Smoother(0.3).score(drawn)
    for number in range(5):
        points, values = known_points(drawn, number)
        for i, x in enumerate(drawn.x[number, :, 0]):
            away = [float((x - point).abs()) for point in points]
            assert float(nearest[number, i]) == float(values[away.index(min(away))])
            share = [2.718281828459045 ** (-((a / 0.3) ** 2) / 2) for a in away]
            mean = sum(s * float(v) for s, v in zip(share, values, strict=True)) / sum(share)
            assert float(smooth[number, i]) == pytest.approx(mean, abs=1e-4)


def test_the_posterior_is_that_of_scikit_learn(drawn: Episode) -> None:
    scale, mean = processes.Posterior().score(drawn)
    kernel = RBF(GaussianProcess.length)
    for number in range(5):
        points, values = known_points(drawn, number)
        reference = GaussianProcessRegressor(kernel, alpha=processes.NOISE, optimizer=None)
        reference.fit(points[:, None].double().numpy(), values.double().numpy())
        expected, spread = reference.predict(drawn.x[number].double().numpy(), return_std=True)
        torch.testing.assert_close(
            mean[number, :, 0].double(), torch.tensor(expected), atol=1e-3, rtol=1e-3
        )
        variance = torch.tensor(spread).square() + processes.NOISE
        torch.testing.assert_close(
            scale[number, :, 0].double().square(), variance, atol=1e-5, rtol=1e-3
        )


def test_no_answer_is_better_than_the_posterior_and_the_mean_function_misses_the_variance() -> None:
    def measured(head: gf.core.Head) -> float:
        return processes.measured(gf.Pipeline(head=head), KNOWN)["MSE"]

    own, smooth = measured(processes.Posterior()), measured(processes.Smoother(0.3))
    assert measured(processes.MeanFunction()) == pytest.approx(1, abs=0.1)
    assert own < smooth < measured(processes.NearestPoint())


def test_the_smoother_with_the_best_width_has_the_least_error_on_training_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "WIDTHS", (0.02, 0.2, 2.0))
    assert processes.best_smoother(10).width == 0.2
