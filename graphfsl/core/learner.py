"""The whole contract: a `Learner` maps an episode to class scores of its nodes.

`Pipeline` chains parts (encoder, augment, graph, acquire, head, refine, novelty);
`graphfsl.core.adapt.Adapt` is an inner loop around any learner. All of them have `score`, so they
nest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core.combinations import Combines
from graphfsl.core.display import Shown
from graphfsl.core.encoder import full_precision
from graphfsl.core.episode import BaseTarget, Episode, check_episode, check_target
from graphfsl.core.saving import Saves
from graphfsl.functional.layers import last_layer
from graphfsl.functional.open_set import max_probability


class Part(Shown, Combines, nn.Module):
    """Anything that fills a slot.

    Traits are declared here, and each is tested by the generic suite (`graphfsl.testing`).
    """

    family: str = "metric"  # of methods, as `graphfsl methods` lists them
    transductive: bool = False  # a query's score depends on the other queries
    uses_unlabeled: bool = False  # the unlabeled nodes change the scores
    needs_balance: bool = False  # assumes as many queries of every class
    needs_balanced_pool: bool = False  # assumes as many unlabeled nodes of every class
    needs_nonnegative: bool = False  # features must not be negative
    max_queries_per_class: int | None = None
    order_sensitive: bool = False  # the order of the support nodes matters
    class_order_sensitive: bool = False  # which class stands in which column matters
    # asks an oracle, `Episode.oracle`, for labels of nodes that have none (active learning)
    asks: bool = False
    # asks for as many as `Episode.budget` says, by a rule in the slot `acquire`
    spends_budget: bool = False
    # of the support it reads class means and their total weights, and nothing else
    reads_means: bool = False
    reads_support: bool = True  # False: the labels reach it only through adaptation
    # of a refiner or a rule that acquires labels; False: it works from features and labels, and the
    # head is not asked
    reads_scores: bool = True
    # reads feature maps, not vectors; None: either, it never looks at them
    wants_maps: bool | None = False
    per_query: bool = False  # by default every query gets a copy of the episode of its own
    wants_base: bool = False  # learns from base features in `fit_base`
    # reads the names of the classes, as keys: `Episode.classes`, and in place of the numbers of
    # base classes in `fit_base`
    uses_class_names: bool = False
    # nodes evaluated at once on a CPU: what fits its cache; more for many small steps
    block_nodes: int = 1280
    way: int | None = None  # the number of classes that it is tied to, None = any
    # the number of support nodes per class that it is tied to, padding included
    shots: int | None = None
    shares_statistics: bool = False  # transductive by its BatchNorm policy, whatever its parts are
    # its own BatchNorm follows the pipeline's policy, which it finds in `batch_norm`
    follows_batch_norm: bool = False
    batch_norm: str = "running"
    # why no graph for devices can hold it, behind its name; empty where one can (`graphfsl export`)
    cannot_export: str = ""
    answers: str = "classes"  # what a query is answered with: scores of classes, or "values"
    # its values come with standard deviations: `score` has two layers, these and the values
    tells_scale: bool = False

    @property
    def note(self) -> str:
        """What a results row says of the support nodes that it adds; empty where it adds none."""
        return ""

    def aux_loss(self, episode: Episode) -> Tensor | float:
        """A loss on the episode of features that needs no target."""
        return 0.0

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) that `fit_base` cannot learn from, before anything is trained.

        Raises:
            InputError: says what it needs.
        """

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn from base-class features (N, d) and labels (N,), once; buffers keep the result.

        A part that works on images is shown images (N, C, H, W), normalised as an episode's.
        """

    def of_base(self, features: Tensor) -> Tensor:
        """Base-class features (N, d) as the parts behind this one see them."""
        return features


class Learner(Saves, Part):
    """Scores the nodes of an episode.

    The subclass writes `score`, and `criterion` if its paper has its own loss.
    """

    adapts: bool = False  # an inner loop changes its weights for each episode
    learns_from_queries: bool = True  # its loss is of answers to queries
    # the novelty above which an answer is "none of the classes"; None where none was chosen
    rejects_above: float | None = None
    # the share of a training's steps that are done, for what changes along it; 1 outside of one
    progress: float = 1.0

    @property
    def remarks(self) -> list[str]:
        """What a results row says of it beside its traits."""
        return []

    @property
    def step_kind(self) -> Hashable:
        """What its loss takes from `progress`: steps of one kind are the same computation."""
        return None

    @property
    def innermost(self) -> Learner:
        """The learner inside all inner loops; itself where there is none."""
        return self

    def check_averages(self) -> None:
        """Refuse to train where that would leave an encoder without normalisation.

        Raises:
            InputError: says which policies would do.
        """

    def why_no_number(self) -> str:
        """What it saw of why its loss came to no number; empty where it does not know.

        It is asked once a loss was found to be none.
        """
        return ""

    def ask(self, episode: Episode) -> Episode:
        """The episode with the labels that its budget buys, which is spent then.

        One that has no rule for it gives the episode back.
        """
        return episode

    def set_batch_norm(self, policy: str) -> None:
        """Choose the BatchNorm policy."""
        self.batch_norm = policy

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C) of all nodes of an episode.

        Or (L, B, n, C), one for each of L layers, the last being the answer.
        """
        raise NotImplementedError

    def forward(self, episode: Episode) -> Tensor:
        """The scores (B, Q, C) of the queries."""
        return last_layer(self.score(check_episode(episode)))[:, episode.query]

    def score_open(self, episode: Episode) -> Tensor:
        """The scores of all nodes, and behind them how foreign each is to all classes: (B, n, C+1).

        The last column is its novelty, which ranks nodes: the larger, the less it is of any class.
        A learner without a part for it (slot `novelty`) takes minus the largest probability.
        """
        scores = last_layer(self.score(check_episode(episode)))
        return beside(scores, max_probability(scores))

    def answer_open(self, episode: Episode) -> Tensor:
        """`score_open` of the queries (B, Q, C + 1), the novelty less `rejects_above`, if any.

        Above 0 a query is none of the classes then.
        """
        answers = self.score_open(episode)[:, episode.query]
        return beside(answers[..., :-1], answers[..., -1] - (self.rejects_above or 0.0))

    def answer_with_scale(self, episode: Episode) -> Tensor:
        """The values of the queries, and behind them their standard deviations: (B, Q, 2 D).

        It is for a learner that `tells_scale`.
        """
        scale, values = self.score(check_episode(episode))[:, :, episode.query]
        return torch.cat([values, scale], -1)

    def criterion(self, scores: Tensor, target: Any, episode: Episode) -> Tensor:
        """The task's own loss, of classes cross-entropy, unless the paper says otherwise."""
        loss: Tensor = target.loss(scores, episode)
        return loss

    def loss(self, episode: Episode, target: BaseTarget) -> Tensor:
        """What training minimises: a scalar."""
        return self.price(self.score(episode), target, episode)

    def price(self, scores: Tensor, target: BaseTarget, episode: Episode) -> Tensor:
        """What these scores cost, `criterion`, `aux_loss` and the task's `side_loss`: a scalar.

        Mixed precision is for encoders alone.
        """
        with full_precision(episode.x.device):
            loss = self.criterion(scores, check_target(target), episode)
            return loss + target.side_loss(scores, episode) + self.aux_loss(episode)


def beside(scores: Tensor, novelty: Tensor) -> Tensor:
    """Scores (…, n, C) with the novelty (…, n) as one more column: (…, n, C + 1)."""
    return torch.cat([scores, novelty.unsqueeze(-1).to(scores.dtype)], -1)


class Head(Learner):
    """Scores an episode of features."""


class Augment(Part):
    """`Episode -> Episode`: appends weighted nodes to the support slice, or reweights it.

    It may also rewrite features, all nodes alike; then `of_base` does the same to base features.
    """

    def forward(self, episode: Episode) -> Episode:
        """The episode of features with more, or otherwise weighted, support nodes."""
        raise NotImplementedError


class Graph(Part):
    """`Episode -> Episode`: message passing that rewrites features."""

    def forward(self, episode: Episode) -> Episode:
        """The episode with rewritten features, (B, n, d) -> (B, n, d')."""
        raise NotImplementedError


class Refine(Part):
    """Makes better scores of those that a head gave.

    It may rewrite the label weights and call the head again, or propagate and balance the scores.
    """

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """Better scores (B, n, C) than those that are given; head: may be asked again."""
        raise NotImplementedError


class Novelty(Part):
    """Says how foreign each node is to all classes; the scores stay as they are."""

    def forward(self, episode: Episode, scores: Tensor) -> Tensor:
        """The novelty (B, n) of the nodes of an episode of features, with scores (B, n, C)."""
        raise NotImplementedError


class Acquire(Part):
    """Says which nodes to ask the labels of, next.

    It sees no label that was not given or asked for: the oracle is taken out of the episode. Of a
    pool of unlabeled nodes it does not look at queries, unless scores do (`pool_of`).
    """

    family = "active"
    asks = True
    spends_budget = True
    uses_unlabeled = True
    wants_maps = None  # of maps it takes the numbers as they stand
    reads_scores = False
    # chooses by the places of nodes, so that another order of the pool asks for others
    by_place: bool = False
    batch: int | None = None  # labels of a round, after which nodes are scored anew; None: all

    @staticmethod
    def pool_of(episode: Episode, candidates: Tensor) -> Tensor:
        """The nodes (B, n) bool that a rule looks at: candidates, and real ones with a label."""
        return candidates | ((episode.w.sum(-1) > 0) & episode.mask)

    def forward(
        self, episode: Episode, candidates: Tensor, scores: Tensor | None, count: int
    ) -> Tensor:
        """The nodes (B, count) whose labels are asked for, each another.

        Where a task has fewer candidates left, what stands behind them is any node.

        Args:
            episode: of features, with the labels so far.
            candidates: (B, n) bool, which nodes may be asked for: real ones that have no label.
            scores: (B, n, C) of all nodes, where the rule reads them and there is a label.
            count: how many.
        """
        raise NotImplementedError


Encode = Callable[[Tensor], Tensor]


class Objective(Part):
    """What pretraining minimises on images of base classes."""

    per_class: int = 1  # images of a class that a batch holds; 1 = as they come
    views: int = 1  # how often a batch shows each image, augmented anew
    # the share of each class's images that show it their labels, by `label_seed`
    labeled_fraction: float = 1.0
    label_seed: int = 0
    # images -> class scores of the generation before; None in the first
    teacher: Encode | None = None

    def forward(self, encode: Encode, x: Tensor, y: Tensor) -> Tensor:
        """The loss of a batch: a scalar.

        Args:
            encode: images (m, *S) -> vectors (m, d).
            x: (B, n, *S) images.
            y: (B, n) labels, -100 = none.
        """
        raise NotImplementedError
