"""Whether a run directory holds the run that is asked for.

That is the same configuration on the same data.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphfsl.data import Split
from graphfsl.data.identity import Identity, difference, identity, is_identity
from graphfsl.experiment.data_source import Splits
from graphfsl.experiment.experiment import Experiment
from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError


def check_same(
    path: Path, there: Experiment, here: Experiment, data: Mapping[str, Identity]
) -> dict[str, Identity]:
    """Refuse a directory that holds another run; else say what its data.json is to hold.

    Other evaluations are no other run. It warns where the directory names no data yet.

    Args:
        path: the directory.
        there: the experiment of the run in it.
        here: what is asked for.
        data: split -> identity, of the data as they are now.

    Returns:
        What data.json in the directory shall say: the identities that it names, and those that it
        did not know.

    Raises:
        InputError: for other data or another configuration, with the first change, and for a
            damaged data.json.
    """
    before = known_data(path)
    was, now = there.training_facts(normalised=False), here.training_facts(normalised=False)
    if change := first_difference(was, now):
        raise InputError(
            f"{path} holds a run of another configuration: {change}; choose another "
            f"--out, or remove it"
        )
    for split in sorted(before.keys() & data.keys()):
        if change := difference(before[split], data[split]):
            raise InputError(
                f"{path} holds a run of other data: in split {split!r} {change}; choose another "
                f"--out, or look at the "
                "trained run on these data with `graphfsl evaluate`"
            )
    if change := first_difference(there.training_facts(), here.training_facts()):
        raise InputError(
            f"{path} holds a run of another configuration: {change}; choose another "
            f"--out, or remove it"
        )
    if not before:
        warnings.warn(
            f"{path} does not say on what data it was trained; from now on it names these",
            stacklevel=2,
        )
    return {**before, **data}


def identities_of(
    experiment: Experiment, base: Split, trains: bool, splits: Splits
) -> dict[str, Identity]:
    """The identity of each split of a run.

    It is trained on one, one selects, and on one it is evaluated.

    Args:
        experiment: as it is run.
        base: the split that is trained on.
        trains: whether there is anything to train.
        splits: keeps what was loaded.
    """
    source = experiment.data
    selects = experiment.selects and (trains or experiment.pretraining is not None)
    names = {source.base, experiment.evaluation.split, *(["val"] if selects else [])}
    return {
        name: identity(base if name == source.base else splits.get(source, name))
        for name in sorted(names)
    }


def check_weights(path: Path, before: str | None, now: str | None) -> None:
    """Refuse to go on where the encoder's file of weights holds others than at the start.

    Raises:
        InputError: where a run, or the cells of a study, began with other weights.
    """
    if before is not None and now is not None and before != now:
        raise InputError(
            f"{path} began with other weights: the file of learner.encoder.weights has changed "
            f"since; restore it, or "
            "choose another --out"
        )


def known_data(path: Path) -> dict[str, Identity]:
    """The identity of each split of a run, as its directory tells it.

    There are none where it is of before they were kept.

    Raises:
        InputError: where data.json is damaged.
    """
    file = path / "data.json"
    found = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict) or not all(map(is_identity, found.values())):
        raise InputError(f"{file} is damaged; remove it, and the next run writes it again")
    return found


def first_difference(there: Any, here: Any, key: str = "") -> str | None:
    """The first key of nested mappings whose values differ, and both values; None without one."""
    if there == here:
        return None
    if not (isinstance(there, Mapping) and isinstance(here, Mapping)):
        return f"{key} is {_short(there)} there and {_short(here)} here"
    for k in (*here, *(k for k in there if k not in here)):
        if change := first_difference(there.get(k), here.get(k), f"{key}.{k}" if key else str(k)):
            return change
    return None


def _short(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
