"""Metrics to TensorBoard, Weights & Biases or MLflow, through Lightning's loggers."""

from __future__ import annotations

import importlib
from pathlib import Path

from graphfsl.io.errors import InputError, unknown
from graphfsl.loops.fabric import Logger

LOGGERS = ("tensorboard", "wandb", "mlflow")
# mlflow-skinny lacks sqlalchemy, and with it the store in a file.
MODULES = {"tensorboard": ["tensorboard"], "wandb": ["wandb"], "mlflow": ["mlflow", "sqlalchemy"]}


def make_logger(name: str, run: Path, step: int) -> Logger:
    """The logger of a run directory that has reached `step`.

    TensorBoard's files and MLflow's store lie in the directory; W&B writes there and follows its
    own WANDB_MODE.

    Raises:
        InputError: for an unknown name, and where its package is not installed.
    """
    if name not in LOGGERS:
        raise unknown("logger", name, LOGGERS)
    try:
        for module in MODULES[name]:
            importlib.import_module(module)
        if name == "tensorboard":
            from lightning_fabric.loggers import TensorBoardLogger

            # A resumed run repeats the steps after its checkpoint: what was logged of them is
            # purged.
            return TensorBoardLogger(run, name="tensorboard", version="", purge_step=step)
        from pytorch_lightning import loggers

        if name == "wandb":
            return loggers.WandbLogger(name=run.name, save_dir=run, id=run.name, resume="allow")
        return loggers.MLFlowLogger(
            "graphfsl", run.name, f"sqlite:///{(run / 'mlflow.db').resolve().as_posix()}"
        )
    except ImportError as error:
        raise InputError(
            f"trainer.logger={name} needs a package: pip install {name} ({error})"
        ) from None
