"""Matching Networks: attention over the labeled nodes.

Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016, https://arxiv.org/abs/1606.04080
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Head
from graphfsl.functional.distances import cosine
from graphfsl.functional.prototypes import hide_absent
from graphfsl.functional.statistics import or_one
from graphfsl.io.errors import require

__all__ = ["MatchingNet"]


class MatchingNet(Head):
    """Classify a query by its attention over the support.

        P(y | x, S) = sum_i a(x, x_i) y_i,  a = softmax_i(scale * cos(f(x, S), g(x_i, S)))

    (section 2.1.1, equation 1). With full context embeddings g_i = h_i + h'_i + x_i comes from a
    bidirectional LSTM over the support in its order, shuffled while training, and f(x, S) = h_K
    from K steps of

        h^_k, c_k = LSTM(x, [h_{k-1}, r_{k-1}], c_{k-1})
        h_k = h^_k + x
        r_k = sum_i softmax_i(h_k . g_i) g_i

    from h_0 = x and r_0 = 0 (section 2.1.2 and appendix A).

    Args:
        dim: d, the length of the features.
        scale: the initial temperature, which is learned (its logarithm is the parameter); plain
            cosine does not train.
        fce: full context embeddings (section 2.1.2 and appendix A). g(x_i, S) = h_i + h'_i + x_i,
            with a bidirectional LSTM over the support in its order, shuffled while training; f(x,
            S) = h_K of `fce_steps` steps of h^_k, c_k = LSTM(x, [h_{k-1}, r_{k-1}], c_{k-1}), h_k =
            h^_k + x, r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i), from h_0 = x and r_0 = 0.
        fce_steps: K.

    Shapes:
        score: features (B, n, d), label weights (B, n, C) -> log-probabilities (B, n, C).

    Source:
        equation 1; published Omniglot 98.1 / 98.9 / 93.8 / 98.5.

    Deviations:
        the paper's cosine has no temperature; a node of weight w counts as w nodes, so that soft
        labels are labels too.
    """

    def __init__(
        self, dim: int, scale: float = 10.0, fce: bool = False, fce_steps: int = 5
    ) -> None:
        super().__init__()
        require(
            scale > 0 and fce_steps >= 1,
            f"matchingnet.scale must be above 0, fce_steps 1 or more, not {scale} and {fce_steps}",
        )
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.order_sensitive = fce
        self.context = FullContext(dim, fce_steps) if fce else None

    def score(self, episode: Episode) -> Tensor:
        """Log-probabilities (B, n, C): the labels of the support, weighed by attention."""
        w = episode.w[:, episode.labeled]
        weight = w.sum(-1)  # (B, m)
        f, g = episode.x, episode.x[:, episode.labeled]
        if self.context is not None:
            f, g = self.context(f, g, weight > 0)
        # Without weight minus infinity, put there: log's own would make the gradient of a weight of
        # 0 no number, where it is learned.
        log_weight = or_one(weight).log().masked_fill(weight == 0, float("-inf"))
        attention = self.log_scale.exp() * cosine(f, g) + log_weight.unsqueeze(-2)
        y = w / or_one(weight).unsqueeze(-1)
        p = attention.softmax(-1) @ y
        return hide_absent(p.clamp_min(torch.finfo(p.dtype).tiny).log(), episode.w)


class FullContext(nn.Module):
    """The embeddings f and g of `MatchingNet` that see the whole support.

    Args:
        dim: d, the length of the features.
        steps: K, of the attention that reads the support.

    Shapes:
        forward: nodes (B, n, d), the support (B, m, d), which of it is labeled (B, m) -> f (B, n,
            d), g (B, m, d).
    """

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.forwards = nn.LSTM(dim, dim, batch_first=True)
        self.backwards = nn.LSTM(dim, dim, batch_first=True)
        self.query = nn.LSTMCell(2 * dim, dim)

    def forward(self, x: Tensor, support: Tensor, labeled: Tensor) -> tuple[Tensor, Tensor]:
        """The embeddings f of all nodes and g of the support, where unlabeled nodes keep x."""
        g = self.support(support, labeled)
        # The cell's input [x; r] acts linearly, and r is a weighted mean of g: x and g are
        # multiplied by the weights once, and each step mixes the products.
        of_x, of_r = self.query.weight_ih.split(x.shape[-1], 1)
        from_x = x @ of_x.mT + self.query.bias_ih + self.query.bias_hh
        from_g = g @ of_r.mT
        h, c, from_r = x, torch.zeros_like(x), torch.zeros_like(from_x)
        for _ in range(self.steps):
            i, forget, new, out = (from_x + from_r + h @ self.query.weight_hh.mT).chunk(4, -1)
            c = forget.sigmoid() * c + i.sigmoid() * new.tanh()
            h = out.sigmoid() * c.tanh() + x
            a = (h @ g.mT).masked_fill(~labeled.unsqueeze(-2), float("-inf")).softmax(-1)
            from_r = a @ from_g
        return h, g

    def support(self, x: Tensor, labeled: Tensor) -> Tensor:
        """The embeddings g of the labeled nodes; the others keep x and are read by no one."""
        b, n = labeled.shape
        place = (
            torch.rand(b, n, device=x.device)
            if self.training
            else torch.arange(n, device=x.device).expand(b, n)
        )
        # Labeled nodes first, then the same backwards: the rest stands behind them and cannot reach
        # them.
        order = place.masked_fill(~labeled, n).argsort(-1)
        count, i = labeled.sum(-1, keepdim=True), torch.arange(n, device=x.device)
        reverse = order.gather(1, torch.where(i < count, count - 1 - i, i))
        g = x
        for lstm, way in ((self.forwards, order), (self.backwards, reverse)):
            index = way.unsqueeze(-1).expand_as(x)
            g = g + torch.zeros_like(x).scatter(1, index, lstm(x.gather(1, index))[0])
        return g
