"""Pixels set to 0 at random."""

from __future__ import annotations

import torch

from graphfsl.functional.dropped_pixels import drop_pixels


def test_a_share_of_the_pixels_is_dropped_in_all_channels() -> None:
    x, u = torch.rand(200, 3, 9, 11) + 0.1, torch.rand(200)
    for share in (0.0, 0.2, 0.9):
        out = drop_pixels(x, u, share)
        gone = out == 0
        assert torch.equal(out[~gone], x[~gone])
        assert torch.equal(gone[:, 0], gone[:, 1]) and torch.equal(gone[:, 0], gone[:, 2])
        assert abs(float(gone.float().mean()) - share) < 0.01


def test_which_ones_is_a_function_of_the_image_s_number() -> None:
    x, u = torch.ones(3000, 1, 6, 6), torch.rand(3000)
    gone = drop_pixels(x, u, 0.5)[:, 0].flatten(1) == 0
    again = drop_pixels(x[:7], u[:7], 0.5)[:, 0].flatten(1) == 0
    assert torch.equal(again, gone[:7])
    # neither pixels of an image, nor images whose numbers are neighbours, go together
    both = (2.0 * gone - 1).T @ (2.0 * gone - 1) / len(gone)
    assert (both - torch.eye(36)).abs().max() < 0.1
    close = torch.arange(3000) / 2**24
    near = drop_pixels(x, close, 0.5)[:, 0].flatten(1) == 0
    assert abs(float((near[1:] == near[:-1]).float().mean()) - 0.5) < 0.01
