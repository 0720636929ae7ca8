"""What a graph of classes says of new ones: by hand, and where it must say nothing."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.class_names import class_graph, name_keys
from graphfsl.core.episode import Episode, stack
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.prototypes import prototypes
from graphfsl.io.errors import InputError
from graphfsl.io.package_data import class_list
from graphfsl.methods.augment.class_graph import ClassGraph
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import DIM

BASE = ("cat", "dog", "car")
PAIRS = [("cat", "pet"), ("dog", "pet"), ("car", "vehicle"), ("hamster", "pet"), ("bus", "vehicle")]
NEW = ("hamster", "bus", "lamp")


def base() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat(4)
    return torch.randn(12, DIM, generator=g).double(), y


def fitted(pairs: object = PAIRS, weight: float = 0.5) -> tuple[ClassGraph, Tensor]:
    part = ClassGraph(DIM, pairs, weight).double()
    x, y = base()
    part.fit_base(x, name_keys(BASE)[y])
    return part, F.normalize(torch.stack([x[y == c].mean(0) for c in range(3)]), dim=-1)


def episode(shot: int, names: tuple[str, ...] = NEW, seed: int = 1) -> Episode:
    way = len(names)
    x = torch.randn(1, way * shot + 2, DIM, generator=torch.Generator().manual_seed(seed)).double()
    w = torch.zeros(1, way * shot + 2, way).double()
    for c in range(way):
        w[0, c * shot : (c + 1) * shot, c] = 1
    return Episode(x, w, way * shot, 2, relabeled=False, classes=name_keys(names)[None])


def test_a_class_mean_moves_towards_its_siblings() -> None:
    part, mu = fitted()
    pet, vehicle = F.normalize(mu[:2].mean(0), dim=-1), mu[2]
    for shot in (1, 3):
        given = episode(shot)
        moved = part(given)
        p = prototypes(given.x, given.w)[0]
        new = prototypes(moved.x, moved.w)[0]
        torch.testing.assert_close(new[0], (shot * p[0] + 0.5 * pet) / (shot + 0.5))
        torch.testing.assert_close(new[1], (shot * p[1] + 0.5 * vehicle) / (shot + 0.5))
        # a lamp is not in the graph
        torch.testing.assert_close(new[2], p[2])


def test_without_a_sample_the_graph_answers() -> None:
    part, mu = fitted()
    given = episode(0, ("hamster", "bus"))
    scores = Pipeline(augment=part, head=ProtoNet("cosine", scale=1.0).double()).eval()(given)
    pet = F.normalize(mu[:2].mean(0), dim=-1)
    wanted = F.normalize(given.x[0], dim=-1) @ torch.stack([pet, mu[2]]).mT
    torch.testing.assert_close(scores[0].detach(), wanted)


def test_values_reach_a_class_along_a_longer_path() -> None:
    """A ferret under mustelids under pets has the mean of pets; an oak under trees has none."""
    pairs = [*PAIRS, ("ferret", "mustelid"), ("mustelid", "pet"), ("oak", "tree")]
    part, mu = fitted(pairs)
    grown = part(episode(1, ("ferret", "oak")))
    torch.testing.assert_close(grown.x[0, 2], F.normalize(mu[:2].mean(0), dim=-1))
    assert grown.mask[0, 2:4].tolist() == [True, False]
    assert grown.w[0, 3].sum() == 0


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_classes_without_siblings_are_left_alone(weight: float) -> None:
    """FC100 is split by superclass: its graph says nothing of validation classes."""
    lists = class_list("fc100")
    names = {s: [c for group in lists[s].values() for c in group] for s in ("train", "val")}
    part = ClassGraph(DIM, "fc100", weight)
    x = torch.randn(len(names["train"]), DIM, generator=torch.Generator().manual_seed(2))
    part.fit_base(x, name_keys(names["train"]))
    given = episode(2, tuple(names["val"][:5])).to(dtype=torch.float32)
    head = ProtoNet("cosine").eval()
    found = Pipeline(augment=part, head=head).eval()(given)
    torch.testing.assert_close(found, head(given))
    assert torch.equal(found.argmax(-1), head(given).argmax(-1))


def test_the_order_of_edges_and_columns_changes_nothing() -> None:
    one, _ = fitted(PAIRS)
    other, _ = fitted(nx.Graph([(b, a) for a, b in reversed(PAIRS)]))
    assert torch.equal(one.keys, other.keys)
    torch.testing.assert_close(one.means, other.means)
    given = episode(2)
    order = torch.tensor([2, 0, 1])
    assert given.classes is not None
    turned = given.replace(w=given.w[..., order], classes=given.classes[:, order])
    model = Pipeline(augment=one, head=ProtoNet("cosine").double()).eval()
    torch.testing.assert_close(model(turned), model(given)[..., order])


def test_tasks_of_different_way_share_a_batch() -> None:
    part, _ = fitted()
    model = Pipeline(augment=part, head=ProtoNet("cosine").double()).eval()
    two, three = episode(2, NEW[:2], seed=3), episode(1, NEW)
    both = model(stack([two, three]))
    torch.testing.assert_close(both[0, :, :2], model(two)[0])
    torch.testing.assert_close(both[1], model(three)[0])
    assert torch.isneginf(both[0, :, 2]).all()


def test_knowledge_helps_and_a_wrong_graph_hurts() -> None:
    """Classes of a superclass lie around one centre; under wrong parents they are led astray."""
    g = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(4, DIM, generator=g)
    names = [f"{k}/{i}" for k in range(4) for i in range(5)]
    group = torch.arange(4).repeat_interleave(5)
    means = centres[group] + torch.randn(20, DIM, generator=g)
    is_base = torch.arange(20) % 5 != 0
    x = means[is_base].repeat_interleave(8, 0)
    x = x + torch.randn(x.shape, generator=g)
    keys = name_keys(names)[is_base].repeat_interleave(8)
    new = [name for name, known in zip(names, is_base, strict=True) if not known]
    right = [(name, str(k)) for name, k in zip(names, group.tolist(), strict=True)]
    wrong = [(c, p if c in new else str((int(p) + 1) % 4)) for c, p in right]

    tasks, queries = 200, 20
    y = torch.arange(4).repeat(1 + queries)
    nodes = means[~is_base][y] + 3 * torch.randn(tasks, len(y), DIM, generator=g)
    x, nodes = F.normalize(x, dim=-1), F.normalize(nodes, dim=-1)
    w = torch.zeros(tasks, len(y), 4)
    w[:, :4] = torch.eye(4)
    given = Episode(nodes, w, 4, 4 * queries, classes=name_keys(new).expand(tasks, -1))

    def accuracy(pairs: list[tuple[str, str]] | None) -> float:
        part = ClassGraph(DIM, pairs or right, 0.5 if pairs else 0.0)
        part.fit_base(x, keys)
        scores = Pipeline(augment=part, head=ProtoNet()).eval()(given)
        return float((scores.argmax(-1) == y[4:]).float().mean())

    none = accuracy(None)
    assert accuracy(right) > none + 0.03
    assert accuracy(wrong) < none - 0.03


def test_graphs_come_from_files_and_lists(tmp_path: Path) -> None:
    file = tmp_path / "g.csv"
    file.write_text("\ufeffcat,pet\n\ndog, pet\n", encoding="utf-8")
    assert set(class_graph(str(file)).edges) == {("cat", "pet"), ("pet", "dog")}
    for kind in (nx.MultiGraph, nx.MultiDiGraph):
        several = class_graph(kind([("cat", "pet"), ("cat", "pet"), ("dog", "pet")]))
        assert set(several.edges) == {("cat", "pet"), ("pet", "dog")}
    cifar = class_graph("fc100")
    assert cifar.number_of_nodes() == 120 and cifar.number_of_edges() == 100
    assert set(cifar["aquatic_mammals"]) == {"beaver", "dolphin", "otter", "seal", "whale"}


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("cat,pet,animal\n")
    long = tmp_path / "long.csv"
    long.write_text(f"cat,{'p' * 131_073}\n")
    for given, why in (
        ("fc10", "did you mean 'fc100'"),
        ("omniglot_vinyals", "class list with superclasses"),
        (str(tmp_path / "none.csv"), "cannot be read"),
        (str(bad), "each line is class,ancestor"),
        (str(long), "long.csv is not readable"),
        ([("cat",)], "is no pair"),
        ([("cat", "")], "empty name"),
        ([], "needs an edge"),
        (3, "not 3"),
    ):
        with pytest.raises(InputError, match=why):
            class_graph(given)
    with pytest.raises(InputError, match="weight must be 0 or more"):
        ClassGraph(DIM, PAIRS, -1)
    part = ClassGraph(DIM, PAIRS)
    x, y = base()
    with pytest.raises(InputError, match="none of the 3 base classes is in the class graph"):
        part.fit_base(x.float(), name_keys(["a", "b", "c"])[y])
    part, _ = fitted()
    with pytest.raises(InputError, match="needs the names of an episode's classes"):
        part(episode(1).replace(classes=None))
    with pytest.raises(InputError, match="knows base classes by their names"):
        Pipeline(augment=part, head=ProtoNet()).fit_base(x, y)
