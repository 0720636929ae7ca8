"""BatchNorm whose statistics follow the protocol: the policy is part of what a number means.

| policy    | statistics of                                             | setting      |
|-----------|-----------------------------------------------------------|--------------|
| `running` | the stored averages (in training: the whole call)         | inductive    |
| `support` | the support nodes of the same episode, for all its nodes  | inductive    |
| `each`    | the support and one query of the same episode, for each query anew | inductive |
| `joint`   | all nodes of the same episode                             | transductive |
| `apart`   | support, query and unlabeled nodes of the same episode, each for itself | transductive
|

`apart` is what MAML's and Reptile's published numbers use (support batch in the inner loop, query
batch at the end), `each` is Reptile's without transduction, `joint` is RelationNet's evaluation in
training mode. But for `running` a second episode in the same call changes nothing, padding never
enters, and no stored average is read or written.

`follow_policy` makes the BatchNorm layers of any module follow it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from graphfsl.core.episode import Episode
from graphfsl.core.inner_gradient import transforming
from graphfsl.functional.batch_norm import batch_norm
from graphfsl.io.errors import InputError, require

POLICIES = ("running", "joint", "apart", "support", "each")
TRANSDUCTIVE_POLICIES = ("joint", "apart")
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Nodes:
    """Which rows of a call belong together.

    They are the nodes of `batch` episodes; `segments` pairs the nodes measured with those scaled.
    """

    batch: int
    segments: tuple[tuple[slice, slice], ...]
    mask: Tensor | None  # (B, n), None = no padding

    @property
    def is_one_apart(self) -> bool:
        """Whether they are of one episode without padding, each part measured for itself."""
        own = all(measured == scaled for measured, scaled in self.segments)
        return self.batch == 1 and self.mask is None and own


_nodes: ContextVar[Nodes | None] = ContextVar("nodes", default=None)
_adapting: ContextVar[bool] = ContextVar("adapting", default=False)


@contextmanager
def statistics(policy: str, episode: Episode) -> Iterator[None]:
    """Within this block, BatchNorm layers see the nodes (B*n, …) of `episode` under `policy`.

    Under `each` an episode has one query, or none.
    """
    mask = episode.mask if episode.padded else None
    token = _nodes.set(Nodes(len(episode.x), _segments(policy, episode), mask))
    try:
        yield
    finally:
        _nodes.reset(token)


def _segments(policy: str, episode: Episode) -> tuple[tuple[slice, slice], ...]:
    """Which nodes a policy measures for which others, as `Nodes` holds them."""
    everything = slice(0, episode.x.shape[1])
    if policy == "running":
        return ()
    if policy == "joint":
        return ((everything, everything),)
    if policy == "support":
        return ((episode.support, everything),)
    if policy == "each":
        assert episode.n_query <= 1
        return ((slice(0, episode.unlabeled.start), everything),)
    assert policy == "apart", policy
    parts = (episode.support, episode.query, slice(episode.unlabeled.start, everything.stop))
    return tuple((part, part) for part in parts if part.stop > part.start)


@contextmanager
def adapting() -> Iterator[None]:
    """Within this block a call holds one episode whose parameters are being adapted.

    No buffer may be written.
    """
    token = _adapting.set(True)
    try:
        yield
    finally:
        _adapting.reset(token)


def is_adapting() -> bool:
    """Whether the call stands in an `adapting` block."""
    return _adapting.get()


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation of rows (R, C, *S), (R, C) too, by the policy of the surrounding block.

    Inside an adaptation, layers outside the encoder use the statistics of their own call (one
    episode), and the stored averages are only read, never written.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        # rows of any shape: the same layer serves feature maps, features and the edges of a graph
        pass

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Rows (R, C, *S) -> rows of that shape.

        In a `statistics` block of a policy other than `running`, by nodes of the same episode. In
        an adaptation outside of any block, by this call. Else by the policy `running`: in training
        by this call, which the averages take in; in evaluation and in adaptations by the averages.

        Args:
            x: (R, C, *S)
            mask: (R,) the rows that are measured, such as those that are no padding; None for all.
                A block that has segments, or a mask of its own, goes before it.

        Raises:
            InputError: where the layer keeps no averages and would have to answer by them, and
                where the rows are not those of the surrounding block.
        """
        nodes = _nodes.get()
        if nodes is not None and nodes.segments:
            if nodes.is_one_apart and _adapting.get() and not transforming():
                return self._of_one_episode(x, nodes)
            return self._affine(self._per_episode(x, nodes))
        if nodes is not None and nodes.mask is not None and self.training:
            mask = self._real_rows(x, nodes.mask)
        if nodes is None and _adapting.get():
            return self._affine(
                _normalise(x[None], x[None], mask[None] if mask is not None else None, self.eps)[0]
            )
        require(
            self.running_mean is not None or (not _adapting.get() and self.training),
            "a BatchNorm keeps no averages (track_running_stats=False), so that an answer "
            "would depend on its "
            "company; set batch_norm=support, joint, apart or each, or let it keep averages",
        )
        if _adapting.get():
            return self._affine(self._scale(x, self.running_mean, self.running_var))
        if mask is None or not self.training:  # averages that no row moves
            return super().forward(x)
        mean, var = _moments(x[None].float() if x.dtype in HALF else x[None], mask[None])
        self._update(mean[0], var[0], mask.sum() * x[0, 0].numel())
        return self._affine(self._scale(x, mean[0, 0], var[0, 0]))

    def _real_rows(self, x: Tensor, mask: Tensor) -> Tensor:
        if len(x) != mask.numel():
            raise InputError(
                f"a BatchNorm of the encoder sees {len(x)} rows for {mask.numel()} images, so "
                f"that padding cannot be "
                "told from images; use episodes of one size, or choose another encoder"
            )
        return mask.flatten()

    def _of_one_episode(self, x: Tensor, nodes: Nodes) -> Tensor:
        """The same as `_affine` of `_per_episode` by one function, which is quicker."""
        self._check_rows(x, nodes)
        sizes = [scaled.stop - scaled.start for _, scaled in nodes.segments]
        out = []
        for rows in x.split(sizes):
            if rows[:, 0].numel() > 1:
                y = self._normalised(rows)
            else:  # which it refuses
                y = self._affine(_normalise(rows[None], rows[None], None, self.eps)[0])
            out.append(y)
        return torch.cat(out) if len(out) > 1 else out[0]

    def _normalised(self, rows: Tensor) -> Tensor:
        """All rows (R, C, *S) by their own moments."""
        weight, bias = self.weight, self.bias
        half = rows.dtype in HALF  # whose moments PyTorch takes in another type
        if weight is None or bias is None or half or rows.dtype != weight.dtype:
            return F.batch_norm(rows, None, None, weight, bias, True, momentum=0.0, eps=self.eps)
        return batch_norm(rows, weight, bias, self.eps)

    def _check_rows(self, x: Tensor, nodes: Nodes) -> None:
        if len(x) != (expected := nodes.batch * nodes.segments[-1][1].stop):
            raise InputError(
                f"a BatchNorm of the encoder sees {len(x)} rows for {expected} images, so that "
                f"its statistics cannot "
                "be of one episode; set learner.batch_norm=running, or choose another encoder"
            )

    def _per_episode(self, x: Tensor, nodes: Nodes) -> Tensor:
        self._check_rows(x, nodes)
        x = x.unflatten(0, (nodes.batch, -1))
        out = [
            _normalise(
                x[:, scaled],
                x[:, measured],
                nodes.mask[:, measured] if nodes.mask is not None else None,
                self.eps,
            )
            for measured, scaled in nodes.segments
        ]
        return torch.cat(out, 1).flatten(0, 1) if len(out) > 1 else out[0].flatten(0, 1)

    def _affine(self, x: Tensor) -> Tensor:
        # Scale and shift stay outside F.batch_norm: under vmap its second-order gradient is
        # silently wrong.
        shape = (-1,) + (1,) * (x.ndim - 2)
        if self.weight is not None:
            x = x * self.weight.view(shape)
        return x if self.bias is None else x + self.bias.view(shape)

    def _scale(self, x: Tensor, mean: Tensor | None, var: Tensor | None) -> Tensor:
        assert mean is not None and var is not None
        shape = (-1,) + (1,) * (x.ndim - 2)
        return (x - mean.reshape(shape)) * (var.reshape(shape) + self.eps).rsqrt()

    @torch.no_grad()
    def _update(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if (
            self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
        ):
            return
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        # Without a momentum the averages are of all batches so far.
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        unbiased = var.flatten() * count / (count - 1).clamp_min(1)
        for average, new in ((self.running_mean, mean.flatten()), (self.running_var, unbiased)):
            average.lerp_(new.to(average.dtype), share)


class BatchNormAct(BatchNorm):
    """timm's BatchNormAct2d: BatchNorm, dropout, activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (M, C, h, w) -> maps of that shape; mask (M,): the real rows."""
        y: Tensor = self.act(self.drop(super().forward(x, mask)))
        return y


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a BatchNorm of ours is inside."""
    return any(isinstance(m, BatchNorm) for m in module.modules())


def follow_policy(module: nn.Module) -> None:
    """Make every BatchNorm inside one of ours, in place.

    A layer stays the same object with its parameters, averages, options and hooks: an optimizer or
    another module that refers to it still does. Lazy layers and subclasses are converted too, where
    a `forward` of their own calls that of the layer above it.

    Raises:
        InputError: for a layer that keeps statistics of batches in another way.
    """
    timm = sys.modules.get("timm.layers.norm_act")
    for name, m in module.named_modules():
        if isinstance(m, (BatchNorm, _InstanceNorm)):
            continue
        if timm is not None and type(m) is timm.BatchNormAct2d:
            m.__class__ = BatchNormAct
        elif isinstance(m, _BatchNorm) and "forward" not in vars(m) and _calls_layer_above(type(m)):
            m.__class__ = _with_policy(type(m))
        elif hasattr(m, "running_var") and not _frozen(m):
            raise InputError(
                f"{name or 'the module'!r} is a {type(m).__name__}, which knows no BatchNorm "
                f"policy; put an ordinary "
                "BatchNorm in its place"
            )


def _calls_layer_above(kind: type[nn.Module]) -> bool:
    """Whether each `forward` between the class and PyTorch's own calls `super().forward`."""
    own = kind.__mro__[: kind.__mro__.index(_BatchNorm)]
    forwards = [vars(k)["forward"] for k in own if "forward" in vars(k)]
    return all(isinstance(f, FunctionType) and "super" in f.__code__.co_names for f in forwards)


def _with_policy(kind: type[nn.Module]) -> type[BatchNorm]:
    """BatchNorm; for a class with more to it, one that is both and goes by the same name."""
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return BatchNorm
    facts: dict[str, Any] = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    if issubclass(kind, _LazyNormBase):
        facts["cls_to_become"] = BatchNorm
    return type(kind.__name__, (kind, BatchNorm), facts)


def _frozen(m: nn.Module) -> bool:
    """Whether its scale is a buffer, as in torchvision's FrozenBatchNorm2d.

    It does the same to every image.
    """
    return any(name == "weight" for name, _ in m.named_buffers(recurse=False))


def lacks_averages(module: nn.Module) -> bool:
    """Whether a normalisation layer keeps averages and has measured none: they are zeros and ones.

    So it is where weights were trained under another policy than `running`, or not at all. Averages
    that came with weights count whether or not their number was stored. A module on the meta device
    has none to look at.
    """
    return any(_unmeasured(m) for m in module.modules() if isinstance(m, _NormBase))


def trained_without_averages(module: nn.Module) -> bool:
    """Whether such a layer has learned a scale or a shift: its weights are of another policy.

    What a layer starts with is the same for each of its channels.
    """
    layers = [
        m
        for m in module.modules()
        if isinstance(m, _NormBase) and m.weight is not None and _unmeasured(m)
    ]
    return any(bool((p != p[0]).any()) for m in layers for p in (m.weight, m.bias))


def _unmeasured(norm: _NormBase) -> bool:
    mean, var, seen = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or var is None or mean.is_meta or (seen is not None and bool(seen)):
        return False
    return not bool(mean.any()) and bool((var == 1).all())


def _moments(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over nodes and places.

    x (B, m, C, *S), mask (B, m) -> (B, 1, C, 1, …) each.
    """
    dims = (1, *range(3, x.ndim))
    if mask is None:
        mean = x.mean(dims, keepdim=True)
        return mean, (x - mean).square().mean(dims, keepdim=True)
    weight = mask.view(*mask.shape, *(1,) * (x.ndim - 2)).to(x.dtype)
    places = x[0, 0, 0].numel()
    count = (weight.sum(1, keepdim=True) * places).clamp_min(1)
    mean = (x * weight).sum(dims, keepdim=True) / count
    return mean, ((x - mean).square() * weight).sum(dims, keepdim=True) / count


def _normalise(x: Tensor, measured: Tensor, mask: Tensor | None, eps: float) -> Tensor:
    mean, var = _moments(measured.float() if measured.dtype in HALF else measured, mask)
    return ((x - mean) * (var + eps).rsqrt()).to(x.dtype)
