"""An ensemble answers with the mean of its members' probabilities, or of their values."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.ensemble import Ensemble
from graphfsl.core.outputs import Outputs
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.testing import TinyEncoder
from tests.support.training import SETTING, patterns, pipeline

EPISODE, _ = Episodes(patterns("test", 2), SETTING).batch(range(3))


def adapted(seed: int) -> MAML:
    torch.manual_seed(seed)
    return MAML(Pipeline(TinyEncoder(), head=Linear(6, SETTING.way)), lr=0.1, steps=2)


@pytest.mark.parametrize("kind", [pipeline, adapted])
def test_probabilities_are_averaged(kind) -> None:  # type: ignore[no-untyped-def]
    members = [kind(seed).eval() for seed in (0, 1, 2)]
    answers = Ensemble(members).eval()(EPISODE).exp()
    want = sum(member(EPISODE).softmax(-1) for member in members) / 3
    torch.testing.assert_close(answers, want)
    assert not torch.allclose(want, members[0](EPISODE).softmax(-1), atol=1e-3)


def test_equal_members_answer_as_one() -> None:
    one = pipeline().eval()
    both = Ensemble([one, pipeline().eval()])(EPISODE)
    torch.testing.assert_close(both.softmax(-1), one(EPISODE).softmax(-1))


def test_a_class_that_an_episode_lacks_stays_without_a_probability() -> None:
    members = [pipeline(seed).eval() for seed in (0, 1)]
    wider = EPISODE.more_classes(1)
    scores = Ensemble(members)(wider)
    torch.testing.assert_close(scores[..., :-1].softmax(-1), Ensemble(members)(EPISODE).exp())
    assert (scores[..., -1].exp() == 0).all() and not scores.isnan().any()


def test_values_are_averaged() -> None:
    class Values(Outputs):
        def score(self, episode):  # type: ignore[no-untyped-def]
            return episode.x

    members = [Pipeline(TinyEncoder(), head=Values("values")).eval() for _ in range(2)]
    want = (members[0](EPISODE) + members[1](EPISODE)) / 2
    torch.testing.assert_close(Ensemble(members)(EPISODE), want)


def test_it_is_as_its_members() -> None:
    members = [adapted(seed) for seed in (0, 1)]
    one = Ensemble(members)
    assert (one.batch_norm, one.transductive) == (members[0].batch_norm, members[0].transductive)
    one.set_batch_norm("support")
    assert [m.batch_norm for m in members] == ["support", "support"] and not one.transductive
    assert one.remarks == ["ensemble of 2"]


def test_what_makes_none_is_refused() -> None:
    with pytest.raises(InputError, match="one learner or more"):
        Ensemble([])
    other = Pipeline(TinyEncoder(), head=ProtoNet(), per_query=True)
    with pytest.raises(InputError, match="of one kind, but their per_query differs"):
        Ensemble([pipeline(), other])
    asking = pipeline()
    asking.asks = True
    with pytest.raises(InputError, match="would ask for other ones"):
        Ensemble([asking])
