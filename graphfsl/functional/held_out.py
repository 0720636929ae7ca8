"""What a support says of each of its own samples, had they no label.

It tells how far all other answers can be trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

REACHED = 1e-7  # a score below it is what the solver left over
# standard errors of a normal; with few labels chance goes further
MAYBE_FOREIGN, FOREIGN = 0.84, 3.09
LOWER = 0.055  # how much less often than half the pool may rank higher, with four chances in five
ENOUGH = 15  # held-out rows, less one of each class, that can bear anything out
# the temperature that is expected, and the standard deviation of its logarithm
USUAL_T, DOUBT = 0.7, 0.5


def class_weights(
    prior: str, labels: Float[Tensor, "*m C"], mass: Float[Tensor, "*m C"]
) -> Float[Tensor, "*m C"]:
    """v_c, by which the propagated mass of a class is multiplied.

    Args:
        prior: "none": 1 / K_c, the mean over its labels. "uniform": 1 / mass_c, for a pool with as
            many samples of every class. "labels": K_c / mass_c, for classes as frequent in the pool
            as in the support.
        labels: (…, C) K_c, how many labels a class has.
        mass: (…, C) what its labels reach of the pool, together.

    Returns:
        (…, C); under the last two priors 0 for a class that reaches nothing.
    """
    if prior == "none":
        return 1 / labels
    share = torch.ones_like(labels) if prior == "uniform" else labels
    return (share / mass).where(mass > REACHED, 0)


def scores_of(raw: Float[Tensor, "n C"], v: Float[Tensor, "*#n C"]) -> Float[Tensor, "n C"]:
    """Class scores v_c F_ic of what labels reach, and a value far below where none does.

    Args:
        raw: (n, C) F, the propagated mass of each class in each node.
        v: (C,) or (n, C), the weights of the classes.

    Returns:
        (n, C), above zero: what is not reached is equal for all classes, whatever their v_c.
    """
    least = v.where(v > 0, torch.inf).amin(-1, keepdim=True).nan_to_num(1, posinf=1)
    return (raw.where(raw > REACHED, 0) * v).maximum(REACHED * least)


@dataclass(frozen=True)
class HeldOut:
    """Support samples as the others see them: of those whose class has a label on another node.

    Attributes:
        ids: (h,) their positions in the support.
        scores: (h, groups) what the others say of them.
        group: (h,) their own groups.
        reached: (h,) bool, whether a class's label reaches them.
        of_every_class: whether each class has one.
    """

    ids: Tensor
    scores: Tensor
    group: Tensor
    reached: Tensor
    of_every_class: bool

    @property
    def right(self) -> float | None:
        """The share that is found again; one that no label reaches is not. None: none held out."""
        if not len(self.ids):
            return None
        return float(((self.scores.argmax(1) == self.group) & self.reached).float().mean())

    def of(self, kept: Tensor) -> HeldOut:
        """Only some of them, (h,) bool.

        Whether each class has one is asked of those that are left.
        """
        group = self.group[kept]
        whole = self.of_every_class and len(group.unique()) == len(self.group.unique())
        return HeldOut(self.ids[kept], self.scores[kept], group, self.reached[kept], whole)


def held_out(
    influence: Float[Tensor, "m m"],
    node: Int[Tensor, " m"],
    group: Int[Tensor, " m"],
    member: Float[Tensor, "m G"],
    mass: Float[Tensor, " m"],
    prior: str,
    classes: int,
) -> HeldOut:
    """The scores of support samples without their own label, and without those on their node.

    Args:
        influence: (m, m) what column s, a support sample, gives to the node of row i.
        node: (m,) the node of each support sample; equal samples share one.
        group: (m,) the group that each belongs to; the first `classes` groups are classes.
        member: (m, G) the same, one-hot.
        mass: (m,) what each reaches of the pool.
        prior: see `class_weights`.
        classes: C.
    """
    same = node[:, None] == node
    others = (~same).float()
    labels = others @ member  # (m, G): how many labels each group has elsewhere
    reached_mass = others @ (member * mass[:, None])
    raw = influence.masked_fill(same, 0) @ member
    v = class_weights(prior, labels, reached_mass).where(labels > 0, 0)
    reached = raw[:, :classes].amax(1) > REACHED

    has_another = labels.gather(1, group[:, None])[:, 0] > 0
    ids = ((group < classes) & has_another).nonzero()[:, 0]
    of_every_class = len(group[ids].unique()) == classes
    return HeldOut(ids, scores_of(raw, v)[ids], group[ids], reached[ids], of_every_class)


def borne_out(held: HeldOut, t: float, lower: float, error: float) -> bool:
    """Whether held-out labels bear out the probabilities that the scores give.

    They do where there are enough of them, of every class; where they are as often right as the
    probabilities say, within two standard errors; and where the pool surely ranks hardly lower than
    they do, or so much lower that they tell what is foreign.

    Args:
        held: the held-out labels.
        t: the temperature of the probabilities.
        lower: how much lower the pool ranks, see `membership.shortfall`.
        error: its standard error.
    """
    alike = lower <= min(LOWER - MAYBE_FOREIGN * error, MAYBE_FOREIGN * error)
    return (alike or lower > FOREIGN * error) and is_calibrated(held, t)


def is_calibrated(held: HeldOut, t: float) -> bool:
    """Whether enough held-out labels are as often right as their probabilities say.

    Args:
        held: the held-out labels.
        t: the temperature of the probabilities.
    """
    spare = int(held.reached.sum()) - len(held.group.unique())
    if spare < ENOUGH:
        return False
    p = (held.scores[held.reached].log() / t).softmax(1).amax(1)
    claimed = float(p.sum()) / len(held.ids)
    claimed_error = math.sqrt(float((p * (1 - p)).sum()) + 1) / len(held.ids)
    return abs(claimed - (held.right or 0)) <= 2 * claimed_error


def temperature(scores: Float[Tensor, "h G"], group: Int[Tensor, " h"]) -> float:
    """The T that makes the groups of held-out scores most likely under softmax(log(score) / T).

    Args:
        scores: (h, G), above zero.
        group: (h,) the right columns.

    Returns:
        T in [0.05, 20]; a normal prior on log T keeps it near 0.7 where there are few scores.
    """
    grid = torch.logspace(math.log10(0.05), math.log10(20), 200)
    likelihood = [F.cross_entropy(scores.log() / t, group, reduction="sum") for t in grid]
    prior = (grid / USUAL_T).log().square() / (2 * DOUBT**2)
    return float(grid[(torch.stack(likelihood) + prior).argmin()])
