"""Clusters of a split's samples in a JSON file, which stand in place of its labels."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphfsl.core.arguments import whole_number
from graphfsl.data.split import Split
from graphfsl.io.checkpoint import FORMAT, check_format, read_json, write_json
from graphfsl.io.errors import InputError, require

AT_ONCE = 4096  # samples


def write_clusters(path: Path, split: Split, clusters: np.ndarray) -> None:
    """Write the cluster of each sample of a split.

    Args:
        path: the file.
        split: whose samples they are.
        clusters: (N,) 0, 1, … without a gap, -1 for a sample of none.
    """
    facts = {
        "format": FORMAT,
        "data": split.name,
        "samples": samples_digest(split),
        "clusters": clusters.tolist(),
    }
    write_json(path, facts)


def clustered(split: Split, path: Path) -> Split:
    """The split with the clusters of a file as its classes; samples of none have no label.

    Raises:
        InputError: where the file holds none, or those of other samples.
    """
    require(
        type(split) is Split,
        f"{split.name} shows several classes in an image, which no clusters stand for; leave "
        "data.clusters out",
    )
    require(path.is_file(), f"data.clusters: no file {path}; `graphfsl relabel` writes one")
    samples, clusters = _read(path)
    require(
        samples == samples_digest(split) and len(clusters) == len(split.x),
        f"{path} holds clusters of other samples than those of {split.name}; write it anew with "
        "`graphfsl relabel`",
    )
    count = len(set(clusters) - {-1})
    largest = max(clusters, default=-1)
    require(
        largest == count - 1,
        f"{path} holds {count} clusters, one of them with the number {largest}, but they are "
        "numbered from 0 without a gap; write it anew with `graphfsl relabel`",
    )
    names = tuple(f"cluster {number}" for number in range(count))
    y = torch.tensor(clusters, dtype=torch.int64)
    return dataclasses.replace(split, y=y, classes=names, groups=None)


def _read(path: Path) -> tuple[Any, list[int]]:
    """The digest of the samples, and the cluster of each, -1 for none, that a file holds."""
    facts = read_json(path)
    try:
        number, samples, clusters = facts["format"], facts["samples"], list(facts["clusters"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no file of clusters ({error!r}); write it with `graphfsl relabel`"
        ) from None
    check_format(number, path)
    return samples, [whole_number(one, f"{path}: a cluster", least=-1) for one in clusters]


def samples_digest(split: Split) -> str:
    """Sixteen characters that change with any sample and with their order, but with no label."""
    found = hashlib.blake2b(repr((len(split.x), split.shape)).encode(), digest_size=8)
    for x in split.blocks(AT_ONCE):
        found.update(np.ascontiguousarray(x.cpu().numpy()).data)
    return found.hexdigest()
