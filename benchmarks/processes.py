"""Neural processes beside what needs no training, and beside the process that made the functions.

`python -m benchmarks.processes` asks committed runs of `cnp` and `anp` for draws of a Gaussian
process of which 3, 5, 10 and 20 points are known. Beside them stand the mean function of the
process, the value of the nearest known point, the kernel smoother of the best width (chosen for
each number of known points on training functions), and the posterior of the process itself, which
no answer is better than. `--out FILE` writes the table.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

import graphfsl as gf
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.data.sets.gaussian_process import GaussianProcess
from graphfsl.experiment import run as runs
from graphfsl.functional.distances import squared_euclidean

RESULTS = Path("experiments/results")
RUNS = {"cnp": "garnelo2018_gaussian_process_10s", "anp": "kim2019_gaussian_process_10s"}
KNOWN = (3, 5, 10, 20)
WIDTHS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0)
NOISE = 1e-6  # the variance of it that the posterior supposes, so that its equations can be solved


class MeanFunction(Head):
    """The mean of all functions, which is 0."""

    answers = "values"

    def score(self, episode: Episode) -> Tensor:
        assert episode.values is not None
        return torch.zeros_like(episode.values)


class NearestPoint(Head):
    """The value of the known point that is nearest."""

    answers = "values"

    def score(self, episode: Episode) -> Tensor:
        assert episode.values is not None
        away = squared_euclidean(episode.x, episode.x[:, episode.support])
        return episode.values.gather(1, away.argmin(-1, keepdim=True))


class Smoother(Head):
    """The mean of the known values, weighted by a Gaussian of their distance (Nadaraya 1964)."""

    answers = "values"

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def score(self, episode: Episode) -> Tensor:
        assert episode.values is not None
        away = squared_euclidean(episode.x, episode.x[:, episode.support])
        share = (-away / (2 * self.width**2)).softmax(-1)
        return share @ episode.values[:, episode.support]


class Posterior(Head):
    """Mean and standard deviation of the process, given the known points."""

    answers = "values"
    tells_scale = True

    def score(self, episode: Episode) -> Tensor:
        assert episode.values is not None
        x = episode.x.double() / GaussianProcess.length
        known = episode.support
        kernel = (-0.5 * squared_euclidean(x, x)).exp()
        inner = kernel[:, known, known] + NOISE * torch.eye(episode.n_support).to(kernel)
        factor = torch.linalg.cholesky(inner)
        weights = torch.cholesky_solve(kernel[:, known], factor)  # (B, k, n)
        mean = weights.mT @ episode.values[:, known].double()
        told = (kernel[:, known] * weights).sum(1).unsqueeze(-1)
        variance = (1 - told).clamp_min(0) + NOISE
        return torch.stack([variance.sqrt(), mean]).to(episode.x.dtype)


def measured(
    learner: Head | gf.core.Learner, known: int, part: str = "test"
) -> Mapping[str, float]:
    """The metrics of a learner on 600 functions of which `known` points are known."""
    split = gf.load_data("gaussian_process", part)
    asked = {"task": "functions", "shot": known, "query": 100, "query_points": "grid"}
    found = gf.evaluate(learner, split, asked, episodes=600).row()
    return {name: value.value for name, value in found.metrics.items()}


@torch.no_grad()
def error_at_known(learner: gf.core.Learner, known: int) -> float:
    """The squared error of a learner at the points that it is told."""
    split = gf.load_data("gaussian_process", "test")
    episodes = gf.Episodes(split, {"task": "functions", "shot": known, "query": 1})
    episode, _ = episodes.batch(range(600))
    assert episode.values is not None
    answers = learner.score(episode)[-1]
    missed = answers[:, episode.support] - episode.values[:, episode.support]
    return float(missed.square().mean())


def best_smoother(known: int) -> Smoother:
    """The smoother whose width has the least error on training functions."""
    of_width = {w: measured(gf.Pipeline(head=Smoother(w)), known, "train")["MSE"] for w in WIDTHS}
    return Smoother(min(of_width, key=of_width.__getitem__))


def table(folder: Path) -> list[list[str]]:
    """A line for each learner and what is measured of it: numbers for each number of points."""
    learners = {name: runs.load(folder / run).learner.eval() for name, run in RUNS.items()}
    learners["the mean function"] = gf.Pipeline(head=MeanFunction())
    learners["the nearest known point"] = gf.Pipeline(head=NearestPoint())
    smoothers = {known: gf.Pipeline(head=best_smoother(known)) for known in KNOWN}
    learners["the Gaussian process itself"] = gf.Pipeline(head=Posterior())
    found = {
        name: [measured(learner, known) for known in KNOWN] for name, learner in learners.items()
    }
    found["the best kernel smoother"] = [measured(smoothers[known], known) for known in KNOWN]

    lines = []
    for metric in ("MSE", "log-likelihood"):
        for name, values in found.items():
            if metric in values[0]:
                lines.append([metric, name, *(f"{of[metric]:.4g}" for of in values)])
    for name in RUNS:
        errors = [f"{error_at_known(learners[name], known):.4g}" for known in KNOWN]
        lines.append(["MSE at known points", name, *errors])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RESULTS, help="the folder of the two runs")
    parser.add_argument("--out", type=Path, help="a CSV of the table")
    asked = parser.parse_args()
    heads = ["measured", "learner", *(f"{known} known points" for known in KNOWN)]
    lines = table(asked.runs)
    for line in (heads, *lines):
        print("  ".join(f"{cell:28}" for cell in line))
    if asked.out:
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([heads, *lines])


if __name__ == "__main__":
    main()
