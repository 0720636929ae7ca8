"""Classes whose superclasses are known: how bad is a mistake, and how to train against bad ones.

Bertinetto, Mueller, Tertikas, Samangooei, Lord 2020, "Making Better Mistakes: Leveraging Class
Hierarchies with Deep Networks", https://arxiv.org/abs/1912.09393
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphfsl.core.arguments import real_number
from graphfsl.core.class_names import superclasses
from graphfsl.core.episode import Episode, Target
from graphfsl.core.task import Caption, Demands, Metric, Normalise
from graphfsl.data.split import Split
from graphfsl.data.tasks._class_sampler import Draw, Sampler
from graphfsl.data.tasks._plain_classes import PlainClasses
from graphfsl.functional.layers import last_layer
from graphfsl.functional.sibling_loss import sibling_loss
from graphfsl.io.errors import InputError, require

__all__ = ["Superclasses"]


@dataclass(frozen=True, repr=False)
class SuperclassTarget(Target):
    """What is true of an episode of classes with superclasses.

    Args:
        siblings: (B, C, C) bool, whether two columns have a superclass in common; each has with
            itself.
        hierarchy: (B,) what an answer of another superclass costs, as a share of cross-entropy.
    """

    siblings: Tensor = None  # type: ignore[assignment]  # fields of `Target` have defaults
    hierarchy: Tensor = None  # type: ignore[assignment]

    def side_loss(self, scores: Tensor, episode: Episode) -> Tensor:
        """lambda times -log of the probability of the right superclass: a scalar."""
        queries = last_layer(scores)[:, episode.query]
        return self.hierarchy.mean() * sibling_loss(queries, self.query, self.siblings)


@dataclass(frozen=True)
class Superclasses(PlainClasses):
    """Episodes of classes some of which have a superclass in common.

        L = L_head - lambda log sum_{c in children of the parent of y} p_c

    L_head is the loss of the learner, whatever its head. Names and superclasses are told to the
    loss and to the metrics and never to the learner, which answers new classes without them.

    Beside accuracy it measures the share of answers of the right superclass, and the share of
    mistakes that are of the right superclass.

    Args:
        way: classes of an episode.
        shot: labeled samples of each.
        query: queries of each.
        graph: what each class is a kind of: a CSV file of pairs class,superclass, or the name of a
            class list that has them, such as "fc100"; None takes the superclasses of the data set.
        hierarchy: lambda; 0 trains by the learner's own loss alone.

    Source:
        the loss is the hierarchical cross-entropy on a tree of two levels, where
        -log p(y) = -log p(y | parent) - log p(parent): with cross-entropy for L_head it weighs the
        second term by 1 + lambda.

    Deviations:
        classes of an episode in place of all base classes; the paper weighs the levels by
        exp(-alpha h).
    """

    columns: ClassVar = ("way", "shot", "query", "graph", "hierarchy")
    captions: ClassVar = {
        **PlainClasses.captions,
        "graph": Caption("superclasses of {}", "superclasses of the data set"),
        "hierarchy": Caption("hierarchy loss {}"),
    }

    graph: str | None = None
    hierarchy: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = real_number(self.hierarchy, "episode.hierarchy")
        require(weight >= 0, f"episode.hierarchy must be 0 or more, not {weight!r}")
        object.__setattr__(self, "hierarchy", weight)

    @property
    def details(self) -> list[str]:
        """Whose superclasses they are."""
        return [f"superclasses of {self.graph or 'the data set'}"]

    @property
    def size(self) -> tuple[int, ...]:
        """What tables are sorted by."""
        return self.way, self.shot

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a row says of a training on it."""
        return ("trained with superclasses",) if self.hierarchy else ()

    @property
    def demands(self) -> Demands:
        """What it asks of a learner and of the machine."""
        return dataclasses.replace(self.plain.demands, side_loss=self.hierarchy > 0)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Those of episodes of classes, and two of superclasses."""
        return {
            **self.plain.metrics,
            "superclass accuracy": Metric(_superclass_accuracy),
            "mistakes within superclass": Metric(_mistakes, ratio=_share),
        }

    def draws(self, split: Split, seed: int) -> Sampler:
        """The sampler of a split.

        Raises:
            InputError: where it is too small, has no superclasses, or no two classes of one.
        """
        _siblings(self.graph, split.name, split.classes, split.groups)
        return self.plain.draws(split, seed)

    def assemble(
        self, draw: Draw, split: Split, raw: Tensor, normalise: Normalise, device: torch.device
    ) -> tuple[Episode, SuperclassTarget]:
        """The episodes that a draw describes, and which of their classes are siblings."""
        episode, target = self.plain.assemble(draw, split, raw, normalise, device)
        of_split = _siblings(self.graph, split.name, split.classes, split.groups)
        classes = torch.from_numpy(draw.classes)
        siblings = of_split[classes.unsqueeze(2), classes.unsqueeze(1)].to(device)
        weight = torch.full((len(classes),), self.hierarchy, device=device)
        told = SuperclassTarget(**target.tensors, siblings=siblings, hierarchy=weight)
        return episode, told


@lru_cache(maxsize=16)  # every batch asks again
def _siblings(
    graph: str | None, name: str, classes: tuple[str, ...], groups: tuple[str, ...] | None
) -> Tensor:
    """Which classes of a split have a superclass in common: (N, N) bool.

    Raises:
        InputError: where they have no superclasses, or no two of them one.
    """
    if graph is None:
        if groups is None:
            raise InputError(
                f"{name} has no superclasses of its own; set episode.graph to a CSV file of pairs "
                "class,superclass, or to a class list that has them, such as fc100"
            )
        parents = [{group} for group in groups]
    else:
        known = superclasses(graph)
        parents = [known.get(one, set()) for one in classes]
        require(
            any(parents),
            f"none of the {len(classes)} classes of {name} is in the class graph {graph}, whose "
            f"classes are such as {next(iter(known))!r}",
        )
    columns = sorted(set().union(*parents))
    member = torch.tensor([[parent in own for parent in columns] for own in parents])
    shared = (member.float() @ member.float().mT) > 0
    found = shared | torch.eye(len(classes), dtype=torch.bool)
    require(
        int(found.sum()) > len(classes),
        f"no two classes of {name} have a superclass in common, so that no mistake is better than "
        "another; set episode.graph to a graph in which some have, or take the task classes",
    )
    return found


def _is_sibling(scores: Tensor, target: SuperclassTarget) -> Tensor:
    """(B, Q) whether the answer has the superclass of the right class."""
    answer = scores.argmax(-1, keepdim=True)
    of_truth = target.query.unsqueeze(-1).expand(*answer.shape[:2], scores.shape[-1])
    return target.siblings.gather(1, of_truth).gather(2, answer).squeeze(-1)


def _superclass_accuracy(scores: Tensor, target: Any, episode: Episode) -> Tensor:
    return _is_sibling(scores, target).double().mean(1)


def _mistakes(scores: Tensor, target: Any, episode: Episode) -> Tensor:
    """(B, 2) the mistakes of the right superclass, and all that might have been of it.

    A mistake counts where its class has a sibling in the episode.
    """
    might = target.siblings.gather(
        1, target.query.unsqueeze(-1).expand(*target.query.shape, scores.shape[-1])
    )
    wrong = (scores.argmax(-1) != target.query) & (might.sum(-1) > 1)
    within = wrong & _is_sibling(scores, target)
    return torch.stack([within.sum(1), wrong.sum(1)], 1).double()


def _share(sums: Tensor) -> Tensor:
    within, wrong = sums.unbind(-1)
    return within / wrong.clamp_min(1)
