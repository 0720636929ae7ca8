"""On a GPU: the numbers of the CPU, and a forward pass that never waits for the device. Skipped
where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.testing import around
from tests.support.methods import METHODS, episodes_of

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="this machine has no CUDA device"
)
every_method = pytest.mark.parametrize(
    ("slot", "name"), METHODS, ids=[f"{s}-{n}" for s, n in METHODS]
)
WAITS = {
    ("refine", "ici"),  # an eigenvalue decomposition tells the host whether it converged
}


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def scores(model: Learner, episode: Episode, device: str) -> Tensor:
    with torch.no_grad():
        out = model.to(device).score(episode.to(device))
    assert out.device.type == device
    return (out[-1] if out.ndim == 4 else out).cpu()


@every_method
def test_scores_are_those_of_the_cpu(slot: str, name: str) -> None:
    model = around(slot, name).eval()
    episode, _ = episodes_of(slot, name, batch=3, query=3)
    on_gpu, on_cpu = scores(model, episode, "cuda"), scores(model, episode, "cpu")
    torch.testing.assert_close(on_gpu, on_cpu, atol=2e-3, rtol=2e-3)


@every_method
def test_the_forward_pass_does_not_wait(slot: str, name: str) -> None:
    if (slot, name) == ("refine", "ici"):
        pytest.skip("waits for what a library asks")
    model = around(slot, name).eval().cuda()
    episode, _ = episodes_of(slot, name, batch=3, query=3)
    episode = episode.to("cuda")
    with torch.no_grad():
        model.score(episode)  # libraries start up
        with waiting_is_an_error():
            model.score(episode)


@every_method
def test_a_training_step_does_not_wait(slot: str, name: str) -> None:
    if (slot, name) in WAITS:
        pytest.skip("waits for what a library asks")
    model = around(slot, name).train().cuda()
    episode, target = episodes_of(slot, name, batch=3, query=3)
    episode, target = episode.to("cuda"), target.to("cuda")
    model.loss(episode, target).backward()
    with waiting_is_an_error():
        loss = model.loss(episode, target)
        loss.backward()
    assert loss.isfinite()


@every_method
def test_mixed_precision_gives_a_finite_loss(slot: str, name: str) -> None:
    model = around(slot, name).train().cuda()
    episode, target = episodes_of(slot, name)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model.loss(episode.to("cuda"), target.to("cuda"))
    assert loss.isfinite()
    loss.backward()
