"""Multiply-adds, counted: those of a convolution and of a ProtoNet can be counted by hand."""

from __future__ import annotations

import torch
from torch import nn

from graphfsl.cli import catalogue
from graphfsl.core.compute import multiply_adds, of_an_image


def test_a_product_of_matrices() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    assert multiply_adds(lambda: a @ b) == 3 * 5 * 7


def test_a_convolution_for_one_image_leaves_the_encoder_training() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout())
    before = encoder[1].running_mean.clone()
    assert of_an_image(encoder, (3, 10, 6)) == 10 * 6 * 8 * 3 * 3 * 3
    assert encoder.training and torch.equal(encoder[1].running_mean, before)


def test_the_page_of_a_method_says_what_it_computes() -> None:
    """80 nodes of 64 numbers against 5 prototypes, each the weighed sum of 5 support nodes."""
    (page,) = map(catalogue.with_computing, catalogue.method("protonet"))
    count = 80 * 5 * 64 + 5 * 5 * 64
    assert page.computing.startswith(f"0 parameters; {count:,} multiply-adds in a 5-way 1-shot")
    (of_images,) = map(catalogue.with_computing, catalogue.method("maml"))
    assert of_images.computing == ""
