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
from PIL import Image
from torch import Tensor

from graphfsl.core.arguments import described, real_number
from graphfsl.core.batchnorm import lacks_averages
from graphfsl.core.class_names import name_keys
from graphfsl.core.display import cut
from graphfsl.core.encoder import block_size
from graphfsl.core.episode import Episode
from graphfsl.core.invalid_scores import check_answered
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.protocol import check_classes
from graphfsl.core.registry import use_plugins
from graphfsl.data.images import all_broken, decode, to_array
from graphfsl.data.pixel_range import Range, check_range, picture, warn_if_narrow
from graphfsl.data.transforms import Transform
from graphfsl.experiment import run as runs
from graphfsl.experiment.measure import asked_of, names_policy
from graphfsl.experiment.overrides import names
from graphfsl.io.errors import InputError, require
from graphfsl.io.files import read_regular
from graphfsl.loops.encode import encode

MOST_SHOWN = 3  # probabilities of a prediction


@dataclass(frozen=True)
class Prediction:
    """The answer for one query.

    Args:
        label: its class; None where it is of none of them.
        confidence: the probability of the likeliest class.
        probabilities: of all classes.
        novelty: how foreign it is to all of them, where that was asked.
    """

    label: str | None
    confidence: float
    probabilities: dict[str, float]
    novelty: float | None = None

    def __repr__(self) -> str:
        best = sorted(self.probabilities.items(), key=lambda item: -item[1])[:MOST_SHOWN]
        listed = ", ".join(f"{name} {p:.3f}" for name, p in best) + ", …" * (
            len(self.probabilities) > MOST_SHOWN
        )
        return cut(f"Prediction({self.label!r}, confidence={self.confidence:.3f}: {listed})")


class Predictor:
    """Classifies images by a handful of labeled ones, with a trained learner.

    An image is a path, a PIL image, an array (H, W) or (H, W, C) or a tensor (H, W) or (C, H, W),
    of 1 or 3 channels; it is resized to what the learner was trained on. A learner of drawings (ink
    bright on dark) inverts images whose border is bright, as paper is.

    Args:
        run: the trained run.
        replaced: the BatchNorm policy of the run that `support` stands in for.
        range: the values of black and white in every image; None takes the run's `data.range` or,
            where it has none, those of the image's type: 255 for 8 bits, 65535 for 16, 1 for
            floats.
    """

    def __init__(
        self, run: runs.Run, replaced: str | None = None, range: Range | None = None
    ) -> None:
        self.run, self.learner, self.replaced = run, run.learner.eval(), replaced
        own = run.experiment.data.range if range is None else range
        self.range = check_range(own, "range")

    def __repr__(self) -> str:
        lines = repr(self.run).splitlines()
        return "\n".join(
            [lines[0].replace("Run", "Predictor of the run", 1), *lines[1:], *map(cut, self.notes)]
        )

    @property
    def notes(self) -> list[str]:
        """What a user should know of the answers, a line each."""
        found = []
        if self.replaced:
            found.append(inductive_note(self.replaced, f"learner.batch_norm={self.replaced}"))
        if self.learner.transductive:
            balance = (
                (", which are taken for as many of every class")
                if self.learner.needs_balance
                else ""
            )
            found.append(
                f"this learner is transductive: an answer depends on the other queries{balance}"
            )
        return found

    def predict(
        self,
        support: Mapping[str, Sequence[Any]],
        query: Sequence[Any],
        unlabeled: Sequence[Any] = (),
        none: float | None = None,
    ) -> list[Prediction]:
        """Answer for each query image, by a few images of each class.

        Args:
            support: class -> its images.
            query: images to be classified.
            unlabeled: images that help learners which use a pool.
            none: the novelty above which a query is of none of the classes; None asks for no such
                answer. `graphfsl evaluate RUN episode.open_classes=5` finds one, for as many shots
                and, where the learner is transductive, as many queries.

        Returns:
            An answer for each query.

        Raises:
            InputError: for an image that cannot be read, fewer than two classes, an empty class,
                scores that are not finite, and a learner that answers with values, which
                `learner` takes episodes of.
        """
        check_classes(self.learner)
        if not isinstance(support, Mapping):
            right = "a mapping of classes to images, such as {'a': ['1.png'], 'b': ['2.png']}"
            raise InputError(f"the support must be {right}, not {described(support)}")
        support = {
            str(name): _several(images, f"class {name!r} of the support")
            for name, images in support.items()
        }
        query, unlabeled = _several(query, "the query"), _several(unlabeled, "unlabeled")
        require(len(support) >= 2, f"the support has {len(support)} class; at least 2 are needed")
        empty = [name for name, images in support.items() if not len(images)]
        if empty:
            raise InputError(
                f"class {empty[0]!r} of the support has no image; each class needs at least one"
            )
        require(len(query), "there is no query image")
        names = list(support)
        images = [i for name in names for i in support[name]]
        x = self.images([*images, *query, *unlabeled])
        warn_if_narrow([x.numpy()], "these images")
        w = torch.zeros(1, len(x), len(names))
        owner = [k for k, name in enumerate(names) for _ in support[name]]
        w[0, torch.arange(len(images)), torch.tensor(owner)] = 1
        bound = None if none is None else real_number(none, "none")
        keys = name_keys(names)[None] if self.learner.uses_class_names else None
        p, novelty = self._answer(x, w, len(images), len(query), bound is not None, keys)
        found = []
        for row, foreign in zip(p, novelty.tolist(), strict=True):
            known = bound is None or foreign <= bound
            found.append(
                Prediction(
                    names[int(row.argmax())] if known else None,
                    float(row.max()),
                    dict(zip(names, row.tolist(), strict=True)),
                    None if bound is None else foreign,
                )
            )
        return found

    @torch.no_grad()
    def _answer(
        self,
        x: Tensor,
        w: Tensor,
        k: int,
        q: int,
        novelty: bool = False,
        classes: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(q, C) probabilities of the queries, and (q,) their novelty, 0 where it is not asked.

        Images are encoded in blocks where they are encoded alone; else an inductive learner gets
        its queries in blocks.

        Args:
            x: images of the support, the queries and a pool.
            w: (1, n, C) their label weights.
            k: how many are of the support.
            q: how many are queries.
            novelty: whether it is asked.
            classes: (1, C) keys of the classes' names, where the learner uses them.
        """
        device = next((p.device for p in self.learner.parameters()), torch.device("cpu"))
        learner, transform, at_once = self.learner, self.run.transform.plain(), q
        size = block_size(getattr(learner, "encoder", learner), self.run.shape, device)
        if isinstance(learner, Pipeline) and learner.fixed and not lacks_averages(learner):
            x = torch.cat([encode(learner, images, transform, device) for images in x.split(size)])
            learner, transform = learner.on_features().eval(), Transform()
        elif not learner.transductive:
            at_once = max(1, size // (k + 1)) if learner.per_query else size
        found, strange = [], []
        for query in x[k : k + q].split(at_once):
            nodes = torch.cat([x[:k], query, x[k + q :]])
            weights = torch.cat([w[:, : k + len(query)], w[:, k + q :]], 1)
            episode = Episode(transform(nodes[None]), weights, k, len(query), classes=classes)
            episode = episode.to(device)
            scores = learner.answer_open(episode) if novelty else learner(episode)
            foreign = scores[0, :, -1] if novelty else scores.new_zeros(len(query))
            scores = check_answered(learner, episode, scores[..., : w.shape[-1]])
            found.append(scores[0].float().softmax(-1).cpu())
            strange.append(foreign.float().cpu())
        return torch.cat(found), torch.cat(strange)

    def images(self, images: Sequence[Any]) -> Tensor:
        """(n, C, H, W) raw images; InputError names every file that cannot be read."""
        read, broken = [], []
        for image in images:
            try:
                read.append(self.image(image))
            except InputError as error:
                if not isinstance(image, (str, Path)) or len(self.run.shape) != 3:
                    raise
                broken.append((str(image), str(error)))
        if broken:
            raise InputError(all_broken(broken))
        return torch.stack(read)

    def image(self, image: Any) -> Tensor:
        """One raw image -> (C, H, W) uint8 as the learner was trained on."""
        shape = self.run.shape
        if len(shape) != 3:
            raise InputError(
                f"this run was trained on features of length {shape[0]}, not on images"
            )
        channels, size = shape[0], shape[1]
        if isinstance(image, (str, Path)):
            try:
                array = decode(read_regular(Path(image)), size, channels, str(image), self.range)
            except OSError as error:
                raise InputError(f"{image} cannot be read ({error.strerror})") from None
        elif isinstance(image, Image.Image):
            array = to_array(image, size, channels, self.range, "a PIL image")
        else:
            array = to_array(picture(image, self.range, "an image"), size, channels)
        if self.run.ink:
            border = np.concatenate([array[:, 0], array[:, -1], array[:, :, 0], array[:, :, -1]], 1)
            array = 255 - array if np.median(border) > 127 else array
        # a copy: an image lends its pixels for reading only
        return torch.from_numpy(np.array(array))


def _several(images: Any, what: str) -> Sequence[Any]:
    """Images as they are; InputError for one image, or a path, in place of a list."""
    one = (
        isinstance(images, (str, Path, bytes))
        or getattr(images, "ndim", 3) < 3
        or not hasattr(images, "__len__")
    )
    if one or isinstance(images, Mapping):
        hint = (
            ("; graphfsl.data.images.image_paths lists a folder")
            if isinstance(images, (str, Path))
            else ""
        )
        raise InputError(
            f"{what} must be a list of images, such as [image], not {described(images)}{hint}"
        )
    several: Sequence[Any] = images
    return several


def load(
    run: str | Path,
    overrides: Sequence[str] = (),
    range: Range | None = None,
    learner: Learner | None = None,
    plugins: str | Sequence[str] = (),
) -> Predictor:
    """The trained run in a directory, or a saved learner, ready to answer.

    Answers are inductive as far as BatchNorm decides it: where the run's policy lets queries share
    statistics, those of the support are taken, with a warning, unless an override of
    learner.batch_norm says otherwise.

    Args:
        run: the directory of a run, or one that `Learner.save` wrote.
        overrides: changes of the learner that its weights fit, such as learner.refine=soft_kmeans.
        range: of the images' values, see `Predictor`.
        learner: what takes the saved weights, where they are of one that was put together in
            Python; `graphfsl.build` makes all others anew.
        plugins: packages whose parts and encoders have names too, from now on; what the run's own
            configuration says is never imported.

    Raises:
        InputError: where there are no weights, they are damaged, or an override does not fit them.
    """
    use_plugins(plugins)
    predictor = open_run(run, overrides, range, learner)
    if predictor.replaced:
        warnings.warn(predictor.notes[0], stacklevel=2)
    return predictor


def open_run(
    run: str | Path,
    overrides: Sequence[str] = (),
    range: Range | None = None,
    learner: Learner | None = None,
) -> Predictor:
    """`load` without its warning, which stands in `Predictor.notes`.

    Args:
        run: as in `load`.
        overrides: as in `load`.
        range: as in `load`.
        learner: as in `load`.
    """
    if learner is not None and overrides:
        raise InputError(
            f"the learner that is given is taken as it is; {overrides[0]} cannot change it"
        )
    trained = changed(runs.load(run, learner), overrides)
    replaced = None if names_policy(overrides) else answer_inductively(trained.learner)
    return Predictor(trained, replaced, range)


def changed(run: runs.Run, overrides: Sequence[str]) -> runs.Run:
    """The run with the learner that some overrides make, which takes the trained weights.

    Raises:
        InputError: where an override is not of `learner`, the weights do not fit, or the learner
            needs BatchNorm averages that the run has not stored.
    """
    other = next((o for o in overrides if not names(o, "learner")), None)
    require(
        other is None,
        f"a run answers with another learner, such as learner.batch_norm=apart, but not with "
        f"{other!r}",
    )
    if not overrides:
        return run
    asked = asked_of(run, overrides)  # which loads the weights
    return dataclasses.replace(run, experiment=asked.experiment, learner=asked.learner)


def answer_inductively(learner: Learner) -> str | None:
    """Give a learner whose queries share BatchNorm statistics those of the support.

    Returns:
        The policy that it had, or None where nothing changed.
    """
    if not learner.shares_statistics:
        return None
    own = learner.batch_norm
    learner.set_batch_norm("support")
    return own


def inductive_note(own: str, option: str) -> str:
    """What is said of a policy that `support` stands in for.

    Args:
        own: the policy.
        option: what brings it back.
    """
    return (
        f"under the BatchNorm policy `{own}` an answer depends on the other queries; `support` "
        f"takes its place, with "
        f"the statistics of the labeled samples; {option} brings it back"
    )
