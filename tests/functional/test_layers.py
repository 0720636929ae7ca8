"""Heads that answer in several layers."""

from __future__ import annotations

import torch

from graphfsl.functional.layers import last_layer
from tests.support.tensors import B, C, N, normal


def test_the_answer_of_a_head_of_several_layers_is_its_last() -> None:
    layers = normal(3, B, N, C)
    assert torch.equal(last_layer(layers), layers[2])
    assert torch.equal(last_layer(layers[0]), layers[0])
