"""Transductive fine-tuning is Adam on a linear layer."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.methods.refine.transductive_fine_tuning import TransductiveFineTuning
from tests.support.transductive import COUNTS, means, parts, refined, task, unit


@COUNTS
def test_transductive_fine_tuning_is_adam_on_a_linear_layer(counts: tuple[int, ...]) -> None:
    episode, _ = task(counts)
    s, _, y = parts(episode)
    z, layer = unit(episode.x[0]), torch.nn.Linear(12, 3).double()
    with torch.no_grad():
        layer.weight.copy_(unit(means(unit(s), y)))
        layer.bias.zero_()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        log_p = layer(z).log_softmax(-1)
        entropy = -(log_p.exp() * log_p)[len(s) :].sum(-1).mean()
        (F.nll_loss(log_p[: len(s)], torch.tensor(y)) + entropy).backward()
        optimizer.step()
    torch.testing.assert_close(
        refined(TransductiveFineTuning(lr=1e-2), episode)[0], layer(z).detach()
    )
