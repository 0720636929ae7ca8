"""A linear read-out of real values that only adaptation can teach.

Finn et al. 2017, https://arxiv.org/abs/1703.03400
"""

from __future__ import annotations

from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.io.errors import require
from graphfsl.nn.mlp import start_small

__all__ = ["Regressor"]


class Regressor(Head):
    """Answer with one linear layer: the last layer of MAML's network for regression.

        y(x) = W f(x) + b with W (outputs, d), trained by the squared error

    Args:
        dim: d, the length of the features.
        outputs: the length of a value.
        std: of the truncated normal that W starts from, with b = 0 (the authors' code: 0.01); None
            for torch's own start.

    Shapes:
        score: features (B, n, d) -> values (B, n, outputs). It does not read the support: use it
            inside `adapt`.

    Source:
        section 5.1 of the paper.
    """

    family = "optimisation"
    reads_support = False
    answers = "values"

    def __init__(self, dim: int, outputs: int = 1, std: float | None = None) -> None:
        super().__init__()
        require(outputs >= 1, f"regressor.outputs must be 1 or more, not {outputs}")
        require(std is None or std > 0, f"regressor.std must be above 0, or null, not {std}")
        self.linear = nn.Linear(dim, outputs)
        if std is not None:
            start_small(self.linear, std)

    def score(self, episode: Episode) -> Tensor:
        """Values (B, n, outputs) of all nodes of an episode of features."""
        values: Tensor = self.linear(episode.x)
        return values
