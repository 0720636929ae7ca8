"""`TrainingLoop`: the steps of a training, one named thing after the other."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from graphfsl import data
from graphfsl.core.asking import shown
from graphfsl.core.episode import Episode
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.saving import Training
from graphfsl.data.batches import Batches
from graphfsl.data.episodes import Episodes
from graphfsl.data.streams import keys_of
from graphfsl.io import distributed
from graphfsl.io.errors import InputError, require
from graphfsl.loops.attack import PGD
from graphfsl.loops.evaluation import measured
from graphfsl.loops.loggers import make_logger
from graphfsl.loops.progress_bar import Log
from graphfsl.loops.recorded_step import RecordedStep
from graphfsl.loops.row import ACCURACY
from graphfsl.loops.training_state import State, left_out

if TYPE_CHECKING:
    from graphfsl.loops.trainer import Trainer

HUGE = 1e8  # of a weight; those of learners that learn are below 1e3


class TrainingLoop:
    """One training of a learner with the options of a `Trainer`; `run` goes through its steps."""

    def __init__(
        self,
        options: Trainer,
        learner: Learner,
        train: Episodes | Batches,
        val: Episodes | None,
        folder: Path | None,
        seed: int,
        log: Log,
    ) -> None:
        require(
            any(p.requires_grad for p in learner.parameters()),
            "this learner has no parameters to train; evaluate it as it is",
        )
        self.options, self.learner, self.seed, self.log = options, learner, seed, log
        self.train, self.val, self.folder = train, val, folder
        self.fabric = options.fabric()
        self.fabric.launch()
        learner.to(self.fabric.device)
        train.device = self.fabric.device
        if val is not None:
            val.device = self.fabric.device
        optimizer = options.make_optimizer(learner)
        self.state = State(learner, optimizer, folder, options.keep_best)
        self.state.resume()
        self.logger = self._make_logger()
        if options.compile:
            compile_encoders(learner)
        self.model: Any
        self.model, self.optimizer = self.fabric.setup(learner, optimizer)
        self.model.mark_forward_method("loss")
        learner.training_data = training_data(train, options.steps)
        self.recorded = self._recorded()
        self.parts = self._parts()
        self.clock, self.since = time.perf_counter(), self.state.step  # of the last line of metrics

    def run(self) -> list[dict[str, Any]]:
        """Take all steps that are left; the learner ends with the best weights.

        Returns:
            The lines of metrics.
        """
        state, options = self.state, self.options
        while state.step < options.steps and not state.stopped:
            self._seed_step()
            self._take_step()
            state.step += 1
            if self._tells():
                self._tell(self._line())
            if self._saves():
                state.save()
        self.fabric.barrier()  # the first process writes the best weights before all read them
        state.restore_best()
        self._warn_of_left_out()
        vars(self.learner).pop("progress", None)  # 1 again, as outside of any training
        if self.logger is not None:
            self.logger.finalize("success")
        return state.metrics

    def _warn_of_left_out(self) -> None:
        """Say how many steps counted for nothing, where there were any; one process does."""
        count = left_out(self.state.metrics)
        if count and not distributed.rank():
            steps = self.state.step
            warnings.warn(
                f"{count:,} of {steps:,} steps counted for nothing, for want of a finite loss or "
                "gradient",
                stacklevel=4,
            )

    def _recorded(self) -> RecordedStep | None:
        """The step that is recorded and replayed; None where each is taken anew."""
        if not self.options.cuda_graph or self.fabric.device.type != "cuda":
            return None
        return RecordedStep(self.learner, self._loss_and_gradients)

    def _make_logger(self) -> Any:
        """What metrics go to beside metrics.jsonl; None in all processes but the first."""
        if self.options.logger is None or self.folder is None or distributed.rank():
            return None
        return make_logger(self.options.logger, self.folder, self.state.step)

    def _parts(self) -> Iterator[Any]:
        """This process's share of every step that is left, in `accumulate` parts a step."""
        rank, world, batch = distributed.rank(), distributed.world(), self.options.batch
        numbers = range(self.state.step * batch + rank, self.options.steps * batch, world)
        return self.train.batches(numbers, batch // (self.options.accumulate * world))

    def _seed_step(self) -> None:
        """Seed a step by (seed, step), so that a resumed run repeats it."""
        rank = distributed.rank()
        stream = f"step/{rank}" if rank else "step"
        key = keys_of(stream, self.seed, np.array([self.state.step]))[0]
        torch.manual_seed(int(key >> np.uint64(1)))

    def _take_step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(self.state.step)
        self.learner.train()
        self.learner.progress = self.state.step / self.options.steps
        self.optimizer.zero_grad()
        loss = self._backward()
        usable = self._clip().isfinite() & loss.isfinite()
        for parameter in self._with_gradient():
            parameter.grad.masked_fill_(~usable, 0.0)  # asks no device for the answer
        self.state.losses.append(loss)
        self.state.usable.append(usable)
        self.optimizer.step()

    def _with_gradient(self) -> list[Any]:
        """The parameters that have a gradient."""
        return [p for p in self.learner.parameters() if p.grad is not None]

    def _clip(self) -> Tensor:
        """Clip the gradient, where that is asked for; the norm that it had, a scalar."""
        if self.options.clip is None:
            return nn.utils.get_total_norm([p.grad for p in self._with_gradient()])
        return self.fabric.clip_gradients(  # type: ignore[return-value]  # None for a value only
            self.model, self.optimizer, max_norm=self.options.clip, error_if_nonfinite=False
        )

    def _backward(self) -> Tensor:
        """Gradients of this process's share of a step, its next parts.

        Returns:
            The loss of all shares, detached.
        """
        losses = []
        for k in range(self.options.accumulate):
            more_follow = k < self.options.accumulate - 1
            with self.fabric.no_backward_sync(self.model, enabled=more_follow):
                episode, target = next(self.parts)
                episode = shown(episode, target, self.model)
                if self.options.attack is not None:
                    episode = self._attacked(self.options.attack, episode, target)
                take = self.recorded or self._loss_and_gradients
                losses.append(take(episode, target))
        total: Tensor = torch.stack(losses).sum()
        return self.fabric.all_reduce(total) if distributed.world() > 1 else total  # type: ignore[return-value]

    def _loss_and_gradients(self, episode: Episode, target: Any) -> Tensor:
        """A part's share of the loss, detached; its gradients are added to `grad`."""
        loss: Tensor = self.model.loss(episode, target) / self.options.accumulate
        self.fabric.backward(loss)
        return loss.detach()

    def _attacked(self, attack: PGD, episode: Episode, target: Any) -> Episode:
        """The episode with images that were changed against the learner as it is now."""
        first = self.state.step * self.options.batch
        numbers = range(first, first + len(episode.x))
        return attack.changed(self.learner, episode, target, self.train.transform, numbers)

    def _is_last(self) -> bool:
        return self.state.step == self.options.steps

    def _validates(self) -> bool:
        """Whether the learner is validated after this step."""
        due = self.state.step % self.options.val_every == 0 or self._is_last()
        return self.val is not None and due

    def _tells(self) -> bool:
        """Whether this step has a line of metrics."""
        due = self.state.step % self.options.log_every == 0 or self._is_last()
        return due or self._validates()

    def _saves(self) -> bool:
        """Whether a checkpoint is written after this step."""
        due = self.state.step % self.options.checkpoint_every == 0
        return self.folder is not None and (due or self._is_last() or self.state.stopped)

    def _line(self) -> dict[str, Any]:
        """The metrics of the steps since the last line; validates where that is due."""
        state, step = self.state, self.state.step
        losses, usable = torch.stack(state.losses), torch.stack(state.usable)
        self._check_alive(losses, usable)
        # a virtual machine's clock may stand still
        took = max(time.perf_counter() - self.clock, 1e-9)
        line: dict[str, Any] = {
            "step": step,
            "loss": float(losses[usable].mean()),
            "lr": self.options.rate(step - 1),
            "episodes_per_s": (step - self.since) * self.options.batch / took,
        }
        if not usable.all():
            line["left_out"] = int((~usable).sum())
        state.losses.clear()
        state.usable.clear()
        if self._validates():
            line |= self._validate()
        now = time.perf_counter()
        state.seconds += max(now - self.clock, 0.0)
        self.clock, self.since = now, step
        line["seconds"] = round(state.seconds, 2)
        return line

    def _check_alive(self, losses: Tensor, usable: Tensor) -> None:
        """InputError where the training cannot go on.

        Args:
            losses: (n,) of the steps since the last line.
            usable: (n,) whether a step had a finite loss and gradient.
        """
        step, outer = self.state.step, "lower trainer.lr or set trainer.clip"
        why = "" if bool(usable.all()) else self.learner.why_no_number()
        if int(usable.sum()) * 2 < len(usable):
            loss = float(losses.mean())
            message = f"the loss is {loss:.4g} at step {step}"
            message += ", and its gradient is not finite" if math.isfinite(loss) else ""
            raise InputError(f"{message}: {why}" if why else f"{message}; {outer}")
        require(
            not _diverged(self.learner),
            f"the weights have diverged at step {step}: no gradient reaches them, and the loss "
            f"stays at {float(losses[usable].mean()):.4g}; {outer}",
        )

    def _validate(self) -> dict[str, Any]:
        """The first metric on `val_episodes` episodes, of which each process measures its share.

        The weights are kept where it is the best so far.
        """
        assert self.val is not None
        distributed.share_buffers(self.learner)
        name, metric = self.val.task.metric
        count, world = self.options.val_episodes, distributed.world()
        numbers = range(distributed.rank(), count, world)
        with self.fabric.autocast():
            # a learner that trains under attack is selected under attack
            attack = self.options.attack
            found = measured(self.learner, self.val, numbers, {name: metric}, image_change=attack)
        share = found[name].to(self.fabric.device)
        # every process gathers as many rows, those beyond the last episode are dropped
        own = share.new_zeros(-(-count // world), *share.shape[1:])
        own[: len(share)] = share
        every = distributed.gather(own).transpose(0, 1).flatten(0, 1)[:count].cpu()
        value, half, _ = metric.with_interval(every, self.val.task.unit)
        require(math.isfinite(value), f"the {name} of the validation is {value}, no number")
        score = value if metric.more_is_better else -value
        self.state.validated(value, score, self.options.patience)
        line: dict[str, Any] = {"val": value, "val_ci95": half}
        if name != ACCURACY:
            facts = {"unit": metric.unit, "more_is_better": metric.more_is_better}
            line |= {"metric": name, **facts}
        return line

    def _tell(self, line: dict[str, Any]) -> None:
        """A line of metrics to all that take one."""
        self.state.record(line)
        if self.logger is not None:
            numbers = {k: v for k, v in line.items() if isinstance(v, (int, float))}
            step = numbers.pop("step")
            self.logger.log_metrics(numbers, step)
        self.log(line)


def _diverged(learner: Learner) -> bool:
    """Whether weights are so huge that every gradient is exactly zero.

    They may make all features equal.
    """
    learned = [
        (p.detach(), p.grad) for p in learner.parameters() if p.grad is not None and p.numel()
    ]
    if not learned:
        return False
    moved = torch.stack([g.count_nonzero() for _, g in learned]).any()
    sound = torch.stack([p.abs().amax() for p, _ in learned]).amax() <= HUGE  # no NaN is
    return bool(~sound & ~moved)


def training_data(train: Episodes | Batches, steps: int) -> Training:
    """What a learner is trained on, as far as it needs to know that to answer on raw samples."""
    shape = train.split.shape
    if isinstance(train, Episodes):
        shape = train.task.sample_shape(train.split)
    split, transform, name = train.split, train.transform, train.split.name.partition("/")[0]
    ink = name in data.names() and data.is_ink(name)
    return Training(shape, transform.mean, transform.std, split.classes, ink, steps)


def compile_encoders(learner: nn.Module) -> None:
    """Let torch.compile take the encoder of every pipeline in the learner.

    Raises:
        InputError: where an encoder is adapted.
    """
    require(
        not getattr(learner, "adapts", False),
        "trainer.compile does not reach through an inner loop; leave it out for "
        "learners with adapt",
    )
    for module in learner.modules():
        if isinstance(module, Pipeline):
            module.encoder.compile()
