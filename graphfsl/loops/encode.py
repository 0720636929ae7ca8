"""Images -> features of an encoder, block by block."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from graphfsl.core.batchnorm import trained_without_averages
from graphfsl.core.encoder import block_size, call_encoder
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.split import Split
from graphfsl.data.transforms import Transform
from graphfsl.io.errors import require

AVERAGES = (
    "train under learner.batch_norm=running, or pretrain the encoder, so that it stores averages"
)


def encode_split(learner: Pipeline, split: Split, transform: Transform) -> Split:
    """The split with the learner's features (N, d) in place of its images, each encoded once.

    The features lie on the encoder's device.
    """
    check_alone(learner.encoder)
    device = encoding_device(learner, None)
    blocks = split.blocks(block_size(learner.encoder, split.shape, device))
    return replace(
        split, x=torch.cat([encode(learner, x, transform, device) for x in blocks]), stored=None
    )


@torch.no_grad()
def encode(
    learner: Pipeline, x: Tensor, transform: Transform, device: torch.device | str
) -> Tensor:
    """Features (m, d) of images by the learner's encoder, in evaluation mode, as float32.

    Args:
        learner: whose encoder it is; maps are flattened where a part of it wants maps.
        x: (m, C, H, W) images.
        transform: their normalisation; its augmentation is left out.
        device: where they are computed.

    Raises:
        InputError: for features that are not finite.
    """
    encoder = learner.encoder
    was_training = encoder.training
    encoder.eval()
    try:
        z = call_encoder(encoder, transform.plain()(x.to(device)), learner.wants_maps)
        z = (z.flatten(1) if learner.wants_maps else learner.readout(z)).float()
    finally:
        encoder.train(was_training)
    require(
        bool(z.isfinite().all()),
        f"the encoder {type(encoder).__name__} made features that are not finite",
    )
    return z


def check_alone(encoder: nn.Module) -> None:
    """Refuse an encoder that cannot encode an image without its episode.

    It was trained without BatchNorm averages. An untrained one passes, whose averages are as good
    as its weights.

    Raises:
        InputError: for such an encoder.
    """
    require(
        not trained_without_averages(encoder),
        f"the encoder's BatchNorm stored no averages, so that no image can be encoded alone; "
        f"{AVERAGES}",
    )


def encoding_device(learner: Pipeline, device: torch.device | str | None) -> torch.device:
    """Where the encoder computes; it is moved where a device is given."""
    if device is not None:
        learner.encoder.to(device)
        return torch.device(device)
    return next((p.device for p in learner.encoder.parameters()), torch.device("cpu"))
