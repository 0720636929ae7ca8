"""Propagation into a pool through gates that were learned on pools of base classes.

Ours, 2026. Propagation: Zhou et al. 2004 (local and global consistency),
https://proceedings.neurips.cc/paper/2003/hash/87682805257e619d49b8e0dfdc14affa-Abstract.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head, Refine
from graphfsl.functional.base_episodes import smallest_class
from graphfsl.functional.base_pools import BasePools, base_pools
from graphfsl.functional.centring import centred
from graphfsl.functional.distances import cosine
from graphfsl.functional.layers import last_layer
from graphfsl.functional.propagation import stochastic
from graphfsl.functional.prototypes import present
from graphfsl.functional.statistics import or_one
from graphfsl.functional.task_pool_graph import STATISTICS, Reading, TaskPoolGraph
from graphfsl.io.errors import require

__all__ = ["GatedPropagation"]

HIDDEN = 32  # width of a gate's network
SURE = 6.0  # the logit of both probabilities until `fit_base`: every node is believed
NO_LIMIT = 1e30  # of statistics until then; weights files hold no infinity
LEAST_P = 1e-4  # of a class, before a logarithm is taken
BALANCING = 4  # rounds in which classes that take too much of the pool are held back

# The pools of base classes that gates learn on.
GROUPS = 24  # of episodes of one shot and one size
MOST_EPISODES, MOST_ENTRIES = 24, 2_000_000  # of a group: episodes, and entries of their graphs
LEAST_POOL, MOST_POOL = 5, 300  # nodes of a known class where no other is there
SHOTS = (1, 1, 1, 2, 3, 5, 5, 10)
QUERIES = 10
FOREIGN = 8  # foreign classes at the most
FOREIGN_ALONE, CLEAN, DIRICHLET = 1 / 8, 0.3, 2.0  # shares of pools, and their unequal classes
STEPS, LR = 250, 0.01  # of a gate's training
QUERY_SCALE = 20.0  # of the cosines in its loss


class GatedPropagation(Refine):
    """Propagate labels into the pool, and believe of it what a gate believes, round by round.

    On the graph of support and pool, with A_ij = max(0, cos(v_i, v_j))^3 between k nearest
    neighbours, v the features around their mean, S = D^-1/2 A D^-1/2 and label weights W,

        F = (I - alpha S)^-1 W,  P_jc ~ F_jc / sum_i W_ic
        log R_jc ~ a log P_jc + tau cos(x_j, p_c) - b log(sum_j g_j R_jc),  p_c the class means of W
        g_j = (P(member | s_j) P(right | s_j))^gamma
        W_jc = g_j R_jc for each j of the pool

    s_j are statistics of a node in its pool: its mass sum_c F_jc / d_j^1/2 and its cosines, each as
    a place among the pool's nodes and in deviations from their mean, how sure P is, how far the
    neighbours agree; and of the whole pool, which tell how the support lies in it. A network of two
    hidden layers reads them. The first round has no cosines in R, later ones read the W before
    them. Then the head is called on W, and

        score_qc = head_qc + trust s mean_j(g_j) log P_qc

    where s is the scale of the head, how far its scores of the support lie from their mean over the
    classes, as a root mean square. A query is a leaf of the graph: it reads all other nodes by A,
    and none reads it. A pool that no gate believes leaves the head's scores as they are.

    `fit_base` draws episodes of base classes whose pools have 5 to 300 nodes a class, equal or
    Dirichlet(2), with 0 to 8 foreign classes; an eighth are of foreigners alone. Each round's gate,
    a, tau, b and gamma learn from them who is a member and which label is right, and to have the
    class means answer queries. Until then every node is believed.

    Args:
        way: the classes of these episodes.
        k, alpha, trust: as above.
        rounds: how many; each has a gate of its own.

    Shapes:
        forward: features (B, n, d), scores (B, n, C) -> scores (B, n, C). Queries are not in the
            graph: inductive.

    Source:
        ours; the affinity is that of iLPC (Lazarou et al. 2021).

    Deviations:
        none, there is no paper. Sizes beyond those of `fit_base` are answered by the gates' reading
        of the nearest that they know; the weights are constants for the gradient.
    """

    family = "semi-supervised"
    uses_unlabeled = True
    wants_base = True
    reads = "pool"  # it asks the head again; of the scores before, those of queries are not read

    def __init__(
        self, way: int, k: int = 10, alpha: float = 0.9, rounds: int = 3, trust: float = 1.0
    ) -> None:
        super().__init__()
        require(
            min(way, k, rounds) >= 1 and 0 <= alpha < 1 and trust >= 0,
            "gated_propagation.way, k and rounds must be 1 or more, alpha in [0, 1) and trust 0 or "
            f"more, not {way}, {k}, {rounds}, {alpha} and {trust}",
        )
        self.base_way, self.k, self.alpha, self.trust = way, k, alpha, trust
        self.gates: Any = nn.ModuleList(Gate(first=t == 0) for t in range(rounds))

    def forward(self, episode: Episode, scores: Tensor, head: Head) -> Tensor:
        """The head's scores (B, n, C) on the gated pool, and what propagation says of each node."""
        if episode.n_unlabeled == 0:
            return scores
        graph, weights = self.weigh(episode.parts(query=False))
        with torch.no_grad():
            belief = weights.sum((1, 2)) / graph.real.sum(1).clamp_min(1)
            scale = spread(scores[:, episode.support], graph.labels)
            log_p = self.propagated(episode, graph, weights).clamp_min(LEAST_P).log()
            told = self.trust * (belief * scale)[:, None, None] * log_p
        return last_layer(head.score(episode.label_pool(weights))) + told

    @torch.no_grad()
    def weigh(self, episode: Episode) -> tuple[TaskPoolGraph, Tensor]:
        """The graph, and label weights (B, U, C) of the pool after the last round.

        Args:
            episode: of support and pool alone, without queries.
        """
        labels = episode.w[:, episode.support]
        graph = TaskPoolGraph.of(episode.x, labels, episode.mask, self.k, self.alpha)
        weights = torch.zeros_like(episode.w[:, episode.unlabeled])
        for gate in self.gates:
            weights = gate(graph.read(weights), graph.real)
        return graph, weights

    def propagated(self, episode: Episode, graph: TaskPoolGraph, weights: Tensor) -> Tensor:
        """P (B, n, C) of all nodes; a query reads all nodes of the graph, each as it is near."""
        f = graph.propagate(weights)
        queries = torch.zeros_like(episode.mask)
        queries[:, episode.query] = True
        v = centred(episode.x, episode.mask & ~queries)
        of_graph = torch.cat([v[:, episode.support], v[:, episode.unlabeled]], 1)
        near = cosine(v[:, episode.query], of_graph).clamp_min(0) ** 3
        of_query = near.masked_fill(~graph.mask.unsqueeze(1), 0) @ (
            f / graph.root_degree.unsqueeze(-1)
        )
        support = episode.n_support
        return stochastic(torch.cat([f[:, :support], of_query, f[:, support:]], 1))

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse labels (N,) of fewer than three classes, or of less than three samples of one.

        These are one labeled, one of the pool and a query.
        """
        classes, smallest = len(labels.unique()), smallest_class(labels)
        require(
            classes >= 3 and smallest >= 3,
            "gated_propagation learns from three base classes or more, of three samples each or "
            f"more, not of {classes} classes the smallest of which has {smallest}",
        )

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Teach the gates on pools of base-class features (N, d) with labels (N,).

        Raises:
            InputError: where features are not finite, there are fewer than three classes, or a
                class has fewer than three samples.
        """
        self.check_base_labels(labels)
        require(
            bool(features.isfinite().all()),
            "gated_propagation learns from finite features, but some hold NaN or infinity; check "
            "the encoder's weights",
        )
        way = min(self.base_way, len(labels.unique()) - 1)
        z = F.normalize(features, dim=-1)
        lessons = [self.lesson(z, labels, way, number) for number in range(GROUPS)]
        weights = [torch.zeros_like(lesson.right_labels) for lesson in lessons]
        for gate in self.gates:
            readings = [
                lesson.graph.read(given) for lesson, given in zip(lessons, weights, strict=True)
            ]
            gate.learn(lessons, readings)
            weights = [
                gate(reading, lesson.graph.real)
                for lesson, reading in zip(lessons, readings, strict=True)
            ]

    def lesson(self, z: Tensor, labels: Tensor, way: int, number: int) -> Lesson:
        """Draw the episodes of one group, all of one shot and one size.

        Args:
            z: (N, d) base-class features of length 1.
            labels: (N,) their classes.
            way: classes that are known in an episode.
            number: of the group.
        """
        smallest = smallest_class(labels)
        shot = min(SHOTS[number % len(SHOTS)], smallest // 3)
        query = min(QUERIES, smallest // 3)
        most = min(MOST_POOL, smallest - shot - query)
        least = min(LEAST_POOL, most)
        # Sizes are spread evenly over their logarithms, whatever the shots beside them.
        each = least * (most / least) ** (number * (math.sqrt(5) - 1) / 2 % 1)
        foreign = min(FOREIGN, int((torch.bincount(labels) > 0).sum()) - way)
        size = math.ceil(each * (way + foreign / 4))
        nodes = way * shot + size
        count = max(2, min(MOST_EPISODES, MOST_ENTRIES // nodes**2))
        shares = pool_shares(count, way, foreign).to(z)
        drawn = base_pools(labels, way, shot, query, size, shares)
        return Lesson.of(z, drawn, way, self.k, self.alpha)


def spread(scores: Tensor, labels: Tensor) -> Tensor:
    """How far labeled nodes' scores lie from their mean over the classes, a root mean square: (B,).

    Args:
        scores: (B, k, C), of absent classes anything.
        labels: (B, k, C) label weights; each node counts as much as it weighs.
    """
    there = present(labels).unsqueeze(1)
    way = there.sum(-1, keepdim=True).clamp_min(1)
    known = scores.where(there, 0)
    apart = (known - known.sum(-1, keepdim=True) / way).where(there, 0)
    of_node = labels.sum(-1, keepdim=True) * apart.square() / way
    return (of_node.sum((1, 2)) / or_one(labels.sum((1, 2)))).sqrt()


def pool_shares(count: int, way: int, foreign: int) -> Tensor:
    """Shares (count, way + foreign) of the classes in pools, each foreign one as a mean known one.

    Some pools hold no foreigner, some nothing else; the known classes are equal in one half.
    """
    equal = torch.ones(count, way)
    unequal = way * torch.distributions.Dirichlet(DIRICHLET * equal).sample()
    known = unequal.where(torch.rand(count, 1) < 0.5, equal)

    alone, clean = torch.rand(2, count, 1)
    alone = alone < FOREIGN_ALONE
    foreigners = torch.randint(foreign + 1, (count, 1)).masked_fill(clean < CLEAN, 0)
    foreigners = foreigners.clamp_min(1).where(alone, foreigners)
    strangers = (torch.arange(foreign) < foreigners).float()
    return torch.cat([known.masked_fill(alone, 0), strangers], 1)


@dataclass(frozen=True)
class Lesson:
    """Pools of base classes of which it is known who is a member.

    Args:
        graph: of support and pool.
        query_cosines: (B, Q, n) of the queries to the nodes of the graph.
        query_labels: (B * Q,) their columns.
        right_labels: (B, U, C) one-hot, zero for foreigners.
    """

    graph: TaskPoolGraph
    query_cosines: Tensor
    query_labels: Tensor
    right_labels: Tensor

    @classmethod
    def of(cls, z: Tensor, drawn: BasePools, way: int, k: int, alpha: float) -> Lesson:
        """The episodes `drawn` from features z (N, d) of length 1."""
        episodes = len(drawn.pool)
        column = torch.arange(way, device=z.device)
        shot, query = drawn.support.shape[1] // way, drawn.query.shape[1] // way
        labels = F.one_hot(column.repeat_interleave(shot), way).to(z).expand(episodes, -1, -1)
        mask = torch.cat([torch.ones_like(drawn.support, dtype=torch.bool), drawn.real], 1)
        x = z[torch.cat([drawn.support, drawn.pool], 1)]
        graph = TaskPoolGraph.of(x, labels, mask, k, alpha)
        member = drawn.truth >= 0
        right = F.one_hot(drawn.truth.clamp_min(0), way).to(z) * member.unsqueeze(-1)
        queries = column.repeat_interleave(query).repeat(episodes)
        return cls(graph, z[drawn.query] @ x.mT, queries, right)


class Gate(nn.Module):
    """Turns what a round finds out about a pool's nodes into label weights.

    Args:
        first: of the first round, in which there are no class means of the pool yet.
    """

    mean: Tensor
    deviation: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.first = first
        last = nn.Linear(HIDDEN, 2)
        self.network = nn.Sequential(
            nn.Linear(STATISTICS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), last
        )
        for parameter in self.network.parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(last.bias, SURE)
        self.register_buffer("mean", torch.zeros(STATISTICS))
        self.register_buffer("deviation", torch.ones(STATISTICS))
        self.register_buffer("least", torch.full((STATISTICS,), -NO_LIMIT))
        self.register_buffer("most", torch.full((STATISTICS,), NO_LIMIT))
        # a, tau, b and gamma
        self.exponents = nn.Parameter(torch.tensor([2.0, 20.0, 0.6, 0.5]))
        self.requires_grad_(False)

    def logits(self, statistics: Tensor) -> Tensor:
        """Of P(member) and of P(right), (B, U, STATISTICS) -> (B, U, 2)."""
        known = statistics.clamp(self.least, self.most)  # beyond, a network may say anything
        found: Tensor = self.network((known - self.mean) / self.deviation)
        return found

    def forward(self, reading: Reading, real: Tensor) -> Tensor:
        """Label weights (B, U, C) of the pool, whose nodes are real where (B, U) `real` is."""
        return self.weights(reading, self.logits(reading.statistics), real)

    def weights(self, reading: Reading, logits: Tensor, real: Tensor) -> Tensor:
        """g_j R_jc from the logits (B, U, 2) of both probabilities."""
        a, tau, b, gamma = self.exponents.to(logits)
        believed = (gamma * F.logsigmoid(logits).sum(-1)).exp() * real
        score = a * reading.log_p
        if not self.first:
            score = score + tau * reading.cosines
        weights: Tensor = believed.unsqueeze(-1) * score.softmax(-1).nan_to_num(0)
        for _ in range(BALANCING):
            taken = weights.sum(1, keepdim=True) + 1e-6
            held_back = score - b * taken.log()
            weights = believed.unsqueeze(-1) * held_back.softmax(-1).nan_to_num(0)
        return weights

    def learn(self, lessons: Sequence[Lesson], readings: Sequence[Reading]) -> None:
        """Learn who is a member and which label is right, and to answer queries by class means."""
        every = [
            reading.statistics[lesson.graph.real]
            for lesson, reading in zip(lessons, readings, strict=True)
        ]
        self.standardise(every)
        for layer in self.network:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        with torch.enable_grad():
            self.requires_grad_(True)
            optimizer = torch.optim.Adam(self.parameters(), LR)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            for step in range(STEPS):
                turn = step % len(lessons)
                optimizer.zero_grad()
                self.loss(lessons[turn], readings[turn]).backward()
                optimizer.step()
                schedule.step()
            self.requires_grad_(False)

    def standardise(self, every: Sequence[Tensor]) -> None:
        """Note mean, deviation and range of statistics (m, STATISTICS) of equal groups."""
        mean = torch.stack([s.mean(0) for s in every]).mean(0)
        square = torch.stack([s.square().mean(0) for s in every]).mean(0)
        self.mean.copy_(mean)
        self.deviation.copy_((square - mean.square()).clamp_min(1e-6).sqrt())
        self.least.copy_(torch.stack([s.amin(0) for s in every]).amin(0))
        self.most.copy_(torch.stack([s.amax(0) for s in every]).amax(0))

    def loss(self, lesson: Lesson, reading: Reading) -> Tensor:
        """What wrong probabilities and wrong answers of the class means cost in one group."""
        graph = lesson.graph
        logits = self.logits(reading.statistics)
        member = lesson.right_labels.sum(-1)
        right = lesson.right_labels.gather(-1, reading.best.unsqueeze(-1)).squeeze(-1)
        truth = torch.stack([member, right], -1)
        weight = graph.real.unsqueeze(-1).expand_as(truth).to(logits)
        wrong = F.binary_cross_entropy_with_logits(logits, truth, weight=weight)

        w = torch.cat([graph.labels, self.weights(reading, logits, graph.real)], 1)
        scores = QUERY_SCALE * graph.class_cosines(lesson.query_cosines, w)
        return wrong + F.cross_entropy(scores.flatten(0, 1), lesson.query_labels)
