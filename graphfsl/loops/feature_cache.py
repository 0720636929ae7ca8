"""Features of a frozen encoder: computed once, and kept on disk.

They are computed block by block, and resumed where they were stopped.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.encoder import block_size
from graphfsl.core.pipeline import Pipeline
from graphfsl.data.split import Split
from graphfsl.data.transforms import Transform
from graphfsl.io.row_cache import stored_rows
from graphfsl.loops.encode import check_alone, encode, encoding_device
from graphfsl.loops.encoder_digest import encoder_digest

HASHED_AT_ONCE = 4096  # images


def cached_features(
    learner: Pipeline, split: Split, transform: Transform, device: torch.device | str | None = None
) -> Split:
    """The split with the features (N, d) of the learner's encoder, a memory map in the cache.

    They are found again by what they are made from: the encoder, its weights, the normalisation,
    the images and their labels, and the kind of device, since a GPU rounds in another way. See
    `stored_rows` for how they are kept.

    Args:
        learner: whose encoder it is.
        split: of images.
        transform: their normalisation.
        device: where they are computed; None takes the encoder's.

    Raises:
        InputError: where the encoder cannot encode an image without its episode.
    """
    check_alone(learner.encoder)
    device = encoding_device(learner, device)
    size = block_size(learner.encoder, split.shape, device)
    key = encoder_digest(learner.encoder, *decides_features(transform, device, size))
    for x in split.blocks(HASHED_AT_ONCE):
        key.update(x.cpu().flatten().numpy().data)
    key.update(b"maps" if learner.wants_maps else b"")
    key.update(repr((split.shape, len(split.y))).encode() + split.y.cpu().numpy().tobytes())

    def encoded(first: int, last: int) -> Tensor:
        return encode(
            learner,
            split.gather(torch.arange(first, last, device=split.x.device)),
            transform,
            device,
        )

    features: Any = stored_rows(key.hexdigest(), len(split.y), size, encoded, split.name)
    return replace(split, x=features, stored=None)  # a Split makes a tensor of it


def decides_features(transform: Transform, device: torch.device, block: int) -> tuple[Any, ...]:
    """What decides features beside the encoder.

    It is the normalisation, and what changes their last digits: the kind of device and the size of
    blocks.
    """
    return transform.mean, transform.std, device.type, block
