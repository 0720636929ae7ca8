"""From a `LearnerSpec` to a learner: names instead of import paths."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from graphfsl.core import registry
from graphfsl.core.arguments import as_device, sample_shape, whole_number
from graphfsl.core.learner import Learner, Part
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.pretrainer import Pretrainer
from graphfsl.core.saving import Recipe, layout
from graphfsl.core.schema import make
from graphfsl.experiment.encoders import brings_weights, make_encoder
from graphfsl.experiment.learner_spec import SLOTS, LearnerSpec, PartSpec
from graphfsl.io.errors import InputError


def build(
    section: Mapping[str, Any],
    shape: Sequence[int],
    way: int,
    device: str | None = None,
    plugins: str | Sequence[str] = (),
) -> Learner:
    """The learner that a mapping of parts names, such as {"encoder": "conv4", "head": "protonet"}.

    Args:
        section: as the section `learner` of an experiment file.
        shape: of a sample, (channels, h, w) or (d,).
        way: the number of classes that it is built for.
        device: as `build_learner` takes it.
        plugins: packages whose parts and encoders have names too, from now on
            (`graphfsl.core.plugins`).

    Raises:
        InputError: for an unknown key.
    """
    registry.use_plugins(plugins)
    return build_learner(LearnerSpec.of(section), shape, way, device)


def build_learner(
    spec: LearnerSpec, shape: Sequence[int], way: int, device: str | None = None
) -> Learner:
    """The learner for samples of this shape.

    A part whose `__init__` has an argument of one of these names is given it: `dim` (the length of
    a vector), `maps` (the shape (channels, h, w) of the encoder's feature maps), `way`, `shape` (of
    a sample).

    Args:
        spec: the names and options of its parts.
        shape: of a sample, (channels, h, w) or (d,).
        way: the number of classes that it is built for.
        device: where it is built, the CPU unless it says so; "meta" takes no memory or time, to
            check a configuration.

    Raises:
        InputError: for parts that do not fit the samples or each other, and where there is no head.
    """
    shape, way = sample_shape(shape), whole_number(way, "way", 1)
    with as_device(device or "cpu"):
        encoder, dim, maps = make_encoder(spec.encoder, shape)
        if device == "meta" and spec.adapt is not None:
            encoder = copy.deepcopy(encoder)  # checks share it, and a loop may put layers into it
        given_maps = maps or (dim, 1, 1)
        parts: dict[str, list[Part]] = {slot: [] for slot in SLOTS}
        for slot in SLOTS:
            for part_spec in _specs(spec, slot):
                part = _part(slot, part_spec, dim=dim, way=way, maps=given_maps, shape=shape)
                if part.wants_maps and maps is None:
                    raise InputError(
                        f"{part_spec.name} reads feature maps, not vectors; set learner.encoder to "
                        "one such as conv4"
                    )
                dim = getattr(part, "out_dim", dim)
                parts[slot].append(part)
        if not parts["head"]:
            raise InputError(f"learner needs a head, one of {', '.join(registry.names('head'))}")
        given = {"per_query": spec.per_query, "batch_norm": spec.batch_norm}
        pipeline: Pipeline = make(
            Pipeline,
            {key: value for key, value in given.items() if value is not None},
            "learner",
            encoder=encoder,
            augment=parts["augment"] or None,
            graph=parts["graph"] or None,
            acquire=parts["acquire"] or None,
            head=parts["head"][0],
            refine=parts["refine"] or None,
            novelty=parts["novelty"][0] if parts["novelty"] else None,
        )
        pipeline.maps = maps
        learner = _adapted(pipeline, spec)
    if device != "meta":  # what only checks is never saved
        learner.recipe = Recipe(spec, tuple(shape), way, layout(learner))
    return learner


def _specs(spec: LearnerSpec, slot: str) -> Sequence[PartSpec]:
    found = getattr(spec, slot)
    return found if slot in spec.lists else [found] if found is not None else []


def _part(slot: str, spec: PartSpec, **known: Any) -> Part:
    """One part of a slot; InputError where its options make none."""
    where = f"learner.{slot}"
    try:
        part: Part = make(registry.get(slot, spec.name), spec.options, where, **known)
    except RuntimeError as error:  # torch's, for layers of a size that there is not
        line = str(error).splitlines()[0]
        raise InputError(
            f"{where}={spec.name} cannot be built with {dict(spec.options)}: {line}"
        ) from None
    empty = any(p.numel() == 0 for p in part.parameters() if not is_lazy(p))
    if empty and spec.options:
        raise InputError(
            f"{where}={spec.name} has a layer of width 0 with the options {dict(spec.options)}"
        )
    return part


def _adapted(pipeline: Pipeline, spec: LearnerSpec) -> Learner:
    """The pipeline inside the inner loop that the specification names, if any."""
    if spec.adapt is None:
        if not pipeline.reads_support:
            raise InputError(
                "this head does not read the support; set learner.adapt, such as learner.adapt=maml"
            )
        return pipeline
    cls = registry.get("adapt", spec.adapt.name)
    learner: Learner = make(cls, spec.adapt.options, "learner.adapt", net=pipeline)
    if spec.batch_norm is not None:
        learner.set_batch_norm(spec.batch_norm)
    return learner


def build_pretrainer(
    encoder: PartSpec | None,
    objective: PartSpec,
    shape: Sequence[int],
    classes: int,
    device: str | None = None,
) -> Pretrainer:
    """The encoder, which learns here even if it is frozen afterwards, with a pretraining objective.

    It is validated by nearest class means of normalised features.

    Args:
        encoder: its name and options.
        objective: the name and options of the objective.
        shape: of a sample, (channels, h, w).
        classes: how many base classes there are.
        device: "meta" checks a configuration.
    """
    learning = PartSpec("pixels") if encoder is None else encoder
    learning = PartSpec(learning.name, {**learning.options, "frozen": False})
    with torch.device(device or "cpu"):
        net, dim, _ = make_encoder(learning, shape)
        if net is None or not any(True for _ in net.parameters()):
            raise InputError(
                "pretrain needs an encoder with parameters, such as learner.encoder=conv4"
            )
        cls = registry.get("pretrain", objective.name)
        part = make(cls, objective.options, "pretrain.objective", dim=dim, classes=classes)
        return Pretrainer(net, part)


def is_frozen(learner: Learner) -> bool:
    """Whether a learner's encoder has parameters and none of them learns."""
    net = learner.innermost
    return isinstance(net, Pipeline) and net.frozen


def learned_by_rule(learner: Learner) -> set[str]:
    """The tensors that the rule of an inner loop learns, by their names in `state_dict`."""
    loop: Any = learner
    return {f"rule.{name}" for name in loop.rule.state_dict()} if learner.adapts else set()


def comes_complete(spec: LearnerSpec, learner: Learner) -> bool:
    """Whether a learner needs no checkpoint.

    Its frozen encoder has weights of its own, and no other part has any.
    """
    if not (is_frozen(learner) and brings_weights(spec.encoder)):
        return False
    encoder: Any = learner.innermost.encoder
    return len(encoder.state_dict()) == len(learner.state_dict())


def warn_of_drawn(spec: LearnerSpec, learner: Learner) -> None:
    """Warn where a learner, just built, holds weights that were drawn at random.

    There is no warning of parts that came with weights.
    """
    net: Any = learner.innermost
    # what an inner loop has beside the learner in it, such as a learned rule
    around = [] if net is learner else [m for m in learner.children() if not _holds(m, net)]
    names = [type(part).__name__ for part in (*net.parts, *around) if _drawn(part)]
    if not brings_weights(spec.encoder) and _drawn(net.encoder):
        names.insert(0, f"encoder {spec.encoder.name if spec.encoder else 'pixels'!r}")
    if names:
        warnings.warn(
            f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} untrained; give "
            f"weights=FILE where it is an "
            "encoder, or train it by gf.Trainer or `graphfsl run`, and give that Learner or the "
            "run's directory",
            stacklevel=4,
        )
    if unfit := [type(part).__name__ for part in net.parts if part.wants_base]:
        warnings.warn(
            f"{' and '.join(unfit)} learns from base classes and has seen none; "
            f"learner.fit_base(features, labels), with images=… for parts of images, "
            "shows it some, as `graphfsl run` does",
            stacklevel=4,
        )


def _holds(module: nn.Module, part: nn.Module) -> bool:
    return any(m is part for m in module.modules())


def _drawn(part: nn.Module) -> bool:
    """Whether a part has weights that differ from one another.

    Constants, as of a scale, are chosen, not drawn.
    """
    weights = (p for p in part.parameters() if not is_lazy(p) and p.numel() > 1)
    return any(bool((p != p.flatten()[0]).any()) for p in weights)


def warn_of_untrained(spec: LearnerSpec, learner: Learner) -> None:
    """Warn where the encoder is frozen as it was drawn at random."""
    if is_frozen(learner) and not brings_weights(spec.encoder):
        warnings.warn(
            "learner.encoder is frozen and untrained; give it weights=FILE, or a pretrain section",
            stacklevel=4,
        )
