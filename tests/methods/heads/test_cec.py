"""Facts of CEC."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.methods.heads.cec import CEC
from graphfsl.testing import episodes


def test_each_query_joins_a_graph_of_all_classes_written_out() -> None:
    torch.manual_seed(0)
    head = CEC(64).double()
    torch.nn.init.normal_(head.norm.weight)
    torch.nn.init.normal_(head.norm.bias)
    torch.nn.init.normal_(head.u.bias)
    given, _ = episodes(batch=1, way=3, shot=2, query=2, unlabeled=0)
    given = given.replace(x=given.x.flatten(2), relabeled=False, w=given.w).to(dtype=torch.float64)
    means = torch.stack([given.x[0, 2 * c : 2 * c + 2].mean(0) for c in range(3)])
    expected = []
    for x in given.x[0, given.query]:
        z = torch.cat([means, x[None]])
        a = (head.q(z) @ head.k(z).T / 8).softmax(-1)
        new = head.norm(z + head.u(a @ head.v(z)))
        expected.append(16 * F.cosine_similarity(new[3:], new[:3], dim=-1))
    torch.testing.assert_close(head(given)[0], torch.stack(expected))
