"""`load(RUN)`: a trained run that answers on raw images."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from graphfsl import run as runs
from graphfsl.adapt import Adapt
from graphfsl.batchnorm import lacks_averages
from graphfsl.builder import build, weighted_encoder
from graphfsl.data import Transform
from graphfsl.data.images import decode, to_array
from graphfsl.episode import Episode
from graphfsl.errors import InputError
from graphfsl.features import AVERAGES, write_features
from graphfsl.learner import Learner, Pipeline
from graphfsl.measure import asked, names_policy
from graphfsl.nn.timm_encoder import native_size
from graphfsl.unsound import check_answered


@dataclass(frozen=True)
class Prediction:
    """The answer for one query: its class, the probability of that class, and of all classes."""

    label: str
    confidence: float
    probabilities: dict[str, float]


class Predictor:
    """Classifies images by a handful of labeled ones, with a trained learner.

    An image is a path, a PIL image, or a uint8 array (H, W) or (H, W, 3); it is resized to what the learner was
    trained on. A learner of drawings (ink bright on dark) inverts images whose border is bright, as paper is.
    replaced: the BatchNorm policy of the run that `support` stands in for.
    """

    def __init__(self, run: runs.Run, replaced: str | None = None) -> None:
        self.run, self.learner, self.replaced = run, run.learner.eval(), replaced

    @property
    def notes(self) -> list[str]:
        """What a user should know of the answers, a line each."""
        found = []
        if self.replaced:
            found.append(inductive_note(self.replaced, f"learner.batch_norm={self.replaced}"))
        if self.learner.transductive:
            balance = ", which are taken for as many of every class" if self.learner.needs_balance else ""
            found.append(f"this learner is transductive: an answer depends on the other queries{balance}")
        return found

    def predict(
        self, support: Mapping[str, Sequence[Any]], query: Sequence[Any], unlabeled: Sequence[Any] = ()
    ) -> list[Prediction]:
        """Answers for `query`, given `support` (class -> images); `unlabeled` images help learners that use a pool.

        Raises InputError for an image that cannot be read, fewer than two classes, an empty class, or scores that are
        not finite.
        """
        if len(support) < 2:
            raise InputError(f"the support has {len(support)} class; at least 2 are needed")
        empty = [name for name, images in support.items() if not len(images)]
        if empty:
            raise InputError(f"class {empty[0]!r} of the support has no image; each class needs at least one")
        if not len(query):
            raise InputError("there is no query image")
        names = list(support)
        images = [i for name in names for i in support[name]]
        x = torch.stack([self.image(i) for i in [*images, *query, *unlabeled]])
        w = torch.zeros(1, len(x), len(names))
        owner = [k for k, name in enumerate(names) for _ in support[name]]
        w[0, torch.arange(len(images)), torch.tensor(owner)] = 1
        episode = Episode(self.run.transform.plain()(x[None]), w, len(images), len(query))
        device = next((p.device for p in self.learner.parameters()), torch.device("cpu"))
        episode = episode.to(device)
        with torch.no_grad():
            p = check_answered(self.learner, episode, self.learner(episode))[0].float().softmax(-1).cpu()
        return [
            Prediction(names[int(row.argmax())], float(row.max()), dict(zip(names, row.tolist(), strict=True)))
            for row in p
        ]

    def image(self, image: Any) -> Tensor:
        """One raw image -> (C, H, W) uint8 as the learner was trained on."""
        shape = self.run.shape
        if len(shape) != 3:
            raise InputError(f"this run was trained on features of length {shape[0]}, not on images")
        channels, size = shape[0], shape[1]
        if isinstance(image, (str, Path)):
            try:
                array = decode(Path(image).read_bytes(), size, channels, str(image))
            except OSError as error:
                raise InputError(f"{image} cannot be read ({error.strerror})") from None
        else:
            array = to_array(image if isinstance(image, Image.Image) else _picture(image), size, channels)
        if self.run.ink:
            border = np.concatenate([array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1]], 1)
            array = 255 - array if np.median(border) > 127 else array
        return torch.from_numpy(np.ascontiguousarray(array))


def write_folder_features(
    folder: Path,
    out: Path,
    encoder: str | Mapping[str, Any] = "efficientnet_lite0",
    run: Path | None = None,
    size: int | None = None,
) -> list[Path]:
    """Features of a folder of images as npz files in `out`: of an encoder with weights, or of a trained run's.

    Encoders are as in `folder_encoder`; layouts, arrays and errors are those of `features.write_features`.
    """
    net, transform, size, channels = folder_encoder(encoder, run, size)
    return write_features(net, transform, folder, out, size, channels)


def folder_encoder(
    encoder: str | Mapping[str, Any], run: Path | None, size: int | None
) -> tuple[Pipeline, Transform, int | None, int]:
    """What encodes a folder's images: a learner, its normalisation, the pixels of a side, the number of channels.

    encoder: a name, or a mapping with a name and options, of an encoder in `nn` or of a model of timm; it has weights
        of its own, or `weights` names a file. run: the directory of a trained one instead. size: None takes their own.

    Raises InputError where there are no weights, or no averages for its BatchNorm.
    """
    net, transform, size, channels = _of_run(run, size) if run is not None else _of_name(encoder, size)
    if not isinstance(net, Pipeline) or not list(net.encoder.parameters()):
        raise InputError("this learner has no encoder; features are made by a run or an encoder with weights")
    return net, transform, size, channels


def encoder_option(encoder: str, weights: Path | None, run: Path | None) -> dict[str, Any]:
    """The encoder of a command line: its name, or a YAML mapping with options, and a file of weights."""
    if weights is not None and run is not None:
        raise InputError("--weights is for --encoder, and a run has its own; give one of --weights and --run")
    entry: Any = {"name": encoder}
    if encoder.startswith("{"):
        try:
            entry = yaml.safe_load(encoder)
        except yaml.YAMLError:
            raise InputError(f"--encoder {encoder!r} is no mapping, such as '{{name: conv4, width: 32}}'") from None
    return entry if weights is None else {**entry, "weights": str(weights)}


def _of_run(path: Path, size: int | None) -> tuple[Learner, Transform, int, int]:
    trained = runs.load(path)
    if len(trained.shape) != 3 or trained.ink:
        kind = "drawings" if trained.ink else "features"
        raise InputError(f"{path} was trained on {kind}; features of a folder need a run on photographs")
    net = trained.learner.net if isinstance(trained.learner, Adapt) else trained.learner
    if not trained.has_averages:
        why = "its encoder is untrained" if not trained.steps else "its BatchNorm stored no averages of these weights"
        raise InputError(f"{path}: {why}, so that no image can be encoded alone; {AVERAGES}")
    return net, trained.transform, size or trained.shape[-1], trained.shape[0]


def _of_name(encoder: str | Mapping[str, Any], size: int | None) -> tuple[Learner, Transform, int | None, int]:
    entry = weighted_encoder(encoder)
    native = native_size(entry["model"]) if entry["name"] == "timm" else None
    side = size or native or 84
    net = build({"encoder": {**entry, "frozen": True}, "head": "protonet"}, (3, side, side), 5).eval()
    where = entry.get("weights") or f"encoder {entry['name']!r}"
    if lacks_averages(net):
        raise InputError(
            f"{where}: its BatchNorm stored no averages, so that no image can be encoded alone; {AVERAGES}"
        )
    own = runs.own_normalisation(net)
    if own is None and "weights" in entry:
        warnings.warn(f"images go into the encoder of {where} as numbers in [0, 1]; a run brings its own", stacklevel=4)
    own_size = getattr(net.encoder, "size", None) if isinstance(net, Pipeline) else None
    return net, Transform(own["mean"], own["std"]) if own else Transform(), size or own_size or native, 3


def _picture(array: Any) -> Image.Image:
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise InputError(f"an image array must be uint8 (H, W) or (H, W, 3), not {array.dtype} {array.shape}")
    return Image.fromarray(array)


def load(run: str | Path, overrides: Sequence[str] = ()) -> Predictor:
    """The trained run in a directory, ready to answer.

    overrides: changes of the learner that its weights fit, such as learner.refine=soft_kmeans.

    Answers are inductive as far as BatchNorm decides it: where the run's policy lets queries share statistics, those of
    the support are taken, with a warning, unless an override of learner.batch_norm says otherwise.
    """
    predictor = open_run(run, overrides)
    if predictor.replaced:
        warnings.warn(predictor.notes[0], stacklevel=2)
    return predictor


def open_run(run: str | Path, overrides: Sequence[str] = ()) -> Predictor:
    """`load` without its warning, which stands in `Predictor.notes`."""
    trained = changed(runs.load(run), overrides)
    replaced = None if names_policy(overrides) else answer_inductively(trained.learner)
    return Predictor(trained, replaced)


def changed(run: runs.Run, overrides: Sequence[str]) -> runs.Run:
    """The run with its weights in a changed learner; InputError where they do not fit, or anything else is changed."""
    other = next((o for o in overrides if not o.partition("=")[0].startswith("learner")), None)
    if other is not None:
        raise InputError(
            f"a run answers with another learner, such as learner.batch_norm=apart, but not with {other!r}"
        )
    config, _, learner = asked(run, overrides) if overrides else (run.config, None, run.learner)
    return dataclasses.replace(run, config=config, learner=learner)


def answer_inductively(learner: Learner) -> str | None:
    """Give a learner whose queries share BatchNorm statistics those of the support; the policy that it had, or None."""
    if not learner.shares_statistics:
        return None
    own = learner.batch_norm
    learner.set_batch_norm("support")  # type: ignore[operator]
    return own


def inductive_note(own: str, option: str) -> str:
    """What is said of a policy that `support` stands in for; option: what brings it back."""
    return (
        f"under the BatchNorm policy `{own}` an answer depends on the other queries; `support` takes its place, with "
        f"the statistics of the labeled samples; {option} brings it back"
    )
