"""A Ray cluster, joined or started on this machine, for as long as a block lasts."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphfsl.io.errors import InputError, require

OLDEST = (2, 40)  # version of Ray


@contextmanager
def ray_cluster(address: str) -> Iterator[Any]:
    """The package `ray`, connected.

    Args:
        address: as `ray.init` takes it; "local" starts a cluster on this machine, which ends with
            the block.

    Raises:
        InputError: where Ray is not installed, too old or of another kind than the cluster's, and
            where no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--ray needs the package ray: pip install graphfsl[ray]") from None
    version = getattr(ray, "__version__", "unknown")
    _check_version(version)
    _reach(address)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        with _unheard(), _same_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"--ray {address}: {why}; a cluster must be up, with the same Ray ({version}) and "
            "token (RAY_AUTH_MODE=token)"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _same_signals() -> Iterator[None]:
    """What ends a process is handled behind the block as before it; Ray would abort."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handler in kept.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextmanager
def _unheard() -> Iterator[None]:
    """Nothing is written to the error output: Ray's core says each second that it waits."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_version(version: str) -> None:
    """InputError for a Ray that is too old, or is no Ray."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    require(
        numbers is not None and tuple(map(int, numbers.groups())) >= OLDEST,
        f"--ray needs ray {OLDEST[0]}.{OLDEST[1]} or newer, not {version}; "
        "pip install -U graphfsl[ray]",
    )


def _reach(address: str) -> None:
    """InputError where nobody listens at host:port: Ray itself would try for many minutes."""
    if where := re.fullmatch(r"(?:ray://)?([^:/]+):(\d{1,5})", address):
        try:
            socket.create_connection((where[1], int(where[2])), 10).close()
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--ray {address}: nobody answers there ({error}); is the cluster up?"
            ) from None
