"""Nets between images and vectors."""

from __future__ import annotations

import pytest
import torch

from graphfsl.nn.image_coder import image_decoder, image_encoder


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 5, 19)])
def test_they_keep_any_size(shape: tuple[int, int, int]) -> None:
    x = torch.randn(3, *shape)
    vectors = image_encoder(shape, 4, 10)(x)
    assert vectors.shape == (3, 10)
    assert image_decoder(10, 4, shape)(vectors).shape == x.shape
