"""How good a generator is, beside real samples and the simplest generators.

Can a classifier tell its samples from real ones, do they show their class, do they differ, and are
they copies of training samples?
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.apply.generate import BLOCK, as_seen_by, generator_of, middle, pipeline_of
from graphfsl.core.episode import Episode
from graphfsl.core.generator import Generator
from graphfsl.data import Split, Transform
from graphfsl.experiment import run as runs
from graphfsl.experiment.measure import asked_of
from graphfsl.experiment.pretraining import visible
from graphfsl.experiment.run import Run
from graphfsl.functional.base_episodes import base_episodes, shuffled_by_class, smallest_class
from graphfsl.functional.distances import nearest_row
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError, require
from graphfsl.loops.encode import encode, encoding_device
from graphfsl.methods.augment.affine_copies import AffineCopies
from graphfsl.methods.augment.gaussian import Gaussian

AT_ONCE = 50  # conditions


@dataclass(frozen=True)
class Quality:
    """What was measured of samples drawn under many conditions, in the learner's features.

    Args:
        name: of what drew them; "real" are other samples of the same classes.
        logistic: how often a logistic regression tells them from real ones; 0.5 is a guess.
        network: how often a network of two layers does.
        fid: Fréchet distance from real samples.
        accuracy: how often the nearest class mean of the split is that of their class.
        diversity: mean distance of two draws under one condition, as a share of that of two real
            samples of one class.
        nearest: median distance to the nearest training sample, as a share of that of real samples;
            0 is a copy.
    """

    name: str
    logistic: float
    network: float
    fid: float
    accuracy: float
    diversity: float
    nearest: float


@dataclass(frozen=True)
class World:
    """Real samples that generators are compared with, as features of length d.

    Args:
        given: (m, k) the samples of the split that each condition shows.
        of_given: (m, d) their mean.
        real: (m, 2, d) two others of the class.
        classes: (m,) the class of each condition.
        means: (C, d) class means of yet other samples.
        base: (N, d) training samples.
        base_classes: (N,) their classes.
    """

    given: Tensor
    of_given: Tensor
    real: Tensor
    classes: Tensor
    means: Tensor
    base: Tensor
    base_classes: Tensor


@torch.no_grad()
def measure(
    run: str | Path, changes: Sequence[str] = (), count: int = 2000, shot: int = 1, seed: int = 0
) -> list[Quality]:
    """Compare a run's generator with a Gaussian, or an image generator with affine copies.

    Conditions come from the split that the run is evaluated on, whose classes no generator has
    seen.

    Args:
        run: the directory of a trained run whose learner has a generator.
        changes: overrides, such as evaluation.split=val.
        count: conditions.
        shot: samples of a condition.
        seed: of conditions, draws and classifiers.

    Raises:
        InputError: for a run without a trained generator, and for classes that are too small.
    """
    stored = runs.load(run)
    asked = asked_of(stored, changes)
    trained = replace(stored, experiment=asked.experiment, learner=asked.learner.eval())
    part = generator_of(trained.learner)
    experiment = trained.experiment
    own = experiment.evaluation.split
    require(
        own != experiment.data.base,
        f"the generator has learned from {own}; give evaluation.split=val or test",
    )
    split, base = experiment.data.split(experiment.evaluation.split), experiment.data.base_split()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        world = _world(trained, part, split, base, count, shot)
        found = [_judge("real", world.real.flip(1), world)]
        for name, generator in _generators(part, trained, world):
            drawn = _draw(generator, trained, split, world)
            found.append(_judge(name, drawn, world))
    return found


def _world(run: Run, part: Generator, split: Split, base: Split, count: int, shot: int) -> World:
    labeled = split.y.cpu() >= 0
    rows = labeled.nonzero()[:, 0]
    x, y = as_seen_by(part, run, split).x.float().cpu()[rows], split.y.cpu()[rows]
    known, shown = as_seen_by(part, run, base), visible(run.experiment, base).cpu()
    smallest = smallest_class(y) // 2
    require(
        smallest >= shot + 2,
        f"{split.name} is halved, and {shot + 2} images of each class are needed in either half, "
        f"but its smallest class has {2 * smallest}",
    )
    half = torch.zeros(len(y), dtype=torch.bool)
    half[shuffled_by_class(y)[::2]] = True  # every second sample of each class
    ids, _ = base_episodes(y[~half], 1, shot, 2, count)
    ids = (~half).nonzero()[:, 0][ids]
    learned = shown >= 0
    of_class = torch.nn.functional.one_hot(y, int(y.max()) + 1).float()
    return World(
        rows[ids[:, :shot]],
        x[ids[:, :shot]].mean(1),
        x[ids[:, shot:]],
        y[ids[:, 0]],
        prototypes(x[half], of_class[half]),
        known.x.float().cpu()[learned],
        shown[learned],
    )


def _generators(part: Generator, run: Run, world: World) -> Iterator[tuple[str, Generator]]:
    """The run's own, and the simplest that it is held against."""
    yield type(part).__name__, part
    if part.of_images:
        if not isinstance(part, AffineCopies):
            yield "AffineCopies", AffineCopies(run.shape)
        return
    dim = world.base.shape[1]
    plain = Gaussian(dim, rank=dim)
    plain.fit_base(world.base, world.base_classes)
    yield "Gaussian", plain


def _draw(part: Generator, run: Run, split: Split, world: World) -> Tensor:
    """Features (m, 2, d) of two draws under each condition, each with noise of its own."""
    net = pipeline_of(run)
    part.train()
    part.set_samples(2)
    transform, device = run.transform.plain(), encoding_device(net, None)
    seen = split if part.of_images else as_seen_by(part, run, split)
    drawn = []
    for rows in world.given.split(AT_ONCE):
        given = seen.gather(rows.flatten().to(seen.x.device)).to(device)
        given = transform(given).unflatten(0, rows.shape)
        episode = Episode(given, given.new_ones(*rows.shape, 1), rows.shape[1], 0)
        x = part.to(device)(episode).x[:, rows.shape[1] :][:, :2]
        if part.of_images:
            x = encode(net, x.flatten(0, 1), Transform(), device).unflatten(0, x.shape[:2])
        drawn.append(x.cpu())
    part.eval()
    return torch.cat(drawn)


def _judge(name: str, drawn: Tensor, world: World) -> Quality:
    """What is measured of draws (m, 2, d), the first of each pair beside the first real one."""
    first, real = drawn[:, 0], world.real[:, 0]
    right = torch.cdist(first, world.means).argmin(1) == world.classes

    def spread(pair: Tensor) -> Tensor:
        distances: Tensor = torch.linalg.vector_norm(pair[:, 0] - pair[:, 1], dim=1)
        return distances.mean()

    def to_base(x: Tensor) -> float:
        return middle(nearest_row(x, world.base.split(BLOCK))[1])

    usual = to_base(real)
    return Quality(
        name,
        told_apart(first, real, world.of_given, world.classes, layers=1),
        told_apart(first, real, world.of_given, world.classes, layers=2),
        frechet(first, real),
        float(right.float().mean()),
        float(spread(drawn) / spread(world.real)),
        to_base(first) / usual if usual > 0 else math.inf,
    )


def told_apart(
    drawn: Tensor, real: Tensor, condition: Tensor, classes: Tensor, layers: int
) -> float:
    """How often a classifier tells drawn samples (m, d) from real ones, given the condition.

    It sees x - c and c of a sample x and its condition c, learns on half of the classes and is
    asked on the other half, and once more the other way round: 0.5 is a guess. The halves are the
    same for all draws, so that generators compare.

    Args:
        drawn: (m, d).
        real: (m, d), of the same conditions.
        condition: (m, d).
        classes: (m,) of each condition.
        layers: 1 is a logistic regression, 2 a network with one hidden layer of 128.
    """
    pairs = torch.cat([torch.cat([x - condition, condition], 1) for x in (drawn, real)]).numpy()
    is_real = torch.tensor([0, 1]).repeat_interleave(len(real)).numpy()
    present = classes.unique()
    order = torch.randperm(len(present), generator=torch.Generator().manual_seed(0), device="cpu")
    first = torch.isin(classes, present[order[::2].to(present.device)]).repeat(2).numpy()
    right = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        for learned in (first, ~first):
            model = _two_sample_classifier(layers).fit(pairs[learned], is_real[learned])
            right += model.score(pairs[~learned], is_real[~learned]) / 2
    return float(right)


def _two_sample_classifier(layers: int) -> Any:
    """A classifier of scikit-learn on standardised features, with so many layers."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if layers == 1:
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    network = MLPClassifier((128,), alpha=1e-2, early_stopping=True, max_iter=60, random_state=0)
    return make_pipeline(StandardScaler(), network)


class _AsTheyAre(nn.Module):
    """Features stay features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def frechet(drawn: Tensor, real: Tensor) -> float:
    """The Fréchet distance of normal distributions fitted to features, both (m, d).

    Raises:
        InputError: where torchmetrics is not installed.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise InputError(
            "the Fréchet distance is torchmetrics'; pip install graphfsl[generate]"
        ) from None
    fid = FrechetInceptionDistance(_AsTheyAre(drawn.shape[1]))
    fid.update(real, real=True)
    fid.update(drawn, real=False)
    return float(fid.compute())
