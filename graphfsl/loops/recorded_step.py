"""`RecordedStep`: a training step's loss and gradients, recorded once and replayed on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.episode import BaseTarget, Episode
from graphfsl.core.learner import Learner
from graphfsl.io.errors import InputError

WARM = 3  # steps taken as always before one is recorded: libraries start up, memory is found


class RecordedStep:
    """The loss of a learner and its gradients as one CUDA graph.

    A step with an inner loop is many kernels of a few microseconds each, which Python starts more
    slowly than a GPU runs them; recorded, they start together. What Python decides is recorded as
    it was then. So steps are recorded anew where the tensors of an episode have other shapes, or
    `Learner.step_kind` is another; a learner whose every step is of another kind is never recorded.

    Args:
        learner: what is trained, on a GPU.
        step: takes the loss of a batch of episodes, and its gradients into `grad`.

    Raises:
        InputError: where the learner waits for the GPU, so that its step cannot be recorded.
    """

    def __init__(self, learner: Learner, step: Callable[[Episode, BaseTarget], Tensor]) -> None:
        self.learner, self.step = learner, step
        self.learned = [p for p in learner.parameters() if p.requires_grad]
        self.aside = torch.cuda.Stream()  # what is recorded must not have run on the usual one
        self._begin(None)

    def _begin(self, kind: Hashable) -> None:
        """Forget what was recorded: steps of another kind follow."""
        self.kind, self.taken = kind, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, episode: Episode, target: BaseTarget) -> Tensor:
        """The loss of a batch of episodes, detached; its gradients stand in `grad`."""
        kind = self._kind_of(episode, target)
        if kind != self.kind:
            self._begin(kind)
        self.taken += 1
        if self.taken <= WARM:
            return self._warm(episode, target)
        if self.graph is None:
            self._record(episode, target)
        return self._replay(episode, target)

    def _kind_of(self, episode: Episode, target: BaseTarget) -> Hashable:
        tensors = {**episode.tensors, **{f"target {n}": t for n, t in target.tensors.items()}}
        shapes = tuple((name, t.shape, t.dtype) for name, t in tensors.items())
        parts = episode.n_support, episode.n_query, episode.padded
        return shapes, parts, self.learner.step_kind

    def _warm(self, episode: Episode, target: BaseTarget) -> Tensor:
        usual = torch.cuda.current_stream()
        self.aside.wait_stream(usual)
        with torch.cuda.stream(self.aside):
            loss = self.step(episode, target)
        usual.wait_stream(self.aside)
        return loss

    def _record(self, episode: Episode, target: BaseTarget) -> None:
        self.episode = episode.with_tensors({n: t.clone() for n, t in episode.tensors.items()})
        self.target = target.with_tensors({n: t.clone() for n, t in target.tensors.items()})
        self.learner.why_no_number()  # what it remembers of steps before is no part of this one
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.aside):
                self.loss = self.step(self.episode, self.target)
        except RuntimeError as error:
            line = str(error).strip().splitlines()[0]
            raise InputError(
                f"a step of this learner cannot be recorded ({line}); leave trainer.cuda_graph out"
            ) from error
        self.grads: list[Any] = [p.grad for p in self.learned]
        self.graph = graph

    def _replay(self, episode: Episode, target: BaseTarget) -> Tensor:
        assert self.graph is not None
        for recorded, given in ((self.episode, episode), (self.target, target)):
            for name, tensor in recorded.tensors.items():
                tensor.copy_(given.tensors[name])
        self.graph.replay()
        for parameter, grad in zip(self.learned, self.grads, strict=True):
            parameter.grad = grad
        return self.loss.clone()
