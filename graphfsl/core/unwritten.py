"""A network that adapts writes nothing of its own: it would carry from one task to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphfsl.core.inner_gradient import transforming
from graphfsl.io.errors import InputError

# how PyTorch refuses to write, and what
REFUSED = {
    "mutate a captured Tensor": "a buffer",
    "which will be updated in place": "a buffer",
    "a leaf Variable that requires grad is being used in an in-place": "a parameter",
}
WRITES = (
    "the net writes {} while it adapts, which would carry from one task to the next; leave it out "
    "of `forward`, or put the module in evaluation mode"
)


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer as it was.

    Args:
        tensor: the same object.
        version: how often PyTorch counted that it was written.
        values: a copy of its numbers, or None where those are not looked at.
    """

    tensor: Tensor
    version: int
    values: Tensor | None

    def is_written(self, now: Tensor | None) -> bool:
        """Whether what stands in its place now is something else."""
        if now is self.tensor and now._version == self.version:
            return self.values is not None and not _same(now, self.values)
        # one that was put there anew may be equal, as what a module computes once and keeps
        return now is None or now is self.tensor or not _same(now, self.tensor)


@contextmanager
def unwritten(net: nn.Module, by_value: bool = False) -> Iterator[None]:
    """InputError where a parameter or buffer of the net is written within this block.

    Args:
        net: any module.
        by_value: whether to compare numbers too, for what PyTorch does not count, as the averages
            of `F.batch_norm` and writing to `.data`. It takes a copy, and waits for a GPU.
    """
    before = _stored(net, by_value and not transforming())
    try:
        yield
    except (RuntimeError, InputError) as error:
        if written := _written(net, before):
            raise InputError(WRITES.format(written)) from error
        for reason, what in REFUSED.items():
            if reason in str(error):
                raise InputError(WRITES.format(what)) from error
        raise
    if written := _written(net, before):
        raise InputError(WRITES.format(written))


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    """All that the net stores, by name."""
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def _stored(net: nn.Module, by_value: bool) -> dict[str, Stored]:
    return {
        name: Stored(t, t._version, t.detach().clone() if by_value else None)
        for name, t in _tensors(net).items()
        if not (t.is_inference() or t.is_meta)  # whose writings are not counted
    }


def _written(net: nn.Module, before: dict[str, Stored]) -> str:
    """What was written first, in words; nothing where nothing was."""
    now = _tensors(net)
    for name, stored in before.items():
        if stored.is_written(now.get(name)):
            kind = "parameter" if isinstance(stored.tensor, nn.Parameter) else "buffer"
            return f"its {kind} {name!r}"
    return ""


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, or no numbers in the same places."""
    if a.shape != b.shape:
        return False
    with torch.no_grad():
        return bool(((a == b) | ((a != a) & (b != b))).all())
