"""Generators of support features: 1,000 augmented episodes at once, one by one, and in the released
form of Distribution Calibration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.__main__ import features, interleaved
from graphfsl.core.episode import Episode
from graphfsl.core.generator import Generator
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting
from graphfsl.loops.evaluation import block_size
from graphfsl.methods.augment.distribution_calibration import DistributionCalibration
from graphfsl.methods.augment.f_clswgan import FCLSWGAN
from graphfsl.methods.augment.feature_diffusion import FeatureDiffusion
from graphfsl.methods.augment.gaussian import Gaussian
from graphfsl.methods.augment.hallucinator import Hallucinator
from graphfsl.methods.augment.prototype_vae import PrototypeVAE
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.rfs import RFS

DIM = 640
DRAWS = 750  # of the released form, for a 5-way 1-shot episode


def made() -> dict[str, Generator]:
    """Each generator, as trained as its speed asks for."""
    return {
        "distribution_calibration": DistributionCalibration(DIM),
        "gaussian": Gaussian(DIM),
        "prototype_vae": PrototypeVAE(DIM, base_steps=1),
        "f_clswgan": FCLSWGAN(DIM, steps=1),
        "feature_diffusion": FeatureDiffusion(DIM, steps=1),
        "hallucinator": Hallucinator(DIM),
    }


def generators(device: str, sync: Callable[[], None]) -> Iterator[tuple[str, str, str]]:
    """Episodes in blocks beside the same episodes one by one, with nearest class means."""
    split = features(dim=DIM).to(device)
    loader = Episodes(split, Setting(5, 1, 15), device=device)
    for name, part in made().items():
        part.to(device).fit_base(split.x, split.y)
        learner = Pipeline(augment=part, head=ProtoNet()).to(device).eval()
        size = block_size(learner, loader)
        block = loader.batch(range(size))[0]
        alone = [_task(block, i) for i in range(size)]

        def at_once(i: int, learner: Pipeline = learner, block: Episode = block) -> None:
            with torch.no_grad():
                learner(block)

        def one_by_one(i: int, learner: Pipeline = learner, alone: list[Episode] = alone) -> None:
            with torch.no_grad():
                for task in alone:
                    learner(task)

        t = interleaved({"once": at_once, "alone": one_by_one}, 5, sync)
        yield (
            f"{name} and ProtoNet, a loop over episodes / a block of {size}",
            f"{t['alone'] / t['once']:.1f}",
            "at least 2.5",
        )
        yield (
            f"... 1,000 augmented episodes, ProtoNet on {DIM} features",
            f"{1000 * t['once'] / size:.2f} s",
            "",
        )
    yield from _released(loader, split.x, split.y, sync)


def _released(
    loader: Episodes, x: Tensor, y: Tensor, sync: Callable[[], None]
) -> Iterator[tuple[str, str, str]]:
    """Distribution Calibration with logistic regression, ours and as its authors released it."""
    part = DistributionCalibration(DIM)
    part.to(x.device).fit_base(x, y)
    ours = Pipeline(augment=part, head=RFS()).to(x.device).eval()
    block, _ = loader.batch(range(16))
    base = [x[y == c].cpu().double().numpy() for c in y.unique().tolist()]
    means = np.stack([rows.mean(0) for rows in base])
    covariances = [np.cov(rows.T) for rows in base]

    def run_ours(i: int) -> None:
        with torch.no_grad():
            ours(block)

    def run_theirs(i: int) -> None:
        task = _task(block, i % 16)
        support = task.x[0, task.support].cpu().double().numpy()
        query = task.x[0, task.query].cpu().double().numpy()
        released(support, query, means, covariances, np.random.default_rng(i))

    t = interleaved({"ours": run_ours, "theirs": run_theirs}, 3, sync)
    yield (
        f"Distribution Calibration and logistic regression, released form ({DRAWS} draws a sample) "
        f"/ ours ({part.samples})",
        f"{16 * t['theirs'] / t['ours']:.0f}",
        "at least 20",
    )


def released(
    support: np.ndarray,
    query: np.ndarray,
    means: np.ndarray,
    covariances: list[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """The classes of queries: numpy draws and scikit-learn's classifier, episode by episode."""
    from sklearn.linear_model import LogisticRegression

    drawn, labels = [support], list(range(len(support)))
    for label, sample in enumerate(support):
        near = np.argsort(((means - sample) ** 2).sum(1))[:2]
        mean = (means[near].sum(0) + sample) / 3
        covariance = sum(covariances[c] for c in near) / 2 + 0.21
        drawn.append(rng.multivariate_normal(mean, covariance, DRAWS))
        labels += [label] * DRAWS
    classifier = LogisticRegression(max_iter=1000).fit(np.concatenate(drawn), labels)
    answers: np.ndarray = classifier.predict(query)
    return answers


def _task(block: Episode, i: int) -> Episode:
    """Task i alone."""
    return block.with_tensors({name: t[i, None] for name, t in block.tensors.items()})
