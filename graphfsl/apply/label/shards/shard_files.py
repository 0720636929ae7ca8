"""The files of a pool in shards, and what says that they belong together.

FOLDER/manifest.json                     format, the encoder's digest, the number of shards
FOLDER/features/00000.safetensors        features (r, d) of r samples, their names, what is lost
FOLDER/cells/, neighbors/, graph/, columns/   what `label` makes of them, one file for a shard

Each file carries a key, a digest of all that it depends on. What is whole and has the right key is
not made again; anything else is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from graphfsl.io.checkpoint import read_json, save_checkpoint, write_json
from graphfsl.io.errors import InputError, require

FORMAT = 1  # of the manifest
MANIFEST = "manifest.json"
FACTS = ("format", "encoder", "samples", "shards")  # of the manifest
FEATURES = "features"


def shard_file(folder: Path, kind: str, number: int) -> Path:
    """Where a shard of a kind lies."""
    return folder / kind / f"{number:05d}.safetensors"


def write_shard(path: Path, tensors: dict[str, Tensor], key: str, **facts: Any) -> None:
    """Write a shard whole, or not at all.

    Args:
        path: of the file.
        tensors: name -> what it holds.
        key: a digest of all that it depends on.
        facts: plain values beside the tensors.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_checkpoint(path, plain, {**facts, "key": key})


def shard_facts(path: Path) -> dict[str, Any] | None:
    """The facts of a shard, its key and checksum among them; None where no whole one is there."""
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["graphfsl"])
            return facts
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def is_made(path: Path, key: str) -> bool:
    """Whether a shard is there, whole and with this key."""
    facts = shard_facts(path)
    return facts is not None and facts.get("key") == key


def read_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, which stay in the file and are read as they are used.

    Raises:
        InputError: where it is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove it and run the same command again"
        ) from None


def digest(*values: Any) -> str:
    """A short digest of plain values."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PoolShards:
    """The features of a pool, shard by shard.

    Attributes:
        folder: of the shards.
        encoder: the digest of what made the features.
        counts: how many samples each shard holds.
        key: a digest of all features.
    """

    folder: Path
    encoder: str
    counts: tuple[int, ...]
    key: str

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, sample: int) -> np.ndarray:
        """The feature (d,) of a sample."""
        number = int(np.searchsorted(self.starts, sample, side="right")) - 1
        row: np.ndarray = self._stored(number)[sample - self.starts[number]].numpy()
        return row

    @property
    def starts(self) -> np.ndarray:
        """(S + 1,) the number of each shard's first sample, and of all."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @property
    def dim(self) -> int:
        """d, the length of a feature."""
        return int(self._stored(0).shape[1])

    def unit(self, number: int) -> np.ndarray:
        """The features (r, d) of a shard, float32 of length 1."""
        return F.normalize(self._stored(number).float(), dim=1).numpy()

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """The features (m, d) of some samples, float32 of length 1; no others are read."""
        x = torch.empty(len(samples), self.dim)
        shard_of = np.searchsorted(self.starts, samples, side="right") - 1
        for number in np.unique(shard_of).tolist():
            mine = np.flatnonzero(shard_of == number)
            rows = torch.from_numpy(samples[mine] - self.starts[number])
            x[torch.from_numpy(mine)] = self._stored(number)[rows].float()
        return F.normalize(x, dim=1).numpy()

    def _stored(self, number: int) -> Tensor:
        return read_shard(shard_file(self.folder, FEATURES, number))["features"]


def write_features(
    folder: Path,
    number: int,
    x: np.ndarray,
    encoder: str,
    names: Sequence[str] | None = None,
    unreadable: Sequence[tuple[str, str]] = (),
    mark: str = "",
) -> None:
    """Write the features of one shard.

    Args:
        folder: of the shards.
        number: of this one.
        x: (r, d) features, finite.
        encoder: the digest of what made them.
        names: of the r samples; None calls them by their numbers in the pool.
        unreadable: names of what is left out, and why.
        mark: what changes with the files of the samples.
    """
    finite = bool(np.isfinite(x).all())
    require(finite, f"shard {number} of {folder} has features that are not finite")
    facts = {
        "names": None if names is None else list(names),
        "unreadable": list(unreadable),
        "mark": mark,
    }
    tensors = {"features": torch.from_numpy(np.ascontiguousarray(x, np.float32))}
    path = shard_file(folder, FEATURES, number)
    write_shard(path, tensors, encoder, **facts, rows=len(x))


def write_manifest(folder: Path, encoder: str, samples: str, shards: int) -> None:
    """Say what the shards of a folder are, before the first one is made.

    Args:
        folder: of the shards.
        encoder: the digest of what makes the features.
        samples: a digest of which samples they are of.
        shards: how many there are.

    Raises:
        InputError: where it holds shards of another encoder, or of other samples.
    """
    path = folder / MANIFEST
    told = {"format": FORMAT, "encoder": encoder, "samples": samples, "shards": shards}
    if not path.is_file():
        write_json(path, told)
        return
    before = _manifest(folder)
    for name, kind in (("encoder", "of another encoder"), ("samples", "of other samples")):
        require(
            before[name] == told[name],
            f"{folder} holds shards {kind}; remove it, or choose another folder with --out",
        )


def is_shards(folder: Path) -> bool:
    """Whether a folder holds a pool in shards."""
    return (folder / MANIFEST).is_file() and (folder / FEATURES).is_dir()


def open_shards(folder: Path) -> tuple[PoolShards, list[str], list[tuple[str, str]]]:
    """The shards of a folder, all of which must be there.

    Returns:
        The shards, the names of their samples, and names of what could not be read, and why.

    Raises:
        InputError: for the first one that is missing, damaged or of another encoder.
    """
    manifest = _manifest(folder)
    names: list[str] = []
    unreadable: list[tuple[str, str]] = []
    counts, checksums = [], []
    for number in range(manifest["shards"]):
        path = shard_file(folder, FEATURES, number)
        require(
            path.is_file(),
            f"{path} is missing, one of the {manifest['shards']} shards that {MANIFEST} names; "
            "encode the pool again, or fetch it",
        )
        facts = shard_facts(path)
        if facts is None:
            raise InputError(f"{path} is damaged; remove it and encode the pool again")
        require(
            facts["key"] == manifest["encoder"],
            f"{path} is of another encoder ({facts['key'][:12]}) than the others "
            f"({manifest['encoder'][:12]}); remove it and encode the pool again",
        )
        first = len(names)
        named = facts["names"]
        names += [str(first + i) for i in range(facts["rows"])] if named is None else named
        unreadable += [(name, why) for name, why in facts["unreadable"]]
        counts.append(facts["rows"])
        checksums.append(facts["checksum"])
    require(sum(counts) > 0, f"{folder}: none of its samples can be read")
    pool = PoolShards(folder, manifest["encoder"], tuple(counts), digest(checksums))
    return pool, names, unreadable


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    found = read_json(path)
    whole = isinstance(found, dict) and found.keys() == set(FACTS)
    require(whole, f"{path} is no manifest of shards; write it again")
    require(
        found["format"] == FORMAT,
        f"{path} has format {found['format']}, and this version reads {FORMAT}",
    )
    manifest: dict[str, Any] = found
    return manifest
