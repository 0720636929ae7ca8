"""UNICORN-MAML: every class starts at one vector, which no answer depends on."""

from __future__ import annotations

import pytest
import torch

from graphfsl.core.episode import Episode, Target
from graphfsl.core.pipeline import Pipeline
from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import FOMAML, MAML
from graphfsl.methods.heads.linear import Linear
from graphfsl.methods.heads.unicorn import UNICORN
from graphfsl.testing import DIM, WAY, TinyEncoder, episodes


def exact() -> tuple[Episode, Target]:
    episode, target = episodes(unlabeled=0)
    return episode.to(dtype=torch.float64), target


def net(head: torch.nn.Module | None = None) -> Pipeline:
    torch.manual_seed(0)
    return Pipeline(TinyEncoder(), head=head or UNICORN(DIM)).double()  # type: ignore[arg-type]


def test_permuted_classes_have_their_scores_permuted() -> None:
    episode, _ = exact()
    order = torch.tensor([1, 2, 0])
    permuted = episode.replace(w=episode.w[..., order])
    model = FOMAML(net(), steps=5)
    torch.testing.assert_close(model(permuted), model(episode)[..., order], atol=1e-13, rtol=0)


@pytest.mark.parametrize("adapt", [FOMAML, MAML])
def test_it_is_maml_with_equal_rows_and_no_bias(adapt: type[MAML]) -> None:
    """The adapted scores are those of a linear read-out whose rows are all the shared vector."""
    episode, _ = exact()
    unicorn = net()
    linear = net(Linear(DIM, WAY))
    linear.encoder.load_state_dict(unicorn.encoder.state_dict())
    with torch.no_grad():
        linear.head.linear.weight.copy_(unicorn.head.start.expand(WAY, -1))
        linear.head.linear.bias.zero_()
    params = ["*", "!head.linear.bias"]
    wanted = adapt(linear, steps=3, params=params)(episode)
    torch.testing.assert_close(adapt(unicorn, steps=3)(episode), wanted, atol=1e-13, rtol=0)


def test_the_shared_vector_changes_no_probability_and_gets_no_gradient() -> None:
    episode, target = exact()
    model = MAML(net(), steps=3)
    before = model(episode).softmax(-1)
    model.loss(episode, target).backward()
    head = model.net.head
    assert head.start.grad.abs().max() < 1e-14
    assert model.net.encoder.conv.weight.grad.abs().max() > 1e-3
    with torch.no_grad():
        head.start += 1.0
    torch.testing.assert_close(model(episode).softmax(-1), before, atol=1e-12, rtol=0)


def test_the_temperature_divides_the_scores_of_the_outer_loss_alone() -> None:
    episode, target = exact()
    half, one = net(UNICORN(DIM, 0.5)), net(UNICORN(DIM, 1.0))
    half.load_state_dict(one.state_dict())
    halved, plain = FOMAML(half, steps=2), FOMAML(one, steps=2)
    assert torch.equal(halved(episode), plain(episode))
    wanted = target.loss(2 * plain.score(episode), episode)
    torch.testing.assert_close(halved.loss(episode, target), wanted, atol=1e-13, rtol=0)


def test_any_number_of_classes_is_answered() -> None:
    model = FOMAML(net(), steps=2)
    for way in (2, 5):
        episode, _ = episodes(way=way)
        assert model(episode.to(dtype=torch.float64)).shape == (2, 2 * way, way)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(InputError, match="temperature must be above 0, not 0"):
        UNICORN(DIM, 0)
