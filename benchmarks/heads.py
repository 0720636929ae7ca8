"""Heads alone on cached features, each beside its peer on the very same episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.__main__ import features, interleaved
from graphfsl.data import Episodes, Setting, Split
from graphfsl.evaluation import accuracies
from graphfsl.learner import Head, Pipeline
from graphfsl.methods.heads.baseline import Baseline
from graphfsl.methods.heads.matchingnet import MatchingNet
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.rfs import RFS
from graphfsl.methods.heads.simple_shot import SimpleShot

Peer = Callable[[Tensor, Tensor, Tensor], Tensor]  # support, labels, query -> the query's scores


def easyfsl(name: str, **options: int) -> Peer:
    """One of easyfsl's classifiers on features."""
    from easyfsl import methods

    model = getattr(methods, name)(torch.nn.Identity(), **options).eval()

    def scores(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        model.to(support.device).process_support_set(support, labels)
        return model(query)

    return scores


def scikit_learn(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """RFS as its authors evaluate it."""
    from sklearn.linear_model import LogisticRegression

    support, query = (torch.nn.functional.normalize(t, dim=-1).cpu() for t in (support, query))
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(support.numpy(), labels.cpu().numpy())
    return torch.from_numpy(fitted.decision_function(query.numpy()))


@dataclass(frozen=True)
class Race:
    head: Head
    peer: Peer
    whose: str
    shot: int
    episodes: int  # of ours
    few: int  # of the peer's
    wanted: int  # the ratio of their speeds
    accuracy: str = "equal"


def races() -> dict[str, Race]:
    fce = easyfsl("MatchingNetworks", feature_dimension=640)
    return {
        "ProtoNet": Race(ProtoNet(), easyfsl("PrototypicalNetworks"), "easyfsl", 1, 1000, 200, 2),
        "MatchingNet, fce": Race(MatchingNet(640, fce=True), fce, "easyfsl", 1, 32, 10, 1, "other weights"),
        "SimpleShot": Race(SimpleShot(640, "l2n"), easyfsl("SimpleShot"), "easyfsl", 1, 1000, 200, 2),
        "RFS": Race(RFS(), scikit_learn, "scikit-learn", 5, 1000, 100, 10, "within 0.002, its tol"),
        "Baseline": Race(Baseline(), easyfsl("Finetune"), "easyfsl", 1, 1000, 10, 20, "other methods"),
    }


def heads(device: str, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    """5-way 15-query evaluation on 640-d features, sampling included; the peer's episodes are ready."""
    split = features().to(device)
    return [row for name, race in races().items() for row in run(name, race, split, sync)]


def run(name: str, race: Race, split: Split, sync: Callable[[], None]) -> list[tuple[str, str, str]]:
    learner = Pipeline(head=race.head).to(split.x.device)
    loader = Episodes(split, Setting(5, race.shot, 15), device=split.x.device)
    ready = []
    for i in range(race.few):
        episode, target = loader.batch([i])
        x, labels = episode.x[0], episode.w[0, episode.support].argmax(-1)
        ready.append((x[episode.support], labels, x[episode.query], target.query[0].cpu()))
    found: dict[str, float] = {}

    def ours(i: int) -> None:
        found["ours"] = float(accuracies(learner, loader, race.episodes)[: race.few].mean())

    def theirs(i: int) -> None:
        with torch.no_grad():
            right = [(race.peer(*task).argmax(-1).cpu() == truth).float().mean() for *task, truth in ready]
        found["theirs"] = float(torch.stack(right).mean())

    t = interleaved({"ours": ours, "theirs": theirs}, 3, sync)
    a, b = race.episodes / t["ours"], race.few / t["theirs"]
    return [
        (f"{name}, {race.shot}-shot, episodes/s / {race.whose}'s", f"{a / b:.1f}", f"at least {race.wanted}"),
        (f"... graphfsl, {race.whose}", f"{a:,.0f} /s, {b:,.0f} /s", ""),
        (
            f"... accuracy on the same {race.few} episodes",
            f"{found['ours']:.4f} / {found['theirs']:.4f}",
            race.accuracy,
        ),
    ]
