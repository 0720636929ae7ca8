"""This process among those that torchrun started; alone, it is the first of one."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn


def rank() -> int:
    """The number of this process, from 0 on; the first one writes files and talks."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes work on this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def gather(x: Tensor) -> Tensor:
    """The tensors x (n,) of all processes, of equal length: (world, n)."""
    if not torch.distributed.is_initialized():
        return x[None]
    every = [torch.empty_like(x) for _ in range(world())]
    torch.distributed.all_gather(every, x)
    return torch.stack(every)


def share_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers, such as BatchNorm's stored averages."""
    if torch.distributed.is_initialized():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, 0)


def finish() -> None:
    """End the group of processes: from here on each goes its own way."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
