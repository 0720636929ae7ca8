"""What EGNN and DPGN, whose graphs have features on edges, share."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from graphfsl.core.episode import Episode, stack
from graphfsl.core.learner import Head
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.heads.dpgn import DPGN
from graphfsl.methods.heads.egnn import EGNN
from graphfsl.methods.refine.soft_kmeans import SoftKmeans
from graphfsl.testing import DIM, WAY
from tests.support.edge_heads import close, dpgn, head, reorder
from tests.support.episodes import features_and_target


def test_after_a_refinement_the_loss_is_cross_entropy() -> None:
    for net in (head(EGNN), dpgn()):
        (episode, target), model = features_and_target(), Pipeline(head=net, refine=SoftKmeans())
        queries = model(episode)
        close(
            model.loss(episode, target),
            F.cross_entropy(queries.flatten(0, 1), target.query.flatten()),
        )


@torch.no_grad()
def test_a_node_without_label_weight_has_no_vote_wherever_it_stands() -> None:
    """EGNN's published code votes with the hidden labels of unlabeled support nodes; here weight is
    all that counts.
    """
    episode, _ = features_and_target(shot=3, query=1, unlabeled=1)
    hidden = episode.w.clone()
    hidden[:, 2 : episode.n_support : 3] = 0  # the last of three shots of each class
    n, k = episode.x.shape[1], episode.n_support
    moved = list(range(2, k, 3))
    kept = [i for i in range(k) if i not in moved]
    order = torch.tensor([*kept, *range(k, n), *moved])
    within = episode.replace(w=hidden)
    beyond = reorder(within, order).replace(n_support=k - len(moved))
    net = head(EGNN)
    close(net.score(within)[:, :, order], net.score(beyond))
    for model in (net, dpgn(shot=3)):
        e = (
            model.edges(within)[-1][:, 0]
            if isinstance(model, EGNN)
            else model.generations(within)[-1][0]
        )
        votes = torch.stack(
            [e[..., torch.tensor([3 * c, 3 * c + 1])].sum(-1) for c in range(WAY)], -1
        )
        close(model.score(within)[-1].exp(), votes)


def with_a_skew(episode: Episode) -> Episode:
    """The first four queries only: of few classes, in any number."""
    keep = torch.tensor(
        [*range(episode.n_support + 4), *range(episode.unlabeled.start, episode.x.shape[1])]
    )
    return reorder(episode, keep).replace(n_query=4)


@pytest.mark.parametrize("cls", [EGNN, DPGN])
@torch.no_grad()
def test_a_joint_graph_takes_any_number_of_queries_of_a_class_in_any_order(cls: type[Head]) -> None:
    net = head(EGNN) if cls is EGNN else dpgn()
    joint, alone = Pipeline(head=net, per_query=False), Pipeline(head=net)
    assert joint.transductive and not alone.transductive
    episode, target = features_and_target(query=3)
    episode = with_a_skew(episode)
    assert (F.one_hot(target.query[:, :4], WAY).sum(1) > 1).any(), "two queries of one class"
    order = torch.tensor([2, 0, 3, 1])
    nodes = torch.arange(episode.x.shape[1])
    nodes[episode.query] = episode.n_support + order
    found = joint(episode)
    assert torch.isfinite(found).all()
    close(joint(reorder(episode, nodes)), found[:, order])
    close(alone(reorder(episode, nodes)), alone(episode)[:, order])
    assert (found - alone(episode)).abs().max() > 1e-4, "the other queries take part"


@pytest.mark.parametrize("cls", [EGNN, DPGN])
@torch.no_grad()
def test_padding_enters_no_statistics_of_nodes_and_pairs(cls: type[Head]) -> None:
    """In training, beside a task of more queries and a larger pool: the same scores and the same
    averages.
    """
    (small, _), (large, _) = (
        features_and_target(batch=1, query=1, unlabeled=0),
        features_and_target(batch=1, query=2, unlabeled=1, seed=1),
    )
    both = stack([small, large])
    x = both.x.where(both.mask.unsqueeze(-1), 50.0)
    rows = Episode(x[:1], both.w[:1], both.n_support, both.n_query, both.mask[:1])
    alone, padded = ((head(EGNN) if cls is EGNN else dpgn()).train() for _ in range(2))
    close(padded.score(rows)[:, rows.mask], alone.score(small).flatten(1, 2))
    for a, b in zip(alone.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-9, rtol=1e-9)


def test_options_that_make_no_network_are_refused() -> None:
    for cls, options, words in (
        (EGNN, {"layers": 0}, "at least one layer"),
        (DPGN, {"way": 3, "generations": 1}, "at least two generations"),
        (DPGN, {"way": 3, "metric": "l3"}, "metric"),
    ):
        with pytest.raises(InputError, match=words):
            cls(DIM, **options)
