"""What a support says of each of its samples without it, and what that tells of all other
answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

REACHED = 1e-7  # a score below it is what the solver left over
# standard errors of a normal; with few labels chance goes further
MAYBE_FOREIGN, FOREIGN = 0.84, 3.09
LOWER = 0.055  # how much less often than half the pool may rank higher, with four chances in five
ENOUGH = 15  # held-out rows, less one of each class, that can bear anything out
# the temperature that is expected, and the standard deviation of its logarithm
USUAL_T, DOUBT = 0.7, 0.5


def class_weights(prior: str, labels: Tensor, mass: Tensor) -> Tensor:
    """v_c from the number of labels of each class and its mass in the pool; 0 for a class that
    reaches nothing.
    """
    if prior == "none":
        return 1 / labels
    return ((1 if prior == "uniform" else labels) / mass).where(mass > REACHED, 0)


def scores_of(raw: Tensor, v: Tensor) -> Tensor:
    """v_c sum_s G_is of what labels reach; all else is far below, and equal for all classes
    whatever their v_c.
    """
    least = v.where(v > 0, torch.inf).amin(-1, keepdim=True).nan_to_num(1, posinf=1)
    return (raw.where(raw > REACHED, 0) * v).maximum(REACHED * least)


@dataclass(frozen=True)
class HeldOut:
    """Support samples as the others see them. ids: (h,) positions in the support, of those whose
    class has a label on another node. scores: (h, groups); group: (h,) their own; reached: (h,)
    bool, whether a class's label reaches.
    of_every_class: whether each class has one."""

    ids: Tensor
    scores: Tensor
    group: Tensor
    reached: Tensor
    of_every_class: bool

    @property
    def right(self) -> float | None:
        """The share that is found again; one that no label reaches is not."""
        if not len(self.ids):
            return None
        return float(((self.scores.argmax(1) == self.group) & self.reached).float().mean())


def held_out(
    said: Tensor, rows: Tensor, group: Tensor, member: Tensor, mass: Tensor, prior: str, count: int
) -> HeldOut:
    """What the support (m, m) on the nodes `rows` says of each of its samples without those of the
    same node.
    """
    same = rows[:, None] == rows
    others = (~same).float()
    labels = others @ member
    left = others @ (member * mass[:, None])
    ids = ((group < count) & (labels.gather(1, group[:, None])[:, 0] > 0)).nonzero()[:, 0]
    raw = said.masked_fill(same, 0) @ member
    v = class_weights(prior, labels, left).where(labels > 0, 0)
    reached = (raw[:, :count].amax(1) > REACHED)[ids]
    return HeldOut(
        ids, scores_of(raw, v)[ids], group[ids], reached, len(group[ids].unique()) == count
    )


def borne_out(held: HeldOut, t: float, lower: float, error: float) -> bool:
    """Whether held-out labels bear out the probabilities: enough of them, of every class, as often
    right as they say, within two standard errors, of a pool that surely ranks hardly `lower`
    (standard error: `error`) than they do, or so much lower that they tell what is foreign."""
    apart = int(held.reached.sum()) - len(held.group.unique())
    alike = lower <= min(LOWER - MAYBE_FOREIGN * error, MAYBE_FOREIGN * error)
    if apart < ENOUGH or not (alike or lower > FOREIGN * error):
        return False
    p = (held.scores[held.reached].log() / t).softmax(1).amax(1)
    error = math.sqrt(float((p * (1 - p)).sum()) + 1) / len(held.ids)
    return abs(float(p.sum()) / len(held.ids) - (held.right or 0)) <= 2 * error


def temperature(scores: Tensor, group: Tensor) -> float:
    """The T in [0.05, 20] that makes the groups of held-out scores most likely; few of them move it
    little from 0.7.
    """
    t = torch.logspace(math.log10(0.05), math.log10(20), 200)
    loss = torch.stack([F.cross_entropy(scores.log() / v, group, reduction="sum") for v in t])
    return float(t[(loss + (t / USUAL_T).log().square() / (2 * DOUBT**2)).argmin()])
