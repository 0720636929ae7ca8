"""The memory of the process: what is freed stays with it, and room is asked for beforehand.

So the next step does not fault its pages in again, one by one.
"""

from __future__ import annotations

import ctypes
import functools
import platform

import torch

from graphfsl.io.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@functools.cache
def reuse_freed_memory() -> bool:
    """Let glibc keep large freed blocks for reuse; True where it obeyed.

    By default it maps every activation of a training step afresh and gives it back: a Conv4 step on
    360 images took 0.60 s of CPU time with that and 0.30 s without, on a virtual machine.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def check_room(numbers: range, device: torch.device) -> None:
    """Refuse so many episodes that their values would not fit into memory.

    That is told now, not after days.

    Raises:
        InputError: names the room that there is.
    """
    try:
        torch.empty(len(numbers), device=device)
    except (RuntimeError, OverflowError):
        count = (numbers.stop - numbers.start) // numbers.step
        need = f"{count:,} episodes take {4 * count:,} bytes of memory"
        raise InputError(f"out of memory: accuracies of {need}; lower their number") from None
