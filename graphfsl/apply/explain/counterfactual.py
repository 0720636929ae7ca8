"""Counterfactual support: the fewest labeled samples without which the answer would be another.

Removal-based: Wachter, Mittelstadt, Russell 2017, https://arxiv.org/abs/1711.00399, asks for the
smallest change of an input that changes the answer; here the input is the support.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfsl.apply.explain.attributions import Question
from graphfsl.io.errors import require

TRIED = 20_000  # sets of one size that are all tried


@dataclass(frozen=True)
class Counterfactual:
    """Support nodes without which a query is answered otherwise.

    Attributes:
        nodes: those of the question's graph; without all but one of them the answer stays. None
            where it stays without any labeled sample.
        answer: the class column that is then answered; None where no label is left.
        smallest: whether every smaller set was tried.
    """

    nodes: tuple[int, ...]
    answer: int | None
    smallest: bool


@torch.no_grad()
def counterfactual(question: Question, order: Tensor) -> Counterfactual:
    """The smallest set of support nodes whose removal changes the answer.

    Sets of one node, of two, … are all tried as long as a size has at most TRIED of them. Beyond,
    nodes leave in the order given until the answer changes, and those that are not needed for that
    return: no node can be left out of such a set, but a smaller one may exist.

    Args:
        question: what was asked.
        order: the nodes (m,), that which speaks loudest for the answer first.

    Raises:
        InputError: where no sample is labeled.
    """
    support = [v for v in order.tolist() if v < question.graph.n_support]
    require(support, "no sample is labeled, so that none could be taken away; set episode.shot=1")
    for size in range(1, len(support) + 1):
        if math.comb(len(support), size) > TRIED:
            break
        sets = torch.tensor(list(itertools.combinations(support, size)))
        answers = question.answers(_without(question, sets))
        if bool((changed := answers != question.answer).any()):
            first = int(changed.int().argmax())
            return _found(sets[first].tolist(), int(answers[first]), smallest=True)

    gone = torch.tensor(support)
    alone = int(question.answers(_without(question, gone[None])))
    if alone == question.answer:
        return _found([], alone, smallest=True)
    numbers = torch.arange(1, len(support) + 1)
    prefixes = gone.repeat(len(support), 1).where(numbers[:, None] >= numbers, gone[0])
    answers = question.answers(_without(question, prefixes))
    needed = support[: int((answers != question.answer).int().argmax()) + 1]
    for v in reversed(needed[:-1]):
        rest = [u for u in needed if u != v]
        if int(question.answers(_without(question, torch.tensor([rest])))) != question.answer:
            needed = rest
    answer = int(question.answers(_without(question, torch.tensor([needed]))))
    return _found(needed, answer, smallest=False)


def _found(nodes: list[int], answer: int, smallest: bool) -> Counterfactual:
    return Counterfactual(tuple(nodes), None if answer < 0 else answer, smallest)


def _without(question: Question, gone: Tensor) -> Tensor:
    """The nodes (R, g) that are left without those of each set (R, s)."""
    mask = question.graph.mask.expand(len(gone), -1).clone()
    return mask.scatter(1, gone.to(mask.device), False)
