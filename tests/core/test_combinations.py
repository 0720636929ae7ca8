"""Parts that cannot work together are refused when a pipeline is built, and those that are not do
change something.
"""

from __future__ import annotations

import re
import warnings

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core import registry
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner, Refine
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Split
from graphfsl.experiment.builder import build
from graphfsl.functional.layers import last_layer
from graphfsl.io.errors import InputError
from graphfsl.loops.evaluation import evaluate
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.rfs import RFS
from graphfsl.methods.refine.pseudo_label import PseudoLabel
from graphfsl.methods.refine.soft_kmeans import MaskedSoftKmeans, SoftKmeans, SoftKmeansCluster
from graphfsl.testing import DIM, WAY, part
from tests.support.methods import QUICK

# these are of the cells of images: nodes that are whole samples they leave as they are
OF_CELLS = ("own_graph", "repri")
REFINERS = [name for name in registry.names("refine") if name not in OF_CELLS]


def episode(count: int) -> Episode:
    """Tasks of classes that overlap, with queries that are not balanced, and a pool."""
    g = torch.Generator().manual_seed(0)
    y = torch.cat(
        [torch.arange(WAY).repeat(2), torch.tensor([0, 0, 1, 2, 1, 0]), torch.arange(WAY).repeat(5)]
    )
    x = torch.rand(count, WAY, DIM, generator=g)[:, y] + 1.5 * torch.rand(
        count, len(y), DIM, generator=g
    )
    w = F.one_hot(y, WAY).double()
    w[2 * WAY :] = 0
    return Episode(x.double(), w.expand(count, -1, -1), 2 * WAY, 6, relabeled=False)


def refiner(name: str) -> Refine:
    torch.manual_seed(0)
    built: Refine = part("refine", name, **QUICK.get(name, {})).double()
    return built


def answers(model: Learner, tasks: int = 12) -> torch.Tensor:
    """Log-probabilities of the queries: a constant that all classes share is no change."""
    e = episode(tasks)
    with torch.no_grad():
        return last_layer(model.eval().score(e))[:, e.query].log_softmax(-1)


@pytest.mark.parametrize("second", REFINERS)
def test_two_refiners_are_refused_exactly_where_the_second_discards_the_first(second: str) -> None:
    alone = answers(Pipeline(head=ProtoNet(), refine=refiner(second)))
    for first in REFINERS:
        if first == second:
            continue
        both = [refiner(first), refiner(second)]
        try:
            found = answers(Pipeline(head=ProtoNet(), refine=both))
        except InputError as error:
            assert re.search(r"would discard what \w+ before it does", str(error))
            model = Pipeline(head=ProtoNet(), refine=both[1])
            model.refine.insert(0, both[0])  # what it is refused for is so
            torch.testing.assert_close(answers(model), alone, atol=1e-9, rtol=1e-9)
            continue
        assert (found - alone).abs().amax() > 1e-6, (
            f"{second} discards what {first} does, and is not refused"
        )


@pytest.mark.parametrize("name", registry.names("head"))
def test_a_refiner_that_changes_nothing_of_what_a_head_answers_is_refused(name: str) -> None:
    """One refiner of each kind: probabilities and hard labels for the pool, and two that compare
    queries.
    """
    if registry.get("head", name).answers == "values":
        pytest.skip("it answers with values, which no refiner takes")
    torch.manual_seed(0)
    head = part("head", name).double()
    if head.wants_maps:
        pytest.skip("it reads maps, which these refiners do not")
    alone = answers(Pipeline(head=head), tasks=2)
    if (alone == alone[..., :1]).all():
        pytest.skip("it answers alike for all classes until it adapts")
    for other in ("soft_kmeans", "pseudo_label", "laplacian_shot", "sinkhorn_balance"):
        try:
            model = Pipeline(head=head, refine=refiner(other))
        except InputError as error:
            assert "would change nothing" in str(error)
            continue
        change = (answers(model, tasks=2) - alone).abs().amax()
        assert change > 1e-6, f"{other} changes nothing of what {name} answers, and is not refused"


@pytest.mark.parametrize(
    "labels", [SoftKmeans(), SoftKmeans(steps=3), SoftKmeansCluster(), PseudoLabel(soft=True)]
)
def test_probabilities_as_labels_leave_a_logistic_regression_as_it_is(labels: Refine) -> None:
    """Where the cross-entropy is least its gradient at the classifier's own probabilities is
    zero.
    """
    with pytest.raises(
        InputError,
        match=r"RFS fits the probabilities that .* take another "
        r"refiner",
    ):
        Pipeline(head=RFS(), refine=labels)
    model = Pipeline(head=RFS())
    alone = answers(model)
    model.refine.append(labels.double())
    torch.testing.assert_close(answers(model), alone, atol=1e-3, rtol=0)
    for other in (MaskedSoftKmeans().double(), PseudoLabel()):
        assert (answers(Pipeline(head=RFS(), refine=other)) - alone).abs().amax() > 1e-3


def test_a_part_that_compares_queries_is_refused_where_each_is_answered_alone() -> None:
    for section in (
        {"head": "gnn", "refine": "laplacian_shot"},
        {"head": "protonet", "refine": "sinkhorn_balance", "per_query": True},
    ):
        with pytest.raises(InputError, match=r"compares queries, but .* would change nothing"):
            build(section, (DIM,), WAY)
    assert build(
        {"head": "gnn", "refine": "laplacian_shot", "per_query": False}, (DIM,), WAY
    ).transductive


def test_evaluation_tells_of_a_refiner_that_changes_no_score() -> None:
    """Of features far from zero the cluster at zero, as wide as 100, takes all; a radius of their
    scale does not.
    """
    g = torch.Generator().manual_seed(0)
    x = 9 * torch.rand(4, 1, 40, generator=g) + 9 * torch.rand(4, 12, 40, generator=g)
    split = Split(x.flatten(0, 1), torch.arange(4).repeat_interleave(12), tuple("abcd"), "wide")
    setting = {"way": 3, "shot": 1, "query": 3, "unlabeled": 4, "episodes": 6}
    with pytest.warns(
        UserWarning,
        match=r"^SoftKmeansCluster changed no score of the first \d+ "
        r"episodes",
    ):
        evaluate(Pipeline(head=ProtoNet(), refine=SoftKmeansCluster()), split, **setting)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(Pipeline(head=ProtoNet(), refine=SoftKmeansCluster(radius=1.0)), split, **setting)
        evaluate(
            Pipeline(head=ProtoNet(), refine=SoftKmeansCluster()),
            split,
            **{**setting, "unlabeled": 0},
        )


def test_what_relabels_is_refused_beside_a_head_that_reads_no_labels() -> None:
    for extra in ({"refine": "soft_kmeans"}, {"refine": "plcm"}, {"augment": "prototype_vae"}):
        with pytest.raises(InputError, match="Linear does not read label weights, so that"):
            build({"head": "linear", "adapt": "maml", **extra}, (DIM,), WAY)
    build({"head": "linear", "adapt": "maml", "refine": "laplacian_shot"}, (DIM,), WAY)
