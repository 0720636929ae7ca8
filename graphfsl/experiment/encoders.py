"""From an encoder's name and options to the module, the length of its vectors, its maps."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphfsl.core import registry
from graphfsl.core.schema import make, signature
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.errors import InputError, unknown
from graphfsl.nn import ENCODERS
from graphfsl.nn.feature_wise_transform import transform_feature_wise
from graphfsl.nn.timm_encoder import is_timm_model, timm_models
from graphfsl.nn.weights import load_encoder_weights, reads_weights

PIXELS = "pixels"  # the samples as they are, flattened


def make_encoder(
    spec: PartSpec | None, shape: Sequence[int]
) -> tuple[nn.Module | None, int, tuple[int, ...] | None]:
    """The encoder that a configuration names, with the sizes of what it gives.

    The sizes are found by a run on the meta device. Beside its own options every encoder takes
    `frozen`: it does not learn; `weights`: a file, see `graphfsl.nn.weights`, which is read
    here unless the class reads it itself; and `feature_wise`: noise on its channels in training,
    see `graphfsl.nn.feature_wise_transform`.

    Args:
        spec: its name and options; None takes samples as they are: pixels flattened, features
            without an encoder.
        shape: of a sample, (channels, h, w), or (d,) of features, which only some encoders read.

    Returns:
        The encoder, or None for features without one; the length of its vectors; the shape of its
        maps, or None where it gives vectors only. On the meta device equal calls share one encoder:
        copy it before you change it.

    Raises:
        InputError: for an unknown name, options that mean nothing, and samples that do not fit.
    """
    if len(shape) == 1 and spec is None:
        return None, shape[0], None
    spec = spec or PartSpec(PIXELS)
    if len(shape) == 1 and not getattr(ENCODERS.get(spec.name), "reads_vectors", False):
        raise InputError(
            "the samples are features already; set learner.encoder=null, or one that reads "
            "vectors, such as mlp"
        )
    name, options = spec.name, dict(spec.options)
    frozen = options.pop("frozen", False)
    if not isinstance(frozen, bool):
        raise InputError(f"learner.encoder.frozen must be true or false, not {frozen!r}")
    if name == PIXELS:
        if options:
            raise unknown("option of learner.encoder=pixels", next(iter(options)), ["frozen"])
        return nn.Flatten(), int(torch.Size(shape).numel()), None
    if name not in ENCODERS:
        raise registry.missing("encoder", name, [*ENCODERS, PIXELS])
    weights = None if "weights" in signature(ENCODERS[name]) else options.pop("weights", None)
    if weights is not None and not isinstance(weights, str):
        raise InputError(
            f"learner.encoder.weights must be the path of a file, not {weights!r:.200}"
        )
    feature_wise = options.pop("feature_wise", False)
    cls: Any = ENCODERS[name]
    dim, maps = _probed(cls, name, _Options(options), tuple(shape))
    checks = torch.get_default_device().type == "meta"  # which reads no weights
    if checks and feature_wise is False:
        return _on_meta(cls, _Options(options), tuple(shape), frozen), dim, maps
    encoder = _made(cls, options, shape)
    if feature_wise is not False:
        transform_feature_wise(encoder, feature_wise)
    if weights is not None and not checks and reads_weights():
        load_encoder_weights(encoder, weights)
    encoder.requires_grad_(not frozen)
    return encoder, dim, maps


class _Options(dict[str, Any]):
    """Options as the key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@functools.lru_cache(maxsize=64)
def _on_meta(cls: Any, options: _Options, shape: tuple[int, ...], frozen: bool) -> nn.Module:
    """An encoder without memory.

    A study checks hundreds of learners that share a few: each is built once.
    """
    return _made(cls, options, shape).requires_grad_(not frozen)


def _made(cls: Any, options: Mapping[str, Any], shape: Sequence[int]) -> nn.Module:
    """The encoder of samples (C, H, W) or (d,)."""
    pixels = math.prod(shape[1:])
    given = {"in_channels": shape[0], "pixels": pixels}
    encoder: nn.Module = make(cls, options, "learner.encoder", **given)
    return encoder


@functools.lru_cache(maxsize=256)
def _probed(
    cls: Any, name: str, options: _Options, shape: tuple[int, ...]
) -> tuple[int, tuple[int, ...] | None]:
    """The length of an encoder's vectors and the shape of its maps, by a run on the meta device."""
    with torch.device("meta"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty layers; they are refused below
        try:
            probe: Any = _made(cls, options, shape).eval()
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
        size = (
            "images of " + " x ".join(map(str, shape[1:])) if shape[1:] else f"{shape[0]} numbers"
        )
        raise InputError(
            f"{size} are too small for encoder {name!r} with the options {options}, or not of its "
            f"size"
        )
    return out.shape[1], tuple(maps.shape[1:]) if maps.ndim == 4 else None


def brings_weights(spec: PartSpec | None) -> bool:
    """Whether an encoder comes with trained weights."""
    if spec is None:
        return False
    ships = getattr(ENCODERS.get(spec.name), "ships_weights", False)
    options = spec.options
    return ships or options.get("pretrained") is True or options.get("weights") is not None


def weighted_encoder(spec: PartSpec) -> PartSpec:
    """An encoder that comes with weights: of `nn`, or any model of timm.

    A model of timm has the weights of the hub unless `weights` names a file.

    Args:
        spec: its name and options.

    Raises:
        InputError: where there are no weights.
    """
    known = (*ENCODERS, PIXELS)
    if spec.name == "timm" or (spec.name not in known and is_timm_model(spec.name)):
        model = {} if spec.name == "timm" else {"model": spec.name}
        hub = {} if spec.options.get("weights") else {"pretrained": True}
        spec = PartSpec("timm", {**model, **hub, **spec.options})
    elif spec.name not in known:
        raise registry.missing("encoder", spec.name, [*known, *timm_models()])
    if not brings_weights(spec) and spec.name != PIXELS:
        raise InputError(
            f"encoder {spec.name!r} has no weights, and what an untrained one sees means nothing; "
            f"give weights=FILE "
            "(--weights), a trained run (--run), or an encoder with weights of its own, such as "
            "efficientnet_lite0"
        )
    return spec
