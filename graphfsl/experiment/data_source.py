"""What a configuration says of data, typed.

It is which set, from where, which part of it, and how images are normalised and augmented.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphfsl import data
from graphfsl.core.schema import check_options, given_or, signature
from graphfsl.data import Split, Transform
from graphfsl.data.cluster_files import clustered
from graphfsl.io.errors import InputError, require, unknown

# of the section, not of the set's loader
OWN = ("base", "base_classes", "min_samples", "clusters", "mean", "std", "augment")
PLACES = ("root", "download")  # say where the files come from, not what they hold
AUGMENT = ("rotate", "translate", "scale", "shear", "flip", "color", "drop")
BASES = ("train", "trainval")
HELD_OUT = "held_out"  # the split of the base classes that `base_classes` leaves out


@dataclass(frozen=True)
class DataSource:
    """The section `data` of an experiment, typed.

    Args:
        name: of the data set; None for a learner that was saved without one.
        options: of its loader.
        base: the split that is trained on: "train", or "trainval" for a last training that nothing
            is selected in.
        base_classes: so many classes of that split, the same ones in every run; None for all. The
            others are the split "held_out", on which options are chosen.
        min_samples: classes of fewer labeled samples are left out of every split; None for none.
        clusters: a file of `graphfsl relabel`, whose clusters are the classes of the base split in
            place of its own; None for its own.
        transform: normalisation and training augmentation.
        given: the section as it was written, which files and digests keep.
    """

    name: str | None
    options: Mapping[str, Any]
    base: str
    base_classes: int | None
    min_samples: int | None
    clusters: Path | None
    transform: Transform
    given: Mapping[str, Any] = field(compare=False, repr=False)

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> DataSource:
        """A `data` section, read and checked."""
        options = {k: v for k, v in section.items() if k not in ("name", *OWN)}
        if "name" not in section:
            raise InputError(f"data needs a name, one of {', '.join(data.names())}")
        name = section["name"]
        # A learner that was saved by itself has no data set, and answers without one.
        loader = {} if name is None else signature(data.loader(name))
        known = {k: kind for k, kind in loader.items() if k != "split"}
        if "root" in known:  # it may come from the environment
            known["root"] = (known["root"][0], False)
        check_options(known | dict.fromkeys(OWN, (Any, False)), options, "data")
        transform = _transform(section)
        base = section.get("base", "train")
        if base not in BASES:
            raise unknown("data.base", base, BASES)
        for key, least in (("base_classes", 2), ("min_samples", 1)):
            n = section.get(key)
            if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < least):
                raise InputError(
                    f"data.{key} must be a whole number of at least {least}, or be null, not "
                    f"{n!r:.50}"
                )
        few, least_samples = section.get("base_classes"), section.get("min_samples")
        file = section.get("clusters")
        require(
            file is None or isinstance(file, str),
            f"data.clusters must be the path of a file, or be null, not {file!r:.50}",
        )
        clusters = None if file is None else Path(file)
        return cls(name, options, base, few, least_samples, clusters, transform, dict(section))

    def to_dict(self) -> dict[str, Any]:
        """The section as it was written."""
        return dict(self.given)

    @property
    def placeless(self) -> dict[str, Any]:
        """The section without what says where the files come from."""
        return {k: v for k, v in self.given.items() if k not in PLACES}

    @property
    def is_normalised(self) -> bool:
        """Whether it names the normalisation of images."""
        return self.transform.mean is not None

    @property
    def selects(self) -> bool:
        """Whether weights are selected on validation classes."""
        return self.base == "train"

    @property
    def range(self) -> Sequence[float] | None:
        """The values of black and white, where they are not those of the images' type."""
        return self.given.get("range")

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> DataSource:
        """The same source with this normalisation of images, one number for each channel."""
        augment = {name: getattr(self.transform, name) for name in AUGMENT}
        transform = Transform(mean, std, **augment)
        given = {**self.given, "mean": mean, "std": std}
        return dataclasses.replace(self, transform=transform, given=given)

    def augmented(self, augment: Mapping[str, Any]) -> DataSource:
        """The same source with another training augmentation. Raises InputError for a wrong one."""
        given = {**self.given, "augment": augment}
        return dataclasses.replace(self, transform=_transform(given), given=given)

    def split(self, name: str) -> Split:
        """One split of the data, or several together, as "train+val".

        "trainval" is train and val too, as a split that is trained on, and "held_out" the classes
        of the split that is trained on that `base_classes` leaves out.
        """
        if self.name is None:
            raise InputError(
                "this learner was saved without a data set; set data.name=…, and data.root=… "
                "where it has one"
            )
        of_base = name in (self.base, HELD_OUT)
        together = self.base if of_base else name
        together = "train+val" if together == "trainval" else together
        parts = [data.load(self.name, part, **self.options) for part in together.split("+")]
        found = functools.reduce(data.join, parts)
        if self.clusters is not None and of_base:
            found = clustered(found, self.clusters)
        if self.min_samples is not None:
            found = data.large_classes(found, self.min_samples)
        if name == HELD_OUT:
            if self.base_classes is None:
                raise InputError(
                    f"the split {HELD_OUT} is the classes of {self.base} that data.base_classes "
                    f"leaves out of training; set it, such as "
                    f"data.base_classes={max(2, 3 * len(found.classes) // 4)}"
                )
            return data.other_classes(found, self.base_classes)
        if self.base_classes is not None and of_base:
            found = data.few_classes(found, self.base_classes)
        return found

    def base_split(self) -> Split:
        """The split that is trained on."""
        return self.split(self.base)

    def split_key(self, name: str) -> str:
        """All that a split is a function of, as text."""
        of_base = name in (self.base, HELD_OUT)
        few = self.base_classes if of_base else None
        least = [] if self.min_samples is None else [self.min_samples]
        clusters = [] if self.clusters is None or not of_base else [str(self.clusters)]
        of_which = [self.base] if name == HELD_OUT else []
        parts = [self.options, self.name, name, few, *least, *clusters, *of_which]
        return json.dumps(parts, sort_keys=True)


class Splits:
    """Splits of data sources, each loaded once."""

    def __init__(self) -> None:
        self.loaded: MutableMapping[str, Split] = {}

    def get(self, source: DataSource, name: str) -> Split:
        """One split of a source."""
        key = source.split_key(name)
        if key not in self.loaded:
            self.loaded[key] = source.split(name)
        return self.loaded[key]


def placeless_key(key: str) -> str:
    """A `split_key` without what says where the files lie."""
    options, *rest = json.loads(key)
    return json.dumps(
        [{k: v for k, v in options.items() if k not in PLACES}, *rest], sort_keys=True
    )


def _transform(section: Mapping[str, Any]) -> Transform:
    """Normalisation and training augmentation as the section names them."""
    augment = given_or(section, "augment", {})
    known = {k: v for k, v in signature(Transform).items() if k in AUGMENT}
    check_options(known, augment, "data.augment")
    given = {k: section[k] for k in ("mean", "std") if k in section}
    check_options(signature(Transform), given, "data")
    return Transform(section.get("mean"), section.get("std"), **augment)
