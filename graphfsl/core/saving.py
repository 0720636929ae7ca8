"""`Learner.save`: a learner of one's own program in a folder.

It holds all that answering on raw samples takes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from graphfsl.core.encoder import own_normalisation
from graphfsl.io.checkpoint import save_checkpoint
from graphfsl.io.errors import InputError

if TYPE_CHECKING:
    from graphfsl.data.transforms import Transform

# weights, and the facts as JSON in its header: one file is never half of two learners
FILE = "learner.safetensors"
PLAIN = (bool, int, float, str, tuple, list, type(None))


class Spec(Protocol):
    """What names the parts of a learner, as `graphfsl.build` read it."""

    def section_under(self, batch_norm: str) -> dict[str, Any]:
        """What builds the learner under a BatchNorm policy, as files hold it."""


@dataclass(frozen=True)
class Recipe:
    """How `graphfsl.build` made a learner: what it was given, and `layout` of the result."""

    spec: Spec
    shape: tuple[int, ...]
    way: int
    made: Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """What a learner was trained on, as `Trainer.fit` notes it.

    Args:
        shape: of a sample.
        mean, std: what images were normalised with.
        classes: the names of the base classes.
        ink: whether the samples are drawings, bright on dark.
        steps: of the optimiser.
    """

    shape: tuple[int, ...]
    mean: Sequence[float] | None
    std: Sequence[float] | None
    classes: tuple[str, ...]
    ink: bool
    steps: int


class Saves:
    """What `Learner` inherits to be saved."""

    recipe: Recipe | None = None  # None: put together by hand
    training_data: Training | None = None  # None: not trained by a `Trainer`

    def save(
        self,
        directory: str | os.PathLike[str],
        transform: Transform | None = None,
        classes: Sequence[str] | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        """Write the learner to `directory`.

        `graphfsl.load` reads it there, and every command that takes a run. A learner that was put
        together in Python, not by `graphfsl.build`, is loaded into one of the same making:
        `graphfsl.load(directory, learner=...)`.

        Args:
            directory: a folder, which is made.
            transform: the normalisation of images; None takes that of training or, without one, the
                encoder's own.
            classes: the names of the base classes; None takes those of training.
            shape: (C, H, W) or (d,) of a sample; None takes that of training.

        Raises:
            InputError: for a learner that was changed since it was built, where the shape of a
                sample is not known, and where the folder holds a run or cannot be written.
        """
        assert isinstance(self, nn.Module)
        path, seen, recipe = Path(directory), self.training_data, self.recipe
        if (path / "config.json").exists():
            raise InputError(f"{path} holds a run; save the learner to another folder")
        if recipe is not None and (changed := _first_difference(recipe.made, layout(self))):
            raise InputError(
                f"{changed} is not what graphfsl.build made it: build the learner with that "
                f"option, "
                "or put it together from parts and load it with graphfsl.load(directory, "
                "learner=...)"
            )
        if shape is None and (known := seen or recipe) is None:
            raise InputError(
                "the shape of a sample is not known; give shape=(channels, height, width)"
            )
        mean, std = (
            (transform.mean, transform.std) if transform is not None else known_normalisation(self)
        )
        policy: Any = self.batch_norm
        section = None if recipe is None else recipe.spec.section_under(policy)
        facts = {
            "learner": section,
            "way": recipe.way if recipe else None,
            "shape": list(known.shape if shape is None else shape),  # type: ignore[union-attr]
            "mean": None if mean is None else [float(v) for v in mean],
            "std": None if std is None else [float(v) for v in std],
            "classes": list(classes if classes is not None else seen.classes if seen else ()),
            "ink": bool(seen and seen.ink),
            "step": seen.steps if seen else 0,
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}; choose another folder"
            ) from None
        save_checkpoint(path / FILE, self.state_dict(), facts)


def known_normalisation(learner: Any) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """The mean and std of images that a learner was trained with, where a user names none.

    Those of the learner's training, or of its encoder's.
    """
    if (seen := learner.training_data) is not None:
        return seen.mean, seen.std
    own = own_normalisation(learner)
    return (own["mean"], own["std"]) if own else (None, None)


def layout(learner: nn.Module) -> dict[str, str]:
    """What building decides of a learner: name -> value.

    The class of every module, its plain options, and the type and shape of every tensor.

    Left out is what may change without another learner coming of it: whether it trains, its
    BatchNorm policy, and tensors whose length base classes decide (`remembers`).
    """
    found = {}
    for name, module in learner.named_modules():
        found[name or "learner"] = type(module).__name__
        for key, value in vars(module).items():
            if isinstance(value, PLAIN) and not key.startswith("_") and key not in _LOOSE:
                found[f"{name}.{key}".lstrip(".")] = repr(value)
    tensors = {k: f"{t.dtype} {tuple(t.shape)}" for k, t in learner.state_dict().items()}
    learned = {
        f"{name}.{buffer}".lstrip(".")
        for name, module in learner.named_modules()
        for buffer in getattr(module, "remembers", ())
    }
    return found | {k: v for k, v in tensors.items() if k not in learned}


_LOOSE = ("training", "batch_norm", "recipe", "training_data")


def _first_difference(made: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    name = next((k for k in sorted(made.keys() | now.keys()) if made.get(k) != now.get(k)), None)
    return (
        None
        if name is None
        else (f"{name} = {now.get(name, 'nothing')}, which was {made.get(name, 'nothing')},")
    )
