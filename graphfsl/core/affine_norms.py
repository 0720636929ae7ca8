"""Normalisation with a scale, so that its second derivatives under `torch.func.vmap` are true.

vmap's own rules for the gradient of a layer normalisation, an instance normalisation and a batch
normalisation with a scale take mean and variance for constants. A first derivative does not notice;
a second one is silently wrong, up to torch 2.14 at least. Without a scale they are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# the functions, and whether their scale is one number for each channel
NORMS: dict[Callable[..., Any], bool] = {
    F.batch_norm: True,
    F.instance_norm: True,
    F.layer_norm: False,
}


class AffineOutside(TorchFunctionMode):
    """Within this block, normalisations are scaled and shifted by operations of their own."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func not in NORMS:
            return func(*args, **options)
        scale, shift = options.pop("weight", None), options.pop("bias", None)
        plain: Tensor = func(*args, **options)
        out = plain
        if scale is not None:
            out = out * _fitting(scale, plain, NORMS[func])
        if shift is not None:
            out = out + _fitting(shift, plain, NORMS[func])
        return out.to(plain.dtype)  # which autocast may have chosen


def _fitting(parameter: Tensor, x: Tensor, of_channels: bool) -> Tensor:
    """A scale or shift, so that it meets the channels of x (M, C, *S), or else its last axes."""
    return parameter.view(-1, *(1,) * (x.ndim - 2)) if of_channels else parameter
