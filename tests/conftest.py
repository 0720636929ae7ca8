"""What every test file shares: checked shapes in graphfsl.functional, and property tests that
repeat themselves.
"""

from __future__ import annotations

import os

import pytest

# One thread a process, also in the processes that tests start: several share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Before anything imports graphfsl.functional; its users never install the hook and pay nothing.
install_import_hook("graphfsl.functional", "beartype.beartype")

# The same examples in every run, and nothing that depends on how busy the machine is.
# `pytest --hypothesis-profile search` draws others each time.
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("search"), derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    """Each test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)
