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
    """

    def __init__(
        self, learner: Learner, optimizer: torch.optim.Optimizer, run: Path | None
    ) -> None:
        self.learner, self.optimizer, self.run = learner, optimizer, run
        self.step, self.seconds, self.waited, self.stopped = 0, 0.0, 0, False
        self.best: float | None = None  # of the validations so far; more is better
        self.metrics: list[dict[str, Any]] = []
        # of the steps since the last line of metrics: the loss, and whether it and the gradient
        # are finite
        self.losses: list[Tensor] = []
        self.usable: list[Tensor] = []
        self.best_weights: dict[str, Tensor] | None = None

    def validated(self, value: float, score: float, patience: int | None) -> None:
        """Keep the weights where they are the best so far, by `score`, of which more is better."""
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
        if not distributed.rank():
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


def left_out(lines: Sequence[Mapping[str, Any]]) -> int:
    """How many steps counted for nothing, by the lines of a training's metrics."""
    return sum(line.get("left_out", 0) for line in lines)
