"""URL: cosines behind a linear map that starts at the identity."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from graphfsl.core.pipeline import Pipeline
from graphfsl.methods.adapt.tsa import TSA
from graphfsl.methods.heads.protonet import ProtoNet
from graphfsl.methods.heads.url import URL
from graphfsl.testing import TinyEncoder, unlike_fresh
from tests.support.episodes import features
from tests.support.inner_loops import episode


def test_without_an_inner_loop_it_is_the_cosine_to_class_means() -> None:
    e = features(shot=3)
    plain = ProtoNet("cosine", learned=False).double()
    torch.testing.assert_close(URL().score(e), plain.score(e))


def test_its_map_is_tuned_on_the_support_against_its_own_means() -> None:
    """One step of Adadelta by hand; images are encoded once, since no kernel adapts."""
    net = unlike_fresh(Pipeline(TinyEncoder(), head=URL())).double().eval()
    e = episode()
    learner = TSA(net, steps=1, params="head.map")
    assert learner.encodes_once
    z = net.encoder.readout(net.encoder(e.x[0, e.support])).detach()
    w = e.w[0, e.support]
    a = torch.eye(z.shape[1], dtype=z.dtype, requires_grad=True)
    c = (w / w.sum(0)).T @ (z @ a.T)
    scores = 10 * F.normalize(z @ a.T, dim=-1) @ F.normalize(c, dim=-1).T
    (g,) = torch.autograd.grad(F.cross_entropy(scores, w.argmax(-1)), a)
    expected = torch.optim.Adadelta([a], lr=0.1)
    a.grad = g
    expected.step()
    found = learner.adapt(e)["net.head.map"][0]
    torch.testing.assert_close(found, a.detach())
