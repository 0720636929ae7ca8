"""`key=value` on the command line: YAML, but text where the option takes text."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from graphfsl import data
from graphfsl.core import registry
from graphfsl.core.pipeline import Pipeline
from graphfsl.core.schema import signature
from graphfsl.data import tasks
from graphfsl.experiment.learner_spec import SLOTS
from graphfsl.experiment.sections import EvaluationOptions, PretrainingOptions
from graphfsl.io.errors import InputError
from graphfsl.loops.trainer import Trainer
from graphfsl.nn import ENCODERS

TEXT = {"data.name", "data.base", "episode.task", "train_episode.task"}
TEXT |= {"learner.encoder.name", "pretrain.objective.name"}
TEXT |= {f"learner.{slot}.name" for slot in (*SLOTS, "adapt")}
TAKERS: dict[str, Callable[..., Any]] = {  # what takes the options of a section
    "trainer": Trainer,
    "pretrain.trainer": Trainer,
    "learner": Pipeline,
    "evaluation": EvaluationOptions,
    "pretrain": PretrainingOptions,
}


def apply(tree: DictConfig, overrides: Sequence[str]) -> None:
    """Set overrides in a tree of options, in their order.

    Where they name another kind of task, what that has no option for is left out of the tree.
    """
    named = typing.cast(
        DictConfig, OmegaConf.create(OmegaConf.to_container(tree))
    )  # with the last names, which say what takes an option
    for item in overrides:
        with suppress(Exception):  # text is not always YAML; what is wrong is told below
            key, value = parted(item)
            _set(named, key, yaml_value(value))
    _leave_out_other_kind(tree, named)
    for item in overrides:
        key, value = parted(item)
        kind = option_type(named, key)
        _set(tree, key, text_value(value) if takes_text(kind) else yaml_value(value))


def _leave_out_other_kind(tree: DictConfig, named: DictConfig) -> None:
    """Take out of `episode` what the kind of task that overrides name has no option for."""
    then, now = (OmegaConf.select(t, "episode.task") or tasks.DEFAULT for t in (tree, named))
    if then == now or now not in tasks.names() or not tree.get("episode"):
        return
    known = {"task", *signature(tasks.get(now))}
    for key in [key for key in tree.episode if key not in known]:
        del tree.episode[key]


def parted(item: str) -> tuple[str, str]:
    """The key and the value of an override.

    Raises:
        InputError: where it has none.
    """
    key, equals, value = item.partition("=")
    if not equals or not key:
        raise InputError(f"override {item!r} is not of the form key=value, such as episode.way=20")
    if "[" in key:
        raise InputError(
            f"override {item!r} has brackets in its key; write it with dots, such as episode.way=20"
        )
    return key, value


def names(item: str, *keys: str) -> bool:
    """Whether an override sets one of these keys.

    It may set the key itself, something inside it, or a section that holds it.
    """
    key, value = parted(item)
    for wanted in keys:
        if f"{key}.".startswith(f"{wanted}."):
            return True
        if wanted.startswith(f"{key}."):
            with suppress(Exception):  # text is not always YAML
                if (
                    OmegaConf.select(
                        OmegaConf.create(yaml_value(value)), wanted.removeprefix(f"{key}.")
                    )
                    is not None
                ):
                    return True
    return False


def _set(tree: DictConfig, key: str, value: Any) -> None:
    section, _, _ = key.rpartition(".")
    parent = OmegaConf.select(tree, section) if section else tree
    if isinstance(parent, str):  # head: protonet  +  learner.head.distance=cosine
        OmegaConf.update(tree, section, {"name": parent}, merge=False)
    elif isinstance(parent, (bool, int, float)):  # what was set would be replaced in silence
        raise InputError(f"{key} cannot be set, for {section} is {parent} and holds no options")
    OmegaConf.update(tree, key, value, merge=False, force_add=True)


def yaml_value(value: str) -> Any:
    """An override's value as YAML reads it."""
    return OmegaConf.from_dotlist([f"v={value}"]).v


def text_value(value: str) -> str | None:
    """An override's value as text: every character as it is, but one pair of quotes around it.

    Nothing, and null without quotes, are None.
    """
    if value in ("", "null"):
        return None
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value


def takes_text(kind: Any) -> bool:
    """Whether an option of this type is text, or a path, and can be nothing else but None."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = set(typing.get_args(kind)) - {type(None)}
        return bool(kinds) and kinds <= {str, Path}
    return kind in (str, Path)


def option_type(tree: DictConfig, key: str) -> Any:
    """The type of an option, as the signature of what takes it states; None where it is unknown."""
    section, _, name = key.rpartition(".")
    if key in TEXT:
        return str
    with suppress(InputError):  # a name that means nothing is told by the check that follows
        taker = TAKERS.get(section) or _named(tree, section)
        return signature(taker)[name][0] if taker is not None and name in signature(taker) else None
    return None


def _named(tree: DictConfig, section: str) -> Callable[..., Any] | None:
    """What the section of a tree names: a data set's loader, an encoder, a part of a learner."""
    folder, _, slot = section.rpartition(".")
    try:
        entry = OmegaConf.select(tree, section)
        if section in ("episode", "train_episode"):
            own = OmegaConf.select(tree, f"{section}.task")
            return tasks.get(own or OmegaConf.select(tree, "episode.task") or tasks.DEFAULT)
    except Exception:  # keys that are none make OmegaConf raise almost anything
        return None
    name = (
        entry
        if isinstance(entry, str)
        else entry.get("name")
        if isinstance(entry, DictConfig)
        else None
    )
    if not isinstance(name, str):
        return None
    if section == "data":
        return data.loader(name)
    if section == "learner.encoder":
        return ENCODERS.get(name)
    if folder == "learner" and slot in (*SLOTS, "adapt"):
        part: Callable[..., Any] = registry.get(slot, name)
        return part
    return registry.get("pretrain", name) if section == "pretrain.objective" else None
