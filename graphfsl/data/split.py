"""`Split`: one split of a data set, decoded once, as one array that episodes index into."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.arguments import (
    A_SPLIT,
    as_device,
    as_tensor,
    check_kind,
    class_numbers,
    described,
    whole_number,
)
from graphfsl.core.class_names import name_keys
from graphfsl.core.display import block, first_of, kind_of
from graphfsl.data.families import Family
from graphfsl.data.memory_map import Stored, opened
from graphfsl.io.errors import InputError, require


@dataclass(frozen=True)
class Split:
    """All samples of one split.

    Args:
        x: (N, C, H, W) uint8 images or (N, d) float features; a tensor, or an array or lists that
            become one. A memory map (np.memmap) of more than 1 GiB stays on disk, so that a set may
            be larger than RAM.
        y: (N,) whole numbers, which become int64: the class of each sample; -1 for a sample without
            a label (it feeds the unlabeled pool).
        classes: the name of each class; the same index means the same class in every process.
        name: "<data set>/<split>", part of what an episode is a function of.
        groups: the superclass of each class (Omniglot's alphabet, a script, a CIFAR-100
            superclass), or None.
        functions: of a set without samples, the family that tasks draw their functions from; x
            then holds one point of their domain.
        variants: samples come in runs of so many that show the same thing, such as a drawing in
            different hues.

    Raises:
        InputError: where a sample is not finite, a label is out of range or a class has no sample.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str
    groups: tuple[str, ...] | None = None
    stored: Stored | None = field(default=None, repr=False, compare=False)
    functions: Family | None = None
    variants: int = 1

    def __post_init__(self) -> None:
        check_kind(self.name, str, "the name of a split", 'text such as "mine/test"')
        if isinstance(self.x, np.ndarray) and self.x.dtype.kind in "biufc":
            x, stored = opened(self.x)
            object.__setattr__(self, "x", x)
            object.__setattr__(self, "stored", stored)
        elif not isinstance(self.x, Tensor):
            object.__setattr__(self, "x", as_tensor(self.x, f"{self.name}: samples"))
        if self.x.requires_grad:
            object.__setattr__(self, "x", self.x.detach())
        object.__setattr__(self, "y", class_numbers(self.y, f"{self.name}: labels"))
        object.__setattr__(self, "classes", _names(self.classes, f"{self.name}: classes"))
        if self.groups is not None:
            object.__setattr__(self, "groups", _names(self.groups, f"{self.name}: groups"))
            require(
                len(self.groups) == len(self.classes),
                f"{self.name}: {len(self.classes)} classes but {len(self.groups)} groups",
            )
        require(self.classes, f"{self.name} has no class; an episode needs at least 2")
        require(
            len(self.x) == len(self.y),
            f"{self.name}: {len(self.x)} samples but {len(self.y)} labels; there must be one each",
        )
        if wrong := _wrong_with(self.x):
            raise InputError(
                f"{self.name}: samples must be uint8 images (N, C, H, W) or float features (N, d), "
                f"not {self.x.dtype} {tuple(self.x.shape)}: {wrong}"
            )
        if self.x.is_floating_point():
            self._check_finite()
        if len(self.y) and not -1 <= int(self.y.min()) <= int(self.y.max()) < len(self.classes):
            found = f"{int(self.y.min())}..{int(self.y.max())}"
            raise InputError(
                f"{self.name}: labels must lie in -1..{len(self.classes) - 1}, not in {found}"
            )
        if (self.counts == 0).any():
            raise InputError(
                f"{self.name}: class {self.classes[int(self.counts.argmin())]!r} has no sample"
            )

    def __repr__(self) -> str:
        if self.functions is not None:
            return block(f"Split {self.name}", {"functions": self.functions})
        labels, counts = int((self.y >= 0).sum()), self.counts
        facts = {
            "samples": f"{len(self.x):,} of {kind_of(self.x, self.shape)}"
            + (", read from disk" if self.stored else ""),
            "classes": first_of(self.classes),
            "of a class": " to ".join(f"{n:,}" for n in sorted({counts.min(), counts.max()})),
            "unlabeled": f"{len(self.y) - labels:,}" if labels < len(self.y) else "",
            "groups": "" if self.groups is None else first_of(sorted(set(self.groups))),
        }
        return block(f"Split {self.name}", facts)

    @cached_property
    def name_keys(self) -> Tensor:
        """(classes,) a key of each class's name, as `Episode.classes` holds them."""
        return name_keys(self.classes)

    @property
    def counts(self) -> np.ndarray:
        """The number of labeled samples of each class."""
        y = self.y.numpy()
        return np.bincount(y[y >= 0], minlength=len(self.classes))

    @property
    def label_bytes(self) -> bytes:
        """All that it says of its samples, for a digest."""
        return self.y.cpu().numpy().tobytes()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.x.shape[1:])

    def _check_finite(self) -> None:
        first = 0
        for x in self.blocks(65536):
            if not torch.isfinite(x).all():
                bad = first + int((~torch.isfinite(x)).any(1).nonzero()[0])
                raise InputError(
                    f"{self.name}: sample {bad} holds NaN or infinity; features must be finite"
                )
            first += len(x)

    def gather(self, ids: Tensor) -> Tensor:
        """The samples of these ids, in the stored type: (…) -> (…, *S)."""
        if self.stored is not None:
            return self.stored.gather(ids.flatten().numpy()).view(*ids.shape, *self.shape)
        # twice as fast as x[ids]
        return self.x.index_select(0, ids.flatten()).view(*ids.shape, *self.shape)

    def blocks(self, size: int) -> Iterator[Tensor]:
        """All samples in order, `size` at a time."""
        for ids in torch.arange(len(self.x)).split(size):
            yield self.gather(ids) if self.stored is not None else self.x[ids[0] : ids[-1] + 1]

    def to(self, device: torch.device | str) -> Split:
        """The same split with its samples on `device`, so that episodes are gathered there."""
        x = self.x.to(as_device(device))
        return self if x is self.x else dataclasses.replace(self, x=x, stored=None)

    def subset(self, classes: Sequence[int], name: str) -> Split:
        """The split of only these classes, by number, renumbered in the order given."""
        classes = [whole_number(c, "a class of the subset", 0) for c in classes]
        if not classes or len(set(classes)) < len(classes) or max(classes) >= len(self.classes):
            last = len(self.classes) - 1
            raise InputError(
                f"the classes of a subset must be different numbers in 0..{last}, "
                f"not {classes!s:.60}"
            )
        lookup = torch.full((len(self.classes) + 1,), -2)
        lookup[torch.tensor(classes)] = torch.arange(len(classes))
        y = lookup[self.y]
        keep = (y >= 0).nonzero().squeeze(1)
        return self.part(keep, y[keep], classes, name)

    def part(self, rows: Tensor, y: Tensor, classes: Sequence[int], name: str) -> Split:
        """The split of some samples and some classes, with all else that it says of them.

        Args:
            rows: (n,) ids of the samples, whole runs of `variants`.
            y: (n,) their numbers in `classes`; -1 for a sample without a label.
            classes: numbers of the classes that it keeps.
            name: of the new split.
        """
        return dataclasses.replace(
            self,
            x=self.gather(rows),
            y=y,
            classes=tuple(self.classes[c] for c in classes),
            name=name,
            groups=None if self.groups is None else tuple(self.groups[c] for c in classes),
            stored=None,
        )


def channel_statistics(split: Split) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel over at most 10,000 base images.

    The deviation is 1 where there is no spread.
    """
    every = -(-len(split.x) // 10000)
    # In whole numbers, so that the sums are exact in any order.
    n, first, second = 0, torch.tensor(0), torch.tensor(0)
    for ids in torch.arange(0, len(split.x), every).split(1000):
        x = split.gather(ids).long()
        n += x[:, 0].numel()
        first = first + x.sum((0, 2, 3))
        second = second + x.square().sum((0, 2, 3))
    mean = first.double() / n
    std = ((second.double() - n * mean.square()) / (n - 1)).sqrt()
    center = [round(v, 4) for v in (mean / 255).tolist()]
    spread = [round(v, 4) for v in (std / 255).tolist()]
    return {"mean": center, "std": [v or 1.0 for v in spread]}


def join(a: Split, b: Split) -> Split:
    """The classes of both splits of a data set as one split, named <data set>/<a>+<b>."""
    for split in (a, b):
        check_kind(split, Split, "what is joined", A_SPLIT)
    require(
        type(a) is Split and type(b) is Split,
        f"{a.name} and {b.name} show several classes in an image, and are not joined; set "
        "data.base=train",
    )
    if a.shape != b.shape or a.x.dtype != b.x.dtype:
        kinds = (
            f"{s.name} holds {str(s.x.dtype).removeprefix('torch.')} {s.shape}" for s in (a, b)
        )
        raise InputError(
            f"splits that are joined must hold samples of one kind, but {', and '.join(kinds)}"
        )
    require(
        a.variants == b.variants,
        f"{a.name} and {b.name} show each sample in {a.variants} and {b.variants} variants, and "
        "are not joined",
    )
    y = torch.where(b.y >= 0, b.y + len(a.classes), b.y)
    name = f"{a.name}+{b.name.rpartition('/')[2]}"
    if a.functions is not None:
        return dataclasses.replace(a, name=name)
    return dataclasses.replace(
        a,
        x=torch.cat([a.x, b.x]),
        y=torch.cat([a.y, y]),
        classes=a.classes + b.classes,
        name=name,
        groups=None if a.groups is None or b.groups is None else a.groups + b.groups,
        stored=None,
    )


def readable(path: Path, what: str) -> Path:
    """Refuse a path that does not exist, or give it back.

    Raises:
        InputError: names it.
    """
    require(
        path.exists(),
        f"{what} not found: {path}; set data.root or GRAPHFSL_DATA to the folder that holds it",
    )
    return path


def large_classes(split: Split, least: int) -> Split:
    """The split without its classes of fewer than `least` labeled samples.

    A warning tells which. Samples without a label stay.

    Raises:
        InputError: where fewer than 2 classes are left.
    """
    counts = split.counts
    small = [(int(n), name) for n, name in zip(counts, split.classes, strict=True) if n < least]
    if not small:
        return split
    kept = np.flatnonzero(counts >= least)
    require(
        len(kept) >= 2,
        f"{split.name}: {len(kept)} of {len(counts)} classes have {least} labeled samples or "
        f"more, and an episode "
        "needs at least 2 classes; lower data.min_samples",
    )
    told = ", ".join(f"{name!r} ({n})" for n, name in sorted(small)[:20])
    more = f", … ({len(small)} in all)" if len(small) > 20 else ""
    warnings.warn(
        f"{split.name}: classes of fewer than {least} samples are left out: {told}{more}",
        stacklevel=2,
    )
    lookup = torch.full((len(counts) + 1,), -2)
    lookup[-1], lookup[torch.from_numpy(kept)] = -1, torch.arange(len(kept))
    y = lookup[split.y]
    rows = (y > -2).nonzero().squeeze(1)
    return split.part(rows, y[rows], kept.tolist(), f"{split.name}[>={least}]")


def few_classes(split: Split, n: int) -> Split:
    """Cut a split to n of its classes; it is then named <split>[n].

    They are chosen by their names alone, so that the choice is nested in that of n + 1.
    """
    require(
        2 <= whole_number(n, "the number of classes") <= len(split.classes),
        f"{split.name} has {len(split.classes)} classes, so that it cannot be cut to {n}",
    )
    return split.subset(sorted(_by_name(split)[:n]), f"{split.name}[{n}]")


def other_classes(split: Split, n: int) -> Split:
    """The classes that `few_classes` leaves out of n; the split is then named <split>[n:]."""
    left = len(split.classes) - whole_number(n, "the number of classes")
    require(
        n >= 2 and left >= 2,
        f"{split.name} has {len(split.classes)} classes, of which {n} leave {max(left, 0)}; two or "
        "more are needed on either side",
    )
    return split.subset(sorted(_by_name(split)[n:]), f"{split.name}[{n}:]")


def _by_name(split: Split) -> list[int]:
    """The classes of a split in an order that their names alone decide."""
    names = split.classes
    return sorted(range(len(names)), key=lambda c: hashlib.sha256(names[c].encode()).digest())


def _names(given: Sequence[str], what: str) -> tuple[str, ...]:
    """Names as a tuple of text; InputError for one text, which would be read letter by letter."""
    if isinstance(given, (str, bytes)) or not hasattr(given, "__len__"):
        raise InputError(f"{what} must be a list of names, not {described(given)}")
    return tuple(map(str, given))


def _wrong_with(x: Tensor) -> str | None:
    """What is wrong with samples, and what would make them right; None where nothing is."""
    if x.dtype == torch.uint8:
        if x.ndim == 3:
            return "gray images lack the axis of channels; x[:, None] adds it"
        if x.ndim != 4:
            return f"images have 4 axes, not {x.ndim}"
        swapped = x.shape[3] in (1, 3) and x.shape[1] > 4  # no image is that narrow
        return "channels stand last; x.permute(0, 3, 1, 2) puts them first" if swapped else None
    if not x.is_floating_point():
        return "features are floats; x.float() makes them so"
    if x.ndim in (3, 4):
        return "images are bytes; (255 * x).round().to(torch.uint8) makes them of floats in [0, 1]"
    return None if x.ndim == 2 else f"features have 2 axes, not {x.ndim}"
