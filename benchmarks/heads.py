"""Heads and refiners alone on cached features, each beside its peer on the very same episodes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from easyfsl.modules.attention_modules import MultiHeadAttention
from torch import Tensor

from benchmarks.__main__ import features, interleaved
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting
from graphfsl.functional.statistics import accuracy
from graphfsl.loops.evaluation import block_size, measured
from graphfsl.methods.heads.baseline import Baseline, BaselinePlusPlus
from graphfsl.methods.heads.feat import FEAT
from graphfsl.methods.heads.matchingnet import MatchingNet
from graphfsl.methods.heads.metaoptnet import MetaOptNet
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.r2d2 import R2D2
from graphfsl.methods.heads.relationnet import RelationNet
from graphfsl.methods.heads.rfs import RFS
from graphfsl.methods.heads.simple_shot import SimpleShot
from graphfsl.methods.refine.bd_cspn import BDCSPN
from graphfsl.methods.refine.laplacian_shot import LaplacianShot
from graphfsl.methods.refine.pt_map import PTMAP
from graphfsl.methods.refine.sinkhorn_balance import SinkhornBalance
from graphfsl.methods.refine.tim import TIM, AlphaTIM
from graphfsl.methods.refine.transductive_fine_tuning import TransductiveFineTuning

Peer = Callable[[Tensor, Tensor, Tensor], Tensor]  # support, labels, query -> the query's scores


def easyfsl(name: str, **options: Any) -> Peer:
    """One of easyfsl's classifiers on features."""
    from easyfsl import methods

    model = getattr(methods, name)(torch.nn.Identity(), **options).eval()

    def scores(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        model.to(support.device).process_support_set(support, labels)
        scores: torch.Tensor = model(query)
        return scores

    return scores


def scikit_learn(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """RFS as its authors evaluate it."""
    from sklearn.linear_model import LogisticRegression

    support, query = (torch.nn.functional.normalize(t, dim=-1).cpu() for t in (support, query))
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(support.numpy(), labels.cpu().numpy())
    return torch.from_numpy(fitted.decision_function(query.numpy())).to(labels.device)


@dataclass(frozen=True)
class Race:
    head: Head
    shot: int = 1
    peer: Peer | None = None
    whose: str = ""
    few: int = 0  # episodes of the peer's
    wanted: int = 0  # the ratio of their speeds
    accuracy: str = "equal"
    maps: tuple[int, ...] | None = None
    count: int = 1000  # episodes of ours
    refine: list[Refine] | None = None


def races() -> dict[str, Race]:
    fce = easyfsl("MatchingNetworks", feature_dimension=640)
    attention = MultiHeadAttention(1, 640, 640, 640)
    relation, maps = easyfsl("RelationNetworks", feature_dimension=64), (64, 5, 5)
    return {
        "ProtoNet": Race(ProtoNet(), 1, easyfsl("PrototypicalNetworks"), "easyfsl", 200, 3),
        "SimpleShot": Race(SimpleShot(640, "l2n"), 1, easyfsl("SimpleShot"), "easyfsl", 200, 3),
        "MatchingNet": Race(MatchingNet(640)),
        "MatchingNet, fce": Race(
            MatchingNet(640, fce=True), 1, fce, "easyfsl", 20, 3, "other weights", count=100
        ),
        "RelationNet": Race(
            RelationNet(maps), 1, relation, "easyfsl", 20, 3, "other weights", maps, 100
        ),
        "FEAT": Race(
            FEAT(640),
            1,
            easyfsl("FEAT", attention_module=attention),
            "easyfsl",
            200,
            3,
            "other weights",
        ),
        "RFS": Race(RFS(), 5, scikit_learn, "scikit-learn", 100, 10, "within 0.002, its tol"),
        "Baseline": Race(
            Baseline(), 1, easyfsl("Finetune"), "easyfsl", 20, 20, "within the interval"
        ),
        "Baseline++": Race(BaselinePlusPlus()),
        "R2-D2": Race(R2D2()),
        "MetaOptNet": Race(MetaOptNet()),
    }


def heads(device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    """5-way 15-query evaluation of heads alone on cached episodes of 640-d features, ready in
    memory.
    """
    return [row for name, race in races().items() for row in run(name, race, device, sync)]


def refined() -> dict[str, Race]:
    def race(
        refine: list[Refine],
        name: str = "",
        few: int = 0,
        wanted: int = 0,
        norm: float | None = None,
        **options: Any,
    ) -> Race:
        peer = easyfsl(name, feature_normalization=norm) if name else None
        return Race(ProtoNet(), 1, peer, "easyfsl", few, wanted, refine=refine, **options)

    rectified: list[Refine] = [BDCSPN(eps=1.0, scale=2.0), LaplacianShot()]
    return {
        "BD-CSPN": race([BDCSPN(eps=1.0)], "BDCSPN", 200, 3, accuracy="within the interval"),
        "LaplacianShot": race(rectified, "LaplacianShot", 100, 5, accuracy="within the interval"),
        "TIM, 150 steps (50 there)": race(
            [TIM(rate=1.0)], "TIM", 40, 20, accuracy="at least as good"
        ),
        # By its defaults easyfsl's power transform gives distances whose exponentials are zero, and
        # answers at chance; on features whose sum is one it works, in fewer of Sinkhorn's rounds.
        "PT-MAP, 20 epochs (10 there)": race(
            [PTMAP()], "PTMAP", 4, 100, accuracy="at least as good"
        ),
        "PT-MAP, where easyfsl's works": race(
            [PTMAP()], "PTMAP", 100, 100, 1.0, accuracy="at least as good"
        ),
        "Transductive fine-tuning": race(
            [TransductiveFineTuning()],
            "TransductiveFinetuning",
            40,
            10,
            accuracy="within the interval",
        ),
        "alpha-TIM": race([AlphaTIM()], count=20),
        "SinkhornBalance": race([SinkhornBalance(temperature=0.1)]),
    }


def refiners(device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    """The same for refiners, on features that are as behind a ReLU, of length one, in classes that
    can be told.
    """
    return [row for name, race in refined().items() for row in run(name, race, device, sync)]


def run(name: str, race: Race, device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    dim = 640 if race.maps is None else math.prod(race.maps)
    split = features(dim=dim, spread=0.3 if race.refine else 0.1)
    if race.refine:
        split = dataclasses.replace(split, x=torch.nn.functional.normalize(split.x.relu(), dim=-1))
    split, encoder = (
        split.to(device),
        None if race.maps is None else torch.nn.Unflatten(1, race.maps),
    )
    learner = Pipeline(encoder, head=race.head, refine=race.refine).to(device).eval()
    loader = Episodes(split, Setting(5, race.shot, 15), device=device)
    ready = list(loader.batches(race.count, block_size(learner, loader)))
    tasks = [task for episode, target in ready for task in _one_by_one(episode, target, race)]
    found: dict[str, float] = {}

    @torch.no_grad()
    def ours(i: int) -> None:
        right = torch.cat([accuracy(learner(episode), target.query) for episode, target in ready])
        found["ours"] = float(right[: race.few or None].mean())

    @torch.no_grad()
    def sampled(i: int) -> None:
        measured(learner, loader, race.count, dict([loader.task.metric]))

    @torch.no_grad()
    def theirs(i: int) -> None:
        assert race.peer is not None
        right = [
            (race.peer(*task).argmax(-1) == truth).float().mean()
            for *task, truth in tasks[: race.few]
        ]
        found["theirs"] = float(torch.stack(right).mean())

    runners: dict[str, Callable[[int], object]] = {"ours": ours, "sampled": sampled}
    t = interleaved(runners | ({"theirs": theirs} if race.peer else {}), 3, sync)
    a, c = race.count / t["ours"], race.count / t["sampled"]
    speed = f"{a:,.0f} /s ({c:,.0f} with sampling)"
    if race.peer is None:
        return [(f"{name}, {race.shot}-shot, episodes/s", speed, "")]
    b = race.few / t["theirs"]
    return [
        (
            f"{name}, {race.shot}-shot, episodes/s / {race.whose}'s",
            f"{a / b:.1f}",
            f"at least {race.wanted}",
        ),
        (f"... graphfsl, {race.whose}", f"{speed}, {b:,.0f} /s", ""),
        (
            f"... accuracy on the same {race.few} episodes",
            f"{found['ours']:.4f} / {found['theirs']:.4f}",
            race.accuracy,
        ),
    ]


def _one_by_one(episode: Episode, target: Target, race: Race) -> Iterator[tuple[Tensor, ...]]:
    """Support, labels, query and truth of each task of a batch, as the peers take them."""
    x = episode.x if race.maps is None else episode.x.unflatten(-1, race.maps)
    labels = episode.w[:, episode.support].argmax(-1)
    yield from zip(x[:, episode.support], labels, x[:, episode.query], target.query, strict=True)
