"""`Trainer`: meta-training on episodes, with Lightning Fabric; resumes to the bit."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from graphfsl.checkpoint import load_checkpoint, load_weights, save_checkpoint, write_atomically
from graphfsl.data.episodes import Episodes
from graphfsl.data.sampler import keys_of
from graphfsl.errors import InputError, unknown
from graphfsl.evaluation import accuracies
from graphfsl.functional.statistics import mean_and_ci95
from graphfsl.learner import Learner

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PRECISIONS = ("32-true", "bf16-mixed")  # fp16 would need its loss scaler in the checkpoint
SCHEDULES = ("constant", "halve", "cosine")

Log = Callable[[dict[str, Any]], None]


class Trainer:
    """Options of a training run; `fit` runs it.

    steps: optimiser steps, of `batch` episodes each. schedule: "constant", "halve" (every `halve_every` steps) or
        "cosine" (to zero). clip: largest gradient norm. warmup: steps of linear warm-up.
    val_every, val_episodes: the weights with the best accuracy on validation classes are kept; with `patience`,
        training stops after that many validations without a better one.
    checkpoint_every: steps that an interruption can cost at most. log_every: steps between two lines of metrics.
    device: "auto", "cpu", "cuda", "mps". precision: "32-true" or "bf16-mixed"
        (encoder in bfloat16, the rest in float32), as Fabric names them.
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
    ) -> None:
        positive = ("steps", "batch", "lr", "halve_every", "val_every", "val_episodes", "checkpoint_every", "log_every")
        for name in positive:
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
        if optimizer not in OPTIMIZERS:
            raise unknown("optimizer", optimizer, OPTIMIZERS)
        if schedule not in SCHEDULES:
            raise unknown("schedule", schedule, SCHEDULES)
        self.steps, self.batch, self.lr = steps, batch, lr
        self.optimizer, self.weight_decay, self.momentum = optimizer, weight_decay, momentum
        self.schedule, self.halve_every, self.warmup, self.clip = schedule, halve_every, warmup, clip
        self.val_every, self.val_episodes, self.patience = val_every, val_episodes, patience
        self.checkpoint_every, self.log_every = checkpoint_every, log_every
        self.device, self.precision = device, precision

    def fabric(self) -> Fabric:
        """The device and precision that the options name; InputError where this machine has no such device."""
        try:
            return Fabric(accelerator=self.device, devices=1, precision=self.precision)  # type: ignore[arg-type]
        except Exception as error:  # Fabric raises several types for one mistake
            line = str(error).strip().splitlines()[0]
            raise InputError(f"trainer.device={self.device} trainer.precision={self.precision}: {line}") from None

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
        return OPTIMIZERS[self.optimizer]([p for p in learner.parameters() if p.requires_grad], **options)

    def fit(
        self,
        learner: Learner,
        train: Episodes,
        val: Episodes | None = None,
        run: Path | None = None,
        seed: int = 0,
        log: Log | None = None,
    ) -> list[dict[str, Any]]:
        """Train `learner` in place and return its metrics; at the end it holds the best weights on `val`.

        run: a directory for metrics.jsonl, last.safetensors and best.safetensors; training goes on from what it
        holds. log: called with each line of metrics.
        """
        fabric = self.fabric()
        device = fabric.device
        learner.to(device)
        if not any(p.requires_grad for p in learner.parameters()):
            raise InputError("this learner has no parameters to train; evaluate it as it is")
        optimizer = self.make_optimizer(learner)
        state = _State(learner, optimizer, run)
        state.resume()
        model, wrapped = fabric.setup(learner, optimizer)
        model.mark_forward_method("loss")
        train.device = device
        if val is not None:
            val.device = device
        clock, since = time.perf_counter(), state.step
        while state.step < self.steps and not state.stopped:
            step = state.step
            # Every random number of a step follows from (seed, step), so that a resumed run repeats it.
            torch.manual_seed(int(keys_of("step", seed, np.array([step]))[0] >> np.uint64(1)))
            for group in wrapped.param_groups:
                group["lr"] = self.rate(step)
            learner.train()
            wrapped.zero_grad()
            loss = model.loss(*train.batch(range(step * self.batch, (step + 1) * self.batch)))
            fabric.backward(loss)
            if self.clip is not None:
                fabric.clip_gradients(model, wrapped, max_norm=self.clip, error_if_nonfinite=False)
            wrapped.step()
            state.losses.append(loss.detach())
            state.step = step = step + 1
            validate = val is not None and (step % self.val_every == 0 or step == self.steps)
            if step % self.log_every == 0 or validate or step == self.steps:
                line: dict[str, Any] = {
                    "step": step,
                    "loss": float(torch.stack(state.losses).mean()),
                    "lr": self.rate(step - 1),
                }
                line["episodes_per_s"] = (step - since) * self.batch / (time.perf_counter() - clock)
                if not math.isfinite(line["loss"]):
                    raise InputError(f"the loss is {line['loss']} at step {step}; lower trainer.lr or set trainer.clip")
                state.losses.clear()
                if validate:
                    assert val is not None
                    with fabric.autocast():
                        line["val"], line["val_ci95"] = mean_and_ci95(accuracies(learner, val, self.val_episodes))
                    state.validated(line["val"], self.patience)
                state.seconds, clock, since = state.seconds + time.perf_counter() - clock, time.perf_counter(), step
                line["seconds"] = round(state.seconds, 2)
                state.record(line)
                if log:
                    log(line)
            if run is not None and (step % self.checkpoint_every == 0 or step == self.steps or state.stopped):
                state.save()
        state.restore_best()
        return state.metrics


class _State:
    """What a training run must remember to go on to the very weights that an uninterrupted one gives."""

    def __init__(self, learner: Learner, optimizer: torch.optim.Optimizer, run: Path | None) -> None:
        self.learner, self.optimizer, self.run = learner, optimizer, run
        self.step, self.seconds, self.best, self.waited, self.stopped = 0, 0.0, -1.0, 0, False
        self.metrics: list[dict[str, Any]] = []
        self.losses: list[Tensor] = []  # of the steps since the last line of metrics
        self.best_weights: dict[str, Tensor] | None = None

    def validated(self, accuracy: float, patience: int | None) -> None:
        if accuracy > self.best:
            self.best, self.waited = accuracy, 0
            weights = self.learner.state_dict()
            if self.run is not None:
                save_checkpoint(self.run / "best.safetensors", weights, {"step": self.step, "val": accuracy})
            else:
                self.best_weights = {k: v.clone() for k, v in weights.items()}
        else:
            self.waited += 1
            self.stopped = patience is not None and self.waited >= patience

    def record(self, line: dict[str, Any]) -> None:
        self.metrics.append(line)
        if self.run is not None:
            self.run.mkdir(parents=True, exist_ok=True)
            with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        assert self.run is not None
        tensors = {f"model/{k}": v for k, v in self.learner.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in slots.items() if v is not None}
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
        facts = {k: getattr(self, k) for k in ("step", "seconds", "best", "waited", "stopped")}
        save_checkpoint(self.run / "last.safetensors", tensors, facts | {"lines": len(self.metrics)})

    def resume(self) -> None:
        """Continue from the run directory, if it holds a checkpoint; metrics past it are cut off."""
        if self.run is None:
            return
        log = self.run / "metrics.jsonl"
        if not (self.run / "last.safetensors").is_file():
            log.unlink(missing_ok=True)
            return
        tensors, facts = load_checkpoint(self.run / "last.safetensors")
        lines = facts.pop("lines")
        for name, value in facts.items():
            setattr(self, name, value)
        if "losses" in tensors:
            self.losses = list(tensors["losses"].to(next(self.learner.parameters()).device))
        weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        load_weights(self.learner, weights, self.run / "last.safetensors")
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, slot = name.split("/")
                state.setdefault(int(index), {})[slot] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        kept = log.read_text(encoding="utf-8").splitlines()[:lines] if log.is_file() else []
        self.metrics = [json.loads(line) for line in kept]
        write_atomically(log, "".join(f"{line}\n" for line in kept).encode())

    def restore_best(self) -> None:
        if self.best_weights is not None:
            self.learner.load_state_dict(self.best_weights)
        elif self.run is not None and (self.run / "best.safetensors").is_file():
            weights, _ = load_checkpoint(self.run / "best.safetensors")
            load_weights(self.learner, weights, self.run / "best.safetensors")
