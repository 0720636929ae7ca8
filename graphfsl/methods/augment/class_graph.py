"""What a graph of classes says of the mean of a new class: knowledge in place of images.

Ours, 2026. Values on a graph: Zhu, Ghahramani, Lafferty 2003 (harmonic functions),
https://www.aaai.org/Papers/ICML/2003/ICML03-118.pdf
"""

from __future__ import annotations

from typing import Any

import networkx as nx
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.base_classes import BaseMemory, check_base
from graphfsl.core.class_names import class_graph, name_keys
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Augment
from graphfsl.functional.harmonic import harmonic
from graphfsl.functional.within_class import class_means
from graphfsl.io.errors import InputError, require

__all__ = ["ClassGraph"]


class ClassGraph(BaseMemory, Augment):
    """Add to each class a support node h_c, the mean that its neighbors in a graph of classes have.

        h_v = mu_v / ||mu_v||                        of a base class v, mu_v its mean
        h_v = 1 / |N(v)| sum_{u in N(v)} h_u         of every other node of the graph
        p_c <- (K p_c + k_0 h_c / ||h_c||) / (K + k_0)

    p_c is the mean of K samples of class c: the more there are, the less the graph counts. Without
    any the graph alone answers (`episode.shot: 0`). A class that is not in the graph, or that no
    path joins to a base class, stays as it is.

    Features should be centred and of length 1: put `feature_transform` in front, in a list of
    augment parts. Names are side information, so that results stand in a table of their own.

    Args:
        dim: d, the length of the features.
        graph: pairs [class, what it is a kind of], a CSV file of them, a networkx graph, or the
            name of a class list with superclasses. `fc100` has the superclasses of CIFAR-100.
        weight: k_0, the label weight of the node beside 1 of a real sample; 0 adds nothing.

    Shapes:
        forward: features (B, n, d), weights (B, n, C), class keys (B, C) -> an episode with C more
            support nodes.

    Source:
        ours; h is the harmonic function of Zhu et al. 2003, equation 5.

    Deviations:
        none, there is no paper.
    """

    family = "graph"
    wants_base = True
    uses_class_names = True
    cannot_export = "reads the names of classes, and a graph for devices is told none"
    remembers = ("keys", "means")

    def __init__(self, dim: int, graph: Any = "fc100", weight: float = 0.5) -> None:
        super().__init__()
        require(weight >= 0, f"class_graph.weight must be 0 or more, not {weight}")
        self.graph, self.weight = class_graph(graph), weight
        self.keys: Tensor
        self.means: Tensor
        # sorted, so that a class is found by bisection
        self.register_buffer("keys", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(0, dim))

    @property
    def note(self) -> str:
        """What a results row says of the node that it adds."""
        if not self.weight:
            return ""
        return f"1 node a class of a class graph, {self.weight:g} times the weight of a real one"

    def check_base_labels(self, labels: Tensor) -> None:
        """Refuse the keys (N,) of class names none of which is in the graph."""
        base = set(labels.unique().tolist())
        names = list(self.graph)
        require(
            not base.isdisjoint(name_keys(names).tolist()),
            f"none of the {len(base)} base classes is in the class graph, whose names are such as "
            f"{names[0]!r}",
        )

    def fit_base(self, features: Tensor, labels: Tensor) -> None:
        """Learn from base-class features (N, d) and the keys (N,) of their class names.

        Raises:
            InputError: where no base class is in the graph.
        """
        check_base(features, labels, self.means.shape[1], 1, "class_graph")
        self.check_base_labels(labels)
        mu, row = class_means(features, labels)
        base = torch.empty(len(mu), dtype=torch.int64, device=labels.device)
        base[row] = labels
        known = dict(zip(base.tolist(), F.normalize(mu, dim=-1), strict=True))

        names = list(self.graph)
        key_of = dict(zip(names, name_keys(names).tolist(), strict=True))
        of_base = [name for name in names if key_of[name] in known]
        reached = sorted(
            name
            for part in nx.connected_components(self.graph)
            if not part.isdisjoint(of_base)
            for name in part
        )
        values = torch.stack(
            [known.get(key_of[name], features.new_zeros(mu.shape[1])) for name in reached]
        )
        is_known = torch.tensor([key_of[name] in known for name in reached])
        a = torch.from_numpy(nx.to_numpy_array(self.graph, reached, weight=None)).to(features)
        means = harmonic(a, values, is_known.to(features.device))
        keys, order = name_keys(reached).to(features.device).sort()
        self.keys, self.means = keys, F.normalize(means[order], dim=-1)

    def forward(self, episode: Episode) -> Episode:
        """The episode with a node for each class that the graph knows, once it was fitted."""
        if not self.weight or not len(self.means):
            return episode
        if episode.classes is None:
            raise InputError(
                "class_graph needs the names of an episode's classes; target.named(episode) gives "
                "them"
            )
        classes = episode.classes.contiguous()
        place = torch.searchsorted(self.keys, classes).clamp_max(len(self.keys) - 1)
        there = self.keys[place] == classes
        w = self.weight * torch.diag_embed(there.to(episode.w.dtype))
        return episode.add_support(self.means[place].to(episode.x.dtype), w, there)
