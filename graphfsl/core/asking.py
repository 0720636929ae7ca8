"""Rounds of asking: a rule chooses nodes, an oracle answers, and the answers become label weights.

repeat until the budget is spent:  scores = head(w);  i = rule(x, w, scores);  w_i = oracle_i
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.learner import Acquire, Learner
from graphfsl.functional.layers import last_layer
from graphfsl.io.errors import InputError


def shown(episode: Episode, target: BaseTarget, learner: Learner) -> Episode:
    """The episode as the learner may see it: with an oracle, or class names, if it asks for them.

    Raises:
        InputError: where the task has neither.
    """
    if learner.asks:
        episode = target.told(episode)
    if learner.uses_class_names:
        episode = target.named(episode)
    return episode


@torch.no_grad()
def answered_episode(
    episode: Episode,
    rule: Acquire,
    prepared: Callable[[Episode], Episode],
    scored: Callable[[Episode], Tensor],
) -> Episode:
    """The episode with the labels that a rule asked for, as many as its budget, which is spent.

    What the oracle says of other nodes is seen by nobody: neither the rule nor what scores for it
    is given the oracle.

    Args:
        episode: of features, with its oracle.
        rule: what chooses.
        prepared: the parts before the head, which may append support nodes.
        scored: an episode of features -> scores (B, n, C), or (L, B, n, C).

    Returns:
        An episode of the same nodes, whose label weights `w` hold the answers, without an oracle.

    Raises:
        InputError: where there is no oracle.
    """
    if episode.oracle is None:
        raise InputError(
            "this learner asks for labels, and the episode has no oracle; target.told(episode) "
            "gives it one"
        )
    truth = episode.full_oracle
    n = episode.x.shape[1]
    place = torch.arange(n, device=episode.x.device)
    free = episode.mask & (place >= n - episode.oracle.shape[1]) & (episode.w.sum(-1) == 0)
    known = episode.replace(oracle=None, budget=0, relabeled=episode.relabeled)
    left = episode.budget
    while left:
        count = min(left, rule.batch or left)
        seen = prepared(known)
        added = seen.n_support - episode.n_support
        labeled = known.relabeled or known.n_support > 0
        scores = None
        if rule.reads_scores and labeled:
            scores = F.pad(last_layer(scored(known)), (0, 0, added, 0))
        chosen = (rule(seen, F.pad(free, (added, 0)), scores, count) - added).clamp_min(0)

        # a task that has no candidate left keeps what it knows
        fresh = free.gather(1, chosen).unsqueeze(-1)
        rows = chosen.unsqueeze(-1).expand(-1, -1, episode.way)
        answer = truth.gather(1, rows).to(known.w.dtype).where(fresh, known.w.gather(1, rows))
        known = known.replace(w=known.w.scatter(1, rows, answer), asked=known.asked + count)
        free = free.scatter(1, chosen, False)
        left -= count
    return known
