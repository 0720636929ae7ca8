"""`graphfsl generate`: what a trained run's generator makes of a few images, as files."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graphfsl.apply.predict import Predictor, open_run
from graphfsl.core.episode import Episode
from graphfsl.core.generator import Generator
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Split
from graphfsl.data.transforms import Transform
from graphfsl.experiment.run import Run
from graphfsl.functional.distances import nearest_row
from graphfsl.io.checkpoint import whole_folder, write_atomically, write_json
from graphfsl.io.errors import InputError, require
from graphfsl.io.plain_text import csv_table
from graphfsl.loops.encode import encode_split
from graphfsl.loops.feature_cache import cached_features
from graphfsl.report.contact_sheet import Tile, contact_sheet

SHOWN = 12  # samples of a class on the contact sheet
BLOCK = 4096  # training samples that are compared at once
ALIKE = 0.05  # a variety below it is that of a generator that draws one thing


@dataclass(frozen=True)
class Generated:
    """What was drawn of a few labeled samples.

    Args:
        samples: (n, *S) images as bytes, or features.
        labels: (n,) the class of each.
        given: (k, *S) the labeled samples that they were drawn from, of the same kind.
        images: (k, C, H, W) these as images of bytes.
        owner: (k,) the class of each.
        names: of the classes.
    """

    samples: Tensor
    labels: Tensor
    given: Tensor
    images: Tensor
    owner: Tensor
    names: tuple[str, ...]

    @property
    def of_images(self) -> bool:
        """Whether images were generated, not features."""
        return self.samples.ndim == 4

    @property
    def variety(self) -> float:
        """How far the samples lie from their mean, as a share of how far the given ones do.

        Infinite where those are all equal.
        """
        drawn, given = (
            x.double().var(0, correction=0).sum().sqrt() for x in (self.samples, self.given)
        )
        return float(drawn / given) if given > 0 else math.inf


@dataclass(frozen=True)
class Nearest:
    """The training sample that is nearest to each of some others.

    Args:
        rows: (n,) its number.
        distances: (n,) Euclidean, of pixels from 0 to 255 or of features, over the root of their
            number.
        given: (k,) the same distances of the labeled samples: what is usual for real ones.
        images: (n, C, H, W) bytes of the nearest samples.
    """

    rows: Tensor
    distances: Tensor
    given: Tensor
    images: Tensor

    @property
    def share(self) -> float:
        """The median distance as a share of that of the labeled samples; 0 is a copy."""
        return middle(self.distances) / middle(self.given)


def middle(distances: Tensor) -> float:
    """The median; of an even number the mean of the middle two, where torch takes the lower one."""
    return float(distances.double().quantile(0.5))


def generate(
    run: str | Path,
    support: Mapping[str, Sequence[Any]],
    per_class: int,
    out: Path,
    changes: Sequence[str] = (),
) -> tuple[list[Path], str]:
    """Draw samples of classes that a few images show, and write them.

    Images become `out`/images/<class>/<number>.png, features `out`/features.npz, which data set
    `arrays` reads. Beside them are generated.csv with the nearest training image of each, a
    contact sheet, and summary.json.

    Args:
        run: the directory of a trained run whose learner has a generator.
        support: class -> its images.
        per_class: how many samples of each class.
        out: the folder.
        changes: overrides of the learner.

    Returns:
        The files but for the images, and a line that says what was found.

    Raises:
        InputError: for a run without a generator or an untrained one, and for images that cannot
            be read.
    """
    require(
        not out.exists() or (out.is_dir() and not any(out.iterdir())),
        f"{out} holds something already; choose another --out, or remove it",
    )
    predictor = open_run(run, changes)
    drawn = draw(predictor, support, per_class)
    note, found = "", None
    try:
        found = nearest_training(predictor, drawn)
    except InputError as error:
        note = f"; no nearest training images: {error}"
    with whole_folder(out) as folder:
        files, line = _write(folder, drawn, found)
    return [out / file.relative_to(folder) for file in files], line + note


def pipeline_of(run: Run) -> Pipeline:
    """The pipeline inside a run's inner loops.

    Raises:
        InputError: where the learner is none.
    """
    net = run.learner.innermost
    if not isinstance(net, Pipeline):
        raise InputError("this run's learner has no slots, and so no generator")
    return net


def generator_of(learner: Any) -> Generator:
    """The one generator among a learner's parts.

    Raises:
        InputError: where there is none, there are several, or it has not been trained.
    """
    net = learner.innermost
    parts = [p for p in net.parts if isinstance(p, Generator)] if isinstance(net, Pipeline) else []
    require(
        parts,
        "this run's learner has no generator; train one, such as with "
        "learner.augment=neural_statistician for images or learner.augment=prototype_vae for "
        "features",
    )
    require(
        len(parts) == 1,
        f"this run's learner has {len(parts)} generators; leave one of them, by learner.augment=…",
    )
    part = parts[0]
    require(
        part.ready.numel() > 0,
        f"{type(part).__name__} has not learned from base classes, so that it draws nothing; "
        "`graphfsl run` trains it",
    )
    require(
        not part.averaged,
        f"{type(part).__name__} with averaged=true gives the mean of its draws alone; set it to "
        "false",
    )
    return part


@torch.no_grad()
def draw(predictor: Predictor, support: Mapping[str, Sequence[Any]], per_class: int) -> Generated:
    """Samples that a run's generator draws of classes that a few images show.

    Args:
        predictor: the opened run.
        support: class -> its images.
        per_class: how many of each class.

    Raises:
        InputError: as `generate` does.
    """
    require(per_class >= 1, f"--per-class must be 1 or more, not {per_class}")
    part = generator_of(predictor.learner)
    empty = [name for name, images in support.items() if not len(images)]
    require(
        support and not empty, f"the support has no image of {empty[0] if empty else 'a class'}"
    )
    support = {str(name): images for name, images in support.items()}
    names = tuple(support)
    for name in names:
        require(
            Path(name).name == name and name not in ("", ".", ".."),
            f"a class becomes a folder, which cannot be called {name!r}",
        )
    images = predictor.images([image for name in names for image in support[name]])
    counts = [len(support[name]) for name in names]
    owner = torch.arange(len(names)).repeat_interleave(torch.tensor(counts))
    w = torch.nn.functional.one_hot(owner, len(names)).float()
    device = next((p.device for p in predictor.learner.parameters()), torch.device("cpu"))

    transform = predictor.run.transform.plain()
    episode = Episode(transform(images[None]), w[None], len(images), 0).to(device)
    each = math.ceil(per_class / min(counts)) if part.of_samples else per_class
    before = _before(pipeline_of(predictor.run), part, episode)
    grown = _grown(part, before, each)
    new = slice(before.n_support, grown.n_support)
    labels, x = grown.w[0, new].argmax(-1), grown.x[0, new]
    # draw by draw, so that each image of a class has its turn
    turn = torch.arange(len(labels), device=labels.device) % each
    by_turn = turn.argsort(stable=True)
    chosen = [by_turn[labels[by_turn] == c][:per_class] for c in range(len(names))]
    first = torch.cat(chosen)
    x, labels = x[first].cpu(), labels[first].cpu()
    if part.of_images:
        return Generated(to_bytes(x, transform), labels, images, images, owner, names)
    given = before.x[0, : len(images)].cpu()  # parts in front may have added nodes of their own
    return Generated(x, labels, given, images, owner, names)


def _grown(part: Generator, episode: Episode, samples: int) -> Episode:
    """The episode with so many draws of each condition; the part stays as it is."""
    before = part.samples, part.weight
    try:
        part.set_samples(samples)
        part.weight = 1.0  # so that labels are told whatever draws weigh
        grown: Episode = part(episode)
        return grown
    finally:
        part.set_samples(before[0])
        part.weight = before[1]


def _before(net: Pipeline, part: Generator, episode: Episode) -> Episode:
    """The episode as a generator sees it: images, or features behind the parts before it."""
    if part.of_images:
        return episode
    return net.in_front_of(part, net.encode(episode))


def to_bytes(x: Tensor, transform: Transform) -> Tensor:
    """Normalised images (n, C, H, W) as bytes."""
    if transform.mean is not None and transform.std is not None:
        mean, std = x.new_tensor(transform.mean), x.new_tensor(transform.std)
        x = x * std[:, None, None] + mean[:, None, None]
    return (255 * x).round().clamp(0, 255).byte()


@torch.no_grad()
def nearest_training(predictor: Predictor, drawn: Generated) -> Nearest:
    """The nearest training sample of what was drawn: in pixels, or in the generator's features.

    Args:
        predictor: the opened run, whose training data are read.
        drawn: what was drawn.

    Raises:
        InputError: where the training data are not at hand.
    """
    experiment = predictor.run.experiment
    base = experiment.data.base_split()
    part = generator_of(predictor.learner)
    known = base if drawn.of_images else as_seen_by(part, predictor.run, base)

    def nearest(x: Tensor) -> tuple[Tensor, Tensor]:
        table = (rows.cpu().float().flatten(1) for rows in known.blocks(BLOCK))
        row, distance = nearest_row(x.float().flatten(1), table)
        return row, distance / math.sqrt(x[0].numel())

    rows, distances = nearest(drawn.samples)
    _, usual = nearest(drawn.given)
    images = (
        base.gather(rows.to(base.x.device)).cpu() if len(base.shape) == 3 else rows.new_zeros(0)
    )
    return Nearest(rows, distances, usual, images)


def as_seen_by(part: Generator, run: Run, split: Split) -> Split:
    """A split with features (N, d), as they are in front of a generator of features.

    For a generator of images they are the encoder's.
    """
    net = pipeline_of(run)
    encoded = split
    if len(split.shape) == 3:
        at_once = net.frozen and net.fixed
        encoded = (cached_features if at_once else encode_split)(net, split, run.transform.plain())
    x = encoded.x.float()
    for earlier in () if part.of_images else net.parts_in_front(part):
        x = earlier.of_base(x)
    return replace(encoded, x=x, stored=None)


def _write(out: Path, drawn: Generated, found: Nearest | None) -> tuple[list[Path], str]:
    files = [out / "generated.csv", out / "contact_sheet.png", out / "summary.json"]
    names = _file_names(drawn)
    if drawn.of_images:
        for name, image in zip(names, drawn.samples, strict=True):
            write_atomically(out / name, _png(image))
    else:
        files.insert(0, out / "features.npz")
        write_atomically(files[0], _npz(drawn))
    labels = [drawn.names[c] for c in drawn.labels.tolist()]
    columns, rows = ["sample", "class"], [[n, c] for n, c in zip(names, labels, strict=True)]
    summary: dict[str, Any] = {
        "classes": list(drawn.names),
        "samples": len(names),
        "kind": "images" if drawn.of_images else "features",
    }
    line = f"{len(names)} {summary['kind']} of {len(drawn.names)} classes"
    if found is not None:
        columns += ["nearest training sample", "distance"]
        near = zip(found.rows.tolist(), found.distances.tolist(), strict=True)
        rows = [[*row, str(i), f"{d:.4f}"] for row, (i, d) in zip(rows, near, strict=True)]
        summary |= {
            "nearest": middle(found.distances),
            "nearest_of_given": middle(found.given),
        }
        if middle(found.given) > 0:
            line += (
                f"; the nearest training image is {found.share:.2f} times as far as that of the "
                "given images (0 is a copy)"
            )
        else:
            line += "; most of the given images are training images themselves"
    if len(names) > 1 and drawn.variety < ALIKE:
        line += "; what was drawn is all nearly alike: the generator has collapsed"
    write_atomically(out / "generated.csv", csv_table(columns, rows).encode())
    buffer = io.BytesIO()
    _sheet(drawn, found, line).save(buffer, "png")
    write_atomically(out / "contact_sheet.png", buffer.getvalue())
    write_json(out / "summary.json", summary)
    return files, line


def _file_names(drawn: Generated) -> list[str]:
    """Of each sample: images/<class>/<number>.png, or its row among the features."""
    if not drawn.of_images:
        return [str(i) for i in range(len(drawn.labels))]
    seen = [0] * len(drawn.names)
    found = []
    for c in drawn.labels.tolist():
        found.append(f"images/{drawn.names[c]}/{seen[c]:03d}.png")
        seen[c] += 1
    return found


def picture(image: Tensor) -> Image.Image:
    """An image (C, H, W) of bytes."""
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    picture(image).save(buffer, "png")
    return buffer.getvalue()


def _npz(drawn: Generated) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        features=drawn.samples.numpy(),
        labels=drawn.labels.numpy(),
        class_names=list(drawn.names),
    )
    return buffer.getvalue()


def _sheet(drawn: Generated, found: Nearest | None, title: str) -> Image.Image:
    """Of each class what was given, what was drawn of it, and the nearest training images."""
    sections: dict[str, list[Tile]] = {}
    for c, name in enumerate(drawn.names):
        mine = (drawn.labels == c).nonzero()[:SHOWN, 0].tolist()
        given = (drawn.owner == c).nonzero()[:SHOWN, 0].tolist()
        sections[f"{name}: given"] = [Tile(picture(drawn.images[i]), "") for i in given]
        if drawn.of_images:
            sections[f"{name}: generated"] = [Tile(picture(drawn.samples[i]), "") for i in mine]
        if found is not None and len(found.images):
            of = "them" if drawn.of_images else "generated features"
            sections[f"{name}: the nearest training image of {of}"] = [
                Tile(picture(found.images[i]), f"{float(found.distances[i]):.2f}") for i in mine
            ]
    return contact_sheet(title, sections)
