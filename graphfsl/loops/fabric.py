"""Lightning Fabric, and nothing else of Lightning.

`lightning.fabric` imports Lightning's own trainer; the same modules under `lightning_fabric`, which
come with it, do not. They would import torchmetrics, only to compare its version, and that takes
longer than all of Fabric.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["DDPStrategy", "Fabric", "Logger"]


@contextmanager
def _left_out(name: str) -> Iterator[None]:
    """Within this block a package that is not imported yet cannot be."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # as Python says that there is none
    try:
        yield
    finally:
        del sys.modules[name]


with _left_out("torchmetrics"):
    from lightning_fabric import Fabric
    from lightning_fabric.loggers import Logger
    from lightning_fabric.strategies import DDPStrategy
