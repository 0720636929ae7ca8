"""One task of images, and the parts of an inner loop written from the equations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from graphfsl.core.adapt import Adapt
from graphfsl.core.episode import Episode
from graphfsl.core.pipeline import Pipeline
from graphfsl.functional.affine import affine
from graphfsl.methods.heads.imprinting import Imprinting
from graphfsl.nn.views import Views
from graphfsl.testing import TinyEncoder, episodes, unlike_fresh

WAY, SHOT, POOL = 3, 2, 6


def net() -> Pipeline:
    """A tiny encoder below imprinted class weights."""
    return unlike_fresh(Pipeline(TinyEncoder(), head=Imprinting())).double().eval()  # type: ignore[return-value]


def episode(unlabeled: int = POOL // WAY, batch: int = 1) -> Episode:
    """Images in double precision."""
    return episodes(batch=batch, shot=SHOT, unlabeled=unlabeled)[0].to(dtype=torch.float64)


def logits(net: Pipeline, x: Tensor, weight: Tensor) -> Tensor:
    """Of images (m, 1, 8, 8) with class weights (C, d), without the framework."""
    z = net.encoder.readout(net.encoder(x))
    return 10 * F.normalize(z, dim=-1) @ F.normalize(weight, dim=-1).T


def start(net: Pipeline, e: Episode) -> Tensor:
    """The imprinted weights (C, d) of the episode."""
    z = F.normalize(net.encoder.readout(net.encoder(e.x[0, e.support])), dim=-1)
    y = e.w[0, e.support].argmax(-1)
    return torch.stack([z[y == c].mean(0) for c in range(e.way)])


def objective(model: Adapt, e: Episode, step: int = 0) -> Tensor:
    """The inner loss at the network as it is, the class weights imprinted."""
    return model.objective(model.net.score, e, step)


def order(views: Views, x: Tensor, step: int) -> list[int]:
    """Images (m, 1, 8, 8) by their projection."""
    wave = torch.sin(views.phase[step] * torch.arange(1, 65)).double()
    return sorted(range(len(x)), key=lambda i: float(x[i].flatten().double() @ wave))


def moved(x: Tensor, views: Views, step: int, view: int, share: float = 1.0) -> Tensor:
    """Images (m, 1, 8, 8), one at a time, moved by the draw of their place."""
    out = x.clone()
    far = (views.moves.rotate, views.moves.translate, views.moves.scale)
    for place, i in enumerate(order(views, x, step)):
        u = share * views.draws[step, view, place].double()
        out[i] = affine(x[i : i + 1], u[:, None], *far)[0]
    return out
