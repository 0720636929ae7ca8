"""`Pipeline` chains parts: encoder, augment, graph, acquire, head, refine, novelty."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core.asking import answered_episode
from graphfsl.core.batchnorm import (
    POLICIES,
    TRANSDUCTIVE_POLICIES,
    follow_policy,
    has_batch_norm,
    is_adapting,
    statistics,
)
from graphfsl.core.cells import cells_as_nodes, check_cell_parts, of_images
from graphfsl.core.class_names import name_keys
from graphfsl.core.combinations import (
    check_acquire,
    check_company,
    check_drawn,
    check_parts,
    checked_head,
    parts_of,
)
from graphfsl.core.encoder import block_size, call_encoder, checked_encoder, fitting, full_precision
from graphfsl.core.episode import BaseTarget, Episode, check_episode, check_target
from graphfsl.core.learner import Encode, Head, Learner, Novelty, Part, beside
from graphfsl.core.traits import JOINED
from graphfsl.functional.layers import last_layer
from graphfsl.functional.open_set import max_probability
from graphfsl.io.errors import InputError, require, unknown

Slot = nn.Module | Sequence[nn.Module] | None


class Pipeline(Learner):
    """Chains parts: encoder -> augment -> graph -> acquire -> head -> refine, beside them novelty.

    Args:
        encoder: images (M, *S) -> feature maps (M, C, h, w) or vectors (M, d), with an optional
            `readout` from maps to vectors; None where the episodes hold features. BatchNorm layers
            of any module are made to follow the policy.
        augment: one part, a list, or None; so are `graph` and `refine`.
        graph: parts that rewrite features.
        head: the part that scores.
        refine: parts that better its scores.
        novelty: the part that says which nodes are of no class; None takes the largest probability.
        per_query: score every query in a copy of its own after encoding: any part is inductive so;
            None asks the parts.
        batch_norm: the policy of the encoder's statistics, see `graphfsl.core.batchnorm`.
        acquire: the rule by which it asks for labels, as many as an episode's budget; None where it
            asks for none.

    Raises:
        InputError: where parts cannot work together (`graphfsl.core.combinations`), or the encoder
            is none.
    """

    # (C, h, w) of the encoder's maps, where its builder knows it
    maps: tuple[int, ...] | None = None
    # whether its encoder has measured the images that it is asked about, the queries among them
    knows_target: bool = False

    def __init__(
        self,
        encoder: nn.Module | None = None,
        augment: Slot = None,
        graph: Slot = None,
        head: Head | None = None,
        refine: Slot = None,
        per_query: bool | None = None,
        batch_norm: str = "running",
        novelty: Novelty | None = None,
        acquire: Slot = None,
    ) -> None:
        super().__init__()
        self.encoder = checked_encoder(encoder)
        self.augment, self.graph = parts_of("augment", augment), parts_of("graph", graph)
        self.acquire, self.refine = parts_of("acquire", acquire), parts_of("refine", refine)
        self.novelty = parts_of("novelty", novelty)
        self.head: Head = checked_head(head)
        parts = self.parts
        check_parts(self.augment, self.graph, self.head, self.refine)  # type: ignore[arg-type]
        self.wants_maps = any(p.wants_maps for p in parts)
        self._asked_alone = any(p.per_query for p in parts) if per_query is None else per_query
        check_company(parts, self._asked_alone)
        check_acquire(self.acquire, self.head)  # type: ignore[arg-type]
        self.set_batch_norm(batch_norm)
        self.reads_support, self.answers = self.head.reads_support, self.head.answers
        self.tells_scale = self.head.tells_scale
        for trait in JOINED:
            setattr(self, trait, any(getattr(p, trait) for p in parts))
        self.spends_budget = len(self.acquire) > 0
        self.way = next((p.way for p in parts if p.way is not None), None)
        self.shots = next((p.shots for p in parts if p.shots is not None), None)
        self._generates = True  # False: an episode's images were generated before
        check_drawn(list(self.augment), self.shots, self.head)
        self.block_nodes = max(p.block_nodes for p in parts)
        most = [p.max_queries_per_class for p in parts if p.max_queries_per_class is not None]
        self.max_queries_per_class = min(most, default=None)

    @property
    def parts(self) -> list[Part]:
        """All parts behind the encoder, in the order in which they work."""
        return [
            *self.augment,
            *self.graph,
            *self.acquire,
            self.head,
            *self.refine,
            *self.novelty,
        ]

    @property
    def remarks(self) -> list[str]:
        """What the class means rest on beside labeled samples."""
        of_target = ["BatchNorm averages of the target"] if self.knows_target else []
        return of_target + [part.note for part in self.parts if part.note]

    def set_batch_norm(self, policy: str) -> None:
        """Choose the BatchNorm policy of the encoder; an unknown one raises InputError."""
        if policy not in POLICIES:
            raise unknown("BatchNorm policy", policy, POLICIES)
        require(
            policy != "each" or not self.acquire,
            "learner.batch_norm=each gives every query a pool of its own, and learner.acquire asks "
            "for labels of one that all share; choose another policy",
        )
        follow_policy(self)
        self.batch_norm = policy
        # a query that has statistics of its own has features of the support of its own too
        self.per_query = self._asked_alone or policy == "each"
        for part in self.parts:
            part.batch_norm = policy

    @property
    def shares_statistics(self) -> bool:  # type: ignore[override]
        """Whether the BatchNorm policy lets queries share statistics."""
        followers = (self.encoder, *(p for p in self.parts if p.follows_batch_norm))
        return self.batch_norm in TRANSDUCTIVE_POLICIES and any(map(has_batch_norm, followers))

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        """Whether a query's score depends on the other queries."""
        shared = any(p.transductive for p in self.acquire)  # labels of a pool that all share
        alone = self.per_query or not any(p.transductive for p in self.parts)
        return self.knows_target or self.shares_statistics or shared or not alone

    @property
    def fixed(self) -> bool:
        """Whether an image may be encoded once, as its features do not depend on its episode."""
        once = not self.wants_maps or self.maps is not None
        return self.batch_norm == "running" and once and not self.image_parts

    @property
    def frozen(self) -> bool:
        """Whether the encoder has parameters and none learns: its statistics do not move either."""
        learns = [p.requires_grad for p in self.encoder.parameters()]
        return bool(learns) and not any(learns)

    def train(self, mode: bool = True) -> Pipeline:
        """Train, or with mode=False evaluate; a frozen encoder always evaluates."""
        follow_policy(super().train(mode))  # once more, for layers that were put in since
        if self.frozen:
            self.encoder.eval()
        return self

    @property
    def reads_means(self) -> bool:  # type: ignore[override]
        """Whether class means of features, and their weights, give the same answers as samples."""
        return self.fixed and self.head.reads_means and len(self.parts) == 1

    @property
    def image_parts(self) -> list[Any]:
        """The augment parts that generate images, before the encoder."""
        drawing: list[Any] = list(self.augment) if self._generates else []
        return [part for part in drawing if part.of_images and getattr(part, "samples", 1)]

    @property
    def feature_parts(self) -> list[Any]:
        """The parts before the head that work on features, in their order."""
        return [*(part for part in self.augment if not part.of_images), *self.graph]

    def with_images(self, episode: Episode) -> Episode:
        """The episode with the images that augment parts generate, in full precision."""
        with full_precision(episode.x.device):
            for part in self.image_parts:
                episode = part(episode)
        return episode

    def encode(self, episode: Episode) -> Episode:
        """Images -> features: one encoder call for all nodes of all tasks.

        Where an augment part generates images, their features are support nodes behind the
        episode's own; an inner loop around the pipeline has generated them before. Under the
        BatchNorm policy `each`, B tasks of Q queries become B*Q tasks of one. Where every pixel has
        a label, the cells of the feature maps become nodes (`graphfsl.core.cells`).
        """
        episode = check_episode(episode)
        if episode.has_label_maps:
            check_cell_parts(self.image_parts, self.wants_maps, self.batch_norm)
        if not is_adapting():
            episode = self.with_images(episode)
        if self._normalises_each(episode):
            episode = episode.one_query_each()
        with statistics(self.batch_norm, episode):
            if episode.has_label_maps:
                maps = self._of_images(episode.x.flatten(0, 1), maps=True)
                return cells_as_nodes(episode, maps.unflatten(0, episode.x.shape[:2]))
            z = self._of_images(episode.x.flatten(0, 1), self.wants_maps)
            z = (z if self.wants_maps else self.readout(z)).unflatten(0, episode.x.shape[:2])
        return episode.replace(x=z, w=episode.w.to(z.dtype), relabeled=episode.relabeled)

    def _of_images(self, images: Tensor, maps: bool | None) -> Tensor:
        """What the encoder makes of images (M, *S).

        Where neither a gradient nor a statistic ties them to each other, blocks of them are encoded
        one after another, so that memory does not grow with the regions of a large episode.
        """
        tied = torch.is_grad_enabled() or self.encoder.training or is_adapting()
        size = block_size(self.encoder, images.shape[1:], images.device)
        if tied or self.batch_norm != "running" or len(images) <= size:
            return call_encoder(self.encoder, images, maps)
        return torch.cat([call_encoder(self.encoder, x, maps) for x in images.split(size)])

    def _encode_answered(self, episode: Episode) -> Episode:
        """`encode`, with zeros for support and pool where no score of a query depends on them."""
        own_statistics = self.batch_norm in ("apart", "running") and is_adapting()
        if not (own_statistics and self._answers_alone) or episode.n_query == 0:
            return self.encode(episode)
        z = self.encode(episode.parts(support=False, unlabeled=False)).x
        before = z.new_zeros(len(z), episode.n_support, *z.shape[2:])
        behind = z.new_zeros(len(z), episode.n_unlabeled, *z.shape[2:])
        x = torch.cat([before, z, behind], 1)
        return episode.replace(x=x, w=episode.w.to(z.dtype), relabeled=episode.relabeled)

    @property
    def _answers_alone(self) -> bool:
        """Whether a query's loss is of its own vector alone: no part looks at other nodes."""
        head = self.head
        asks_others = head.reads_support or head.transductive or head.uses_unlabeled
        own_loss = type(head).criterion is not Learner.criterion
        own_loss = own_loss or type(head).aux_loss is not Part.aux_loss
        only_head = len(self.parts) == 1 and not self.wants_maps
        return only_head and not (asks_others or own_loss or has_batch_norm(head))

    def readout(self, z: Tensor) -> Tensor:
        """What the encoder returned, (M, C, h, w) or (M, d) -> vectors (M, d)."""
        readout: Encode = getattr(self.encoder, "readout", nn.Flatten())
        return z if z.ndim == 2 else readout(z)

    def score_features(self, episode: Episode) -> Tensor:
        """Scores (B, n, C) of encoded episodes, or (L, B, n, C) from a head of L layers."""
        return self._scored(episode)[0]

    def _scored(self, episode: Episode, novelty: bool = False) -> tuple[Tensor, Episode]:
        """The scores, and the episode with features as the head sees them.

        Where each query is answered in a copy of its own these are those that are given.

        Args:
            episode: of features.
            novelty: whether the scores have it as one more column.
        """
        episode = self._asked(episode)
        if episode.asked:
            return self._scored_as_support(episode, novelty)
        if self.shots is not None and (k := episode.n_support) != self.shots * episode.way:
            raise InputError(
                f"this learner is tied to {self.shots}-shot episodes, but this one "
                f"has {k} support nodes"
            )
        if self.way is not None and episode.way != self.way:
            return self._fewer_classes(episode, self.way, novelty), episode
        if self.per_query and episode.queries > 1:
            alone = self._scored(episode.one_query_each(), novelty)[0]
            return _of_each(alone, episode), episode
        asked_of = episode
        with full_precision(episode.x.device), fitting(episode.x):
            episode = self._prepared(episode)
            asked = not self.refine or self.refine[0].reads_scores
            scores = self.head.score(episode) if asked else episode.w
            for part in self.refine:
                scores = part(episode, last_layer(scores), self.head)
            if novelty:
                scores = self._with_novelty(episode, last_layer(scores))
        seen = own_nodes(episode.x.flatten(2), episode, asked_of)
        seen = seen.unflatten(2, episode.x.shape[2:])
        return own_nodes(scores, episode, asked_of), asked_of.with_tensors({"x": seen})

    def _scored_as_support(self, episode: Episode, novelty: bool) -> tuple[Tensor, Episode]:
        """`_scored`, what was asked for being support for all parts, in the order of the nodes."""
        moved, order = episode.asked_first()
        scores, seen = self._scored(moved, novelty)
        back = order.argsort(-1)

        def of_nodes(t: Tensor) -> Tensor:
            return t.gather(-2, back.unsqueeze(-1).expand_as(t))

        x = of_nodes(seen.x.flatten(2)).unflatten(2, seen.x.shape[2:])
        return of_nodes(scores), episode.with_tensors({"x": x})

    def _prepared(self, episode: Episode) -> Episode:
        """The episode of features as the head sees it."""
        return self.in_front_of(self.head, episode)

    def parts_in_front(self, part: Part) -> list[Any]:
        """The parts that features pass before one of them; for the head and those behind it all."""
        return list(itertools.takewhile(lambda p: p is not part, self.feature_parts))

    def in_front_of(self, part: Part, episode: Episode) -> Episode:
        """The episode of features as one of the parts sees it."""
        for earlier in self.parts_in_front(part):
            episode = earlier(episode)
        return episode

    def _asked(self, episode: Episode) -> Episode:
        """The episode of features with the labels that its budget buys."""
        if not self.acquire or not episode.budget:
            return episode
        with full_precision(episode.x.device), fitting(episode.x):
            rule: Any = self.acquire[0]
            return answered_episode(episode, rule, self._prepared, self.score_features)

    def ask(self, episode: Episode) -> Episode:
        """The episode of images with the labels that its budget buys, which is spent then."""
        if not self.acquire or not episode.budget:
            return episode
        told = self._asked(self.encode(episode))
        w = own_nodes(told.w, told, episode)
        w = w.to(episode.w.dtype)
        return episode.replace(w=w, oracle=None, budget=0, asked=told.asked)

    def _with_novelty(self, episode: Episode, scores: Tensor) -> Tensor:
        """Scores (B, n, C) with the novelty as one more column."""
        part = next(iter(self.novelty), None)
        return beside(scores, max_probability(scores) if part is None else part(episode, scores))

    def _fewer_classes(self, episode: Episode, most: int, novelty: bool) -> Tensor:
        """Scores of an episode of fewer classes than the `most` that a part is tied to.

        The others are absent ones. With `novelty` there is one more column.
        """
        k, way = episode.n_support, episode.way
        require(
            way <= most,
            f"this learner is tied to {most}-way episodes at most, but the episode is {way}-way",
        )
        # the support nodes that absent classes would have, as padding
        added = (most - way) * (self.shots or 0)
        scores = self._scored(episode.more_classes(most - way, added), novelty)[0]
        own = scores[..., :way]
        scores = beside(own, scores[..., -1]) if novelty else own
        return torch.cat([scores[..., :k, :], scores[..., k + added :, :]], -2) if added else scores

    def _normalises_each(self, episode: Episode) -> bool:
        """Whether the encoder sees each query of the episode in a copy of its own."""
        return self.batch_norm == "each" and episode.n_query > 1

    def score(self, episode: Episode) -> Tensor:
        """Scores (B, n, C) of an episode of images, or (L, B, n, C) from a head of L layers."""
        return self._score(episode, novelty=False)

    def score_open(self, episode: Episode) -> Tensor:
        """Scores and novelty (B, n, C + 1) of an episode of images, see `Learner.score_open`."""
        return self._score(episode, novelty=True)

    def _score(self, episode: Episode, novelty: bool) -> Tensor:
        features = self.encode(episode)
        scores = self._scored(features, novelty)[0]
        if episode.has_label_maps:
            return of_images(scores, features)
        scores = own_nodes(scores, features, episode)
        return _of_each(scores, episode) if self._normalises_each(episode) else scores

    def criterion(self, scores: Tensor, target: Any, episode: Episode) -> Tensor:
        """The head's criterion: a scalar."""
        return self.head.criterion(scores, target, episode)

    def aux_loss(self, episode: Episode) -> Tensor | float:
        """The sum of the parts' losses that need no target, on an episode of features.

        Each part is shown it as the parts before leave it, as when it works.
        """
        own = (p for p in self.parts if type(p).aux_loss is not Part.aux_loss)
        return sum((p.aux_loss(self.in_front_of(p, episode)) for p in own), 0.0)

    def loss(self, episode: Episode, target: BaseTarget) -> Tensor:
        """What training minimises on an episode of images: a scalar."""
        if self._normalises_each(episode):
            copies = self.encode(episode)
            scores = _of_each(own_nodes(self.score_features(copies), copies, episode), episode)
            x = own_nodes(copies.x.flatten(2), copies, episode)
            x = _of_each(x, episode).unflatten(2, copies.x.shape[2:])
            features = episode.replace(x=x, w=episode.w.to(x.dtype), relabeled=episode.relabeled)
            return self.price(scores, target, features)
        features = self._encode_answered(episode)
        scores, seen = self._scored(features)
        with full_precision(episode.x.device):
            loss = self.criterion(scores, check_target(target), seen)
            return loss + target.side_loss(scores, seen) + self.aux_loss(features)

    def on_features(self) -> Pipeline:
        """The same parts for episodes that hold this encoder's features, or its flattened maps.

        Parts that generate images have done their work before; they stay in their places, so that
        weights keep their names. Nothing is copied.
        """
        parts = (list(self.augment), list(self.graph), self.head, list(self.refine))
        encoder = nn.Unflatten(1, self.maps or ()) if self.wants_maps else None
        novelty: Any = next(iter(self.novelty), None)
        acquire = list(self.acquire)
        features = Pipeline(
            encoder, *parts, self.per_query, self.batch_norm, novelty=novelty, acquire=acquire
        )
        features.rejects_above = self.rejects_above
        features.knows_target = self.knows_target
        features._generates = False
        return features.train(self.training)

    def check_base_labels(self, labels: Tensor, names: Sequence[str] | None = None) -> None:
        """Refuse labels (N,) that a part cannot learn from in `fit_base`, which names them as here.

        Raises:
            InputError: says what the part needs.
        """
        for part in self.parts:
            if part.wants_base:
                part.check_base_labels(_named(part, labels, names))

    def fit_base(
        self,
        features: Tensor | None,
        labels: Tensor,
        skip: Collection[Part] = (),
        images: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Let every part learn from base-class features (N, d) and labels (N,).

        Each sees them as the parts before it leave them.

        Args:
            features: (N, d); None where only parts that work on images learn.
            labels: (N,).
            skip: parts that do not learn now.
            images: (N, C, H, W) normalised, for parts that work on images.
            names: of the classes that labels are numbers of, for parts that use them.

        Raises:
            InputError: where a part has nothing to learn from.
        """
        for part in self.parts:
            learns = not any(part is other for other in skip)
            shown = images if part.of_images else features
            require(
                shown is not None or not (learns and part.wants_base),
                f"{type(part).__name__} learns from base "
                f"{'images; give images=…' if part.of_images else 'features; give them'}",
            )
            if shown is not None and learns:
                part.fit_base(shown, _named(part, labels, names))
            if features is not None:
                features = part.of_base(features)


def _named(part: Part, labels: Tensor, names: Sequence[str] | None) -> Tensor:
    """Labels (N,) as a part is shown them: keys of class names where it uses these."""
    if not part.uses_class_names:
        return labels
    if names is None:
        raise InputError(f"{type(part).__name__} knows base classes by their names; give names=…")
    return name_keys(names).to(labels.device)[labels]


def own_nodes(of_nodes: Tensor, grown: Episode, episode: Episode) -> Tensor:
    """What is told of an episode's nodes, without the support nodes that parts appended to it.

    Args:
        of_nodes: (…, n', C) of the nodes of `grown`, whose support is the longer one.
        grown: what became of the episode.
        episode: of k support nodes.

    Returns:
        (…, n, C).
    """
    first, behind = episode.n_support, grown.n_support
    if behind == first:
        return of_nodes
    return torch.cat([of_nodes[..., :first, :], of_nodes[..., behind:, :]], -2)


def _of_each(of_copies: Tensor, episode: Episode) -> Tensor:
    """What copies of one query say of their nodes (…, B*Q, k + 1 + u, C) -> (…, B, n, C).

    A query that is an image has as many nodes as cells in place of the one.

    A support or unlabeled node is in all copies of its task; of it, the mean over those of real
    queries is told.
    """
    query, cells = episode.n_support, episode.cells_per_image  # where a copy's one query begins
    found = of_copies.unflatten(-3, (-1, episode.queries))  # (…, B, Q, k + 1 + u, C)

    real = episode.mask[:, episode.query].unflatten(1, (-1, cells))[..., 0].to(found.dtype)
    share = (real / real.sum(1, keepdim=True).clamp_min(1))[:, :, None, None]
    mean = (found.where(share > 0, 0) * share).sum(-3)

    of_support = mean[..., :query, :]
    of_queries = found[..., query : query + cells, :].flatten(-3, -2)
    of_pool = mean[..., query + cells :, :]
    return torch.cat([of_support, of_queries, of_pool], -2)
