"""What the generic suite builds: learners around any registered part, and synthetic episodes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphfsl.core import registry
from graphfsl.core.batchnorm import BatchNorm
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.pretrainer import Pretrainer
from graphfsl.core.schema import make

WAY, SHOT, DIM = 3, 2, 6
METHODS = sorted(registry.find())


class TinyEncoder(nn.Module):
    """1 x 8 x 8 images -> maps (M, 6, 2, 2); its readout is the mean over space. BatchNorm
    inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, DIM, 3, stride=2, padding=1), BatchNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(torch.nn.functional.softplus(self.norm(self.conv(x))), 2)

    def readout(self, maps: Tensor) -> Tensor:
        return maps.mean((-1, -2))


def part(slot: str, name: str, **options: Any) -> Any:
    return make(
        registry.get(slot, name),
        options,
        name,
        dim=DIM,
        way=WAY,
        shot=SHOT,
        maps=(DIM, 2, 2),
        classes=WAY,
    )


def learner(
    augment: str | None = None,
    graph: str | None = None,
    head: str = "protonet",
    refine: str | None = None,
    adapt: str | None = None,
    batch_norm: str | None = None,
    seed: int = 0,
) -> Learner:
    """A learner with these parts; a head that does not read the support is adapted by MAML."""
    torch.manual_seed(seed)
    slots = {
        s: part(s, n) for s, n in (("augment", augment), ("graph", graph), ("refine", refine)) if n
    }
    pipeline = Pipeline(TinyEncoder(), head=part("head", head), **slots)
    if adapt is None and not pipeline.reads_support:
        adapt = "maml"
    out: Any = pipeline
    if adapt is not None:
        cls = registry.get("adapt", adapt)
        # Methods that tune a trained network take many steps.
        out = make(cls, {"steps": 3} if cls.adapts_frozen else {}, adapt, net=pipeline)
    if batch_norm is not None:
        out.set_batch_norm(batch_norm)
    return unlike_fresh(out)


def unlike_fresh(out: Learner) -> Learner:
    """Statistics that are not those of a fresh layer, so that reading the wrong ones shows."""
    for module in out.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return out


def around(slot: str, name: str, **options: Any) -> Learner:
    """The simplest learner with this method in its slot."""
    if slot == "adapt":
        # from the class weights that the support gives
        tunes = registry.get(slot, name).adapts_frozen
        return learner(head="imprinting" if tunes else "linear", adapt=name, **options)
    if slot == "pretrain":
        torch.manual_seed(options.pop("seed", 0))
        out = Pretrainer(TinyEncoder(), part(slot, name))
        out.set_batch_norm(options.pop("batch_norm", "running"))
        return unlike_fresh(out)
    return learner(**{slot: name}, **options)


def episodes(
    batch: int = 2,
    way: int = WAY,
    shot: int = SHOT,
    query: int = 2,
    unlabeled: int = 2,
    seed: int = 0,
    noise: float = 0.6,
) -> tuple[Episode, Target]:
    """Images of 8 x 8 around a random pattern for each class; queries shuffled."""
    g = torch.Generator().manual_seed(seed)
    pattern = torch.randn(batch, way, 1, 8, 8, generator=g)
    labels = [
        torch.arange(way).repeat_interleave(k).expand(batch, -1) for k in (shot, query, unlabeled)
    ]
    labels[1] = labels[1][:, torch.randperm(way * query, generator=g)]
    y = torch.cat(labels, 1)
    x = pattern[torch.arange(batch)[:, None], y]
    x = x + noise * torch.randn(x.shape, generator=g)
    w = torch.nn.functional.one_hot(y, way).float()
    w[:, way * shot :] = 0
    ids = torch.arange(y.numel()).view(y.shape)
    target = Target(labels[1], labels[2], ids, torch.arange(way).expand(batch, -1))
    return Episode(x, w, way * shot, way * query, relabeled=False), target


def pairwise(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A set of combinations in which every pair of values of two axes occurs, greedily small."""
    names = list(axes)
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(names, 2)
        for x in axes[a]
        for y in axes[b]
    }
    everything = [
        dict(zip(names, values, strict=True)) for values in itertools.product(*axes.values())
    ]

    def covers(row: dict[str, Any]) -> set[Any]:
        return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(names, 2)} & missing

    chosen = []
    while missing:
        best = max(everything, key=lambda row: len(covers(row)))
        missing -= covers(best)
        chosen.append(best)
    return chosen


def sinkhorn(log_p: Tensor, rows: Tensor, columns: Tensor, rounds: int) -> Tensor:
    """diag(u) exp(log_p) diag(v) after so many of Sinkhorn's rounds: the columns are scaled, then
    the rows.
    """
    for _ in range(rounds):
        for sums, dim in ((columns.unsqueeze(-2), -2), (rows.unsqueeze(-1), -1)):
            total = log_p.logsumexp(dim, keepdim=True)
            log_p = (log_p - total.where(total > float("-inf"), 0) + sums.log()).nan_to_num(
                float("-inf"), posinf=float("-inf")
            )
    return log_p.exp()
