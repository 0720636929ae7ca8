"""`graphfsl relabel`: clusters of features in place of labels, for training without any (CACTUs).

Hsu, Levine, Finn 2019, "Unsupervised Learning via Meta-Learning",
https://arxiv.org/abs/1810.02334, algorithm 1 with one partition:

    c_1 … c_k = k-means of the features of all training samples
    classes   = the clusters that have enough members
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graphfsl.core.pipeline import Pipeline
from graphfsl.data.cluster_files import write_clusters
from graphfsl.experiment import run as runs
from graphfsl.io.checkpoint import check_writable
from graphfsl.io.errors import InputError, require
from graphfsl.loops.encode import encode_split

ITERATIONS = 100  # of k-means, at the most


@dataclass(frozen=True)
class Relabeled:
    """What was written.

    Attributes:
        split: the name of the split.
        samples: how many it has.
        clusters: how many became classes.
        members: the samples in these.
    """

    split: str
    samples: int
    clusters: int
    members: int

    def __str__(self) -> str:
        return (
            f"{self.clusters:,} clusters of {self.split}, with {self.members:,} of its "
            f"{self.samples:,} samples"
        )


def relabel(run: Path, out: Path, clusters: int = 500, least: int = 20, seed: int = 0) -> Relabeled:
    """Write clusters of the base samples of a run, by its encoder's features.

    The option `data.clusters` of an experiment takes the file in place of labels.

    Args:
        run: the directory of a trained run, whose base split is clustered.
        out: the file to write.
        clusters: k, how many are looked for; the paper takes 500.
        least: members that a cluster needs to become a class: support and queries of an episode.
        seed: of the first centres.

    Raises:
        InputError: for a run without an encoder that encodes samples one by one, for one on
            functions, where `out` cannot be written, and where fewer than two clusters are large
            enough.
    """
    loaded = runs.load(run)
    net = loaded.learner.innermost
    if not isinstance(net, Pipeline):
        raise InputError(f"{run} has no encoder, by whose features samples could be clustered")
    split = loaded.experiment.data.base_split()
    require(
        split.functions is None,
        f"{split.name} holds functions, which are no samples to cluster; give a run that was "
        "trained on samples of classes",
    )
    require(
        2 <= clusters <= len(split.x),
        f"the number of clusters must lie in 2..{len(split.x)}, the samples of {split.name}, not "
        f"{clusters}",
    )
    check_writable(out)
    features = encode_split(net, split, loaded.transform).x.cpu().numpy()
    found = large_clusters(_kmeans(features, clusters, seed), least)
    kept = int(found.max()) + 1
    require(
        kept >= 2,
        f"{kept} of {clusters} clusters have {least} members or more, and an episode needs at "
        "least 2 classes; lower --least or --clusters",
    )
    write_clusters(out, split, found)
    return Relabeled(split.name, len(split.x), kept, int((found >= 0).sum()))


def large_clusters(clusters: np.ndarray, least: int) -> np.ndarray:
    """Number clusters (N,) anew without those of fewer than `least` members, which become -1."""
    large = np.bincount(clusters) >= least
    number = np.where(large, np.cumsum(large) - 1, -1)
    renumbered: np.ndarray = number[clusters]
    return renumbered


def _kmeans(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """The cluster (N,) of each row of features (N, d)."""
    from sklearn.cluster import KMeans

    model = KMeans(clusters, n_init=1, max_iter=ITERATIONS, random_state=seed)
    found: np.ndarray = model.fit_predict(features).astype(np.int64)
    return found
