"""On a GPU: the numbers of the CPU, and a forward pass that never waits for the device. Skipped
where there is none.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from graphfsl.core import registry
from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.data import Episodes, Setting, Split
from graphfsl.loops.recorded_step import WARM, RecordedStep
from graphfsl.loops.trainer import Trainer
from graphfsl.methods.heads.linear import Linear
from graphfsl.nn.conv4 import Conv4Stride2
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


@pytest.mark.parametrize("name", ["maml", "maml_plus_plus", "reptile", "lstm_meta_learner"])
def test_a_recorded_step_is_the_step(name: str) -> None:
    """The loss and the gradients of other episodes than the one that was recorded."""
    torch.manual_seed(0)
    learner = registry.get("adapt", name)(Pipeline(Conv4Stride2(), head=Linear(64, 5)))
    learner = learner.train().cuda()

    def step(episode: Episode, target: BaseTarget) -> Tensor:
        loss: Tensor = learner.loss(episode, target)
        loss.backward()
        return loss.detach()

    recorded, images = RecordedStep(learner, step), torch.rand(40, 1, 28, 28)
    split = Split(images, torch.arange(10).repeat_interleave(4), tuple("abcdefghij"), "noise")
    drawn = Episodes(split, Setting(way=5, shot=2, query=2), device="cuda")
    for number in range(WARM + 3):
        episode, target = drawn.batch([2 * number, 2 * number + 1])
        found = []
        for take in (step, recorded):
            learner.zero_grad()
            found.append([take(episode, target), *(p.grad for p in learner.parameters())])
        torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


def test_steps_of_another_kind_are_recorded_anew() -> None:
    """MAML++ passes from an annealed loss to first order, and then to second order."""
    options = {"multi_step": 0.2, "first_order_share": 0.6}
    learner = registry.get("adapt", "maml_plus_plus")(
        Pipeline(Conv4Stride2(), head=Linear(64, 5)), **options
    )
    images = torch.randint(0, 256, (200, 1, 28, 28), dtype=torch.uint8)
    split = Split(images, torch.arange(10).repeat(20), tuple("abcdefghij"), "noise/train")
    drawn = Episodes(split, Setting(way=5, shot=2, query=3))
    start, found = copy.deepcopy(learner.state_dict()), []
    for cuda_graph in (False, True):
        learner.load_state_dict(start)
        # the weights hardly move, so that small errors stay small
        trainer = Trainer(steps=30, lr=1e-7, device="cuda", cuda_graph=cuda_graph, log_every=1)
        found.append(torch.tensor([line["loss"] for line in trainer.fit(learner, drawn)]))
    torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)
