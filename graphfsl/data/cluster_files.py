"""Clusters of a split's samples in a JSON file, which stand in place of its labels."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch

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
    facts = read_json(path)
    try:
        check_format(facts["format"], path)
        samples, clusters = facts["samples"], np.array(facts["clusters"], np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no file of clusters ({error!r}); write it with `graphfsl relabel`"
        ) from None
    require(
        samples == samples_digest(split) and clusters.shape == (len(split.x),),
        f"{path} holds clusters of other samples than those of {split.name}; write it anew with "
        "`graphfsl relabel`",
    )
    names = tuple(f"cluster {number}" for number in range(int(clusters.max()) + 1))
    return dataclasses.replace(split, y=torch.from_numpy(clusters), classes=names, groups=None)


def samples_digest(split: Split) -> str:
    """Sixteen characters that change with any sample and with their order, but with no label."""
    found = hashlib.blake2b(repr((len(split.x), split.shape)).encode(), digest_size=8)
    for x in split.blocks(AT_ONCE):
        found.update(np.ascontiguousarray(x.cpu().numpy()).data)
    return found.hexdigest()
