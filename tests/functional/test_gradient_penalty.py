"""The penalty on critics that are steeper or flatter than 1."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.functional.gradient_penalty import gradient_penalty


def test_it_is_the_square_of_the_gradient_s_length_beyond_one() -> None:
    def critic(x: Tensor) -> Tensor:
        return 3 * x[:, :1] + 4 * x[:, 1:2]

    x, fake = torch.randn(2, 8, 5)
    torch.testing.assert_close(gradient_penalty(critic, x, fake), torch.tensor((5.0 - 1) ** 2))


def test_it_is_measured_between_real_and_generated_images() -> None:
    seen = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.flatten(1).square().sum(1)

    real, fake = torch.zeros(6, 1, 4, 4), torch.ones(6, 1, 4, 4)
    found = gradient_penalty(critic, real, fake)
    share = seen[0][:, 0, 0, 0]
    assert ((share > 0) & (share < 1)).all()
    assert len(share.unique()) == 6, "each sample has a place of its own"
    # ||grad|| = ||2 x|| = 2 * 4 * share of 16 pixels
    torch.testing.assert_close(found, (8 * share - 1).square().mean())


def test_it_teaches_the_critic_s_weights() -> None:
    weight = torch.full((3,), 2.0, requires_grad=True)
    gradient_penalty(lambda x: x @ weight, torch.randn(4, 3), torch.randn(4, 3)).backward()
    # (||w|| - 1)^2 has the gradient 2 (||w|| - 1) w / ||w||
    norm = torch.tensor(12.0).sqrt()
    torch.testing.assert_close(weight.grad, 2 * (norm - 1) * weight.detach() / norm)
