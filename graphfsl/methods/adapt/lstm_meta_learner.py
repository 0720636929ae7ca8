"""Meta-learner LSTM: an LSTM whose cell state is the learner's weights takes the inner steps.

Ravi, Larochelle 2017, https://openreview.net/forum?id=rJY0-Kcll
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.objectives import Score, mini_batch_loss
from graphfsl.core.rules import LearnedRates, Params, flat, unflat
from graphfsl.io.errors import require

__all__ = ["LSTMMetaLearner"]

P = 10.0  # of `preprocess`
WEIGHTS = 0.01  # all weights start in U(-0.01, 0.01)
FORGET, INPUT = (4.0, 6.0), (-5.0, -4.0)  # b_F and b_I start there: f near 1, i near 0

State = tuple[Tensor, Tensor, Tensor, Tensor]  # h, c (P, hidden) and f, i (P, 1)


class Cell(LearnedRates):
    """theta <- f o theta - i o gradient, the same gates for every coordinate.

    Args:
        hidden: units of the lower LSTM, which reads gradient and loss.
        steps, beyond: see `LearnedRates`.
    """

    def __init__(self, hidden: int, steps: int, beyond: str | None = None) -> None:
        super().__init__(steps, beyond)
        self.hidden = hidden
        # nn.LSTMCell has no rule for vmap; its gates are one matrix
        self.lstm = nn.Linear(4 + hidden, 4 * hidden)
        self.forget = nn.Linear(hidden + 2, 1)  # W_F, b_F
        self.input = nn.Linear(hidden + 2, 1)  # W_I, b_I
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -WEIGHTS, WEIGHTS)
        nn.init.uniform_(self.forget.bias, *FORGET)
        nn.init.uniform_(self.input.bias, *INPUT)

    def init(self, params: Params) -> State:
        """Zeros, for each of the P coordinates."""
        theta = flat(params)
        units = theta.new_zeros(len(theta), self.hidden)
        gate = theta.new_zeros(len(theta), 1)
        return units, units, gate, gate

    def update(
        self, params: Params, grads: Params, loss: Tensor, state: State, step: int
    ) -> tuple[Params, State]:
        """The parameters and the state after a step."""
        h, c, f, i = state
        theta = flat(params).unsqueeze(1)  # (P, 1)
        gradient = flat(grads).unsqueeze(1)
        of_loss = preprocess(loss.view(1)).expand(len(theta), 2)  # the same for every coordinate
        seen = torch.cat([preprocess(gradient), of_loss], 1)
        h, c = self.read(seen, h, c)
        f = self.forget(torch.cat([h, theta, f], 1)).sigmoid()
        i = self.input(torch.cat([h, theta, i], 1)).sigmoid()
        theta = f * theta - i * gradient
        return unflat(theta.squeeze(1), params), (h, c, f, i)

    def read(self, seen: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """h and c (P, hidden) of the lower LSTM after it has seen (P, 4)."""
        gates = self.lstm(torch.cat([seen, h], 1))
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, 1)
        c = forget_gate.sigmoid() * c + input_gate.sigmoid() * candidate.tanh()
        return output_gate.sigmoid() * c.tanh(), c


def preprocess(x: Tensor) -> Tensor:
    """(log|x| / p, sgn x) where |x| >= e^-p, and (-1, e^p x) elsewhere: (…, 1) -> (…, 2)."""
    least = math.exp(-P)
    large = x.abs() >= least
    size = x.abs().clamp_min(least).log() / P
    sign = torch.where(large, x.sign(), x / least)
    return torch.cat([size, sign], -1)


class LSTMMetaLearner(Adapt):
    """Learn the update itself: two LSTMs, one on the other, of which the upper one's cell is theta.

        h_t = LSTM([grad L_t, L_t])                                      the lower one
        i_t = sigma(W_I [h_t, theta_(t-1), i_(t-1)] + b_I),  f_t alike
        theta_t = f_t o theta_(t-1) - i_t o grad_theta L_t               the upper one (equation 2)

    theta_0 is learned. All coordinates of theta share the two LSTMs, and each has a state of its
    own. Gradients and losses are constants for the outer gradient, and are preprocessed as in
    appendix A of Andrychowicz et al. 2016. The paper's gates read grad L_t and L_t themselves; h_t
    in their place is the authors' code.

    Args:
        net: any learner that scores a support set; the paper's is an encoder with the linear head.
            Its weights are theta_0.
        steps: T.
        hidden: units of the lower LSTM.
        batch: support nodes of a step, in turn; None takes the whole support in every step.
        params: what adapts, by name pattern.
        task_chunk: see `Adapt`.
        steps_test: steps outside of training; not above `steps` unless `beyond` is set.
        beyond: "last" goes on with the same gates past the steps that they were learned for.
        recompute: see `Adapt`; the state of every coordinate in every step takes much memory.

    Shapes:
        score: images or features (B, n, *S) -> (B, n, C).

    Source:
        sections 3.2 to 3.5, appendix A (p = 10), and the authors' code: 20 hidden units, weights
        from U(-0.01, 0.01), b_F from U(4, 6), b_I from U(-5, -4); 12 steps of 5 images at 5-way
        1-shot, 8 passes over batches of 25 at 5-shot; the norm of the outer gradient is clipped to
        0.25.

    Deviations:
        BatchNorm: the authors' averages are of the support and serve the queries, which is nearer
        to `support` than to `apart`. Scale and shift adapt with the other weights.
    """

    family = "optimisation"
    policy = "apart"

    def __init__(
        self,
        net: nn.Module,
        steps: int = 12,
        hidden: int = 20,
        batch: int | None = None,
        params: str | list[str] = "*",
        task_chunk: int | None = None,
        steps_test: int | None = None,
        beyond: str | None = None,
        recompute: bool = False,
    ) -> None:
        require(hidden >= 1, f"lstm_meta_learner.hidden must be 1 or more, not {hidden}")
        require(
            batch is None or batch >= 1,
            f"lstm_meta_learner.batch must be 1 or more, or null, not {batch}",
        )
        rule = Cell(hidden, steps, beyond)
        super().__init__(
            net, rule, steps, self.batch_loss, params, True, task_chunk, steps_test, recompute
        )
        self.batch = batch

    def batch_loss(self, score: Score, episode: Episode, step: int) -> Tensor:
        """The mean loss of the support nodes whose turn it is."""
        size = self.batch or episode.n_support
        return mini_batch_loss(score, episode, step, size, self.net)
