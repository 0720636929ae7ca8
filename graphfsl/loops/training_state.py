"""What a training run remembers, enough to go on to the bit.

It is weights, optimiser, the best so far and metrics.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphfsl.core.learner import Learner
from graphfsl.io import distributed
from graphfsl.io.checkpoint import (
    append,
    load_checkpoint,
    load_weights,
    read_lines,
    save_checkpoint,
    write_atomically,
)
from graphfsl.io.errors import InputError

KEPT = "kept-"  # and a step: the name of a file with the weights of one of the best validations
# Of a checkpoint, beside its tensors.
FACTS: dict[str, Callable[[Any], Any]] = {
    "step": int,
    "seconds": float,
    "best": lambda value: None if value is None else float(value),
    "waited": int,
    "stopped": bool,
}


class State:
    """What a training run must remember to end at the weights that an uninterrupted one has.

    Args:
        learner: what is trained.
        optimizer: of its parameters.
        run: the directory of its files; None keeps all in memory.
        keep_best: how many of the best validations keep their weights in files of their own, which
            takes a directory; 1 keeps the best alone.
    """

    def __init__(
        self,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        run: Path | None,
        keep_best: int = 1,
    ) -> None:
        self.learner, self.optimizer, self.run = learner, optimizer, run
        self.keep_best = keep_best
        self.step, self.seconds, self.waited, self.stopped = 0, 0.0, 0, False
        self.best: float | None = None  # of the validations so far; more is better
        self.kept: list[tuple[float, int]] = []  # (-score, step) of kept weights, the best first
        self.metrics: list[dict[str, Any]] = []
        # of the steps since the last line of metrics: the loss, and whether it and the gradient
        # are finite
        self.losses: list[Tensor] = []
        self.usable: list[Tensor] = []
        self.best_weights: dict[str, Tensor] | None = None

    def validated(self, value: float, score: float, patience: int | None) -> None:
        """Keep the weights where they are the best so far, by `score`, of which more is better."""
        if self.keep_best > 1 and not distributed.rank():
            self._keep(value, score)
        if self.best is None or score > self.best:
            self.best, self.waited = score, 0
            weights = self.learner.state_dict()
            if distributed.rank():
                return
            if self.run is not None:
                save_checkpoint(
                    self.run / "best.safetensors", weights, {"step": self.step, "val": value}
                )
            else:
                self.best_weights = {k: v.clone() for k, v in weights.items()}
        else:
            self.waited += 1
            self.stopped = patience is not None and self.waited >= patience

    def _keep(self, value: float, score: float) -> None:
        """Write the weights to a file of this step, where it is one of the best."""
        self.kept = sorted([*self.kept, (-score, self.step)])[: self.keep_best]
        assert self.run is not None
        if (-score, self.step) in self.kept:
            file = self.run / f"{KEPT}{self.step}.safetensors"
            save_checkpoint(file, self.learner.state_dict(), {"step": self.step, "val": value})
        self._drop_others()

    def _drop_others(self) -> None:
        """Remove the files of kept weights that are not of the best validations so far."""
        assert self.run is not None
        best = {step for _, step in self.kept}
        for file in kept_files(self.run):
            if step_of(file) not in best:
                file.unlink()

    def record(self, line: dict[str, Any]) -> None:
        """Keep a line of metrics, in the run directory too where there is one."""
        self.metrics.append(line)
        if self.run is not None and not distributed.rank():
            append(self.run / "metrics.jsonl", json.dumps(line, allow_nan=False) + "\n")

    def save(self) -> None:
        """Write the checkpoint last.safetensors into the run directory; one process does."""
        assert self.run is not None
        if distributed.rank():
            return
        tensors = {f"model/{k}": v for k, v in self.learner.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{index}/{k}": torch.as_tensor(v)
                for k, v in slots.items()
                if v is not None
            }
        if self.losses:
            tensors["losses"] = torch.stack(self.losses)
            tensors["usable"] = torch.stack(self.usable)
        facts = {k: getattr(self, k) for k in FACTS}
        save_checkpoint(
            self.run / "last.safetensors", tensors, facts | {"lines": len(self.metrics)}
        )

    def resume(self) -> None:
        """Continue from the checkpoint in the run directory.

        Lines of metrics that were written after it are dropped; without a checkpoint all are.

        Raises:
            InputError: for a folder that cannot be written, and for a damaged checkpoint.
        """
        if self.run is None:
            return
        try:
            self.run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write {self.run}: {error.strerror}; choose another folder"
            ) from None
        log = self.run / "metrics.jsonl"
        file = self.run / "last.safetensors"
        if not file.is_file():
            if not distributed.rank():
                log.unlink(missing_ok=True)
                self._drop_others()
            return
        tensors, facts = load_checkpoint(file)
        try:
            lines = int(facts["lines"])
            for name, kind in FACTS.items():
                setattr(self, name, kind(facts[name]))
            state = self._optimizer_state(tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file} is damaged ({error!r}); remove it to train from the start"
            ) from None
        if "losses" in tensors:
            losses = tensors["losses"].to(next(self.learner.parameters()).device)
            self.losses = list(losses)
            # older checkpoints do not say it
            self.usable = list(tensors.get("usable", torch.ones(len(losses)) > 0).to(losses.device))
        weights = {
            k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")
        }
        load_weights(self.learner, weights, file)
        groups = self.optimizer.state_dict()["param_groups"]  # options; a checkpoint has none
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.metrics = read_lines(log, lines)
        if self.keep_best > 1:
            self.kept = sorted(map(_place, validations(self.metrics)))[: self.keep_best]
        if not distributed.rank():
            self._drop_others()
            write_atomically(
                log, "".join(f"{json.dumps(line)}\n" for line in self.metrics).encode()
            )

    def _optimizer_state(self, tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """Parameter number -> name -> tensor.

        Raises:
            ValueError: where these are not of this learner's parameters.
        """
        shapes = [p.shape for group in self.optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, slot = name.split("/")
                if int(index) not in range(len(shapes)) or value.shape not in (
                    (),
                    shapes[int(index)],
                ):
                    raise ValueError(f"{name!r} fits no parameter")
                state.setdefault(int(index), {})[slot] = value
        if len({frozenset(slots) for slots in state.values()}) > 1:
            raise ValueError("the optimiser remembers more of some parameters than of others")
        return state

    def restore_best(self) -> None:
        """Give the learner the weights of its best validation; without one it keeps its own."""
        if self.best_weights is not None:
            self.learner.load_state_dict(self.best_weights)
        elif self.run is not None and (self.run / "best.safetensors").is_file():
            weights, _ = load_checkpoint(self.run / "best.safetensors")
            load_weights(self.learner, weights, self.run / "best.safetensors")


def step_of(file: Path) -> int:
    """The step in the name of a file of kept weights; -1 of another file."""
    number = file.stem.removeprefix(KEPT)
    return int(number) if number.isdigit() else -1


def kept_files(run: Path) -> list[Path]:
    """The files of kept weights in a run directory, by step; none where `keep_best` is 1."""
    return sorted((f for f in run.glob(f"{KEPT}*.safetensors") if step_of(f) >= 0), key=step_of)


def validations(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of metrics that hold a validation."""
    return [line for line in lines if "val" in line]


def _place(line: Mapping[str, Any]) -> tuple[float, int]:
    """What validations are sorted by, the best first, of equals the earlier."""
    return -line["val"] if line.get("more_is_better", True) else line["val"], line["step"]


def left_out(lines: Sequence[Mapping[str, Any]]) -> int:
    """How many steps counted for nothing, by the lines of a training's metrics."""
    return sum(line.get("left_out", 0) for line in lines)
