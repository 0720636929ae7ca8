"""What encodes a folder of images on the command line.

It is an encoder with weights, or that of a trained run.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from graphfsl.apply.folder_features import write_features
from graphfsl.core.batchnorm import lacks_averages
from graphfsl.core.encoder import own_normalisation
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.pretrainer import NearestMeans
from graphfsl.core.saving import FILE
from graphfsl.data import Transform
from graphfsl.data.pixel_range import Range, check_range
from graphfsl.experiment import run as runs
from graphfsl.experiment.encoders import make_encoder, weighted_encoder
from graphfsl.experiment.learner_spec import PartSpec
from graphfsl.io.errors import InputError, require
from graphfsl.loops.encode import AVERAGES
from graphfsl.nn.timm_encoder import native_size


def write_folder_features(
    folder: Path,
    out: Path,
    encoder: str | Mapping[str, Any] | PartSpec = "efficientnet_lite0",
    run: Path | None = None,
    size: int | None = None,
    range: Range | None = None,
) -> list[Path]:
    """Write the features of a folder of images as npz files.

    Encoders are as in `folder_encoder`; layouts, arrays and errors are those of
    `features.write_features`.

    Args:
        folder: of images.
        out: where the files are written.
        encoder: a name, or a mapping with options.
        run: the directory of a trained run, whose encoder is taken instead.
        size: pixels of a side; None takes the encoder's own.
        range: the values of black and white; None takes the run's own, or those of the images'
            type.

    Returns:
        The files.
    """
    spec = PartSpec.of(encoder, "encoder")
    net, transform, size, channels = folder_encoder(spec, run, size)
    return write_features(
        net, transform, folder, out, size, channels, range=folder_range(run, range)
    )


def folder_range(run: Path | None, range: Range | None) -> Range | None:
    """The values of black and white in a folder's images: those given, or else those of the run.

    A learner that was saved by itself names none.
    """
    if range is None and run is not None and not (run / FILE).is_file():
        range = runs.read_facts(run).experiment.data.range
    return check_range(range, "range")


def folder_encoder(
    encoder: str | Mapping[str, Any] | PartSpec, run: Path | None, size: int | None
) -> tuple[Pipeline, Transform, int | None, int]:
    """What encodes a folder's images.

    Args:
        encoder: a name, or a name with options, of an encoder in `nn` or of a model of timm; it
            has weights of its own, or `weights` names a file.
        run: the directory of a trained run, whose encoder is taken instead.
        size: pixels of a side; None takes their own.

    Returns:
        A learner, its normalisation, the pixels of a side, and the number of channels.

    Raises:
        InputError: where there are no weights, or no averages for its BatchNorm.
    """
    spec = PartSpec.of(encoder, "encoder")
    net, transform, size, channels = _of_run(run, size) if run is not None else _of_spec(spec, size)
    if not isinstance(net, Pipeline) or not list(net.encoder.parameters()):
        raise InputError(
            "this learner has no encoder; features are made by a run or an encoder with weights"
        )
    return net, transform, size, channels


def encoder_option(encoder: str, weights: Path | None, run: Path | None) -> PartSpec:
    """The encoder of a command line: its name, or a YAML mapping, and a file of weights.

    Raises:
        InputError: for weights beside a run, and for what looks like a mapping and is none.
    """
    require(
        weights is None or run is None,
        "--weights is for --encoder, and a run has its own; give one of --weights and --run",
    )
    entry: Any = {"name": encoder}
    if encoder.startswith("{"):
        try:
            entry = yaml.safe_load(encoder)
        except yaml.YAMLError:
            raise InputError(
                f"--encoder {encoder!r} is no mapping, such as '{{name: conv4, width: 32}}'"
            ) from None
    return PartSpec.of(entry if weights is None else {**entry, "weights": str(weights)}, "encoder")


def _of_run(path: Path, size: int | None) -> tuple[Learner, Transform, int, int]:
    """The encoder of a trained run, as `folder_encoder` returns it.

    Raises:
        InputError: for a run on drawings or on features, and for one whose BatchNorm has no
            averages of its weights: it could normalise an image only together with others.
    """
    trained = runs.load(path)
    if len(trained.shape) != 3 or trained.ink:
        kind = "drawings" if trained.ink else "features"
        raise InputError(
            f"{path} was trained on {kind}; features of a folder need a run on photographs"
        )
    if not trained.has_averages:
        raise InputError(
            f"{path}: its BatchNorm stored no averages of these weights, so that no image can be "
            f"encoded alone; {AVERAGES}"
        )
    channels, _, width = trained.shape
    return trained.learner.innermost, trained.transform, size or width, channels


def _of_spec(encoder: PartSpec, size: int | None) -> tuple[Learner, Transform, int | None, int]:
    spec = weighted_encoder(encoder)
    native = native_size(str(spec.options.get("model"))) if spec.name == "timm" else None
    side = size or native or 84
    module = make_encoder(PartSpec(spec.name, {**spec.options, "frozen": True}), (3, side, side))[0]
    net = Pipeline(module, head=NearestMeans()).eval()
    where = spec.options.get("weights") or f"encoder {spec.name!r}"
    require(
        not lacks_averages(net),
        f"{where}: its BatchNorm stored no averages, so that no image can be encoded alone; "
        f"{AVERAGES}",
    )
    own = own_normalisation(net)
    if own is None and "weights" in spec.options:
        warnings.warn(
            f"images go into the encoder of {where} as numbers in [0, 1]; a run brings its own",
            stacklevel=4,
        )
    own_size = getattr(net.encoder, "size", None) if isinstance(net, Pipeline) else None
    return (
        net,
        Transform(own["mean"], own["std"]) if own else Transform(),
        size or own_size or native,
        3,
    )
