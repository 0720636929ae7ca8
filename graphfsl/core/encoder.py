"""An encoder is any module.

What goes in and what comes out is checked here, in one line where it does not fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from graphfsl.core.arguments import described
from graphfsl.core.inner_gradient import transforming
from graphfsl.io.errors import InputError, require

HALF = (torch.float16, torch.bfloat16)
IMAGES_AT_ONCE = 1024  # of 28 x 28 pixels
OTHER_SIZES = re.compile(
    "cannot be multiplied|must match|must be equal|size mismatch|expected .* channels"
)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# as modules say that samples do not fit
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, IndexError)


def checked_encoder(encoder: nn.Module | None) -> nn.Module:
    """Refuse what cannot be an encoder, or give it back; None becomes one that changes nothing.

    Raises:
        InputError: for a function, whose weights and BatchNorm layers could not be found.
    """
    if encoder is None:
        return nn.Identity()
    if not isinstance(encoder, nn.Module):
        raise InputError(
            f"the encoder must be a torch.nn.Module, not {described(encoder)}; {_instead(encoder)}"
        )
    return encoder


def _instead(encoder: Any) -> str:
    """What would do in place of an encoder that is no module."""
    if isinstance(encoder, str):
        return (
            f"gf.build({{'encoder': {encoder!r}, 'head': 'protonet'}}, shape, way) builds "
            f"parts by their names"
        )
    if isinstance(encoder, type):
        return f"make one, such as {encoder.__name__}(…)"
    return "a module whose forward calls it will do, where it holds the layers that are called"


def call_encoder(encoder: nn.Module, x: Tensor, maps: bool | None = False) -> Tensor:
    """Images (M, *S) -> maps (M, C, h, w) or vectors (M, d).

    Mixed precision ends here: a distance loses most of its digits in half precision.

    Args:
        encoder: any module.
        x: (M, *S)
        maps: whether only maps will do.

    Raises:
        InputError: where the encoder fails on such images, or returns anything but one tensor with
            a row for each.
    """
    try:
        z = encoder(x)
    except FAILURES as error:
        if type(error) not in FAILURES:  # memory that is full, a device that is lost, an InputError
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        # recurrent layers, for example, have no rule for it
        way_out = "; where tasks adapt all at once, task_chunk=1 takes them one by one"
        raise InputError(
            f"the encoder fails on samples of shape {tuple(x.shape[1:])}: {reason}"
            f"{way_out if transforming() else ''}"
        ) from error
    if not isinstance(z, Tensor):
        raise InputError(
            f"the encoder returned {described(z)}, not one tensor of feature maps (M, C, h, w) "
            f"or vectors (M, d); "
            "give a module that returns the one that is meant"
        )
    require(
        z.ndim >= 2 and len(z) == len(x),
        f"the encoder returned a tensor of shape {tuple(z.shape)} for {len(x)} samples, not "
        f"feature maps "
        f"({len(x)}, C, h, w) or vectors ({len(x)}, d)",
    )
    require(
        not z.is_complex(),
        "the encoder returned complex numbers; give a module that returns real ones",
    )
    if isinstance(encoder, nn.Identity) and not z.is_floating_point():
        raise InputError(
            f"features are floats, but these are {str(z.dtype).removeprefix('torch.')}; "
            f"gf.Transform() makes them of "
            "images in bytes, x.float() of other numbers"
        )
    require(
        not maps or z.ndim == 4,
        f"a part reads feature maps (M, C, h, w), but the encoder returned a tensor of shape "
        f"{tuple(z.shape)}; "
        "choose an encoder with maps, or another part",
    )
    # whole numbers would cut label weights
    return z if z.is_floating_point() and z.dtype not in HALF else z.float()


def block_size(encoder: nn.Module, shape: Sequence[int], device: torch.device | str) -> int:
    """Images of this shape that an encoder takes at once, in its own size where it resizes."""
    size = getattr(encoder, "size", None)  # a number where it resizes; a user's may be anything
    resized = size**2 if isinstance(size, int) else 0
    pixels = max(math.prod(shape[1:]), resized)
    return max(1, images_at_once(pixels, device))


def images_at_once(pixels: int, device: torch.device | str) -> int:
    """As many images as fit 1024 of 28 x 28 pixels on a CPU, eight times as many on a GPU.

    It may be 0 for images that are larger than all that.
    """
    times = 1 if torch.device(device).type == "cpu" else 8
    return times * IMAGES_AT_ONCE * 28 * 28 // pixels


@contextmanager
def fitting(x: Tensor) -> Iterator[None]:
    """Within this block, a layer that was made for other features than x (B, n, …) is told of.

    Raises:
        InputError: in place of torch's error.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error) is not RuntimeError or not OTHER_SIZES.search(str(error)):
            raise
        shape, reason = tuple(x.shape[2:]), str(error).splitlines()[0]
        raise InputError(
            f"the learner fails on features of shape {shape}, made for others: {reason}"
        ) from error


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Within this block, autocast is off.

    What follows the encoder is computed in the precision that its inputs have.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def keep_precision(
    function: Callable[Arguments, Result], device: torch.device
) -> Callable[Arguments, Result]:
    """The function with this moment's precision, wherever it is called.

    It keeps this moment's autocast, also where it is called in full precision.
    """
    if not torch.amp.is_autocast_available(device.type) or not torch.is_autocast_enabled(
        device.type
    ):
        return function
    half = torch.get_autocast_dtype(device.type)

    def under_autocast(*args: Arguments.args, **options: Arguments.kwargs) -> Result:
        with torch.autocast(device.type, half):
            return function(*args, **options)

    return under_autocast


def own_normalisation(learner: nn.Module) -> dict[str, list[float]] | None:
    """The mean and std that a pretrained encoder was trained with, where it says so."""
    net = getattr(learner, "net", learner)  # of an inner loop
    mean, std = (getattr(getattr(net, "encoder", None), k, None) for k in ("mean", "std"))
    return {"mean": list(mean), "std": list(std)} if mean is not None and std is not None else None
