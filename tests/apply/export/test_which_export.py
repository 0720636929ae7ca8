"""Which methods a graph for devices holds: the registry, the graphs, the page that lists them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphfsl.apply.export import graphs
from graphfsl.testing import DIM
from tests.support.exports import BLOCK, LONGEST, PAGE, exports, table


class Together(nn.Module):
    """Several learners on one episode, as tracing costs more than what is traced."""

    def __init__(self, each: list[Any]) -> None:
        super().__init__()
        self.each = nn.ModuleList(graphs.HeadGraph(learner.on_features()) for learner in each)
        self.lengths = [LONGEST if learner.wants_maps else DIM for learner in each]

    def forward(
        self, support: Tensor, labels: Tensor, mask: Tensor, query: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(
            head(support[:, :d], labels, mask, query[:, :d])
            for head, d in zip(self.each, self.lengths, strict=True)
        )


# All methods that export took 123 seconds of a processor together.
QUICK = ("protonet", "simple_shot", "meta_baseline", "matchingnet", "relationnet")


@pytest.mark.parametrize("names", [QUICK, pytest.param((), marks=pytest.mark.slow)], ids=str)
def test_every_method_exports_unless_it_says_why_not(names: tuple[str, ...]) -> None:
    """Answers equal PyTorch's on episodes of other way, shot and queries than exported."""
    found = {key: learner for key, (learner, why) in exports().items() if not why}
    if names:
        found = {key: learner for key, learner in found.items() if key[1] in names}
        assert len(found) == len(names)
    together = Together(list(found.values())).eval()
    example = graphs.example_episode(*graphs.TRACED, LONGEST)
    model = graphs.converted(together, example, graphs.FREE_EPISODE)
    session = graphs.session(model)
    for size in graphs.COMPARED:
        episode = graphs.example_episode(*size, LONGEST)
        with torch.no_grad():
            right = together(**episode)
        answers = session.run(None, {name: t.numpy() for name, t in episode.items()})
        for name, p, q in zip(found, answers, right, strict=True):
            np.testing.assert_allclose(p, q.numpy(), atol=1e-4, err_msg=f"{name} {size}")


def test_the_page_lists_what_exports() -> None:
    """`python -m tests.support.exports` fills it."""
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None and found[0] == table()
