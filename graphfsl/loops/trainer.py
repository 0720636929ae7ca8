"""`Trainer`: meta-training on episodes, with Lightning Fabric; resumes to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor, nn

from graphfsl import data
from graphfsl.core.adapt import Adapt
from graphfsl.core.arguments import A_FOLDER, A_LEARNER, EPISODES, check_kind, whole_number
from graphfsl.core.display import call_of
from graphfsl.core.episode import Episode, Target
from graphfsl.core.learner import Learner
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.saving import Training
from graphfsl.core.schema import check_options, signature
from graphfsl.data.batches import Batches
from graphfsl.data.episodes import Episodes
from graphfsl.data.streams import keys_of
from graphfsl.io import distributed
from graphfsl.io.errors import InputError, unknown
from graphfsl.loops.evaluation import measured
from graphfsl.loops.loggers import LOGGERS, make_logger
from graphfsl.loops.progress_bar import Log, terminal_bar
from graphfsl.loops.row import ACCURACY
from graphfsl.loops.training_state import State

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PRECISIONS = ("32-true", "bf16-mixed")  # fp16 would need its loss scaler in the checkpoint
SCHEDULES = ("constant", "halve", "cosine")


class Trainer:
    """Options of a training run; `fit` runs it.

    steps: optimiser steps, of `batch` episodes each. schedule: "constant", "halve" (every
        `halve_every` steps) or "cosine" (to zero). clip: largest gradient norm. warmup: steps of
        linear warm-up.
    val_every, val_episodes: the weights with the best accuracy on validation classes are kept; with
        `patience`, training stops after that many validations without a better one.
    checkpoint_every: steps that an interruption can cost at most. log_every: steps between two
        lines of metrics.
    device: "auto", "cpu", "cuda", "mps". precision: "32-true" or "bf16-mixed"
        (encoder in bfloat16, the rest in float32), as Fabric names them.
    accumulate: parts that a step's `batch` is taken in, one after the other, to save memory; the
        gradient is the same.
    compile: run the encoder through torch.compile. logger: "tensorboard", "wandb" or "mlflow",
        beside metrics.jsonl.

    Under torchrun the processes share every step: `batch` is that of all of them together, episode
    i belongs to the process i mod their number, and only the first one writes.
    """

    def __init__(
        self,
        steps: int = 1000,
        batch: int = 1,
        lr: float = 1e-3,
        optimizer: str = "adam",
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        schedule: str = "constant",
        halve_every: int = 2000,
        warmup: int = 0,
        clip: float | None = None,
        val_every: int = 200,
        val_episodes: int = 200,
        patience: int | None = None,
        checkpoint_every: int = 200,
        log_every: int = 20,
        device: str = "auto",
        precision: str = "32-true",
        accumulate: int = 1,
        compile: bool = False,
        logger: str | None = None,
    ) -> None:
        check_options(
            signature(Trainer), {k: v for k, v in locals().items() if k != "self"}, "trainer"
        )
        for name in (*_POSITIVE, "accumulate"):
            if not locals()[name] > 0:
                raise InputError(f"trainer.{name} must be above 0, not {locals()[name]!r}")
        for name in ("weight_decay", "momentum", "warmup"):
            if not locals()[name] >= 0:
                raise InputError(f"trainer.{name} must be 0 or more, not {locals()[name]!r}")
        for name in ("clip", "patience"):
            if locals()[name] is not None and not locals()[name] > 0:
                raise InputError(f"trainer.{name} must be above 0, or null, not {locals()[name]!r}")
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        if logger is not None and logger not in LOGGERS:
            raise unknown("logger", logger, LOGGERS)
        if batch % (accumulate * distributed.world()):
            parts = f"{distributed.world()} processes x {accumulate} parts"
            raise InputError(
                f"trainer.batch={batch} is not shared equally by {parts}; make it a "
                f"multiple of both"
            )
        if optimizer not in OPTIMIZERS:
            raise unknown("optimizer", optimizer, OPTIMIZERS)
        if schedule not in SCHEDULES:
            raise unknown("schedule", schedule, SCHEDULES)
        self.steps, self.batch, self.lr = steps, batch, lr
        self.optimizer, self.weight_decay, self.momentum = optimizer, weight_decay, momentum
        self.schedule, self.halve_every, self.warmup, self.clip = (
            schedule,
            halve_every,
            warmup,
            clip,
        )
        self.val_every, self.val_episodes, self.patience = val_every, val_episodes, patience
        self.checkpoint_every, self.log_every = checkpoint_every, log_every
        self.device, self.precision = device, precision
        self.accumulate, self.compile, self.logger = accumulate, compile, logger

    def __repr__(self) -> str:
        return call_of(self, always=("steps", "batch", "lr", "optimizer", "device"))

    def fabric(self) -> Fabric:
        """The device and precision that the options name; InputError where this machine has no such
        device.
        """
        options: dict[str, Any] = {"devices": 1}
        if distributed.world() > 1:
            # A learner may leave parameters out of a step, which DDP has to be told.
            strategy = DDPStrategy(find_unused_parameters=True)
            nodes = distributed.world() // distributed.here()
            options = {"devices": distributed.here(), "num_nodes": nodes, "strategy": strategy}
        try:
            return Fabric(accelerator=self.device, precision=self.precision, **options)  # type: ignore[arg-type]
        except Exception as error:  # Fabric raises several types for one mistake
            line = str(error).strip().splitlines()[0]
            raise InputError(
                f"trainer.device={self.device} trainer.precision={self.precision}: {line}"
            ) from None

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, …"""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "halve":
            return warm * self.lr * 0.5 ** (step // self.halve_every)
        if self.schedule == "cosine":
            return warm * self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return warm * self.lr

    def make_optimizer(self, learner: nn.Module) -> torch.optim.Optimizer:
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            options |= {"momentum": self.momentum, "nesterov": self.momentum > 0}
        learning = [p for p in learner.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer = OPTIMIZERS[self.optimizer](learning, **options)
        return optimizer

    def fit(
        self,
        learner: Learner,
        train: Episodes | Batches,
        val: Episodes | None = None,
        run: str | Path | None = None,
        seed: int = 0,
        log: Log | None = None,
    ) -> list[dict[str, Any]]:
        """Train `learner` in place and return its metrics; at the end it holds the best weights on
        `val`.

        run: a directory for metrics.jsonl, last.safetensors and best.safetensors; training goes on
        from what it holds. log: called with each line of metrics; None shows a progress bar where
        stderr is a terminal.
        """
        check_kind(learner, Learner, "the learner", A_LEARNER)
        check_kind(train, (Episodes, Batches), "what is trained on", EPISODES)
        check_kind(val, (Episodes, type(None)), "what is validated on", EPISODES)
        check_kind(run, (str, Path, type(None)), "run", A_FOLDER)
        folder, seed = None if run is None else Path(run), whole_number(seed, "the seed")
        if log is not None and not callable(log):
            raise InputError(
                f"log must be a function of a line of metrics, such as print, not {log!r:.60}"
            )
        if log is not None:
            return self._fit(learner, train, val, folder, seed, log)
        unit = "episodes" if isinstance(train, Episodes) else "images"
        metric = None if val is None else val.task.metric[1]
        with terminal_bar("training", self.steps, self.batch, unit, metric) as bar:
            return self._fit(learner, train, val, folder, seed, bar)

    def _fit(
        self,
        learner: Learner,
        train: Episodes | Batches,
        val: Episodes | None,
        run: Path | None,
        seed: int,
        log: Log,
    ) -> list[dict[str, Any]]:
        fabric = self.fabric()
        fabric.launch()
        device, rank = fabric.device, distributed.rank()
        learner.to(device)
        if not any(p.requires_grad for p in learner.parameters()):
            raise InputError("this learner has no parameters to train; evaluate it as it is")
        optimizer = self.make_optimizer(learner)
        state = State(learner, optimizer, run)
        state.resume()
        logger = (
            make_logger(self.logger, run, state.step)
            if self.logger and run is not None and not rank
            else None
        )
        if self.compile:
            compile_encoders(learner)
        model, wrapped = fabric.setup(learner, optimizer)
        model.mark_forward_method("loss")
        train.device = device
        if val is not None:
            val.device = device
        learner.training_data = training_data(train, self.steps)
        clock, since = time.perf_counter(), state.step
        # This process's share: `accumulate` parts of every step that is left.
        numbers = range(
            state.step * self.batch + rank, self.steps * self.batch, distributed.world()
        )
        parts = train.batches(numbers, self.batch // (self.accumulate * distributed.world()))
        while state.step < self.steps and not state.stopped:
            step = state.step
            # Every random number of a step follows from (seed, step), so that a resumed run repeats
            # it.
            stream = f"step/{rank}" if rank else "step"
            torch.manual_seed(int(keys_of(stream, seed, np.array([step]))[0] >> np.uint64(1)))
            for group in wrapped.param_groups:
                group["lr"] = self.rate(step)
            learner.train()
            wrapped.zero_grad()
            state.losses.append(self._backward(fabric, model, parts))
            if self.clip is not None:
                fabric.clip_gradients(model, wrapped, max_norm=self.clip, error_if_nonfinite=False)
            wrapped.step()
            state.step = step = step + 1
            validate = val is not None and (step % self.val_every == 0 or step == self.steps)
            if step % self.log_every == 0 or validate or step == self.steps:
                line: dict[str, Any] = {
                    "step": step,
                    "loss": float(torch.stack(state.losses).mean()),
                    "lr": self.rate(step - 1),
                }
                # a virtual machine's clock may stand still
                took = max(time.perf_counter() - clock, 1e-9)
                line["episodes_per_s"] = (step - since) * self.batch / took
                if not math.isfinite(line["loss"]):
                    raise InputError(
                        f"the loss is {line['loss']} at step {step}; lower "
                        f"trainer.lr or set trainer.clip"
                    )
                if _diverged(learner):
                    raise InputError(
                        f"the weights have diverged at step {step}: no gradient reaches them, "
                        f"and the loss stays at "
                        f"{line['loss']:.4g}; lower trainer.lr or set trainer.clip"
                    )
                state.losses.clear()
                if validate:
                    assert val is not None
                    with fabric.autocast():
                        line |= self._validate(fabric, learner, val)
                    better = val.task.metric[1].more_is_better
                    score = line["val"] if better else -line["val"]
                    state.validated(line["val"], score, self.patience)
                now = time.perf_counter()
                state.seconds, clock, since = state.seconds + max(now - clock, 0.0), now, step
                line["seconds"] = round(state.seconds, 2)
                state.record(line)
                if logger is not None:
                    logged = {k: v for k, v in line.items() if isinstance(v, (int, float))}
                    logged.pop("step")
                    logger.log_metrics(logged, step)
                log(line)
            if run is not None and (
                step % self.checkpoint_every == 0 or step == self.steps or state.stopped
            ):
                state.save()
        fabric.barrier()  # the best weights are read by all as soon as the first has written them
        state.restore_best()
        if logger is not None:
            logger.finalize("success")
        return state.metrics

    def _backward(
        self, fabric: Fabric, model: Any, parts: Iterator[tuple[Episode, Target]]
    ) -> Tensor:
        """Gradients of this process's share of a step, its next parts; the loss of all shares,
        detached.
        """
        losses = []
        for k in range(self.accumulate):
            with fabric.no_backward_sync(model, enabled=k < self.accumulate - 1):
                episode, target = next(parts)
                loss = (
                    model.loss(target.told(episode) if model.asks else episode, target)
                    / self.accumulate
                )
                fabric.backward(loss)
            losses.append(loss.detach())
        total: Tensor = torch.stack(losses).sum()
        return fabric.all_reduce(total) if distributed.world() > 1 else total  # type: ignore[return-value]

    def _validate(self, fabric: Fabric, learner: Learner, val: Episodes) -> dict[str, Any]:
        """The first metric on `val_episodes` episodes, of which each process measures its share."""
        distributed.share_buffers(learner)
        name, metric = val.task.metric
        world = distributed.world()
        numbers = range(distributed.rank(), self.val_episodes, world)
        share = measured(learner, val, numbers, {name: metric})[name].to(fabric.device)
        # every process gathers as many rows, those beyond the last episode are dropped
        own = share.new_zeros(-(-self.val_episodes // world), *share.shape[1:])
        own[: len(share)] = share
        every = distributed.gather(own).transpose(0, 1).flatten(0, 1)[: self.val_episodes].cpu()
        value, half, _ = metric.with_interval(every, val.task.unit)
        named: dict[str, Any] = {}
        if name != ACCURACY:
            facts = {"unit": metric.unit, "more_is_better": metric.more_is_better}
            named = {"metric": name, **facts}
        return {"val": value, "val_ci95": half, **named}


_POSITIVE = (
    "steps",
    "batch",
    "lr",
    "halve_every",
    "val_every",
    "val_episodes",
    "checkpoint_every",
    "log_every",
)
HUGE = 1e8  # of a weight; those of learners that learn are below 1e3


def _diverged(learner: Learner) -> bool:
    """Whether every gradient is exactly zero because of huge weights, which may make all features
    equal.
    """
    learned = [
        (p.detach(), p.grad) for p in learner.parameters() if p.grad is not None and p.numel()
    ]
    if not learned:
        return False
    moved = torch.stack([g.count_nonzero() for _, g in learned]).any()
    huge = torch.stack([p.abs().amax() for p, _ in learned]).amax() > HUGE
    return bool(huge & ~moved)


def training_data(train: Episodes | Batches, steps: int) -> Training:
    """What the learner is trained on, which it needs to answer on raw samples."""
    split, transform, name = train.split, train.transform, train.split.name.partition("/")[0]
    ink = name in data.names() and data.is_ink(name)
    return Training(split.shape, transform.mean, transform.std, split.classes, ink, steps)


def compile_encoders(learner: Learner) -> None:
    """torch.compile for the encoder of every pipeline in the learner; InputError where it is
    adapted.
    """
    if isinstance(learner, Adapt):
        raise InputError(
            "trainer.compile does not reach through an inner loop; leave it out for "
            "learners with adapt"
        )
    for module in learner.modules():
        if isinstance(module, Pipeline):
            module.encoder.compile()
