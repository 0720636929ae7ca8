"""From the `learner` section of a configuration to a learner: names instead of import paths."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from graphfsl.core import registry
from graphfsl.core.adapt import Adapt
from graphfsl.core.arguments import as_device, sample_shape, whole_number
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.pretrainer import Pretrainer
from graphfsl.core.saving import Recipe, layout
from graphfsl.core.schema import make, signature
from graphfsl.io.errors import InputError, unknown
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.nn import ENCODERS
from graphfsl.nn.timm_encoder import is_timm_model, timm_models
from graphfsl.nn.weights import load_encoder_weights, reads_weights

SLOTS = ("augment", "graph", "head", "refine")
KEYS = ("encoder", *SLOTS, "adapt", "per_query", "batch_norm")  # of a `learner` section


def named(value: Any, where: str) -> tuple[str, dict[str, Any]]:
    """ "protonet", or {name: protonet, distance: cosine}."""
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise InputError(f"{where} must be a name or a mapping with a name, not {value!r}")
    return value["name"], {k: v for k, v in value.items() if k != "name"}


def check_learner(section: Mapping[str, Any]) -> None:
    build(section, (3, 84, 84), 5, device="meta")


def build(
    section: Mapping[str, Any],
    shape: Sequence[int],
    way: int,
    device: str | None = None,
    plugins: str | Sequence[str] = (),
) -> Learner:
    """The configured learner for samples of this shape; parts that ask in `__init__` for `dim`, the
    length of vectors, `maps`, the (channels, h, w) of feature maps, or `way` get them.

    device: "meta" builds without memory or time, to check a configuration. plugins: packages whose
        parts and encoders have names too, from now on (`graphfsl.core.plugins`). Raises InputError
        for an unknown key.
    """
    registry.use_plugins(plugins)
    if not isinstance(section, Mapping):
        raise InputError(
            f"a learner is a mapping of parts, such as {{'head': 'protonet'}}, not {section!r:.60}"
        )
    for key in section:
        if key not in KEYS:
            raise unknown("slot of learner", key, KEYS)
    shape, way = sample_shape(shape), whole_number(way, "way", 1)
    with as_device(device or "cpu"):
        encoder, dim, maps = make_encoder(section.get("encoder"), shape)
        parts: dict[str, Any] = {}
        for slot in SLOTS:
            value = section.get(slot)
            entries = (
                value if isinstance(value, (list, tuple)) else [value] if value is not None else []
            )
            built = []
            for entry in entries:
                name, options = named(entry, f"learner.{slot}")
                try:
                    part = make(
                        registry.get(slot, name),
                        options,
                        f"learner.{slot}",
                        dim=dim,
                        way=way,
                        maps=maps,
                    )
                except RuntimeError as error:  # torch's, for layers of a size that there is not
                    line = str(error).splitlines()[0]
                    raise InputError(
                        f"learner.{slot}={name} cannot be built with {options}: {line}"
                    ) from None
                if any(p.numel() == 0 for p in part.parameters() if not is_lazy(p)) and options:
                    raise InputError(
                        f"learner.{slot}={name} has a layer of width 0 with the options {options}"
                    )
                if part.wants_maps and (len(shape) == 1 or isinstance(encoder, nn.Flatten)):
                    raise InputError(
                        f"{name} reads feature maps, not vectors; set learner.encoder to one "
                        f"such as conv4"
                    )
                dim = getattr(part, "out_dim", dim)
                built.append(part)
            parts[slot] = built or None
        if parts["head"] is None:
            raise InputError(f"learner needs a head, one of {', '.join(registry.names('head'))}")
        if len(parts["head"]) > 1:
            raise InputError("learner.head takes one part, not a list")
        parts["head"] = parts["head"][0]
        options = {k: section[k] for k in ("per_query", "batch_norm") if section.get(k) is not None}
        pipeline: Pipeline = make(Pipeline, options, "learner", encoder=encoder, **parts)
        pipeline.maps = maps
        learner: Learner = pipeline
        if section.get("adapt") is not None:
            name, options = named(section["adapt"], "learner.adapt")
            learner = make(registry.get("adapt", name), options, "learner.adapt", net=learner)
            if section.get("batch_norm") is not None:
                learner.set_batch_norm(section["batch_norm"])  # type: ignore[operator]
        elif not learner.reads_support:
            raise InputError(
                "this head does not read the support; set learner.adapt, such as learner.adapt=maml"
            )
    if device is None:
        learner.recipe = Recipe(copy.deepcopy(dict(section)), tuple(shape), way, layout(learner))
    return learner


def build_pretrainer(
    encoder: Any, objective: Any, shape: Sequence[int], classes: int, device: str | None = None
) -> Pretrainer:
    """The configured encoder, which learns here even if it is frozen afterwards, with a pretraining
    objective.

    It is validated by nearest class means of normalised features. device: "meta" checks a
    configuration.
    """
    entry = {"name": encoder} if isinstance(encoder, str) else {**(encoder or {}), "frozen": False}
    with torch.device(device or "cpu"):
        net, dim, _ = make_encoder(entry, shape)
        if net is None or not any(True for _ in net.parameters()):
            raise InputError(
                "pretrain needs an encoder with parameters, such as learner.encoder=conv4"
            )
        name, options = named(objective, "pretrain.objective")
        part = make(
            registry.get("pretrain", name), options, "pretrain.objective", dim=dim, classes=classes
        )
        return Pretrainer(net, part, SimpleShot(dim, "l2n"))


def make_encoder(value: Any, shape: Sequence[int]) -> tuple[nn.Module | None, int, tuple[int, ...]]:
    """The encoder, the length of its vectors and the shape of its maps, found by a run on the meta
    device.

    Beside its own options every encoder takes `frozen`: it does not learn, and its features are
    computed once; and
    `weights`: a file, see `graphfsl.nn.weights`.
    """
    if len(shape) == 1:
        if value is not None:
            raise InputError("the samples are features already; set learner.encoder=null")
        return None, shape[0], (shape[0], 1, 1)
    name, options = named(value if value is not None else "pixels", "learner.encoder")
    frozen = options.pop("frozen", False)
    if not isinstance(frozen, bool):
        raise InputError(f"learner.encoder.frozen must be true or false, not {frozen!r}")
    if name == "pixels":
        dim = int(torch.Size(shape).numel())
        return nn.Flatten(), dim, (dim, 1, 1)
    if name not in ENCODERS:
        raise registry.missing("encoder", name, [*ENCODERS, "pixels"])
    weights = None if "weights" in signature(ENCODERS[name]) else options.pop("weights", None)
    if weights is not None and not isinstance(weights, str):
        raise InputError(
            f"learner.encoder.weights must be the path of a file, not {weights!r:.200}"
        )
    cls: Any = ENCODERS[name]
    dim, maps = _probed(cls, name, _Options(options), tuple(shape))
    if torch.get_default_device().type == "meta":  # a check of the configuration reads no weights
        return _on_meta(cls, _Options(options), shape[0], frozen), dim, maps
    encoder = make(cls, options, "learner.encoder", in_channels=shape[0])
    if weights is not None and reads_weights():
        load_encoder_weights(encoder, weights)
    encoder.requires_grad_(not frozen)
    return encoder, dim, maps


class _Options(dict[str, Any]):
    """Options as the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@functools.lru_cache(maxsize=64)
def _on_meta(cls: Any, options: _Options, channels: int, frozen: bool) -> nn.Module:
    """An encoder without memory. A study checks hundreds of learners that share a few: each is
    built once.
    """
    encoder: nn.Module = make(cls, options, "learner.encoder", in_channels=channels)
    return encoder.requires_grad_(not frozen)


@functools.lru_cache(maxsize=256)
def _probed(
    cls: Any, name: str, options: _Options, shape: tuple[int, ...]
) -> tuple[int, tuple[int, ...]]:
    """The length of an encoder's vectors and the shape of its maps, found by a run on the meta
    device.
    """
    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty layers; they are refused below
        try:
            probe = make(cls, options, "learner.encoder", in_channels=shape[0]).eval()
        except (RuntimeError, ZeroDivisionError) as error:  # as layers say it
            line = str(error).splitlines()[0]
            raise InputError(
                f"encoder {name!r} cannot be built with the options {options}: {line}"
            ) from None
        try:
            maps = probe(torch.empty(1, *shape))
            out = (
                probe.readout(maps)
                if hasattr(probe, "readout") and maps.ndim > 2
                else maps.flatten(1)
            )
        # as layers and timm's models say it
        except (RuntimeError, AssertionError, ValueError, IndexError):
            out = torch.empty(0)
    if out.numel() == 0:
        size = f"images of {shape[1]} x {shape[2]}"
        raise InputError(
            f"{size} are too small for encoder {name!r} with the options {options}, "
            f"or not of its size"
        )
    return out.shape[1], tuple(maps.shape[1:]) if maps.ndim == 4 else (out.shape[1], 1, 1)


def brings_weights(entry: Any) -> bool:
    """Whether an encoder, as a configuration names it, comes with trained weights."""
    if entry is None:
        return False
    name, options = named(entry, "learner.encoder")
    ships = getattr(ENCODERS.get(name), "ships_weights", False)
    return ships or options.get("pretrained") is True or options.get("weights") is not None


def _frozen(learner: Learner) -> bool:
    net = learner.net if isinstance(learner, Adapt) else learner
    return isinstance(net, Pipeline) and net.frozen


def comes_complete(section: Mapping[str, Any], learner: Learner) -> bool:
    """Whether a learner needs no checkpoint: its frozen encoder has weights of its own, and no
    other part has any.
    """
    own = "net.encoder." if isinstance(learner, Adapt) else "encoder."
    complete = _frozen(learner) and brings_weights(section.get("encoder"))
    return complete and all(k.startswith(own) for k in learner.state_dict())


def warn_of_drawn(section: Mapping[str, Any], learner: Learner) -> None:
    """A warning where a learner, just built, holds weights that were drawn at random, and none that
    it came with.
    """
    net: Any = learner.net if isinstance(learner, Adapt) else learner
    rule = [learner.rule] if isinstance(learner, Adapt) else []
    names = [
        type(part).__name__
        for part in (*net.parts, *rule)
        if isinstance(part, nn.Module) and _drawn(part)
    ]
    entry = section.get("encoder")
    if not brings_weights(entry) and _drawn(net.encoder):
        names.insert(0, f"encoder {named(entry, 'encoder')[0]!r}")
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
            f"learner.fit_base(features, labels) "
            "shows it some, as `graphfsl run` does",
            stacklevel=4,
        )


def _drawn(part: nn.Module) -> bool:
    """Whether a part has weights that differ from one another; constants, as of a scale, are
    chosen, not drawn.
    """
    weights = (p for p in part.parameters() if not is_lazy(p) and p.numel() > 1)
    return any(bool((p != p.flatten()[0]).any()) for p in weights)


def warn_of_untrained(section: Mapping[str, Any], learner: Learner) -> None:
    """A warning where the encoder is frozen as it was drawn at random."""
    if _frozen(learner) and not brings_weights(section.get("encoder")):
        warnings.warn(
            "learner.encoder is frozen and untrained; give it weights=FILE, or a pretrain section",
            stacklevel=4,
        )


def weighted_encoder(encoder: Any) -> dict[str, Any]:
    """The entry of an encoder that comes with weights: a name of `nn`, or of any model of timm; or
    a mapping with it.

    A model of timm has those of the hub unless `weights` names a file. Raises InputError where
    there are none.
    """
    name, options = named(encoder, "encoder")
    if name == "timm" or (name not in (*ENCODERS, "pixels") and is_timm_model(name)):
        model = {} if name == "timm" else {"model": name}
        entry = {
            "name": "timm",
            **model,
            **({} if options.get("weights") else {"pretrained": True}),
            **options,
        }
    elif name not in (*ENCODERS, "pixels"):
        raise registry.missing("encoder", name, [*ENCODERS, "pixels", *timm_models()])
    else:
        entry = {"name": name, **options}
    if not brings_weights(entry) and name != "pixels":
        raise InputError(
            f"encoder {name!r} has no weights, and what an untrained one sees means nothing; "
            f"give weights=FILE "
            "(--weights), a trained run (--run), or an encoder with weights of its own, such as "
            "efficientnet_lite0"
        )
    return entry
