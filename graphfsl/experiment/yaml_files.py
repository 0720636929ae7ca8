"""Experiment and study files: YAML, read with bounds, overridden and merged."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from graphfsl.experiment.overrides import apply, parted
from graphfsl.io.errors import InputError
from graphfsl.io.files import read_regular

MOST_VALUES = 100_000
LONGEST = 2**24  # bytes of a file


def load_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = read_regular(file, LONGEST).decode()
        size = _written_out(yaml.compose(text, yaml.SafeLoader), {})
        if size > MOST_VALUES:
            raise InputError(
                f"{file} stands for {size} values; an experiment file holds at most {MOST_VALUES}"
            )
        config = OmegaConf.load(io.StringIO(text))
        if not OmegaConf.is_dict(config):
            raise InputError(f"{file} must hold a mapping of sections")
        return OmegaConf.to_container(config)  # type: ignore[return-value]
    except InputError:
        raise
    # what is wrong with a file makes PyYAML and OmegaConf raise almost anything
    except Exception as error:
        raise InputError(f"{file} is not readable YAML: {_line(error)}") from None


def merged(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A mapping with `key=value` overrides on top and interpolations resolved.

    A value is YAML; for an option of type text it is the text as it stands, see
    `overrides.text_value`.
    """
    for item in overrides:
        parted(item)
    try:
        tree = OmegaConf.create(dict(config))
        apply(tree, overrides)
        result: dict[str, Any] = OmegaConf.to_container(tree, resolve=True)  # type: ignore[assignment]
    except Exception as error:  # as in `load_yaml`
        raise InputError(f"configuration: {_line(error)}") from None
    return result


def _written_out(node: Any, sizes: dict[int, int]) -> int:
    """How many values a YAML node stands for when each alias is written out.

    A file of a page can hold billions.
    """
    if id(node) not in sizes:
        sizes[id(node)] = 0  # for a node that holds itself
        total = 1
        for entry in node.value if isinstance(node, yaml.CollectionNode) else []:
            for part in entry if isinstance(entry, tuple) else [entry]:
                total += _written_out(part, sizes)
        sizes[id(node)] = total
    return sizes[id(node)]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
