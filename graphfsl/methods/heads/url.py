"""URL: nearest class means by cosine, behind a linear map that an inner loop finds.

Li, Liu, Bilen 2021, https://arxiv.org/abs/2103.13841
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import hide_absent, prototypes
from graphfsl.io.errors import require

__all__ = ["URL"]


class URL(Head):
    """Map features linearly, and answer with the class mean of the nearest direction.

        p(y = k | x) = softmax_k(scale * cos(A f(x), c_k)),  c_k = mean of A f(x_i) of class k

    A is the identity. Inside `adapt=tsa` it starts there and is tuned on each support.

    Args:
        scale: of the cosine.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> logits (B, n, C).

    Source:
        section 3.2, equation 6; the authors' code has scale 10.

    Deviations:
        the encoder is whatever it stands behind; the paper distils one from eight data sets.
    """

    family = "transfer"
    imprinted = ("map",)  # what `Adapt` starts from `imprint`

    def __init__(self, scale: float = 10.0) -> None:
        super().__init__()
        require(scale > 0, f"url.scale must be above 0, not {scale}")
        self.scale = scale
        self.map: Tensor | None
        self.register_buffer("map", None)

    def imprint(self, episode: Episode) -> dict[str, Tensor]:
        """The map (1, d, d) that an inner loop starts from: the identity."""
        x = episode.x
        return {"map": torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[None]}

    def score(self, episode: Episode) -> Tensor:
        """Scaled cosines (B, n, C) with the class means of mapped features."""
        x = episode.x
        if self.map is not None:
            x = x @ self.map.mT
        c = prototypes(x[:, episode.labeled], episode.w[:, episode.labeled])
        return hide_absent(self.scale * cosine(x, c), episode.w)
