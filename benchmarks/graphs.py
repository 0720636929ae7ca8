"""Graph learners on cached features: their cost beside the encoder's, what batching is worth, how
cost grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.__main__ import features, images, interleaved
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.data import Episodes, Setting
from graphfsl.experiment import builder
from graphfsl.loops.evaluation import block_size
from graphfsl.nn import Conv4

LEARNERS: dict[str, dict[str, Any]] = {
    "GNN": {"head": "gnn"},
    "EGNN": {"head": "egnn"},
    "DPGN": {"head": "dpgn"},
    "TPN": {"head": "tpn"},
    "label propagation": {"head": "label_propagation"},
    "embedding propagation": {"graph": "embedding_propagation", "head": "label_propagation"},
    "wDAE": {"head": "wdae"},
    "Relay": {"head": "relay"},
    "GCN, dense": {"graph": {"name": "message_passing", "dense": True}, "head": "protonet"},
    "GCN, sparse": {"graph": "message_passing", "head": "protonet"},
}
SIZES = (5, 50, 500)  # nodes of an episode; the exponent is that of the last step


def graphs(device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    """5-way 1-shot 15-query on 64-d features; episodes ready in memory."""
    pictures = Episodes(images(), Setting(5, 1, 15), device=device).batch(range(8))[0]
    conv = Conv4().to(device).eval()
    scaled = pictures.x.flatten(0, 1).float() / 255

    @torch.no_grad()
    def encode(i: int) -> None:
        conv(scaled)

    encoder = interleaved({"encoder": encode}, 5, sync)["encoder"] / 8
    return [row for name in LEARNERS for row in _rows(name, encoder, device, sync)]


def _rows(
    name: str, encoder: float, device: str, sync: Callable[[], None]
) -> list[tuple[str, str, str]]:
    learner = builder.build(LEARNERS[name], (64,), 5).to(device).eval()
    loader = Episodes(features(dim=64).to(device), Setting(5, 1, 15), device=device)
    block = block_size(learner, loader)
    many = loader.batch(range(block))[0]
    each = [_one(many, i) for i in range(block)]
    alone = [_query(e, q) for e in each[:4] for q in range(e.n_query)]
    tasks = {
        "batched": _caller(learner, [many]),
        "looped": _caller(learner, each),
        "alone": _caller(learner, alone),
    }
    t = interleaved(tasks, 3, sync)
    batched = t["batched"] / block
    small = builder.build(LEARNERS[name], (64,), 4).to(device).eval()
    grown = interleaved({str(n): _caller(small, [_sized(n, device)]) for n in SIZES}, 3, sync)
    exponent = math.log10(grown["500"] / grown["50"])
    times = " / ".join(f"{1000 * grown[str(n)]:.1f}" for n in SIZES)
    return [
        (
            f"{name}, of an episode's encoder",
            f"{100 * batched / encoder:.0f} % ({1000 * batched:.2f} ms)",
            "",
        ),
        (
            f"... a loop over episodes / a block of {block}",
            f"{t['looped'] / block / batched:.1f}",
            "at least 1",
        ),
        (
            "... a loop over queries, one each / a block",
            f"{t['alone'] / 4 / batched:.1f}",
            "at least 3",
        ),
        (f"... {' / '.join(map(str, SIZES))} nodes", f"{times} ms, grows as n^{exponent:.1f}", ""),
    ]


def _caller(learner: Learner, episodes: list[Episode]) -> Callable[[int], object]:
    @torch.no_grad()
    def run(i: int) -> None:
        for episode in episodes:
            learner(episode)

    return run


def _one(e: Episode, i: int) -> Episode:
    return Episode(e.x[i : i + 1], e.w[i : i + 1], e.n_support, e.n_query, relabeled=e.relabeled)


def _query(e: Episode, q: int) -> Episode:
    keep = [*range(e.n_support), e.n_support + q]
    return Episode(e.x[:, keep], e.w[:, keep], e.n_support, 1, relabeled=e.relabeled)


def _sized(n: int, device: str) -> Episode:
    """One episode of n nodes: four labeled ones, a query, the rest unlabeled."""
    way = 4
    x = torch.randn(1, n, 64, device=device)
    w = torch.zeros(1, n, way, device=device)
    w[0, :way] = torch.eye(way, device=device)
    return Episode(x, w, way, 1, relabeled=False)
