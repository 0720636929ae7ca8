"""A Ray cluster that cannot be had is one line."""

from __future__ import annotations

import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from graphfsl.cli.main import spelled_out
from graphfsl.io.errors import InputError
from graphfsl.io.ray_cluster import ray_cluster


def says(monkeypatch: pytest.MonkeyPatch, ray: Any, address: str = "local") -> str:
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(InputError) as refused, ray_cluster(address):
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_no_ray_an_old_one_and_another_package_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert says(monkeypatch, None) == "--ray needs the package ray: pip install graphfsl[ray]"
    old = SimpleNamespace(__version__="2.9.3")
    assert says(monkeypatch, old).startswith("--ray needs ray 2.40 or newer, not 2.9.3")
    assert "not unknown" in says(monkeypatch, SimpleNamespace())


def test_a_cluster_that_does_not_answer_or_runs_another_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: object) -> None:
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.41.0")

    ended = []
    ray = SimpleNamespace(__version__="2.60.0", init=init, shutdown=lambda: ended.append(1))
    assert "nobody answers there" in says(monkeypatch, ray, "127.0.0.1:1")
    other = says(monkeypatch, ray, "auto")
    assert other.startswith("--ray auto: Version mismatch: The cluster was started with: Ray: 2.41")
    assert not ended


def test_a_cluster_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    ray = SimpleNamespace(
        __version__="2.40.0",
        init=lambda **options: heard.append(options["address"]),
        shutdown=lambda: heard.append("ended"),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(KeyError), ray_cluster("local") as found:
        assert found is ray and heard == ["local"]
        raise KeyError
    assert heard == ["local", "ended"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("label in --ray", "label in --ray=local"),
        ("label in --ray --support x", "label in --ray=local --support x"),
        ("label in --ray 10.0.0.1:6379", "label in --ray 10.0.0.1:6379"),
        ("label in --ray=auto -o x", "label in --ray=auto -o x"),
    ],
)
def test_ray_without_an_address_is_on_this_machine(given: str, meant: str) -> None:
    assert spelled_out(given.split()) == meant.split()


def test_a_job_that_is_told_to_end_ends_as_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    ray = SimpleNamespace(__version__="2.60.0", init=init, shutdown=lambda: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ray_cluster("local"):
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
