"""`Ensemble`: several learners that answer as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner, beside
from graphfsl.core.traits import JOINED
from graphfsl.functional.layers import last_layer
from graphfsl.io.errors import require


class Ensemble(Learner):
    """Answer with the mean of what several learners answer.

        p(y | x) = 1/K sum_k p_k(y | x)

    Its novelty is the mean of theirs.

    Args:
        members: learners of one kind, such as checkpoints of one training; they share their traits
            and their BatchNorm policy.

    Shapes:
        score: images or features (B, n, *S) -> log-probabilities (B, n, C); or values (B, n, D),
            whose mean is taken, where the members answer with values.

    Raises:
        InputError: for no members, for such as differ in a trait, and for such as ask for labels,
            since each would ask for other ones.
    """

    def __init__(self, members: Sequence[Learner]) -> None:
        super().__init__()
        require(members, "an ensemble needs one learner or more")
        self.members = nn.ModuleList(members)
        first = members[0]
        require(
            not first.asks,
            "learners that ask for labels make no ensemble: each would ask for other ones",
        )
        for trait in (*JOINED, "answers", "per_query", "way", "shots", "max_queries_per_class"):
            values = {getattr(member, trait) for member in members}
            require(
                len(values) == 1,
                f"the learners of an ensemble must be of one kind, but their {trait} differs",
            )
            setattr(self, trait, values.pop())
        self.set_batch_norm(first.batch_norm)
        self.adapts = first.adapts

    @property
    def first(self) -> Learner:
        """The first member, of which all that is not a number is asked."""
        member: Learner = self.members[0]  # type: ignore[assignment]
        return member

    @property
    def remarks(self) -> list[str]:
        """What a results row says of it beside its traits."""
        return [*self.first.remarks, f"ensemble of {len(self.members)}"]

    @property
    def innermost(self) -> Learner:
        """The innermost learner of the first member."""
        return self.first.innermost

    @property
    def shares_statistics(self) -> bool:  # type: ignore[override]
        """Whether the BatchNorm policy lets queries share statistics."""
        return self.first.shares_statistics

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        """Whether a query's score depends on the other queries."""
        return self.first.transductive

    def set_batch_norm(self, policy: str) -> None:
        """Choose the BatchNorm policy of all members; an unknown one raises InputError."""
        for member in self.members:
            member.set_batch_norm(policy)  # type: ignore[operator]
        self.batch_norm = policy
        self.per_query = self.first.per_query

    def score(self, episode: Episode) -> Tensor:
        """Log-probabilities (B, n, C) of all nodes, or values (B, n, D)."""
        answers = torch.stack([last_layer(member.score(episode)) for member in self.members])  # type: ignore[operator]
        if self.answers == "values":
            return answers.mean(0)
        return mean_of_probabilities(answers)

    def score_open(self, episode: Episode) -> Tensor:
        """Log-probabilities, and the mean of the members' novelty: (B, n, C + 1)."""
        answers = torch.stack([member.score_open(episode) for member in self.members])  # type: ignore[operator]
        return beside(mean_of_probabilities(answers[..., :-1]), answers[..., -1].mean(0))


def mean_of_probabilities(scores: Tensor) -> Tensor:
    """Scores (K, …, C) of K learners -> the logarithm (…, C) of the mean of their probabilities."""
    return scores.log_softmax(-1).logsumexp(0) - math.log(len(scores))
