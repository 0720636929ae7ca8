"""Meta-Curvature: MAML at the identity, a loop by hand, the Kronecker product of its matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphfsl.io.errors import InputError
from graphfsl.methods.adapt.maml import MAML
from graphfsl.methods.adapt.meta_curvature import Curvature, MetaCurvature
from tests.support.hand_loops import (
    Params,
    expect_finite_differences,
    expect_hand_written,
    expect_same,
    gradient,
    network,
    shaken,
    tasks,
)


@pytest.mark.parametrize("task_chunk", [1, 2])
def test_at_the_identity_it_is_maml(task_chunk: int) -> None:
    net, (episode, target) = network(), tasks()
    ours = MetaCurvature(net, 2, 0.3, task_chunk=task_chunk).double()
    maml = MAML(net, 2, 0.3, task_chunk=task_chunk)
    assert torch.equal(ours(episode), maml(episode))
    found = gradient(ours.loss(episode, target), ours)
    right = gradient(maml.loss(episode, target), maml)
    expect_same({name: found[name] for name in right}, right, 1e-13)


def by_hand(rule: Curvature, lr: float):  # type: ignore[no-untyped-def]
    def matrix(of: str, name: str) -> Tensor:
        found: Tensor = getattr(rule, of)["net/" + name.replace(".", "/")]
        return found

    def move(p: Params, grads: Params, loss: Tensor, state: None, step: int):  # type: ignore[no-untyped-def]
        out = {}
        for name, g in grads.items():
            if g.ndim == 1:
                better = matrix("m", name) * g
            else:
                kernel = g.reshape(*g.shape[:2], -1)
                better = torch.tensordot(matrix("m_o", name), kernel, ([1], [0]))
                better = torch.tensordot(better, matrix("m_i", name), ([1], [1])).mT
                if g.ndim > 2:
                    better = better @ matrix("m_f", name).T
            out[name] = p[name] - lr * better.reshape(g.shape)
        return out, None

    return move


def test_meta_gradient_equals_a_loop_by_hand() -> None:
    model = shaken(MetaCurvature(network(), 2, 0.3).double())
    expect_hand_written(model, by_hand(model.rule, 0.3), shot_sum=True)


def test_meta_gradient_is_what_the_loss_rises_by() -> None:
    expect_finite_differences(shaken(MetaCurvature(network(), 2, 0.1).double()))


def test_the_matrices_of_a_kernel_are_one_kronecker_product() -> None:
    g = torch.Generator().manual_seed(0)
    kernel = torch.randn(4, 3, 2, 5, generator=g, dtype=torch.float64)
    rule = Curvature(0.1, 1)
    rule.bind({"k": kernel})
    for p in rule.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    whole = torch.kron(torch.kron(rule.m_o["k"], rule.m_i["k"]), rule.m_f["k"])
    right = (whole @ kernel.flatten()).view_as(kernel)
    torch.testing.assert_close(rule.curved("k", kernel), right, atol=1e-12, rtol=1e-12)


def test_what_an_episode_imprints_has_one_factor() -> None:
    rule = Curvature(0.5, 1)
    rule.bind({"w": torch.zeros(())})
    rule.m["w"].data.fill_(3.0)
    g = torch.ones(4, 2)
    moved, _ = rule.update({"w": g}, {"w": g}, g.sum(), None, 0)
    torch.testing.assert_close(moved["w"], torch.full((4, 2), -0.5))


def test_refuses_no_rate_and_more_steps_than_it_learned() -> None:
    net = network()
    with pytest.raises(InputError, match=r"meta_curvature\.lr must be above 0, not 0"):
        MetaCurvature(net, lr=0)
    with pytest.raises(InputError, match="was trained for 1 inner steps, not for steps_test=3"):
        MetaCurvature(net, steps_test=3)
    assert MetaCurvature(net, steps_test=3, beyond="last").steps_test == 3
