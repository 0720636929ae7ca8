"""`Trainer`: meta-training on episodes, with Lightning Fabric; resumes to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphfsl.core.arguments import A_FOLDER, A_LEARNER, EPISODES, check_kind, whole_number
from graphfsl.core.display import call_of
from graphfsl.core.learner import Learner
from graphfsl.core.schema import check_options, make, signature
from graphfsl.data.batches import Batches
from graphfsl.data.episodes import Episodes
from graphfsl.io import distributed
from graphfsl.io.errors import InputError, require, unknown
from graphfsl.loops.attack import PGD
from graphfsl.loops.fabric import DDPStrategy, Fabric
from graphfsl.loops.loggers import LOGGERS
from graphfsl.loops.progress_bar import Log, terminal_bar
from graphfsl.loops.training_loop import TrainingLoop

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PRECISIONS = ("32-true", "bf16-mixed")  # fp16 would need its loss scaler in the checkpoint
SCHEDULES = ("constant", "halve", "cosine")


class Trainer:
    """Options of a training run; `fit` runs it.

    Under torchrun the processes share every step: `batch` is that of all of them together, episode
    i belongs to the process i mod their number, and only the first one writes.

    A step whose loss or gradient is not finite counts for nothing: its gradient is taken as zero.
    `left_out` in a line of metrics says how many there were, and a warning at the end. Where they
    are more than half of the steps since the last line, training stops with an error.

    Args:
        steps: optimiser steps, of `batch` episodes each.
        batch: episodes of a step; images, where it trains on batches of images.
        lr: the learning rate.
        optimizer: "adam", "adamw" or "sgd".
        weight_decay: of the optimiser.
        momentum: of "sgd".
        schedule: "constant", "halve" (every `halve_every` steps) or "cosine" (to zero).
        halve_every: steps, for "halve".
        warmup: steps of linear warm-up.
        clip: largest gradient norm.
        val_every, val_episodes: steps between two validations, and episodes of each; the weights
            with the best one on validation classes are kept.
        keep_best: how many of the best validations keep their weights in the run directory; of more
            than one, results have further rows, in which the probabilities of all are averaged.
        patience: training stops after so many validations without a better one.
        checkpoint_every: steps that an interruption can cost at most.
        log_every: steps between two lines of metrics.
        device: "auto", "cpu", "cuda", "mps".
        precision: "32-true" or "bf16-mixed" (encoder in bfloat16, the rest in float32), as Fabric
            names them.
        accumulate: parts that a step's `batch` is taken in, one after the other, to save memory.
            The gradient is the same, but where the episodes of a batch are not independent: under
            `running` BatchNorm statistics are those of a part, and a loss that is a mean over the
            nodes of all episodes is one over the nodes of a part.
        compile: run the encoder through torch.compile.
        cuda_graph: on a GPU, record a step's loss and gradients once and replay them
            (`graphfsl.loops.recorded_step`), for learners whose kernels are many and short.
        logger: "tensorboard", "wandb" or "mlflow", beside metrics.jsonl.
        attack: options of `PGD`, such as {eps: 0.1, steps: 7}: each step then learns from queries
            that were changed against the learner, which is adversarial querying.

    Raises:
        InputError: for an option that means nothing, and a device that this machine has not.
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
        keep_best: int = 1,
        patience: int | None = None,
        checkpoint_every: int = 200,
        log_every: int = 20,
        device: str = "auto",
        precision: str = "32-true",
        accumulate: int = 1,
        compile: bool = False,
        cuda_graph: bool = False,
        logger: str | None = None,
        attack: Mapping[str, Any] | None = None,
    ) -> None:
        options = {name: value for name, value in locals().items() if name != "self"}
        check_options(signature(Trainer), options, "trainer")
        _check_numbers(options)
        for name, known in _NAMES.items():
            if options[name] is not None and options[name] not in known:
                raise unknown(name, options[name], known)
        shares = accumulate * distributed.world()
        require(
            not cuda_graph or shares == 1,
            "trainer.cuda_graph replays a step that one process takes at once, not "
            f"{distributed.world()} processes in {accumulate} parts; leave it out",
        )
        require(
            batch % shares == 0,
            f"trainer.batch={batch} is not shared equally by {distributed.world()} processes x "
            f"{accumulate} parts; make it a multiple of both",
        )
        self.steps, self.batch, self.accumulate = steps, batch, accumulate
        self.lr, self.schedule, self.halve_every, self.warmup = lr, schedule, halve_every, warmup
        self.optimizer, self.weight_decay, self.momentum = optimizer, weight_decay, momentum
        self.clip = clip
        self.val_every, self.val_episodes, self.patience = val_every, val_episodes, patience
        self.keep_best = keep_best
        self.checkpoint_every, self.log_every = checkpoint_every, log_every
        self.device, self.precision = device, precision
        self.compile, self.cuda_graph, self.logger = compile, cuda_graph, logger
        pgd: PGD | None = None if attack is None else make(PGD, attack, "trainer.attack")
        self.attack = pgd

    def __repr__(self) -> str:
        return call_of(self, always=("steps", "batch", "lr", "optimizer", "device"))

    def fabric(self) -> Fabric:
        """Lightning Fabric, with the device and precision that the options name.

        Raises:
            InputError: where this machine has no such device.
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
        """The learning rate of a step, the first of which is 0."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "halve":
            return warm * self.lr * 0.5 ** (step // self.halve_every)
        if self.schedule == "cosine":
            return warm * self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return warm * self.lr

    def make_optimizer(self, learner: nn.Module) -> torch.optim.Optimizer:
        """The optimiser that the options name, for the parameters that learn."""
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
        """Train `learner` in place; at the end it holds the best weights on `val`.

        Args:
            learner: what is trained.
            train: the episodes, or batches of images, that it learns from.
            val: the episodes that choose the best weights; None keeps the last ones.
            run: a directory for metrics.jsonl, last.safetensors, best.safetensors and, with
                `keep_best`, kept-STEP.safetensors; training goes on from what it holds.
            seed: of the random numbers of the steps.
            log: called with each line of metrics; None shows a progress bar where stderr is a
                terminal.

        Returns:
            The lines of metrics.

        Raises:
            InputError: for an argument of the wrong kind, for a folder that cannot be written, and
                where `keep_best` has no validations or no directory.
        """
        check_kind(learner, Learner, "the learner", A_LEARNER)
        check_kind(train, (Episodes, Batches), "what is trained on", EPISODES)
        check_kind(val, (Episodes, type(None)), "what is validated on", EPISODES)
        check_kind(run, (str, Path, type(None)), "run", A_FOLDER)
        folder, seed = None if run is None else Path(run), whole_number(seed, "the seed")
        require(
            log is None or callable(log),
            f"log must be a function of a line of metrics, such as print, not {log!r:.60}",
        )
        require(
            self.keep_best == 1 or not (val is None or folder is None),
            f"trainer.keep_best={self.keep_best} keeps weights of the best validations in a run "
            "directory; give val and run, or leave it out",
        )
        if val is not None:
            unit = val.task.unit
            require(
                self.val_episodes % unit == 0,
                f"{unit} episodes form one unit; trainer.val_episodes must be a multiple of it, "
                f"not {self.val_episodes}",
            )
        if log is not None:
            return TrainingLoop(self, learner, train, val, folder, seed, log).run()
        unit_name = "episodes" if isinstance(train, Episodes) else "images"
        metric = None if val is None else val.task.metric[1]
        with terminal_bar("training", self.steps, self.batch, unit_name, metric) as bar:
            return TrainingLoop(self, learner, train, val, folder, seed, bar).run()


_POSITIVE = (
    "steps",
    "batch",
    "lr",
    "halve_every",
    "val_every",
    "val_episodes",
    "keep_best",
    "checkpoint_every",
    "log_every",
)
# options that are names, and those that each may be
_NAMES = {
    "precision": PRECISIONS,
    "logger": LOGGERS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


def _check_numbers(options: Mapping[str, Any]) -> None:
    """InputError for the first number that is too small."""
    for name in (*_POSITIVE, "accumulate"):
        require(options[name] > 0, f"trainer.{name} must be above 0, not {options[name]!r}")
    for name in ("weight_decay", "momentum", "warmup"):
        require(options[name] >= 0, f"trainer.{name} must be 0 or more, not {options[name]!r}")
    for name in ("clip", "patience"):
        value = options[name]
        require(
            value is None or value > 0, f"trainer.{name} must be above 0, or null, not {value!r}"
        )
