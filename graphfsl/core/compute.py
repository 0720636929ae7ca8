"""What computing costs: multiply-adds, counted while it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def multiply_adds(call: Callable[[], Any]) -> int:
    """The multiply-adds of convolutions and products of matrices in a call.

    What is done element by element is not counted.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes a while

    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2


def of_an_image(encoder: nn.Module, shape: Sequence[int]) -> int:
    """The multiply-adds of an encoder for one image (C, H, W), in evaluation mode."""
    like = next(encoder.parameters())
    image = torch.zeros(1, *shape, device=like.device, dtype=like.dtype)
    was_training = encoder.training
    encoder.eval()
    try:
        return multiply_adds(lambda: encoder(image))
    finally:
        encoder.train(was_training)
