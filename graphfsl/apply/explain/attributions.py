"""Which support and pool nodes, and which edges, made a prediction.

Whether that explanation is faithful is measured too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import networkx as nx
import torch
from torch import Tensor
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import MessagePassing

from graphfsl.core.arguments import A_LEARNER, AN_EPISODE, check_kind, whole_number
from graphfsl.core.display import block
from graphfsl.core.episode import Episode
from graphfsl.core.invalid_scores import check_answered
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.layers import last_layer
from graphfsl.functional.prototypes import present
from graphfsl.io.errors import require

MOST_ORDERS = 1_000_000  # that Shapley values are averaged over: their error falls with the root


@dataclass(frozen=True)
class Question:
    """One query in the graph of g nodes that answers it.

    Attributes:
        graph: one task; of this query alone where the learner answers each alone; of features where
            those of an image do not depend on its episode.
        origin: (g,) the episode's node behind each node.
        query: the query's node.
        nodes: (m,) those that may speak for or against: all real ones but the query.
        score: R variants of the graph -> (R, g, C).
        answer: the predicted class.
    """

    learner: Learner = field(repr=False)
    graph: Episode = field(repr=False)
    origin: Tensor = field(repr=False)
    query: int
    nodes: Tensor = field(repr=False)
    score: Callable[[Episode], Tensor] = field(repr=False)
    answer: int

    def log_odds(self, graph: Episode) -> Tensor:
        """The log-odds (R,) of the answer, log p / (1 - p); they tell apart what rounds to 1."""
        scores = self.score(graph)[:, self.query].double()
        answer = torch.arange(scores.shape[-1], device=scores.device) == self.answer
        odds = scores[:, self.answer] - scores.masked_fill(answer, float("-inf")).logsumexp(-1)
        # Where no label is left no class is present: what is left is a guess.
        others = int(present(self.graph.w).sum()) - 1
        guess = -math.log(others) if others > 0 else float("inf")
        return odds.where(self._has_answer(graph, scores), guess)

    def _has_answer(self, graph: Episode, scores: Tensor) -> Tensor:
        """Whether the learner answers (R,): with a label, or where it knows a class by its name."""
        labeled = graph.w.sum((1, 2)) > 0
        if not self.learner.uses_class_names:
            return labeled
        return labeled | (scores > float("-inf")).any(-1)

    @torch.no_grad()
    def probability(self, keep: Tensor) -> Tensor:
        """p of the answer when only these nodes are there: (…, g) -> (…).

        Removed nodes are padding.
        """
        nodes = keep.shape[-1]
        at_once = max(1, self.learner.block_nodes // nodes)
        blocks = keep.reshape(-1, nodes).split(at_once)
        found = [self.log_odds(self._only(kept)).sigmoid() for kept in blocks]
        return torch.cat(found).view(keep.shape[:-1])

    @torch.no_grad()
    def answers(self, keep: Tensor) -> Tensor:
        """What is answered when only these nodes are there: (R, g) -> (R,), -1 without a label."""
        at_once = max(1, self.learner.block_nodes // keep.shape[-1])
        found = []
        for kept in keep.split(at_once):
            graph = self._only(kept)
            scores = self.score(graph)[:, self.query]
            found.append(scores.argmax(-1).where(self._has_answer(graph, scores), -1))
        return torch.cat(found)

    def _only(self, kept: Tensor) -> Episode:
        """The graph in copies, each with its own nodes (m, g), of which the others are padding."""
        graph = self.graph
        names = None if graph.classes is None else graph.classes.expand(len(kept), -1)
        there = kept.view(*kept.shape, *(1,) * (graph.x.ndim - 2))
        return graph.replace(
            x=graph.x.where(there, 0),
            w=graph.w.where(kept.unsqueeze(-1), 0),
            mask=graph.mask & kept,
            relabeled=graph.relabeled,
            classes=names,
        )


def ask(learner: Learner, episode: Episode, query: int = 0, task: int = 0) -> Question:
    """The question behind the answer to a query of an episode.

    The episode is of images where the learner encodes them.

    Args:
        learner: what answers.
        episode: of B tasks.
        query: which of its queries.
        task: which of its tasks.

    Raises:
        InputError: where there is no such query or task.
    """
    check_kind(learner, Learner, "the learner", A_LEARNER)
    check_kind(episode, Episode, "the episode", AN_EPISODE)
    query, task = whole_number(query, "the query"), whole_number(task, "the task")
    require(
        0 <= query < episode.n_query and 0 <= task < len(episode.x),
        f"there is no query {query} in task {task}: choose a query from 0 to "
        f"{episode.n_query - 1} "
        f"and a task from 0 to {len(episode.x) - 1}",
    )
    graph, at = _take(episode, task), episode.n_support + query
    origin = torch.arange(episode.x.shape[1], device=episode.x.device)
    if not learner.transductive:
        graph = _take(graph.one_query_each(), query)
        origin = torch.cat([origin[episode.support], origin[at, None], origin[episode.unlabeled]])
        at = episode.n_support
    answer = learner.score
    if isinstance(learner, Pipeline) and _encodes_once(learner):
        with torch.no_grad(), _steady(learner, graph.x.device):
            graph, answer = learner.encode(graph), learner.score_features
    graph = graph.replace(w=graph.w.to(graph.x.dtype), relabeled=graph.relabeled)

    def score(graph: Episode) -> Tensor:
        with _steady(learner, graph.x.device):
            return last_layer(answer(graph))

    nodes = torch.arange(len(origin), device=origin.device)
    with torch.no_grad():
        scores = check_answered(learner, episode, score(graph)[:, at, None])
    predicted = int(scores.argmax())
    return Question(
        learner, graph, origin, at, nodes[graph.mask[0] & (nodes != at)], score, predicted
    )


def _encodes_once(learner: Pipeline) -> bool:
    """Whether a graph holds features: those of an image depend on no other image."""
    return learner.batch_norm == "running" and not learner.image_parts


def _take(episode: Episode, i: int) -> Episode:
    """Task i alone."""
    return episode.with_tensors({name: t[i, None] for name, t in episode.tensors.items()})


@contextmanager
def _steady(learner: Learner, device: torch.device) -> Iterator[None]:
    """Evaluation mode, and the same random numbers for every call."""
    was_training = learner.training
    learner.eval()
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            yield
    finally:
        learner.train(was_training)


@dataclass(frozen=True)
class Explanation:
    """What made the answer to a question: positive speaks for it, negative against it.

    Nodes are those of its graph. A gradient that is not finite is None.

    Attributes:
        question: what was asked.
        probability: p of the answer.
        nodes: (g,) Shapley values of p; they sum to p less a guess, 1 / way, or less what class
            names alone say.
        leave_one_out: (g,) how much p falls without the node.
        gradient: (g,) gradient x input on the log-odds, None where no gradient reaches the labels.
        edges: (g, g) gradient x mask on the log-odds, of the edge from j (columns) to i (rows),
            None where the learner has no message passing of torch_geometric.
    """

    question: Question
    probability: float
    nodes: Tensor
    leave_one_out: Tensor
    gradient: Tensor | None
    edges: Tensor | None

    def __repr__(self) -> str:
        q, loudest = self.question, self.order[:4].tolist()
        loud = ", ".join(f"node {q.origin[v]} {self.nodes[v]:+.3f}" for v in loudest)
        facts = {"answer": f"class column {q.answer}, p = {self.probability:.3f}", "loudest": loud}
        return block(f"Explanation of the answer to query node {q.origin[q.query]}", facts)

    @property
    def order(self) -> Tensor:
        """The nodes (m,), that which speaks loudest for the answer first."""
        nodes = self.question.nodes
        return nodes[self.nodes[nodes].argsort(descending=True, stable=True)]


def explain(
    learner: Learner, episode: Episode, query: int = 0, task: int = 0, orders: int = 16
) -> Explanation:
    """Which nodes and edges made the answer to one query.

    Args:
        learner: what answers.
        episode: of images where the learner encodes them.
        query: which of its queries.
        task: which of its tasks.
        orders: how many the Shapley values are averaged over.

    Raises:
        InputError: where there is no such query or task, for too many orders, and where the learner
            has no answer without some of the nodes.
    """
    require(
        whole_number(orders, "orders", 1) <= MOST_ORDERS,
        f"Shapley values over {orders:,} orders take too long; {MOST_ORDERS:,} at most will do",
    )
    asked = ask(learner, episode, query, task)
    p = float(asked.probability(asked.graph.mask)[0])
    nodes, alone = shapley(asked, orders), leave_one_out(asked)
    require(
        bool(nodes.isfinite().all() & alone.isfinite().all()),
        "without some of its nodes the learner has no answer to this query; choose another query",
    )
    return Explanation(
        asked, p, nodes, alone, _finite(gradient(asked)), _finite(edge_gradient(asked))
    )


def _finite(slopes: Tensor | None) -> Tensor | None:
    return slopes if slopes is not None and bool(slopes.isfinite().all()) else None


def shapley(question: Question, orders: int = 16, seed: int = 0) -> Tensor:
    """What each node adds to p, averaged over random orders in which the nodes leave: (g,).

    By sampling (Castro, Gomez, Tejada 2009, https://doi.org/10.1016/j.cor.2008.04.004). Unlike a
    gradient, and unlike leaving out one node, this sees that a class is gone with the last of its
    nodes.
    """
    order = random_orders(question, orders, seed)
    p = deletion_curve(question, order)
    return (
        p.new_zeros(len(order), len(question.origin))
        .scatter(1, order, p[:, :-1] - p[:, 1:])
        .mean(0)
    )


def leave_one_out(question: Question) -> Tensor:
    """p less p without the node: (g,)."""
    everything = torch.ones_like(question.graph.mask)
    # (g, m)
    alone = torch.arange(len(question.origin), device=everything.device)[:, None] == question.nodes
    p = question.probability(torch.cat([everything, ~alone.T]))
    return p.new_zeros(len(question.origin)).scatter(0, question.nodes, p[0] - p[1:])


def gradient(question: Question) -> Tensor | None:
    """Gradient x input on the log-odds s of the answer: (g,).

    It is None where no gradient reaches the label weights. A labeled node has sum_c w_ic ds/dw_ic,
    any other one (x_i - mean of x) ds/dx_i: what its features changed, beside an average node.
    Where s depends on the shares of a class only, as with class means, its nodes sum to zero: this
    says which of them made the class what it is, not what the class did.
    """
    graph = question.graph
    x, w = graph.x.detach().requires_grad_(), graph.w.detach().requires_grad_()
    odds = question.log_odds(graph.replace(x=x, w=w, relabeled=graph.relabeled))
    of_x, of_w = (
        torch.autograd.grad(odds, (x, w), allow_unused=True) if odds.requires_grad else (None, None)
    )
    if of_w is None:
        return None
    labeled = graph.w[0].sum(-1) > 0
    values = (graph.w * of_w).where(graph.w > 0, 0).sum(-1)[0]
    if of_x is not None:
        moved = graph.x[0] - graph.x[0, graph.mask[0]].mean(0)
        values = values.where(labeled, (moved * of_x[0]).flatten(1).sum(-1))
    return torch.zeros_like(values).scatter(0, question.nodes, values[question.nodes])


def edge_gradient(question: Question) -> Tensor | None:
    """Gradient x mask on the log-odds of the answer, for the edges: (g, g).

    The masks are ones over the messages of every layer, and the layers are summed. It is None where
    the learner has no MessagePassing of torch_geometric.
    """
    learner, graph = question.learner, question.graph
    edges: dict[MessagePassing, Tensor] = {}
    layers = [m for m in learner.modules() if isinstance(m, MessagePassing)]
    if not layers or not isinstance(learner, Pipeline):
        return None
    with torch.no_grad(), _steady(learner, graph.x.device):
        augmented = graph if _encodes_once(learner) else learner.encode(graph)
        for part in learner.augment:
            augmented = augmented if part.of_images else part(augmented)
    hooks = [
        m.register_propagate_forward_pre_hook(lambda m, inputs: edges.update({m: inputs[0]}))
        for m in layers
    ]
    with torch.no_grad():
        question.log_odds(graph)
    for hook in hooks:
        hook.remove()
    masks = [
        torch.ones(e.shape[1], dtype=graph.x.dtype, device=e.device).requires_grad_()
        for e in edges.values()
    ]
    try:
        for (layer, e), mask in zip(edges.items(), masks, strict=True):
            set_masks(layer, mask, e, apply_sigmoid=False)
        found = torch.autograd.grad(question.log_odds(graph), masks, allow_unused=True)
    finally:
        clear_masks(learner)
    # A layer may see more nodes: those that an augmentation put behind the support, and spare ones
    # at the end.
    first, added = graph.n_support, augmented.n_support - graph.n_support
    most = max(len(question.origin) + added, *(int(e.max()) + 1 for e in edges.values()))
    total = graph.x.new_zeros(most, most)
    for (source, target), values in zip(edges.values(), found, strict=True):
        if values is not None:
            total.index_put_((target, source), values, accumulate=True)
    own = torch.arange(len(question.origin), device=total.device)
    own = own + added * (own >= first)
    return total[own][:, own]


def random_orders(question: Question, count: int, seed: int = 0) -> Tensor:
    """(count, m) orders of the nodes: random ones, and the same backwards."""
    draw = torch.rand(
        -(-count // 2), len(question.nodes), generator=torch.Generator().manual_seed(seed)
    )
    order = question.nodes[draw.argsort(-1).to(question.nodes.device)]
    return torch.cat([order, order.flip(-1)])[:count]


def deletion_curve(question: Question, order: Tensor) -> Tensor:
    """p after the first 0, 1, …, m nodes of an order are gone: (…, m) -> (…, m + 1)."""
    m = order.shape[-1]
    step = torch.arange(m + 1, device=order.device)
    leaves = order.new_full((*order.shape[:-1], len(question.origin)), m).scatter(
        -1, order, step[:m].expand_as(order)
    )
    return question.probability(leaves.unsqueeze(-2) >= step.unsqueeze(-1))


def insertion_curve(question: Question, order: Tensor) -> Tensor:
    """p when only the first 0, 1, …, m nodes of an order are there: (…, m) -> (…, m + 1)."""
    return deletion_curve(question, order.flip(-1)).flip(-1)


@dataclass(frozen=True)
class Faithfulness:
    """What becomes of the answer as nodes go and come in an order, beside random orders.

    Attributes:
        deletion: (m + 1,) the curve as nodes go.
        insertion: (m + 1,) the curve as they come.
        random: (R, m + 1) the deletion curves of random orders, which backwards are insertion
            curves of random orders.
    """

    deletion: Tensor
    insertion: Tensor
    random: Tensor

    def __repr__(self) -> str:
        below, above = self.areas
        return (
            f"Faithfulness(deletion={below:+.3f}, insertion={above:+.3f}, beside "
            f"{len(self.random)} random orders)"
        )

    @property
    def areas(self) -> tuple[float, float]:
        """How far an order is from the mean random one: above zero it is faithful.

        Returns:
            How far the deletion curve lies below it, and how far the insertion curve lies above it.
        """
        mean = self.random.mean(0)
        return float((mean - self.deletion).mean()), float((self.insertion - mean.flip(-1)).mean())


def faithfulness(
    question: Question, order: Tensor, orders: int = 16, seed: int = 1
) -> Faithfulness:
    """Whether the nodes matter in this order (m,), beside random orders.

    Args:
        question: what was asked.
        order: (m,) the nodes, that which matters most first.
        orders: how many random ones it is compared with.
        seed: of these.
    """
    random = deletion_curve(question, random_orders(question, orders, seed))
    return Faithfulness(deletion_curve(question, order), insertion_curve(question, order), random)


def add_contributions(graph: nx.DiGraph, explanation: Explanation) -> None:
    """Note an explanation in the episode's graph, which is one of `to_networkx`.

    Nodes and edges get a `contribution`, and `graph.graph["explained"]` is the query. A node
    outside the query's own graph has none: another query, where each is answered alone.
    """
    question, values = explanation.question, explanation.nodes.tolist()
    place = dict(enumerate(question.origin.tolist()))
    graph.graph["explained"] = place[question.query]
    for v in question.nodes.tolist():
        graph.nodes[place[v]]["contribution"] = values[v]
    if explanation.edges is not None:
        for i, row in enumerate(explanation.edges.tolist()):
            for j, value in enumerate(row):
                if graph.has_edge(place[j], place[i]):
                    graph.edges[place[j], place[i]]["contribution"] = value
