"""Images whose pixels have labels become nodes, one for each cell of their feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.batchnorm import is_adapting
from graphfsl.core.episode import Episode
from graphfsl.functional.cells import cell_shares, equal_images
from graphfsl.io.errors import require


def check_cell_parts(image_parts: Sequence[Any], wants_maps: bool | None, batch_norm: str) -> None:
    """Refuse what takes an image as a whole, or needs one query in each task.

    Args:
        image_parts: the parts that generate images.
        wants_maps: whether some part reads the maps of whole images.
        batch_norm: the policy of the encoder's statistics.

    Raises:
        InputError: names what would do.
    """
    require(
        not image_parts,
        "a part of learner.augment generates images, which have no label of every pixel; leave it "
        "out",
    )
    require(
        not wants_maps,
        "a part reads the feature map of a whole image, but the nodes of this task are its cells; "
        "choose another learner.head",
    )
    require(
        not is_adapting(),
        "an inner loop takes no episodes whose pixels have labels; set learner.adapt=null",
    )
    require(
        batch_norm != "each",
        "learner.batch_norm=each is for queries that are single nodes; choose another policy",
    )


def cells_as_nodes(episode: Episode, maps: Tensor) -> Episode:
    """The episode whose nodes are the cells of its images' feature maps.

    Label weights of the pixels become those of the cells: the share of a cell that a class covers.
    In every class each image that shows it weighs as much as another, so that a class mean is the
    mean over images of their masked means (`equal_images`).

    Args:
        episode: of images (B, n, ch, H, W), with label weights (B, n, C, H, W).
        maps: (B, n, d, h, w) feature maps.

    Returns:
        An episode of features (B, n * h * w, d) and `cells` (h, w).
    """
    h, w = maps.shape[-2:]
    weights = episode.w.to(maps.dtype)
    shown = weights[:, episode.support]
    shares = equal_images(cell_shares(shown.flatten(0, 1), (h, w)).unflatten(0, shown.shape[:2]))
    hidden = weights.new_zeros(len(weights), maps.shape[1] - shown.shape[1], *shares.shape[2:])
    w_cells = torch.cat([shares, hidden], 1)

    def nodes(t: Tensor) -> Tensor:
        """(B, n, C, h, w) -> (B, n * h * w, C)."""
        return t.flatten(3).transpose(2, 3).flatten(1, 2)

    return Episode(
        nodes(maps),
        nodes(w_cells),
        episode.n_support * h * w,
        episode.n_query * h * w,
        episode.mask.repeat_interleave(h * w, 1) if episode.padded else None,  # type: ignore[arg-type]
        relabeled=False,
        cells=(h, w),
    )


def of_images(scores: Tensor, features: Episode) -> Tensor:
    """Scores (…, B, n * h * w, C) of cells -> (B, n, h, w, C) of images, of the last layer.

    Args:
        scores: of an episode with `cells`.
        features: that episode.
    """
    answer = scores[-1] if scores.ndim == 4 else scores
    h, w = features.cells or (1, 1)
    maps: Tensor = answer.unflatten(1, (-1, h, w))
    return maps
