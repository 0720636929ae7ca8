"""TraNFS: a transformer that makes class means of a support with wrong labels.

Liang, Rangrej, Petrovic, Hassner 2022, https://arxiv.org/abs/2204.05494
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Head
from graphfsl.functional.distances import squared_euclidean
from graphfsl.functional.prototypes import hide_absent, present, prototypes
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["TraNFS"]


class TraNFS(Head):
    """Let a transformer read all shots of all classes, and answer by the prototypes that it makes.

    Of support features x_i with the label c(i), class tokens t_c and class codes e_c,

        Z = transformer(t_1 + e_1, ..., t_N + e_N, W x_1 + e_c(1), ..., W x_k + e_c(k))
        p_c = W' Z_c                                       the outputs of the class tokens
        s_c(x) = -||x - p_c||^2

    In training it also says which labels are wrong, and its prototypes are to be the means m_c of
    the nodes whose labels are right:

        L = CE(queries) + detection BCE(wrong_i, u . W' Z_i + b) + clean sum_c ||p_c - m_c||^2 / N

    So it is trained with `train_episode.noise`. The codes' length is about 11: of features much
    shorter than that, or equal but for a small part, it learns nothing. Centre them, and `scale`.

    Args:
        dim: the length of the features.
        way: N.
        layers: of the transformer.
        width: the length of its tokens, to which W projects; W and W' begin orthogonal and equal.
        heads: of the attention, they divide `width`.
        dropout: of attention and of what each layer adds, in training.
        detection, clean: the weights of the second and the third loss.
        scale: what features are multiplied by.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> (B, n, C).

    Source:
        section 4 and the authors' code: 3 layers of width 128 with 8 heads, tokens t that stay as
        they were drawn and learned codes e, both standard normal.

    Deviations:
        a node of weight w counts as w nodes: the attention to it has log w added. The second and
        the third loss read a forward pass of their own, with another dropout.
    """

    class_order_sensitive = True  # each column has a code of its own
    tokens: Tensor

    def __init__(
        self,
        dim: int,
        way: int,
        layers: int = 3,
        width: int = 128,
        heads: int = 8,
        dropout: float = 0.1,
        detection: float = 0.5,
        clean: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        require(
            min(layers, heads) >= 1 and width >= heads and width % heads == 0,
            "tranfs: layers and heads must be 1 or more and heads divide width, "
            f"not {layers}, {heads} and {width}",
        )
        require(
            0 <= dropout < 1 and min(detection, clean) >= 0 and scale > 0,
            "tranfs: dropout must be in [0, 1), detection and clean 0 or more, scale above 0, not "
            f"{dropout}, {detection}, {clean} and {scale}",
        )
        self.way, self.scale = way, scale
        self.detection, self.clean = detection, clean
        self.register_buffer("tokens", torch.randn(way, width))
        self.codes = nn.Parameter(torch.randn(way, width))
        self.into = nn.Parameter(nn.init.orthogonal_(torch.empty(dim, width)))
        self.out_of = nn.Parameter(self.into.detach().clone())
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.detector = nn.Linear(dim, 1)

    def transformed(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """W' Z: the prototypes (B, C, d), and what became of the nodes (B, k, d).

        Args:
            x: (B, k, d) labeled features, scaled.
            w: (B, k, C) their label weights; nodes and classes without weight are not read.
        """
        way, mass = w.shape[-1], w.sum(-1)
        tokens = (self.tokens + self.codes).expand(len(x), -1, -1)
        nodes = x @ self.into + (w / or_one(mass).unsqueeze(-1)) @ self.codes
        z = torch.cat([tokens, nodes], 1)
        counts = torch.cat([present(w).to(mass), mass], 1)
        for layer in self.layers:
            z = layer(z, counts)
        z = z @ self.out_of.mT
        return z[:, :way], z[:, way:]

    def score(self, episode: Episode) -> Tensor:
        """Minus the squared distances to the prototypes: (B, n, C)."""
        x, w = self.scale * episode.x, episode.w[:, episode.labeled]
        p, _ = self.transformed(x[:, episode.labeled], w)
        return hide_absent(-squared_euclidean(x, p), w)

    def criterion(self, scores: Tensor, target: Target, episode: Episode) -> Tensor:
        """The queries' cross-entropy, the detector's loss and that of the prototypes: a scalar."""
        loss = super().criterion(scores, target, episode)
        if not self.detection and not self.clean:
            return loss
        x = self.scale * episode.x[:, episode.support]
        w = episode.w[:, episode.support]
        right = target.right(episode)
        p, z = self.transformed(x, w)
        detection = self.detection_loss(z, w, right)
        return loss + self.detection * detection + self.clean * self.clean_loss(p, x, right)

    def detection_loss(self, z: Tensor, w: Tensor, right: Tensor) -> Tensor:
        """How badly the detector says of nodes z (B, k, d) whose label is wrong: a scalar.

        Args:
            z: the nodes behind the transformer.
            w: (B, k, C) their label weights.
            right: (B, k, C) the same without wrong ones.
        """
        counted = w.sum(-1).clamp_max(1)
        wrong = ((right.sum(-1) == 0) & (counted > 0)).to(z)
        said = self.detector(z).squeeze(-1)
        missed = F.binary_cross_entropy_with_logits(said, wrong, weight=counted, reduction="sum")
        return missed / or_one(counted.sum())

    def clean_loss(self, p: Tensor, x: Tensor, right: Tensor) -> Tensor:
        """Squared distances of prototypes (B, C, d) to the means of rightly labeled x: a scalar."""
        known = present(right)
        apart = (p - prototypes(x, right)).square().sum(-1) * known
        return apart.sum() / known.sum().clamp_min(1)


class Layer(nn.Module):
    """A layer of a transformer, attention and two linear maps (Vaswani 2017), normalised behind.

    Written out: the fused attention has no second derivative, which MAML asks for.

    Args:
        width: of the tokens.
        heads: of the attention.
        dropout: of the attention and of what is added.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(width, 3 * width)
        self.write = nn.Linear(width, width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.read.weight)
        nn.init.zeros_(self.read.bias)
        nn.init.zeros_(self.write.bias)

    def forward(self, z: Tensor, counts: Tensor) -> Tensor:
        """Tokens (B, m, width) -> (B, m, width), each of which counts (B, m) times."""
        z = self.norm1(z + self.dropout(self.attend(z, counts)))
        inner = self.linear2(self.dropout(self.linear1(z).relu()))
        out: Tensor = self.norm2(z + self.dropout(inner))
        return out

    def attend(self, z: Tensor, counts: Tensor) -> Tensor:
        """What each token reads of all: (B, m, width)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.read(z).chunk(3, -1)
        )
        often = or_one(counts).log().masked_fill(counts == 0, torch.finfo(counts.dtype).min)
        affinity = q @ k.mT / q.shape[-1] ** 0.5 + often[:, None, None]
        alpha = self.dropout(affinity.softmax(-1))
        told: Tensor = self.write((alpha @ v).transpose(1, 2).flatten(2))
        return told
