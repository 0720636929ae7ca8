"""What a configuration says of a learner, typed: names and options of its parts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from graphfsl.io.errors import InputError, unknown

SLOTS = ("augment", "graph", "acquire", "head", "refine", "novelty")
KEYS = ("encoder", *SLOTS, "adapt", "per_query", "batch_norm")  # of a `learner` section


@dataclass(frozen=True)
class PartSpec:
    """A part by name: "protonet", or {name: protonet, distance: cosine}."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, entry: Any, where: str) -> PartSpec:
        """What an entry of a configuration names; `where` is its key, for messages."""
        if isinstance(entry, PartSpec):
            return entry
        if isinstance(entry, str):
            return cls(entry)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise InputError(f"{where} must be a name or a mapping with a name, not {entry!r}")
        return cls(entry["name"], {k: v for k, v in entry.items() if k != "name"})


@dataclass(frozen=True)
class LearnerSpec:
    """The parts of a learner by slot; `graphfsl.experiment.builder` builds it.

    Args:
        encoder: None where samples are features, or pixels as they are.
        augment: parts of this slot, in order.
        graph: parts of this slot, in order.
        acquire: the rule by which labels are asked for.
        head: what scores an episode.
        refine: parts of this slot, in order.
        novelty: what says which nodes are of no class.
        adapt: an inner loop around them.
        per_query: whether every query is answered alone; None leaves it to the parts.
        batch_norm: the policy; None takes the usual one.
        given: the section as it was written, which files and digests keep.
    """

    encoder: PartSpec | None
    augment: tuple[PartSpec, ...]
    graph: tuple[PartSpec, ...]
    acquire: PartSpec | None
    head: PartSpec | None
    refine: tuple[PartSpec, ...]
    novelty: PartSpec | None
    adapt: PartSpec | None
    per_query: bool | None
    batch_norm: str | None
    method_name: str = field(compare=False)
    given: Mapping[str, Any] = field(compare=False, repr=False)

    lists: ClassVar[tuple[str, ...]] = ("augment", "graph", "refine")

    @classmethod
    def of(cls, section: Any) -> LearnerSpec:
        """A `learner` section, read; InputError for an unknown key or an entry without a name."""
        if not isinstance(section, Mapping):
            raise InputError(
                f"a learner is a mapping of parts, such as {{'head': 'protonet'}}, not "
                f"{section!r:.60}"
            )
        for key in section:
            if key not in KEYS:
                raise unknown("slot of learner", key, KEYS)
        parts = {slot: _parts(section.get(slot), slot) for slot in SLOTS}
        for slot in SLOTS:
            if slot not in cls.lists and len(parts[slot]) > 1:
                raise InputError(f"learner.{slot} takes one part, not a list")
        encoder = _part(section.get("encoder"), "encoder")
        adapt = _part(section.get("adapt"), "adapt")
        every = {**parts, "encoder": (encoder,), "adapt": (adapt,)}
        named = [part for key in section for part in every.get(key, ()) if part is not None]
        return cls(
            encoder=encoder,
            augment=parts["augment"],
            graph=parts["graph"],
            acquire=parts["acquire"][0] if parts["acquire"] else None,
            head=parts["head"][0] if parts["head"] else None,
            refine=parts["refine"],
            novelty=parts["novelty"][0] if parts["novelty"] else None,
            adapt=adapt,
            per_query=section.get("per_query"),
            batch_norm=section.get("batch_norm"),
            method_name=" + ".join(part.name for part in named),
            given=copy.deepcopy(dict(section)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The section as it was written."""
        return copy.deepcopy(dict(self.given))

    @property
    def weights_file(self) -> str | None:
        """The file that the encoder's weights come from, where it names one."""
        return None if self.encoder is None else self.encoder.options.get("weights")

    def section_under(self, batch_norm: str) -> dict[str, Any]:
        """The section of the same learner under a BatchNorm policy, as files hold it."""
        return {**self.to_dict(), "batch_norm": batch_norm}


def _parts(value: Any, slot: str) -> tuple[PartSpec, ...]:
    """The parts of a slot: one, a list of them, or none."""
    if value is None:
        return ()
    entries = value if isinstance(value, (list, tuple)) else [value]
    return tuple(PartSpec.of(entry, f"learner.{slot}") for entry in entries)


def _part(value: Any, slot: str) -> PartSpec | None:
    return None if value is None else PartSpec.of(value, f"learner.{slot}")
