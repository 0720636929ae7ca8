"""A confounded world: in the support hue goes along with class, among the queries it need not.

A set-up of Yue et al. 2020 (Interventional Few-Shot Learning, https://arxiv.org/abs/2009.13000) in
the manner of coloured MNIST (Arjovsky et al. 2019, https://arxiv.org/abs/1907.02893).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from graphfsl.core.arguments import real_number, whole_number
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Caption, Demands, Metric, Normalise
from graphfsl.data.split import Split
from graphfsl.data.streams import (
    CLASSES,
    IMAGES,
    POOL,
    QUERIES,
    episode_numbers,
    keys_of,
    uniform,
)
from graphfsl.data.tasks._class_sampler import Draw, Sampler
from graphfsl.data.tasks._plain_classes import PlainClasses
from graphfsl.io.errors import require

__all__ = ["Tinted"]


@dataclass(frozen=True)
class Tinted(PlainClasses):
    """Classes whose support is all of one hue, of each class another.

    A query wears the hue of its own class's support with probability `correlation`, else that of
    another class of the episode. So hue tells nothing of the class of a query where `correlation`
    is 1 / way, it misleads below that, and at 1 it is as good as the class itself.

    Samples are those of a split that shows each drawing in several hues (`Split.variants`), such as
    `tinted_glyphs`; no drawing is both support and query.

    With `support_hues` of all hues each class is shown as if somebody had chosen the hue and not
    the world: do(hue), after which it goes along with no class. Then a class mean is the mean over
    all hues of its drawings, whichever it had.

    Args:
        way: classes of an episode.
        shot: labeled samples of each.
        query: queries of each.
        correlation: rho, the share of queries that wear their class's hue.
        support_hues: in how many hues the support shows each of its drawings: its own, and those
            that follow it evenly on the circle of hues.
        recolored: whether each query is asked once more in the hue of another support class, drawn
            evenly. It measures how many answers differ then; accuracy is that of the first ones. A
            transductive learner sees both.
    """

    columns: ClassVar = ("way", "shot", "query", "correlation", "support_hues", "recolored")
    always_shown: ClassVar = ("way", "shot", "query", "correlation")
    curves: ClassVar = {
        **PlainClasses.curves,
        "correlation": ("correlation", "share of queries in their class's hue"),
    }
    captions: ClassVar = {
        **PlainClasses.captions,
        "correlation": Caption("correlation {}", always=True),
        "support_hues": Caption("support in {} hues"),
    }

    query: int = 5
    correlation: float = 0.2
    support_hues: int = 1
    recolored: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        hues = whole_number(self.support_hues, "episode.support_hues", 1)
        object.__setattr__(self, "support_hues", hues)
        require(
            isinstance(self.recolored, bool),
            f"episode.recolored must be true or false, not {self.recolored!r}",
        )
        rho = real_number(self.correlation, "episode.correlation")
        require(0 <= rho <= 1, f"episode.correlation must lie in [0, 1], not {rho!r}")
        object.__setattr__(self, "correlation", rho)

    @property
    def details(self) -> list[str]:
        """The correlation, and an intervention on the support."""
        many = [f"support in {self.support_hues} hues"] if self.support_hues > 1 else []
        return [f"correlation {self.correlation:g}", *many]

    @property
    def size(self) -> tuple[float, ...]:
        """What tables are sorted by."""
        return self.way, self.shot, self.correlation, self.support_hues

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        shown = self.shot * self.support_hues
        asked = self.query * (1 + self.recolored)
        return dataclasses.replace(self.plain, shot=shown, query=asked).demands

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Those of episodes of classes; of recolored ones how many answers a hue changes."""
        if not self.recolored:
            return self.plain.metrics
        changed = Metric(_changed, more_is_better=False)
        return {"accuracy": Metric(_accuracy), "answers that hue changes": changed}

    def draws(self, split: Split, seed: int) -> _Sampler:
        """The sampler of a split.

        Raises:
            InputError: where it has no hues, too few of them, or too few drawings.
        """
        return _Sampler(split, self, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, Target]:
        """The episodes that a draw describes."""
        return self.plain.assemble(draw, split, raw, normalise, device)


class _Sampler:
    """Draws drawings as for episodes of classes, and a hue for each."""

    def __init__(self, split: Split, task: Tinted, seed: int) -> None:
        require(
            split.variants >= task.way,
            f"{split.name} shows each drawing in {split.variants} hue"
            f"{'s' if split.variants > 1 else ''}, but the support of {task.way} classes needs as "
            "many; take data.name=tinted_glyphs, or lower episode.way",
        )
        require(
            split.variants % task.support_hues == 0,
            f"{split.name} has {split.variants} hues, of which episode.support_hues "
            f"{task.support_hues} are not spread evenly; set it to {split.variants} for all",
        )
        self.task, self.hues = task, split.variants
        drawings = dataclasses.replace(
            split,
            x=split.x[:: split.variants],
            y=split.y[:: split.variants],
            variants=1,
            stored=None,
        )
        self.sampler = Sampler(drawings, task.plain, seed)
        self.name, self.seed = f"{split.name} in hues", seed

    def draw(self, i: np.ndarray | list[int]) -> Draw:
        """The episodes with the numbers i (B,)."""
        drawn = self.sampler.draw(i)
        keys = keys_of(self.name, self.seed, episode_numbers(i))
        way, k, q = self.task.way, drawn.n_support, drawn.n_query

        hue = uniform(keys, CLASSES, 1, self.hues)[:, 0].argsort(1)[:, :way]  # (B, way)
        own = drawn.label[:, k : k + q]
        keeps = uniform(keys, POOL, 1, q)[:, 0] < self.task.correlation
        worn = np.where(keeps, own, _another(own, way, uniform(keys, IMAGES, 1, q)[:, 0]))

        column = np.concatenate([drawn.label[:, :k], worn], 1)
        if self.task.recolored:
            again = _another(worn, way, uniform(keys, QUERIES, 1, q)[:, 0])
            column = np.concatenate([column, again], 1)
            drawn = _with_queries_twice(drawn)
        wears = np.take_along_axis(hue, column, 1)

        shown = self.task.support_hues
        turns = np.arange(shown) * (self.hues // shown)
        of_support = np.repeat(wears[:, :k], shown, 1) + np.tile(turns, k)
        wears = np.concatenate([of_support % self.hues, wears[:, k:]], 1)

        def repeated(nodes: np.ndarray) -> np.ndarray:
            return np.concatenate([np.repeat(nodes[:, :k], shown, 1), nodes[:, k:]], 1)

        ids = repeated(drawn.ids) * self.hues + wears
        label = repeated(drawn.label)
        return dataclasses.replace(drawn, ids=ids, label=label, n_support=k * shown)


def _another(column: np.ndarray, way: int, u: np.ndarray) -> np.ndarray:
    """One of the other columns of an episode for each of `column` (B, q), by uniforms u (B, q)."""
    away = 1 + np.floor(u * (way - 1)).astype(np.int64)
    other: np.ndarray = (column + away) % way
    return other


def _with_queries_twice(drawn: Draw) -> Draw:
    """The same episodes, in which the queries follow once more behind themselves."""
    k, q = drawn.n_support, drawn.n_query
    nodes = np.concatenate([np.arange(k + q), np.arange(k, k + q)])
    ids, label = drawn.ids[:, nodes], drawn.label[:, nodes]
    return dataclasses.replace(drawn, ids=ids, label=label, n_query=2 * q)


def _accuracy(scores: Tensor, target: Any, episode: Episode) -> Tensor:
    """(B,) of the first half of the queries, which stand there in the hue that they came in."""
    first, _ = (scores.argmax(-1) == target.query).chunk(2, 1)
    share: Tensor = first.double().mean(1)
    return share


def _changed(scores: Tensor, target: Any, episode: Episode) -> Tensor:
    """(B,) the share of queries that are answered otherwise in the second half."""
    before, after = scores.argmax(-1).chunk(2, 1)
    changed: Tensor = (before != after).double().mean(1)
    return changed
