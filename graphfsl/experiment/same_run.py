"""Whether a run directory holds the run that is asked for: the same configuration on the same
data.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphfsl.data import Split
from graphfsl.data.identity import Identity, difference, identity, is_identity
from graphfsl.experiment import config as conf
from graphfsl.io.checkpoint import read_json
from graphfsl.io.errors import InputError

Load = Callable[[Mapping[str, Any], str], Split]


def check_same(
    path: Path, there: Mapping[str, Any], config: Mapping[str, Any], data: Mapping[str, Identity]
) -> dict[str, Identity]:
    """What data.json in the directory shall say: the identities that it names, and those that it
    did not know.

    there: the configuration of the run in it. data: split -> identity, of the data as they are now.
    Raises InputError, which names what has changed, for other data or another configuration.
    """
    before = known_data(path)
    was, now = comparable(there), comparable(config)
    if change := first_difference(_given(was), _given(now)):
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
    if change := first_difference(was, now):
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


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the normalisation, which may be that of the data."""
    return {**config, "data": {k: v for k, v in config["data"].items() if k not in ("mean", "std")}}


def identities_of(
    config: Mapping[str, Any], base: Split, trains: bool, load: Load
) -> dict[str, Identity]:
    """The identity of each split of a run: what it is trained on, what selects, what it is
    evaluated on.
    """
    name, evaluated = conf.base_split(config["data"]), conf.evaluation(config).split
    selects = name == "train" and (trains or config.get("pretrain") is not None)
    splits = {name, evaluated, *(["val"] if selects else [])}
    return {s: identity(base if s == name else load(config["data"], s)) for s in sorted(splits)}


def check_weights(path: Path, before: str | None, now: str | None) -> None:
    """InputError where the file of weights that a run, or the cells of a study, began with holds
    others today.
    """
    if before is not None and now is not None and before != now:
        raise InputError(
            f"{path} began with other weights: the file of learner.encoder.weights has changed "
            f"since; restore it, or "
            "choose another --out"
        )


def remembering(splits: dict[str, Split]) -> Load:
    """`config.load_split` that loads no split twice."""

    def load(section: Mapping[str, Any], split: str) -> Split:
        cut = section.get("base_classes") if split == conf.base_split(section) else None
        large = [section["min_samples"]] if section.get("min_samples") is not None else []
        key = json.dumps(
            [conf.data_options(section), section["name"], split, cut, *large], sort_keys=True
        )
        if key not in splits:
            splits[key] = conf.load_split(section, split)
        return splits[key]

    return load


def placeless(key: str) -> str:
    """A key of `remembering` without what says where the files lie."""
    options, *rest = json.loads(key)
    return json.dumps([conf.rootless(options), *rest], sort_keys=True)


def known_data(path: Path) -> dict[str, Identity]:
    """The identity of each split of a run, as its directory tells it; none where it is of before
    they were kept.
    """
    file = path / "data.json"
    found = read_json(file) if file.is_file() else {}
    if not isinstance(found, dict) or not all(map(is_identity, found.values())):
        raise InputError(f"{file} is damaged; remove it, and the next run writes it again")
    return found


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights: where the data lies, on what it is computed and what is evaluated
    do not.
    """
    out = {k: v or {} for k, v in config.items() if k not in ("evaluation", *conf.NOTES)}
    trainer = {k: v for k, v in out.get("trainer", {}).items() if k not in ("device", "logger")}
    return {**out, "data": conf.rootless(config["data"]), "trainer": trainer}


def first_difference(there: Any, here: Any, key: str = "") -> str | None:
    """The first key of nested mappings whose values differ, and both values; None where there is
    none.
    """
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
